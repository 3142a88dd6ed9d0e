"""What holds for every backend."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ffcv_bundles import N_MIXED, N_PAGES, mixed, pages
from loading import (
    epoch,
    ids_of,
    images_of,
    labels_of,
    memory_loader,
    noise,
    streamed,
    with_damage,
)
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.errors import BundleError, UsageError, WorkFailedError
from tamis.hashing import shuffled_order
from tamis.loaders.batch import Loader
from tamis.loaders.ffcv_loader import FFCVLoader
from tamis.loaders.memory_loader import MemoryLoader, load_image_set
from tamis.loaders.opening import fits_in_memory, open_loader
from tamis.loaders.settings import Augmentation, RandomResizedCrop

SIDE = 12
BACKENDS = ("ffcv", "dali", "memory")
STREAMING = ("ffcv", "dali")
EVERYTHING = Augmentation(flip=True, translate=2, cutout=3, seed=9)


@pytest.fixture(scope="module")
def digits(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Some of the digits, so that ids are not positions: 333 raw images of 8 × 8."""
    path = tmp_path_factory.mktemp("cut-digits") / "cut.beton"
    cut(open_bundle(digits_bundle), path, np.arange(11, 1340, 4))
    return open_bundle(path)


@pytest.fixture(scope="module")
def jpegs(sample_bundle: Path) -> Bundle:
    """Nine JPEGs of several sizes and kinds."""
    return open_bundle(sample_bundle)


def opened(bundle: Bundle, backend: str, **options: Any) -> Loader:
    return open_loader(bundle, backend=backend, **{"batch_size": 50, "resolution": 8, **options})


@pytest.mark.parametrize(
    ("dtype", "step"), [(torch.float32, 1e-6), (torch.float16, 0.02), (torch.bfloat16, 0.1)]
)
def test_images_as_other_networks_want_them(jpegs: Bundle, dtype: torch.dtype, step: float) -> None:
    batch = next(iter(opened(jpegs, "ffcv", resolution=16)))
    before = batch.images.clone()
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.25, 0.5]
    for centre, width, found in (
        (mean, std, batch.normalised(mean, std, dtype)),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], batch.normalised(dtype=dtype)),
    ):
        pixels = before.double().numpy().transpose(0, 2, 3, 1) / 255
        expected = ((pixels - np.array(centre)) / np.array(width)).transpose(0, 3, 1, 2)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert np.abs(found.double().numpy() - expected).max() <= step * max(
            np.abs(expected).max(), 1
        )
    assert torch.equal(batch.images, before)


# ---- every example, once


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 50, 333, 1000])
def test_every_example_once(digits: Bundle, backend: str, batch_size: int) -> None:
    for mode in ("score", "train"):
        loader = opened(digits, backend, batch_size=batch_size, mode=mode)
        batches = epoch(loader)
        assert (loader.n_examples, loader.batch_size) == (333, batch_size)
        sizes = [len(batch.labels) for batch in batches]
        assert len(loader) == len(sizes) == -(-333 // batch_size)
        assert set(sizes[:-1]) <= {batch_size}
        assert sorted(ids_of(batches)) == sorted(digits.example_ids)
        labels = dict(zip(digits.example_ids.tolist(), digits.labels.tolist(), strict=True))
        assert labels_of(batches) == labels
        for batch in batches[:3]:
            assert batch.images.shape[1:] == (3, 8, 8)
            assert batch.images.dtype == torch.uint8
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.dtype == torch.int64
            assert batch.example_ids.dtype == np.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_raw_images_are_shown_as_they_are(digits: Bundle, backend: str) -> None:
    images = images_of(opened(digits, backend))
    for position, example_id in enumerate(digits.example_ids.tolist()):
        assert np.array_equal(images[example_id], decode_image(digits, position))


@pytest.mark.parametrize("backend", BACKENDS)
def test_shards_share_the_batches_of_one_loader(digits: Bundle, backend: str) -> None:
    options = {"mode": "train", "seed": 3, "augmentation": EVERYTHING}
    for shards, batch_size in ((2, 31), (3, 16), (5, 20)):
        whole = opened(digits, backend, batch_size=shards * batch_size, **options)
        parts = [
            opened(digits, backend, batch_size=batch_size, shard=(i, shards), **options)
            for i in range(shards)
        ]
        assert sum(part.n_examples for part in parts) == 333
        expected, together = images_of(epoch(whole, 2)), [epoch(part, 2) for part in parts]
        assert {len(part) for part in parts} == {len(whole)}
        for number, batch in enumerate(whole):
            if number < len(whole) - 2:  # the last two may be divided otherwise
                found = [ids for part in together for ids in part[number].example_ids.tolist()]
                assert found == batch.example_ids.tolist()
        images = {i: pixels for part in together for i, pixels in images_of(part).items()}
        assert sum(len(ids_of(part)) for part in together) == 333
        assert all(np.array_equal(images[i], expected[i]) for i in expected)


def test_a_selection_keeps_its_ids(digits: Bundle, ffcv_folder: Path) -> None:
    chosen = digits.example_ids[[5, 300, 7, 41]]
    whole = images_of(opened(digits, "ffcv"))
    for backend in BACKENDS:
        found = epoch(opened(digits, backend, selection=chosen))
        assert ids_of(found) == chosen.tolist()
        assert all(np.array_equal(p, whole[i]) for i, p in images_of(found).items())
        # A bundle of plain FFCV knows no ids: they are its positions.
        plain = open_bundle(ffcv_folder / "pages.beton")
        loader = opened(plain, backend, resolution=100, selection=np.array([7, 3]))
        assert labels_of(loader) == {7: 7, 3: 3}
    images = load_image_set(digits, 8)
    loader = open_loader(images, batch_size=3, resolution=8, selection=chosen)
    assert ids_of(loader) == chosen.tolist()
    with pytest.raises(UsageError, match="selection: expected ids of the decoded examples"):
        open_loader(images, batch_size=3, resolution=8, selection=np.array([10**6]))
    with pytest.raises(UsageError, match="each id once, found 3 ids, of which 2 differ"):
        opened(digits, "ffcv", selection=digits.example_ids[[1, 2, 1]])
    with pytest.raises(BundleError, match="expected every selected example id in the bundle"):
        opened(digits, "ffcv", selection=np.array([10**6]))


# ---- the same seed, the same pixels


@pytest.mark.parametrize("augmentation", [None, EVERYTHING, Augmentation(flip=True)])
def test_all_backends_show_the_same(digits: Bundle, augmentation: Augmentation | None) -> None:
    options = {"mode": "train", "seed": 3, "augmentation": augmentation}
    loaders = [opened(digits, backend, **options) for backend in BACKENDS]
    for number in (0, 5, 0):
        first, *others = [epoch(loader, number) for loader in loaders]
        for other in others:
            assert ids_of(other) == ids_of(first)
            for a, b in zip(first, other, strict=True):
                assert torch.equal(a.images, b.images)
                assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_depend_on_seed_epoch_and_id_alone(jpegs: Bundle, backend: str) -> None:
    crop = Augmentation(crop=RandomResizedCrop(), flip=True, seed=1)

    def images(
        number: int = 0, augmentation: Augmentation = crop, **options: Any
    ) -> dict[int, NDArray[np.uint8]]:
        options = {"batch_size": 4, "resolution": 24, "mode": "train", **options}
        return images_of(
            epoch(opened(jpegs, backend, augmentation=augmentation, **options), number)
        )

    def same(a: dict[int, NDArray[np.uint8]], b: dict[int, NDArray[np.uint8]]) -> int:
        return sum(np.array_equal(a[i], b[i]) for i in a)

    first = images()
    assert same(first, images(seed=8, batch_size=2, workers=1)) == 9
    assert same(first, images(workers=5)) == 9
    assert same(first, images(1)) < 3
    assert same(first, images(augmentation=replace(crop, seed=2))) < 3


def test_order_is_a_function_of_seed_and_epoch() -> None:
    image_set = noise(200, SIDE)
    ids = image_set.example_ids

    def order(seed: int, number: int, batch_size: int = 64) -> list[int]:
        return ids_of(epoch(memory_loader(image_set, batch_size, seed=seed), number))

    for seed, number in ((0, 0), (0, 1), (5, 0)):
        assert order(seed, number) == ids[shuffled_order(ids, seed, number)].tolist()
    assert order(3, 2) == order(3, 2, batch_size=17)
    assert len({tuple(order(seed, number)) for seed in range(3) for number in range(3)}) == 9
    plain = memory_loader(image_set, 50)
    assert ids_of(epoch(plain, 0)) == ids_of(epoch(plain, 9)) == ids.tolist()


def test_a_subset_sees_the_full_runs_order_and_augmentations() -> None:
    image_set = noise(150, SIDE)
    kept = np.random.default_rng(1).permutation(150)[:60]
    subset = image_set.subset(kept)
    assert subset.n_classes == image_set.n_classes
    for number in (0, 4):
        full = epoch(memory_loader(image_set, 32, seed=2, augmentation=EVERYTHING), number)
        part = epoch(memory_loader(subset, 19, seed=2, augmentation=EVERYTHING), number)
        chosen = set(subset.example_ids.tolist())
        assert ids_of(part) == [i for i in ids_of(full) if i in chosen]
        full_images = images_of(full)
        for example_id, pixels in images_of(part).items():
            assert np.array_equal(pixels, full_images[example_id])


# ---- what is changed


def recognised(
    original: NDArray[np.uint8], changed: NDArray[np.uint8], reach: int
) -> list[tuple[int, int, bool]]:
    """Every (down, right, flipped) that turns one image into the other, by np.pad."""
    side = len(original)
    found = []
    for flipped in (False, True):
        seen = original[:, ::-1] if flipped else original
        padded = np.pad(seen, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                window = padded[reach + down :, reach + right :][:side, :side]
                if np.array_equal(window, changed):
                    found.append((down, right, flipped))
    return found


@pytest.mark.parametrize(
    ("flip", "translate", "side"),
    [(True, 0, 12), (False, 2, 12), (True, 4, 12), (True, 4, 5), (True, 9, 4), (True, 2, 1)],
)
def test_augmentation_is_a_shift_over_reflected_edges_and_a_flip(
    flip: bool, translate: int, side: int
) -> None:
    image_set = noise(800, side)
    augmentation = Augmentation(flip=flip, translate=translate, seed=1)
    images = images_of(epoch(memory_loader(image_set, 300, augmentation=augmentation)))
    reach = min(translate, side - 1)  # what a reflection can reach
    seen: Counter[tuple[int, int, bool]] = Counter()
    for position, example_id in enumerate(image_set.example_ids.tolist()):
        changes = recognised(image_set.images[position].numpy(), images[example_id], reach)
        assert changes, "no shift and flip of the original"
        if len(changes) == 1:
            seen[changes[0]] += 1
    if 2 * reach >= side - 1:
        return  # shifts as long as the image mirror it: many changes have two names
    total = seen.total()
    assert total > 600  # others were recognised in two ways
    flips = sum(count for (_, _, flipped), count in seen.items() if flipped)
    # Half of them, within five standard deviations; none without the option.
    assert abs(flips - total / 2) < 5 * np.sqrt(total / 4) if flip else flips == 0
    for axis in (0, 1):
        shifts = Counter(key[axis] for key in seen.elements())
        assert sorted(shifts) == list(range(-reach, reach + 1))
        share = total / (2 * reach + 1)
        assert all(abs(count - share) < 5 * np.sqrt(share) for count in shifts.values())


def test_cutout_covers_a_grey_square_over_a_uniform_centre() -> None:
    image_set = replace(noise(2000, 9), images=torch.zeros(2000, 9, 9, 3, dtype=torch.uint8))
    images = images_of(memory_loader(image_set, 500, augmentation=Augmentation(cutout=3)))
    corners: Counter[tuple[int, int]] = Counter()
    for pixels in images.values():
        rows, columns = np.nonzero(pixels[..., 0])
        assert (pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 128).all()
        assert (pixels == 128).sum() == 3 * len(rows)
        heights, widths = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert {heights, widths} <= {2, 3}
        corners[int(rows.min()), int(columns.min())] += 1
    # Centres at 0 and 1 begin at row 0, later ones one row later each.
    rows_seen = Counter(row for row, _ in corners.elements())
    assert sorted(rows_seen) == list(range(8))
    assert rows_seen[0] == pytest.approx(2000 * 2 / 9, abs=100)
    assert all(rows_seen[row] == pytest.approx(2000 / 9, abs=75) for row in range(1, 8))


def test_batches_may_be_kept_and_written_to(digits: Bundle) -> None:
    image_set = load_image_set(digits, 8)
    original = image_set.images.clone()
    for augmentation in (None, Augmentation(translate=1)):
        options = {} if augmentation is None else {"augmentation": augmentation}
        for loader in (
            memory_loader(image_set, 10, **options),
            streamed(digits, 10, 8, **options),
        ):
            kept = list(loader)
            copies = [batch.images.clone() for batch in kept]
            for again in loader:
                again.images.zero_()
                again.labels.fill_(-1)
                again.example_ids[:] = -1
            assert all(torch.equal(a.images, b) for a, b in zip(kept, copies, strict=True))
    assert torch.equal(image_set.images, original)
    assert (image_set.labels >= 0).all()
    assert (image_set.example_ids >= 0).all()
    assert (digits.labels >= 0).all()


# ---- going on in the middle


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_goes_on_after_the_batch_given_last(digits: Bundle, backend: str) -> None:
    def fresh() -> Loader:
        return opened(digits, backend, mode="train", seed=5, augmentation=EVERYTHING)

    expected = epoch(fresh(), 4)
    for n_taken in (1, 3, 6, 7):
        loader = fresh()
        loader.set_epoch(4)
        batches = iter(loader)
        for _ in range(n_taken):
            next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = fresh()
        resumed.load_state_dict(state)
        resumed.set_epoch(state["epoch"])  # as training loops do
        rest = list(resumed)
        assert len(rest) == len(expected) - n_taken
        for a, b in zip(rest, expected[n_taken:], strict=True):
            assert a.example_ids.tolist() == b.example_ids.tolist()
            assert torch.equal(a.images, b.images)
        # What follows is a whole epoch.
        assert len(ids_of(epoch(resumed, 5))) == 333
    resumed.load_state_dict(state)
    assert ids_of(epoch(resumed, 0)) == ids_of(epoch(fresh(), 0))  # another epoch is a new one


def test_a_state_goes_on_with_other_shards(digits: Bundle) -> None:
    def loader(i: int, shards: int) -> Loader:
        return opened(
            digits, "ffcv", mode="train", seed=1, batch_size=60 // shards, shard=(i, shards)
        )

    whole = loader(0, 1)
    expected = epoch(whole)[2:]
    first = loader(0, 2)
    batches = iter(first)
    next(batches)
    next(batches)
    parts = [loader(i, 3) for i in range(3)]
    for part in parts:
        part.load_state_dict(first.state_dict())
    assert sorted(i for part in parts for i in ids_of(part)) == sorted(ids_of(expected))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 49}, "global batch"),
        ({"seed": 2}, "settings"),
        ({"augmentation": Augmentation(flip=True)}, "settings"),
        ({"selection": np.array([11, 15])}, "examples"),
    ],
)
def test_a_state_of_another_loader_is_refused(
    digits: Bundle, change: dict[str, Any], says: str
) -> None:
    state = opened(digits, "memory", mode="train", seed=1).state_dict()
    other = opened(digits, "memory", **{"mode": "train", "seed": 1, **change})
    with pytest.raises(UsageError, match=f"loader state: expected one .* the same {says}"):
        other.load_state_dict(state)
    with pytest.raises(UsageError, match="number of seen examples at the end of a batch, found 7"):
        opened(digits, "memory", mode="train", seed=1).load_state_dict({**state, "n_seen": 7})


# ---- plain FFCV's bundles, and orders


def test_other_fields_are_not_in_the_way(ffcv_folder: Path) -> None:
    # Seven fields, the image in the middle: 12 × 10 pixels, of which 10 × 10 are the centre.
    bundle = open_bundle(ffcv_folder / "mixed.beton")
    for backend in BACKENDS:
        batches = epoch(opened(bundle, backend, batch_size=16, resolution=10))
        assert labels_of(batches) == {i: 1000 + i for i in range(N_MIXED)}
        for example_id, pixels in images_of(batches).items():
            assert np.array_equal(pixels, mixed(example_id).image[:, 1:11])


@pytest.mark.parametrize("backend", STREAMING)
def test_quasi_random_order(ffcv_folder: Path, backend: str) -> None:
    bundle = open_bundle(ffcv_folder / "pages.beton")
    orders = []
    for number in (0, 1):
        loader = opened(bundle, backend, batch_size=8, resolution=100, order="quasi_random")
        batches = epoch(loader, number)
        orders.append(ids_of(batches))
        assert labels_of(batches) == {i: i for i in range(N_PAGES)}
        for example_id, pixels in images_of(batches).items():
            assert np.array_equal(pixels, pages(example_id)[1])
    assert orders[0] != orders[1]
    with pytest.raises(UsageError, match="order: expected bundle or random, of images in memory"):
        opened(bundle, "memory", resolution=100, order="quasi_random")
    auto = opened(bundle, "auto", resolution=100, order="quasi_random")
    assert isinstance(auto, FFCVLoader)


# ---- threads, memory, damage


@pytest.mark.parametrize("backend", STREAMING)
def test_an_early_break_leaves_no_thread(ffcv_folder: Path, backend: str) -> None:
    loader = opened(
        open_bundle(ffcv_folder / "pages.beton"), backend, batch_size=4, resolution=100, seed=1
    )
    before = set(threading.enumerate())
    n_tasks = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(5):
        for number, batch in enumerate(loader):
            assert len(batch.labels) == 4
            if number == 2:
                break
    gc.collect()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(threading.enumerate()) == before
    assert (
        len(list(Path("/proc/self/task").iterdir())) <= n_tasks + 2
    )  # DALI's own, of one pipeline
    # And the next epoch is whole.
    assert sorted(ids_of(epoch(loader))) == list(range(N_PAGES))


def test_buffers_are_used_again(ffcv_folder: Path) -> None:
    bundle = open_bundle(ffcv_folder / "pages.beton")
    loader = streamed(bundle, 4, 100)
    places = {batch.images.data_ptr() for number in range(4) for batch in iterated(loader, number)}
    assert len(places) <= 4


def iterated(loader: Loader, number: int) -> Loader:
    loader.set_epoch(number)
    return loader


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("position", [0, 4])
def test_a_damaged_jpeg_is_named_and_not_replaced(
    jpegs: Bundle, tmp_path: Path, backend: str, position: int
) -> None:
    # FFCV goes on with the pixels of another image under this one's label.
    damaged = with_damage(jpegs, tmp_path / "x.beton", [position])
    assert jpegs.paths is not None
    path = jpegs.paths[position].as_py()
    with pytest.raises(BundleError, match=rf"in example {position} \({path}\), found other bytes"):
        list(opened(damaged, backend, batch_size=4, resolution=24))


@pytest.mark.parametrize("backend", BACKENDS)
def test_damage_is_skipped_when_asked_for(jpegs: Bundle, tmp_path: Path, backend: str) -> None:
    damaged = with_damage(jpegs, tmp_path / "x.beton", [2, 4, 5, 6, 7])
    options = {"batch_size": 4, "resolution": 24}
    sound = images_of(opened(jpegs, backend, **options))
    loader = opened(damaged, backend, on_error="skip", **options)
    for _ in range(2):
        batches = list(loader)
        assert [batch.example_ids.tolist() for batch in batches if len(batch.labels)] in (
            [[0, 1, 3], [8]],
            [[0, 1, 3, 8]],  # memory holds no gaps
        )
        assert labels_of(batches) == {i: int(jpegs.labels[i]) for i in (0, 1, 3, 8)}
        for example_id, pixels in images_of(batches).items():
            assert np.array_equal(pixels, sound[example_id])
        assert [one.example_id for one in loader.skipped] == [2, 4, 5, 6, 7]
    assert jpegs.paths is not None
    assert loader.skipped[1].path == jpegs.paths[4].as_py()
    assert "other bytes" in loader.skipped[1].reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_checksums_the_decoder_finds_damage(
    jpegs: Bundle, tmp_path: Path, backend: str
) -> None:
    damaged = replace(with_damage(jpegs, tmp_path / "x.beton", [4]), trailer=None)
    options = {"batch_size": 4, "resolution": 24}
    with pytest.raises(BundleError, match="in example 4 "):
        list(opened(damaged, backend, **options))
    loader = opened(damaged, backend, on_error="skip", **options)
    assert ids_of(loader) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [one.example_id for one in loader.skipped] == [4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_jpeg_of_another_size_is_refused(jpegs: Bundle, backend: str) -> None:
    # A bundle of plain FFCV has no digest that would show it on opening.
    metadata = jpegs.metadata.copy()
    assert metadata["f0"]["width"][4] == 300
    metadata["f0"]["width"][4] = 299
    lying = replace(jpegs, metadata=metadata, trailer=None)
    with pytest.raises(BundleError, match=r"299 × 220 pixels in example 4.*found a JPEG of 300"):
        list(opened(lying, backend, batch_size=4, resolution=24))


def test_a_file_that_shrinks_is_an_error_and_not_the_end(jpegs: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "x.beton"
    copy.write_bytes(jpegs.file.read_bytes())
    loader = streamed(open_bundle(copy), 1, 24)
    batches = iter(loader)
    next(batches)
    with copy.open("r+b") as file:
        file.truncate(int(jpegs.extents[7, 0, 0]))
    with pytest.raises(WorkFailedError, match=r"readable bytes at .*, found the file's end"):
        list(batches)
    with pytest.raises(BundleError, match="expected the file that was opened before"):
        list(loader)


# ---- choosing one


def test_opening(digits: Bundle) -> None:
    for backend in ("auto", "memory"):
        assert isinstance(opened(digits, backend), MemoryLoader)
    assert isinstance(opened(digits, "ffcv"), FFCVLoader)
    # A set that was decoded before, at another size.
    image_set = load_image_set(digits, 16)
    loader = open_loader(image_set, batch_size=9, resolution=8, resample="area")
    for example_id, pixels in images_of(loader).items():
        position = int(np.flatnonzero(digits.example_ids == example_id)[0])
        doubled = image_set.images[position].numpy().astype(float)
        halved = doubled.reshape(8, 2, 8, 2, 3).mean((1, 3))
        assert np.abs(pixels - halved).max() <= 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "pil"}, "--loader: expected auto, ffcv, dali, memory, found pil"),
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"resolution": 0}, "resolution: expected 1 to 65,535 pixels, found 0"),
        ({"mode": "test"}, "mode: expected score or train, found test"),
        ({"order": "sequential"}, "order: expected bundle, random or quasi_random"),
        ({"shard": (2, 2)}, "shard: expected .* found .2, 2."),
        ({"on_error": "ignore"}, "on_error: expected fail or skip"),
        ({"center_ratio": 1.5}, "center_ratio: expected above 0, at most 1"),
        ({"augmentation": Augmentation()}, "augmentation: expected none in score mode"),
        ({"mode": "train", "shard": (0, 400)}, "400 shards: expected as many batches for each"),
        ({"mode": "train", "shard": (0, 2), "batch_size": 1}, "2 shards: expected as many"),
    ],
)
def test_odd_settings_are_refused(digits: Bundle, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        opened(digits, **{"backend": "memory", **options})


def test_odd_augmentations_are_refused() -> None:
    with pytest.raises(UsageError, match="random resized crop: expected 0 < least scale"):
        RandomResizedCrop(scale=(0.5, 0.2))
    with pytest.raises(UsageError, match="a shift and a cutout of 0 pixels or more"):
        Augmentation(translate=-1)


def test_what_fits_in_memory(digits: Bundle) -> None:
    assert fits_in_memory(digits.n_examples, 8, torch.device("cpu"))
    assert not fits_in_memory(digits.n_examples, 10**6, torch.device("cpu"))  # each of 3 TB
