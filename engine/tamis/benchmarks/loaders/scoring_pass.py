"""Load → forward → kernels: the rate of the whole, and what it waits for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tamis.benchmarks.measuring import Row
from tamis.bundles.bundle import Bundle
from tamis.devices import autocast, resolve_device
from tamis.inference import in_parts
from tamis.loaders.opening import choose_streaming, open_loader
from tamis.models.resnet import ResNet18
from tamis.progress import Progress
from tamis_kernels import new_statistics, score_and_update

__all__ = ["scoring_rows"]

_BATCH = 64
_MOST_BATCHES = 6
_ALONE = 3  # batches of a stage alone: one falls into a slow or a fast half second
_CLASSES = 1000
_TURNS = 5
_STAGES = ("load", "forward", "kernels")
_GOAL = 0.95


def scoring_rows(images: Bundle, side: int, device_name: str, progress: Progress) -> Iterator[Row]:
    """A pass of an untrained ResNet-18 over the images, and each stage of it alone."""
    device = resolve_device(device_name)
    model = ResNet18(_CLASSES).placed(device).eval()
    ids = images.example_ids[: _BATCH * _MOST_BATCHES]
    loader = open_loader(
        images,
        backend=choose_streaming(device, "antialias"),
        batch_size=_BATCH,
        resolution=side,
        device=device,
        selection=ids,
    )
    batch = next(iter(loader))
    positions = torch.arange(len(batch.labels), device=device)
    state = new_statistics(len(ids), like=torch.empty((1, _CLASSES), device=device))
    state.begin_epoch(0)

    @torch.no_grad()
    def forward(pixels: Tensor) -> Tensor:
        with autocast(device):
            return in_parts(model, pixels).float()

    def score(logits: Tensor, labels: Tensor, at: Tensor) -> None:
        score_and_update(logits, labels % _CLASSES, state, at)

    def whole() -> dict[str, float]:
        spent = dict.fromkeys(_STAGES, 0.0)
        last, done = time.perf_counter(), 0
        for loaded in loader:
            last = _mark(spent, "load", last, device)
            logits = forward(loaded.images)
            last = _mark(spent, "forward", last, device)
            score(logits, loaded.labels, torch.arange(done, done + len(logits), device=device))
            last = _mark(spent, "kernels", last, device)
            done += len(logits)
        return spent

    logits = forward(batch.images)
    rates: dict[str, list[float]] = {name: [] for name in (*_STAGES, "whole")}
    shares: list[dict[str, float]] = []
    with progress.task("bench loaders, scoring pass", _TURNS + 1) as advance:
        for turn in range(_TURNS + 1):
            taken = {
                "load": _timed(lambda: sum(len(b.labels) for b in loader), device) / len(ids),
                "forward": _often(lambda: forward(batch.images), device) / len(batch.labels),
                "kernels": _often(lambda: score(logits, batch.labels, positions), device)
                / len(batch.labels),
            }
            spent = whole()
            taken["whole"] = sum(spent.values()) / len(ids)
            if turn:  # the first compiles
                shares.append(spent)
                for name, seconds in taken.items():
                    rates[name].append(1 / seconds)
            advance()
    yield from _told(f"scoring pass with ResNet-18 at {side} px", rates, shares)


def _told(
    name: str, rates: dict[str, list[float]], shares: list[dict[str, float]]
) -> Iterator[Row]:
    """Rows of the turns' rates, and of what each turn spent in its stages."""
    median = {name: statistics.median(values) for name, values in rates.items()}
    slowest = min(_STAGES, key=median.__getitem__)
    # The share of each turn: a slow minute hits both.
    shares_of_slowest = [a / b for a, b in zip(rates["whole"], rates[slowest], strict=True)]
    yield Row(
        name,
        median["whole"],
        "images/s",
        f"{slowest} alone, the slowest stage",
        median[slowest],
        statistics.median(shares_of_slowest),
        _GOAL,
    )
    # On a CPU all stages want the same cores, and none can hide behind another.
    in_turn = [1 / sum(1 / rates[stage][i] for stage in _STAGES) for i in range(_TURNS)]
    shares_of_turns = [a / b for a, b in zip(rates["whole"], in_turn, strict=True)]
    yield Row(
        name,
        median["whole"],
        "images/s",
        "its stages one after the other",
        statistics.median(in_turn),
        statistics.median(shares_of_turns),
    )
    for stage in _STAGES:
        share = statistics.median(s[stage] / sum(s.values()) for s in shares)
        yield Row(f"scoring pass: {stage} alone", median[stage], "images/s")
        yield Row(f"scoring pass: time spent in or waiting for {stage}", 100 * share, "%")


def _mark(spent: dict[str, float], name: str, last: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = time.perf_counter()
    spent[name] += now - last
    return now


def _often(work: Callable[[], object], device: torch.device) -> float:
    def several() -> None:
        for _ in range(_ALONE):
            work()

    return _timed(several, device) / _ALONE


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
