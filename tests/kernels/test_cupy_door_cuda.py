"""What holds for every kernel on a GPU: options, streams, the cache of compiled sources."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tamis_kernels import row_scores
from tamis_kernels.arrays import Place
from tamis_kernels.cuda import cupy_door
from tamis_kernels.cuda.sources import OPTIONS


def test_a_source_is_compiled_once_for_each_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    compiled = []

    def compile_using_nvrtc(
        source: str, options: tuple[str, ...], cache_in_memory: bool
    ) -> tuple[bytes, None]:
        assert cache_in_memory  # else it goes through a file in the locale's encoding
        compiled.append((source, options))
        return source.encode(), None

    cuda = SimpleNamespace(
        Device=lambda index: SimpleNamespace(compute_capability=("80", "90")[index]),
        compiler=SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
    )
    cupy = ModuleType("cupy")
    cupy.cuda = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    for device in (0, 1, 0, 1):
        assert cupy_door._compiled("source", device) == b"source"
    assert cupy_door._compiled("other", 0) == b"other"
    assert compiled == [("source", OPTIONS), ("source", OPTIONS), ("other", OPTIONS)]
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_memory_of_cupy_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = False
    stream = SimpleNamespace(is_capturing=lambda: capturing)
    cuda = SimpleNamespace(Device=lambda index: nullcontext(), get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, empty=np.empty))
    place = Place("cupy", "cuda:0")
    assert place.empty((2, 3), "float32").shape == (2, 3)
    capturing = True
    with pytest.raises(RuntimeError, match="expected torch tensors where a CUDA graph is captured"):
        place.empty((2, 3), "float32")


@pytest.mark.gpu
def test_capturing_cupy_arrays_is_refused() -> None:
    import cupy

    logits, labels = cupy.zeros((4, 3), "float32"), cupy.zeros(4, "int64")
    row_scores(logits, labels)  # compiles
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="found CuPy arrays"):
                row_scores(logits, labels)
        finally:
            stream.end_capture()
    assert row_scores(logits, labels).loss.get().tolist() == pytest.approx([np.log(3)] * 4)


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_numbers_below_the_smallest_normal_one_are_no_zeros(library: str) -> None:
    logits, labels = np.array([[0, 1e-40], [3e-42, 0]], np.float32), np.array([0, 0])
    if library == "torch":
        import torch

        found = row_scores(torch.from_numpy(logits).cuda(), torch.from_numpy(labels).cuda())
        margins, correct = found.margin.cpu().numpy(), found.correct.cpu().numpy()
    else:
        import cupy

        found = row_scores(cupy.asarray(logits), cupy.asarray(labels))
        margins, correct = found.margin.get(), found.correct.get()
    assert np.array_equal(margins, logits[:, 0] - logits[:, 1])
    assert correct.tolist() == [False, True]


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["the default one", "another"])
def test_launches_keep_the_order_of_the_callers_stream(stream: str) -> None:
    import torch

    another = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    current = another if stream == "another" else torch.cuda.default_stream()
    labels = torch.zeros(4096, dtype=torch.int64, device="cuda")
    logits = torch.zeros((4096, 10), device="cuda")
    row_scores(logits, labels)  # compiles
    torch.cuda.synchronize()
    with torch.cuda.stream(current):
        # Tens of milliseconds: a launch on another stream would overtake.
        torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]
        logits[:, 0] = 5
        margin = row_scores(logits, labels).margin
        logits.zero_()
        assert margin.sum().item() == 5 * 4096
