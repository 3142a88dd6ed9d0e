"""A GPU's clock and what it does at most: bytes copied or read a second, and products a second.

Times are CUDA events' around so many calls that they take a twentieth of a second, after warming
up; contenders take turns, the median counts. The data is many times larger than the second-level
cache and each call runs through all of it, so that no call finds what it needs there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from tamis.benchmarks.kernels.protocol import Bench
from tamis.benchmarks.measuring import Ceiling

__all__ = ["Gpu", "tf32"]

_WARM_UPS = 3
_SECONDS = 0.05  # of one measurement
_MOST_CALLS = 200


def tf32(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same with torch's products of float32 cut to TF32."""

    def cut() -> Any:
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return run()
        finally:
            torch.set_float32_matmul_precision(before)

    return cut


class Gpu:
    """The current CUDA device."""

    device = "cuda"

    def timed(
        self, contenders: Mapping[str, Callable[[], object]], bench: Bench
    ) -> dict[str, float]:
        """Median seconds of a call of each contender, in turns."""
        n_calls = {}
        for name, run in contenders.items():
            for _ in range(_WARM_UPS):
                run()
            n_calls[name] = min(
                max(int(_SECONDS / max(self.elapsed(run, 1), 1e-6)), 1), _MOST_CALLS
            )
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(bench.turns):
            for name, run in contenders.items():
                seconds[name].append(self.elapsed(run, n_calls[name]))
                bench.advance()
        return {name: statistics.median(taken) for name, taken in seconds.items()}

    def elapsed(self, run: Callable[[], object], n_calls: int) -> float:
        """Seconds of a call on the device's clock."""
        import torch

        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(n_calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / n_calls

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        """The same work as a CUDA graph: for short launches, which Python cannot keep up with."""
        import torch

        stream: Any = torch.cuda.Stream
        side = stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def compiled(
        self, bench: Bench, run: Callable[..., Any], *arguments: Any
    ) -> Callable[..., Any] | None:
        """A function, compiled and tried once; None where that fails, which is noted."""
        import torch

        try:
            made = torch.compile(run, dynamic=False)
            made(*arguments)
        except Exception as error:  # it names no common class, and needs Triton and a compiler
            bench.leave_out(f"torch.compile: {type(error).__name__}: {str(error)[:200]}")
            return None
        return made

    def runtime(self, x: Any) -> Any:
        """Where the kernels' own launches run, for the one that has no public function."""
        from tamis_kernels.arrays import place_of
        from tamis_kernels.cuda.cupy_door import CupyRuntime

        return CupyRuntime(place_of(x=x))

    def release(self) -> None:
        """Give cached memory back, so that every kernel starts with all of it."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def copying(self, x: Any) -> Callable[[], object]:
        """Something that copies an array within the device's memory."""
        import torch

        out = torch.empty_like(x)
        return lambda: out.copy_(x)

    def copy_ceiling(self, x: Any, seconds: float) -> Ceiling:
        """The rate of :meth:`copying`, reads and writes together."""
        return Ceiling("device copy", 2 * x.nbytes / seconds / 1e9, "GB/s")

    def reading(self, x: Any) -> Callable[[], object]:
        """Something that reads an array once and does little else."""
        import torch

        return lambda: torch.sum(x, dtype=torch.float32)

    def products(self, side: int) -> dict[str, Callable[[], object]]:
        """Square products in bfloat16, TF32 and float32, as contenders."""
        import torch

        a = torch.randn((side, side), device=self.device)
        half = a.bfloat16()
        return {
            "bfloat16 product": lambda: half @ half,
            "TF32 product": tf32(lambda: a @ a),
            "float32 product": lambda: a @ a,
        }

    def product_ceiling(self, side: int, name: str, seconds: Mapping[str, float]) -> Ceiling:
        """The rate of one of :meth:`products`."""
        return Ceiling(name, 2 * side**3 / seconds[name] / 1e12, "TFLOP/s")
