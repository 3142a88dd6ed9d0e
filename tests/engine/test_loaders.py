from __future__ import annotations

import gc
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
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import BundleError, UsageError
from tamis.hashing import shuffled_order
from tamis.images import fit_square
from tamis.loaders.batch import Augmentation, Batch, Loader
from tamis.loaders.ffcv_loader import FFCVLoader
from tamis.loaders.memory_loader import ImageSet, MemoryLoader, decode_image, load_image_set
from tamis.loaders.opening import fits_in_memory, open_loader

SIDE = 12


def noise(n: int, side: int = SIDE) -> ImageSet:
    """Random pixels under ids that are neither consecutive nor sorted."""
    rng = np.random.default_rng(n)
    pixels = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    ids = rng.permutation(10 * n)[:n]
    return ImageSet(torch.from_numpy(pixels), torch.from_numpy(ids % 7), ids, 7)


def ids_of(batches: list[Batch]) -> NDArray[np.int64]:
    return np.concatenate([batch.example_ids for batch in batches])


def images_of(batches: list[Batch]) -> dict[int, NDArray[np.uint8]]:
    """Id → (side, side, 3) pixels."""
    pixels = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
    return dict(zip(ids_of(batches).tolist(), pixels, strict=True))


def labels_of(batches: list[Batch]) -> dict[int, int]:
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    return dict(zip(ids_of(batches).tolist(), labels, strict=True))


def epoch(loader: Loader, number: int = 0) -> list[Batch]:
    loader.set_epoch(number)
    return list(loader)


# ---- the memory loader


@pytest.mark.parametrize("batch_size", [1, 7, 100, 101, 1000])
@pytest.mark.parametrize("order_seed", [None, 0])
def test_every_example_once(batch_size: int, order_seed: int | None) -> None:
    image_set = noise(100)
    loader = MemoryLoader(image_set, batch_size, order_seed=order_seed)
    batches = epoch(loader)
    assert (loader.n_examples, loader.batch_size) == (100, batch_size)
    assert len(loader) == len(batches) == -(-100 // batch_size)
    assert [len(b.labels) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sorted(ids_of(batches)) == sorted(image_set.example_ids)
    images, labels = images_of(batches), labels_of(batches)
    for position, example_id in enumerate(image_set.example_ids.tolist()):
        assert labels[example_id] == example_id % 7
        assert np.array_equal(images[example_id], image_set.images[position])


def test_what_a_batch_is_made_of() -> None:
    for augmentation in (None, Augmentation(flip=True, translate=2)):
        for batch in MemoryLoader(noise(20), 8, augmentation=augmentation):
            assert batch.images.shape[1:] == (3, SIDE, SIDE)
            assert batch.images.dtype == torch.uint8
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.labels.dtype == torch.int64
            assert batch.example_ids.dtype == np.int64


def test_order_is_a_function_of_seed_and_epoch() -> None:
    image_set = noise(200)

    def order(seed: int, number: int, batch_size: int = 64) -> list[int]:
        loader = MemoryLoader(image_set, batch_size, order_seed=seed)
        found: list[int] = ids_of(epoch(loader, number)).tolist()
        return found

    ids = image_set.example_ids
    for seed, number in ((0, 0), (0, 1), (5, 0)):
        assert order(seed, number) == ids[shuffled_order(ids, seed, number)].tolist()
    assert order(3, 2) == order(3, 2, batch_size=17)
    assert len({tuple(order(seed, number)) for seed in range(3) for number in range(3)}) == 9
    # Without a seed: the set's own order, every epoch.
    plain = MemoryLoader(image_set, 50)
    assert ids_of(epoch(plain, 0)).tolist() == ids_of(epoch(plain, 9)).tolist() == ids.tolist()


def test_a_subset_sees_the_full_runs_order_and_augmentations() -> None:
    image_set = noise(150)
    kept = np.random.default_rng(1).permutation(150)[:60]
    subset = image_set.subset(kept)
    assert subset.n_classes == image_set.n_classes
    augmentation = Augmentation(flip=True, translate=3, seed=8)
    for number in (0, 4):
        full = epoch(MemoryLoader(image_set, 32, order_seed=2, augmentation=augmentation), number)
        part = epoch(MemoryLoader(subset, 19, order_seed=2, augmentation=augmentation), number)
        full_ids = ids_of(full)
        assert ids_of(part).tolist() == full_ids[np.isin(full_ids, subset.example_ids)].tolist()
        full_images = images_of(full)
        for example_id, pixels in images_of(part).items():
            assert np.array_equal(pixels, full_images[example_id])


def recognised(
    original: NDArray[np.uint8], changed: NDArray[np.uint8], reach: int
) -> list[tuple[int, int, bool]]:
    """Every (down, right, flipped) that turns one image into the other, by np.pad."""
    side = len(original)
    padded = np.pad(original, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    found = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            window = padded[reach + down :, reach + right :][:side, :side]
            for flipped in (False, True):
                if np.array_equal(window[:, ::-1] if flipped else window, changed):
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
    images = images_of(epoch(MemoryLoader(image_set, 300, augmentation=augmentation)))
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


def test_augmentation_is_a_function_of_id_seed_and_epoch() -> None:
    image_set = noise(100)

    def images(seed: int, number: int, order: int | None = None) -> dict[int, NDArray[np.uint8]]:
        augmentation = Augmentation(flip=True, translate=3, seed=seed)
        loader = MemoryLoader(image_set, 30, order_seed=order, augmentation=augmentation)
        return images_of(epoch(loader, number))

    def same(a: dict[int, NDArray[np.uint8]], b: dict[int, NDArray[np.uint8]]) -> float:
        return float(np.mean([np.array_equal(a[i], b[i]) for i in a]))

    first = images(0, 0)
    assert same(first, images(0, 0, order=7)) == 1
    # By chance one in 98 comes out the same.
    assert same(first, images(1, 0)) < 0.1
    assert same(first, images(0, 1)) < 0.1


def test_batches_may_be_kept_and_written_to() -> None:
    image_set = noise(40)
    original = image_set.images.clone()
    for augmentation in (None, Augmentation(translate=1)):
        loader = MemoryLoader(image_set, 10, augmentation=augmentation)
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


# ---- decoding


def test_image_sets_are_centred_squares(sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    image_set = load_image_set(bundle, 24)
    assert image_set.images.shape == (9, 24, 24, 3)
    assert image_set.labels.tolist() == bundle.labels.tolist()
    assert image_set.n_classes == 3
    for position in range(9):
        expected = fit_square(decode_image(bundle, position), 24)
        assert np.array_equal(image_set.images[position], expected)


@pytest.mark.parametrize("position", [0, 4])
def test_a_damaged_jpeg_is_named_and_not_replaced(
    sample_bundle: Path, tmp_path: Path, position: int
) -> None:
    # FFCV goes on with the pixels of another image under this one's label.
    sound = open_bundle(sample_bundle)
    data = bytearray(sample_bundle.read_bytes())
    offset = int(sound.extents[position, 0, 0])
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "x.beton").write_bytes(data)
    assert sound.paths is not None
    path = sound.paths[position].as_py()
    with pytest.raises(BundleError, match=rf"in example {position} \({path}\).*does not decode"):
        load_image_set(open_bundle(tmp_path / "x.beton"), 24)


def test_a_jpeg_of_another_size_is_refused(sample_bundle: Path) -> None:
    # A bundle of plain FFCV has no digest that would show it on opening.
    bundle = open_bundle(sample_bundle)
    metadata = bundle.metadata.copy()
    assert metadata["f0"]["width"][4] == 300
    metadata["f0"]["width"][4] = 299
    with pytest.raises(BundleError, match=r"299 × 220 pixels in example 4.*found a JPEG of 300"):
        load_image_set(replace(bundle, metadata=metadata), 24)


# ---- FFCV's loader; one worker, because FFCV compiles faster for one


def ffcv_loader(path: Path, batch_size: int, side: int, **options: Any) -> FFCVLoader:
    return FFCVLoader(open_bundle(path), batch_size, side, **{"workers": 1, **options})


@pytest.fixture(scope="session")
def cut_digits(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the digits, so that ids are not positions."""
    path = tmp_path_factory.mktemp("cut-digits") / "cut.beton"
    cut(open_bundle(digits_bundle), path, np.arange(11, 1340, 4))
    return path


@pytest.mark.parametrize("os_cache", [True, False])
def test_both_loaders_give_the_same(cut_digits: Path, os_cache: bool) -> None:
    bundle = open_bundle(cut_digits)
    image_set = load_image_set(bundle, 8)
    streamed = ffcv_loader(cut_digits, 50, 8, order_seed=3, os_cache=os_cache)
    in_memory = MemoryLoader(image_set, 50, order_seed=3)
    assert (len(streamed), streamed.n_examples, streamed.batch_size) == (7, 333, 50)
    for number in (0, 1, 5, 0):
        ours, theirs = epoch(in_memory, number), epoch(streamed, number)
        # Kept until here: FFCV's own buffers were overwritten several times.
        assert len(ours) == len(theirs) == 7
        for a, b in zip(ours, theirs, strict=True):
            assert a.example_ids.tolist() == b.example_ids.tolist()
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.images, b.images)
            assert b.images.is_contiguous(memory_format=torch.channels_last)


def test_jpegs_are_nearly_the_same(sample_bundle: Path) -> None:
    # FFCV decodes with the fast DCT and upsamples chroma simply.
    expected = images_of(epoch(MemoryLoader(load_image_set(open_bundle(sample_bundle), 24), 4)))
    found = epoch(ffcv_loader(sample_bundle, 4, 24))
    assert ids_of(found).tolist() == list(range(9))
    assert labels_of(found) == dict(enumerate([0, 0, 0, 1, 1, 1, 2, 2, 2]))
    for example_id, pixels in images_of(found).items():
        error = np.abs(pixels.astype(int) - expected[example_id])
        assert error.mean() < 1.5
        assert error.max() <= 16


def test_other_fields_are_not_in_the_way(ffcv_folder: Path) -> None:
    # Seven fields, the image in the middle: 12 × 10 pixels, of which 10 × 10 are the centre.
    batches = epoch(ffcv_loader(ffcv_folder / "mixed.beton", 16, 10))
    assert labels_of(batches) == {i: 1000 + i for i in range(N_MIXED)}
    for example_id, pixels in images_of(batches).items():
        assert np.array_equal(pixels, mixed(example_id).image[:, 1:11])


def test_quasi_random_order(ffcv_folder: Path) -> None:
    loader = ffcv_loader(
        ffcv_folder / "pages.beton", 8, 100, order_seed="quasi_random", os_cache=False
    )
    orders = []
    for number in (0, 1):
        batches = epoch(loader, number)
        orders.append(ids_of(batches).tolist())
        assert sorted(orders[-1]) == list(range(N_PAGES))
        assert labels_of(batches) == {i: i for i in range(N_PAGES)}
        for example_id, pixels in images_of(batches).items():
            assert np.array_equal(pixels, pages(example_id)[1])
    assert orders[0] != orders[1]


def test_both_loaders_augment_in_the_same_way(cut_digits: Path) -> None:
    augmentation = Augmentation(flip=True, translate=2, seed=9)
    streamed = ffcv_loader(cut_digits, 64, 8, order_seed=0, augmentation=augmentation)
    memory = MemoryLoader(
        load_image_set(open_bundle(cut_digits), 8), 64, order_seed=0, augmentation=augmentation
    )
    for number in (0, 3):
        streamed.set_epoch(number)
        memory.set_epoch(number)
        for found, expected in zip(streamed, memory, strict=True):
            assert found.example_ids.tolist() == expected.example_ids.tolist()
            assert np.array_equal(found.images.numpy(), expected.images.numpy())


@pytest.mark.parametrize("os_cache", [True, False])
def test_an_early_break_leaves_no_thread(ffcv_folder: Path, os_cache: bool) -> None:
    loader = ffcv_loader(ffcv_folder / "pages.beton", 4, 100, order_seed=1, os_cache=os_cache)
    before = set(threading.enumerate())
    for _ in range(5):
        for number, batch in enumerate(loader):
            assert len(batch.labels) == 4
            if number == 2:
                break
    gc.collect()
    deadline = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()
    # And the next epoch is whole.
    assert sorted(ids_of(epoch(loader))) == list(range(N_PAGES))


def test_a_break_while_ffcv_waits_with_its_last_word(ffcv_folder: Path) -> None:
    # All later batches and the end mark wait in FFCV's queue of three: its thread sits in a put
    # that only a reader ends.
    loader = ffcv_loader(ffcv_folder / "pages.beton", -(-N_PAGES // 4), 100)
    batches = iter(loader)
    next(batches)
    time.sleep(1.0)
    closer = threading.Thread(target=batches.close, daemon=True)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()


# ---- choosing one


def test_opening(cut_digits: Path) -> None:
    bundle = open_bundle(cut_digits)
    for backend in ("auto", "memory"):
        loader = open_loader(bundle, backend=backend, batch_size=30, resolution=8, order_seed=4)
        assert isinstance(loader, MemoryLoader)
        expected = bundle.example_ids[shuffled_order(bundle.example_ids, 4, 0)]
        assert ids_of(epoch(loader)).tolist() == expected.tolist()
    streamed = open_loader(bundle, backend="ffcv", batch_size=30, resolution=8)
    assert isinstance(streamed, FFCVLoader)
    image_set = noise(30)
    augmentation = Augmentation(flip=True)
    loader = open_loader(image_set, batch_size=9, resolution=SIDE, augmentation=augmentation)
    expected_images = images_of(epoch(MemoryLoader(image_set, 9, augmentation=augmentation)))
    for example_id, pixels in images_of(epoch(loader)).items():
        assert np.array_equal(pixels, expected_images[example_id])
    with pytest.raises(UsageError, match="--loader: expected auto, ffcv or memory, found dali"):
        open_loader(bundle, backend="dali", batch_size=30, resolution=8)


def test_what_fits_in_memory(cut_digits: Path) -> None:
    bundle = open_bundle(cut_digits)
    assert fits_in_memory(bundle, 8, torch.device("cpu"))
    assert not fits_in_memory(bundle, 10**6, torch.device("cpu"))  # 333 images of 3 TB
