"""What holds for every CUDA source: no spills, and no access outside of its arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from host_cuda import ahead
from host_cuda.ahead import sanitize
from nvrtc import KernelUse, compile_for
from tamis_kernels.cuda.sources import OPTIONS, STEMS, cuda_source

ARCHITECTURES = ("sm_80", "sm_90", "sm_90a")
# A multiprocessor's static shared memory for one block.
SHARED_LIMIT = 48 * 1024


@pytest.mark.parametrize("stem", STEMS)
def test_compiles_without_spills(stem: str) -> None:
    source = cuda_source(stem)

    def compiled(architecture: str) -> dict[str, KernelUse]:
        return compile_for(source, architecture, OPTIONS)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for architecture, uses in zip(
            ARCHITECTURES, pool.map(compiled, ARCHITECTURES), strict=True
        ):
            assert uses, architecture
            for kernel, use in uses.items():
                assert 0 < use.registers <= 255, (kernel, use)
                assert use.spilled_bytes == 0, (architecture, kernel, use)
                assert use.stack_bytes == 0, (architecture, kernel, use)
                assert use.shared_bytes <= SHARED_LIMIT, (architecture, kernel, use)


def test_a_spill_would_be_seen() -> None:
    source = """
    extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* a, int n) {
        float z[96];
        for (int i = 0; i < 96; ++i) z[i] = a[threadIdx.x + i * n];
        for (int k = 0; k < n; ++k)
            #pragma unroll
            for (int i = 0; i < 96; ++i) z[i] = z[i] * z[(i + 7) % 96] + a[k];
        for (int i = 0; i < 96; ++i) a[threadIdx.x + i * n] = z[i];
    }"""
    assert compile_for(source, "sm_90", OPTIONS)["greedy"].spilled_bytes > 0


def test_a_source_that_does_not_compile_shows_the_compilers_words() -> None:
    with pytest.raises(RuntimeError, match="undefined"):
        compile_for('extern "C" __global__ void f() { g(); }', "sm_90", OPTIONS)


@pytest.mark.parametrize("stem", STEMS)
def test_reads_and_writes_within_its_arrays(stem: str) -> None:
    done = ahead.sanitized_cases(stem)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_read_past_an_array_would_be_seen() -> None:
    # Threads past the last row that do not leave: they read its id.
    bound = "if (row >= n_rows) return;\n    const int64"
    done = sanitize("update_statistics", bound, "const int64")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
