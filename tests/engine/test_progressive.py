"""Images that grow over the epochs, and mirror images that alternate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loading import epoch, ids_of, images_of, memory_loader, noise, streamed
from tamis.bundles.opening import open_bundle
from tamis.loaders.batch import Loader
from tamis.loaders.boxes import draw_flips
from tamis.loaders.progressive import ProgressiveLoader
from tamis.loaders.settings import Augmentation


def test_each_epoch_has_its_size_and_its_own_loader_s_pixels(digits_bundle: Path) -> None:
    bundle, opened = open_bundle(digits_bundle), []

    def open_at(side: int) -> Loader:
        opened.append(side)
        return streamed(bundle, 100, side, seed=5, augmentation=Augmentation(flip=True, seed=2))

    loader = ProgressiveLoader(lambda number: 8 if number < 2 else 12, open_at)
    for number, side in enumerate((8, 8, 12)):
        expected = images_of(epoch(streamed(
            bundle, 100, side, seed=5, augmentation=Augmentation(flip=True, seed=2)
        ), number))  # fmt: skip
        found = images_of(epoch(loader, number))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[one], expected[one]) for one in found)
    assert opened == [8, 12]
    assert (len(loader), loader.batch_size) == (14, 100)

    only = bundle.example_ids[:250]
    loader.restrict(only)
    assert set(ids_of(epoch(loader, 1))) == set(only.tolist())
    assert set(ids_of(epoch(loader, 2))) == set(only.tolist())  # at another size, too


def test_it_goes_on_at_the_size_where_it_stood() -> None:
    images = noise(50, 6)
    loaders = [
        ProgressiveLoader(lambda number: 6, lambda side: memory_loader(images, 8, seed=1))
        for _ in range(2)
    ]
    first, second = loaders
    first.set_epoch(3)
    batches = iter(first)
    seen = ids_of([next(batches) for _ in range(2)])
    second.load_state_dict(first.state_dict())
    assert seen + ids_of(second) == ids_of(epoch(first, 3))


def test_alternating_flips_show_each_image_both_ways_in_two_epochs() -> None:
    ids = np.arange(1000)
    alternating = Augmentation(flip=True, alternating=True, seed=4)
    flips = [draw_flips(ids, alternating, number) for number in range(4)]
    assert 400 < flips[0].sum() < 600
    assert np.array_equal(flips[1], ~flips[0])
    assert np.array_equal(flips[2], flips[0])
    # The first epoch is that of flips drawn anew.
    assert np.array_equal(flips[0], draw_flips(ids, Augmentation(flip=True, seed=4), 0))
