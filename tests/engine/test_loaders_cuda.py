"""Loaders whose batches go to a GPU: the CPU's pixels, on the caller's stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loading import ids_of
from tamis.bundles.opening import open_bundle
from tamis.loaders.batch import Batch
from tamis.loaders.opening import open_loader
from tamis.loaders.settings import Augmentation, RandomResizedCrop

pytestmark = pytest.mark.gpu

GPU = "cuda:0"
ALL = Augmentation(flip=True, translate=2, cutout=3, seed=1)
CROP = Augmentation(crop=RandomResizedCrop(), flip=True, seed=1)


def batches(path: Path, backend: str, device: str, side: int, change: Augmentation) -> list[Batch]:
    loader = open_loader(
        open_bundle(path), backend=backend, mode="train", batch_size=50, resolution=side,
        augmentation=change, device=device,
    )  # fmt: skip
    loader.set_epoch(2)
    return list(loader)


@pytest.mark.parametrize("backend", ["ffcv", "memory"])
@pytest.mark.parametrize("change", [ALL, Augmentation(flip=True), CROP])
def test_the_same_as_on_the_cpu(digits_bundle: Path, backend: str, change: Augmentation) -> None:
    found = batches(digits_bundle, backend, GPU, 8, change)
    expected = batches(digits_bundle, backend, "cpu", 8, change)
    assert ids_of(found) == ids_of(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.images.device == ours.labels.device == torch.device(GPU)
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours.labels.cpu(), theirs.labels)
        # In memory, crops are products on the device: a tie may be rounded the other way.
        off = (ours.images.cpu().int() - theirs.images.int()).abs().max()
        assert off <= (1 if change is CROP and backend == "memory" else 0)


def test_copies_are_ready_on_the_stream_that_is_current(digits_bundle: Path) -> None:
    expected = batches(digits_bundle, "ffcv", "cpu", 8, ALL)
    stream = torch.cuda.Stream(GPU)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        sums = [batch.images.long().sum() for batch in batches(digits_bundle, "ffcv", GPU, 8, ALL)]
    stream.synchronize()
    assert [int(s) for s in sums] == [int(batch.images.long().sum()) for batch in expected]


def test_dali_decodes_on_the_gpu(sample_bundle: Path, digits_bundle: Path) -> None:
    for path, side, limit in ((sample_bundle, 24, 4.0), (digits_bundle, 8, 1.0)):
        found = batches(path, "dali", GPU, side, Augmentation(flip=True))
        expected = batches(path, "ffcv", "cpu", side, Augmentation(flip=True))
        assert ids_of(found) == ids_of(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.images.device == torch.device(GPU)
            off = np.abs(ours.images.cpu().numpy().astype(int) - theirs.images.numpy())
            assert off.mean() < limit
