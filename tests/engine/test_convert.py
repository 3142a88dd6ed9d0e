from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from PIL import Image

from sample_images import JPEGS, SAMPLES, jpeg_bytes, picture
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.inspect import inspect
from tamis.bundles.layout import JPEG_MODE, RAW_MODE
from tamis.bundles.opening import open_bundle
from tamis.bundles.pixels import decode_image
from tamis.bundles.settings import ConvertSettings
from tamis.errors import SourceError, TamisError, UsageError
from tamis.images import decode_any, resize_to_side
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.digits import open_digits
from tamis.sources.image_folder import open_image_folder

Load = Callable[[], "bytes | NDArray[np.uint8]"]


@dataclass
class Given:
    """A source of loads given one by one; labels count up."""

    loads: list[Load]
    classes: tuple[str, ...] | None = None
    largest: int | None = None
    n_bytes: int | None = None
    lineage: tuple[Parent, ...] = ()
    fingerprint: str = "given"
    paths: list[str | None] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        return {"kind": "given"}

    def __len__(self) -> int:
        return len(self.loads)

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        paths = self.paths or [f"image-{i}" for i in range(len(self.loads))]
        for i, (path, load) in list(enumerate(zip(paths, self.loads, strict=True)))[start:]:
            yield SourceItem(path, i, load)


def given(*images: bytes | NDArray[np.uint8], **options: Any) -> Given:
    def load_of(image: bytes | NDArray[np.uint8]) -> Load:
        return lambda: image

    return Given([load_of(image) for image in images], **options)


def by_name(bundle: Bundle, name: str) -> int:
    """Position of one of the sample images."""
    assert bundle.paths is not None
    paths: list[str] = bundle.paths.to_pylist()
    return paths.index(SAMPLES[name])


def record(bundle: Bundle, position: int) -> tuple[int, int, int, bytes]:
    mode, width, height, data = bundle.image_record(position)
    return mode, width, height, data.tobytes()


def test_jpegs_pass_through_byte_for_byte(sample_folder: Path, sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    for name in JPEGS:
        path = sample_folder / SAMPLES[name]
        with Image.open(path) as image:
            width, height = image.size
        expected = (JPEG_MODE, width, height, path.read_bytes())
        assert record(bundle, by_name(bundle, name)) == expected


def test_other_formats_are_decoded(sample_folder: Path, sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    for name, mode in (("rgba", RAW_MODE), ("palette", JPEG_MODE), ("cmyk", JPEG_MODE)):
        position = by_name(bundle, name)
        expected = decode_any((sample_folder / SAMPLES[name]).read_bytes())
        found = decode_image(bundle, position)
        assert bundle.image_record(position)[0] == mode
        assert found.shape == expected.shape
        # Pixels exactly; a JPEG at quality 90 within some levels on average.
        error = np.abs(found.astype(int) - expected).mean()
        assert error == 0 if mode == RAW_MODE else 0 < error < 8


def test_what_the_bundle_says_of_itself(sample_folder: Path, sample_bundle: Path) -> None:
    bundle = open_bundle(sample_bundle)
    assert bundle.example_ids.tolist() == list(range(len(SAMPLES)))
    assert bundle.paths is not None
    assert bundle.paths.to_pylist() == list(SAMPLES.values())
    assert bundle.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert bundle.classes == ("bird", "cat", "dog")
    for position in range(bundle.n_examples):
        data = record(bundle, position)[3]
        assert bundle.checksums[position] == xxhash.xxh3_64_intdigest(data)
    assert bundle.manifest is not None
    assert bundle.manifest.operation == "convert"
    assert bundle.manifest.parents == ()
    assert bundle.manifest.full_examples is None
    assert bundle.manifest.settings["source"] == {
        "kind": "image_folder",
        "name": sample_folder.name,
    }
    found = inspect(bundle)
    assert (found.modes, found.bytes) == ({"jpeg": 8, "raw": 1}, sample_bundle.stat().st_size)
    assert found.classes == {"bird": 3, "cat": 3, "dog": 3}
    assert found.sides == {"width": (37, 300), "height": (30, 220)}


def test_the_report_counts(sample_folder: Path, tmp_path: Path) -> None:
    report = convert(open_image_folder(sample_folder), tmp_path / "out.beton")
    assert (report.n_examples, report.n_passed_through, report.n_encoded) == (9, 6, 3)
    assert report.skipped == ()
    assert report.bytes == (tmp_path / "out.beton").stat().st_size
    assert report.images_per_second == pytest.approx(9 / report.seconds)


@pytest.mark.parametrize(
    "settings",
    [
        ConvertSettings(),
        ConvertSettings(max_side=48, mode="jpeg"),
        ConvertSettings(mode="raw", page_size=2 << 20),
    ],
)
def test_the_file_does_not_depend_on_workers(
    sample_folder: Path, tmp_path: Path, settings: ConvertSettings
) -> None:
    source = open_image_folder(sample_folder)
    for workers in (1, 4):
        convert(source, tmp_path / f"{workers}.beton", settings, workers=workers)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "4.beton").read_bytes()


def test_the_file_does_not_depend_on_which_worker_is_slow(tmp_path: Path) -> None:
    images = [picture(20, 20, seed) for seed in range(24)]

    def slowly(i: int) -> NDArray[np.uint8]:
        time.sleep(0.02 if i % 4 == 0 else 0)
        return images[i]

    slow = Given([lambda i=i: slowly(i) for i in range(24)])  # type: ignore[misc]
    convert(slow, tmp_path / "slow.beton", workers=4)
    convert(given(*images), tmp_path / "fast.beton", workers=1)
    assert (tmp_path / "slow.beton").read_bytes() == (tmp_path / "fast.beton").read_bytes()


def test_max_side(sample_folder: Path, tmp_path: Path) -> None:
    convert(open_image_folder(sample_folder), tmp_path / "out.beton", ConvertSettings(max_side=64))
    bundle = open_bundle(tmp_path / "out.beton")
    for name in SAMPLES:
        original = (sample_folder / SAMPLES[name]).read_bytes()
        pixels = decode_any(original)
        height, width = pixels.shape[:2]
        mode, new_width, new_height, data = record(bundle, by_name(bundle, name))
        if max(width, height) <= 64:
            assert (new_width, new_height) == (width, height)
            assert mode == RAW_MODE or data == original
            continue
        shrunk = resize_to_side(pixels, 64)
        assert max(new_width, new_height) == 64
        assert (new_height, new_width, 3) == shrunk.shape
        found = decode_image(bundle, by_name(bundle, name)).astype(int)
        error = np.abs(found - shrunk).mean()
        assert error == 0 if mode == RAW_MODE else error < 10
        # Shrinking does not make pixels of what was a JPEG.
        assert (mode == RAW_MODE) == (name == "palette")


def test_raw_mode_stores_the_pixels(sample_folder: Path, tmp_path: Path) -> None:
    convert(open_image_folder(sample_folder), tmp_path / "out.beton", ConvertSettings(mode="raw"))
    bundle = open_bundle(tmp_path / "out.beton")
    for name in SAMPLES:
        pixels = decode_any((sample_folder / SAMPLES[name]).read_bytes())
        expected = (RAW_MODE, pixels.shape[1], pixels.shape[0], pixels.tobytes())
        assert record(bundle, by_name(bundle, name)) == expected


def test_jpeg_mode_and_quality(tmp_path: Path) -> None:
    image = picture(40, 30, 0)
    sizes = []
    for quality in (30, 95):
        settings = ConvertSettings(mode="jpeg", quality=quality)
        convert(given(image), tmp_path / f"{quality}.beton", settings)
        mode, width, height, data = record(open_bundle(tmp_path / f"{quality}.beton"), 0)
        assert (mode, width, height) == (JPEG_MODE, 40, 30)
        assert decode_any(data).shape == (30, 40, 3)
        sizes.append(len(data))
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize(("side", "mode"), [(64, RAW_MODE), (65, JPEG_MODE)])
def test_auto_keeps_small_pixels(tmp_path: Path, side: int, mode: int) -> None:
    convert(given(picture(side, 20, 0)), tmp_path / "out.beton")
    assert record(open_bundle(tmp_path / "out.beton"), 0)[:3] == (mode, side, 20)


def test_digits_come_out_as_they_went_in(digits_bundle: Path) -> None:
    bundle, source = open_bundle(digits_bundle), open_digits("digits:train")
    assert np.array_equal(bundle.labels, source.labels)
    assert bundle.n_classes == 10
    for position in (0, 700, 1346):
        assert np.array_equal(decode_image(bundle, position), source.pixels[position])
    assert bundle.paths is not None
    assert bundle.paths[700].as_py() == f"digits/{source.indices[700]:04d}"


# ---- pages


def test_records_keep_to_pages(tmp_path: Path) -> None:
    # 30 kB each: 69 to a page of 2 MiB, so that the 200 lie on three pages.
    images = [picture(100, 100, seed) for seed in range(200)]
    convert(given(*images), tmp_path / "x.beton", ConvertSettings(mode="raw", page_size=2 << 20))
    bundle = open_bundle(tmp_path / "x.beton")
    offsets = bundle.extents[:, 0, 0]
    assert bundle.page_size == 2 << 20
    assert (offsets // (2 << 20) == (offsets + 29_999) // (2 << 20)).all()
    assert np.unique(offsets // (2 << 20)).tolist() == [0, 1, 2]
    for position in range(200):
        assert record(bundle, position)[3] == images[position].tobytes()


def test_pages_grow_with_the_largest_file(tmp_path: Path) -> None:
    jpeg = jpeg_bytes(Image.fromarray(picture(30, 30, 0)))
    # Bytes behind a JPEG's end are copied with it.
    padded = jpeg + bytes((8 << 20) + 1 - len(jpeg))
    convert(given(jpeg, padded, largest=len(padded)), tmp_path / "x.beton")
    bundle = open_bundle(tmp_path / "x.beton")
    assert bundle.page_size == 16 << 20
    assert [record(bundle, i)[3] for i in (0, 1)] == [jpeg, padded]
    convert(given(jpeg, largest=8 << 20), tmp_path / "y.beton")
    assert open_bundle(tmp_path / "y.beton").page_size == 8 << 20


def test_an_image_larger_than_a_page_is_refused(tmp_path: Path) -> None:
    big = np.zeros((1000, 1000, 3), np.uint8)
    settings = ConvertSettings(mode="raw", page_size=2 << 20)
    with pytest.raises(SourceError, match=r"image-1: .*one page.*found 3000000 bytes"):
        convert(given(picture(9, 9, 0), big), tmp_path / "x.beton", settings)
    assert list(tmp_path.iterdir()) == []


# ---- failures


TRUNCATED = jpeg_bytes(Image.fromarray(picture(50, 40, 1)))[:-300]


def unreadable() -> bytes:
    raise PermissionError(13, "Permission denied")


def broken_source() -> Given:
    good = picture(20, 10, 0)
    loads: list[Load] = [
        lambda: good,
        lambda: TRUNCATED,
        lambda: b"no image",
        lambda: good,
        unreadable,
        lambda: b"",
        lambda: good,
    ]
    return Given(loads, paths=["a", "b", "c", "d", None, "f", "g"])


@pytest.mark.parametrize("workers", [1, 3])
def test_failing_images_stop_the_work(tmp_path: Path, workers: int) -> None:
    with pytest.raises(SourceError) as error:
        convert(broken_source(), tmp_path / "x.beton", workers=workers)
    # The workers have ended, though the error still holds the frames. Left to the collector, they
    # would be waited for in whatever thread it runs, which may hold a lock that they want.
    assert [t.name for t in threading.enumerate() if t.name.startswith("tamis-convert")] == []
    # The first in the source's order, whichever worker was fastest.
    assert str(error.value).startswith("b: expected a readable image, found a JPEG cut off")
    assert list(tmp_path.iterdir()) == []


def test_skipped_images_are_listed_and_ids_stay(tmp_path: Path) -> None:
    report = convert(broken_source(), tmp_path / "x.beton", ConvertSettings(on_error="skip"))
    bundle = open_bundle(tmp_path / "x.beton")
    assert report.n_examples == bundle.n_examples == 3
    assert bundle.example_ids.tolist() == [0, 3, 6]
    assert bundle.labels.tolist() == [0, 3, 6]
    assert bundle.paths is not None
    assert bundle.paths.to_pylist() == ["a", "d", "g"]
    expected = [
        ("b", "a JPEG cut off before its end"),
        ("c", "not an image in any known format"),
        ("image 4", "a file that cannot be read (Permission denied)"),
        ("f", "not an image in any known format"),
    ]
    assert [(row["path"], row["reason"]) for row in report.skipped] == expected
    assert bundle.manifest is not None
    assert bundle.manifest.skipped == report.skipped
    for position in range(3):
        assert np.array_equal(decode_image(bundle, position), picture(20, 10, 0))


def test_nothing_readable(tmp_path: Path) -> None:
    source = given(b"x", b"y")
    with pytest.raises(SourceError, match="found 2 unreadable ones"):
        convert(source, tmp_path / "x.beton", ConvertSettings(on_error="skip"))
    with pytest.raises(SourceError, match="expected images, found none"):
        convert(given(), tmp_path / "x.beton")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_a_worker_surfaces_and_leaves_nothing(tmp_path: Path) -> None:
    def bug() -> bytes:
        raise RuntimeError("a bug")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a bug"):
        convert(Given([bug] * 50), tmp_path / "x.beton", workers=4)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(Given):
        def items(self, start: int = 0) -> Iterator[SourceItem]:
            yield from list(super().items(start))[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(Interrupted([lambda: picture(9, 9, 0)] * 9), tmp_path / "x.beton")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_safe(tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    convert(given(picture(9, 9, 0)), out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        convert(given(picture(9, 9, 1)), out)
    # A conversion that fails leaves the old file as it was, overwrite or not.
    with pytest.raises(SourceError):
        convert(given(b"no image"), out, overwrite=True)
    assert out.read_bytes() == before
    convert(given(picture(9, 9, 1)), out, overwrite=True)
    assert np.array_equal(decode_image(open_bundle(out), 0), picture(9, 9, 1))
    assert list(tmp_path.iterdir()) == [out]


def test_a_missing_folder_is_told_before_the_work(tmp_path: Path) -> None:
    def never() -> bytes:
        raise AssertionError("an image was loaded")

    with pytest.raises(UsageError, match="mkdir -p"):
        convert(Given([never]), tmp_path / "missing" / "x.beton")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_side": 0}, "--max-side"),
        ({"max_side": 65536}, "--max-side"),
        ({"quality": 0}, "--quality: expected 1 to 100, found 0"),
        ({"quality": 101}, "--quality"),
        ({"mode": "png"}, "--mode: expected auto or jpeg or raw, found png"),
        ({"on_error": "ignore"}, "--on-error"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConvertSettings(**settings)


@pytest.mark.parametrize("page_size", [0, 1 << 20, 3 << 20, 1 << 31])
def test_page_sizes_that_ffcv_cannot_use(tmp_path: Path, page_size: int) -> None:
    with pytest.raises(TamisError, match="power of two from 2 MiB to 1 GiB"):
        convert(given(picture(9, 9, 0)), tmp_path / "x.beton", ConvertSettings(page_size=page_size))
    assert list(tmp_path.iterdir()) == []


def test_encoded_images_in_other_formats(tmp_path: Path) -> None:
    # What is in the bytes counts, not the name: a PNG, a WebP and a BMP.
    image = Image.fromarray(picture(30, 20, 3))
    encoded = []
    for kind in ("PNG", "WEBP", "BMP"):
        sink = io.BytesIO()
        image.save(sink, kind, **({"lossless": True} if kind == "WEBP" else {}))
        encoded.append(sink.getvalue())
    convert(given(*encoded, paths=["a.jpg", "b.jpg", "c.jpg"]), tmp_path / "x.beton")
    bundle = open_bundle(tmp_path / "x.beton")
    for position in range(3):
        assert np.array_equal(decode_image(bundle, position), np.asarray(image))
