"""What benchmarks work on: bundles of any size from few images, and folders of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.assembly import Part, write_parts
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.layout import JPEG_MODE
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.errors import BundleError
from tamis.images import encode_jpeg
from tamis.manifest import Manifest
from tamis.progress import QUIET, Progress

__all__ = ["image_files", "photographs", "repeated"]


def repeated(bundle: Bundle, out: Path, n_examples: int, *, progress: Progress = QUIET) -> Bundle:
    """A bundle of ``n_examples`` that repeats the records of another, in random order.

    Ids are 0…n-1. The records differ in size as the originals do; the same bytes lie at many
    places of the file, which no stage of tamis can tell.
    """
    rng = np.random.default_rng(0)
    positions = rng.integers(0, bundle.n_examples, n_examples)
    manifest = Manifest(
        operation="repeat",
        settings={"bundle": bundle.digest, "n_examples": n_examples},
        classes=bundle.classes,
    )
    write_parts(
        [Part(bundle, positions)],
        out,
        manifest,
        example_ids=np.arange(n_examples),
        progress=progress,
    )
    return open_bundle(out)


def image_files(bundle: Bundle, folder: Path, n_files: int) -> list[Path]:
    """Write JPEG records of a bundle as files in class folders, repeated up to ``n_files``.

    Raises:
        BundleError: The bundle holds no JPEGs.
    """
    rows = bundle.metadata[f"f{bundle.image_field}"]
    positions = np.flatnonzero(rows["mode"] == JPEG_MODE)
    if not len(positions):
        raise BundleError(
            bundle.path,
            expected="images stored as JPEG",
            found="pixels only",
            do="leave the bundle out: the benchmark then makes its own images",
        )
    files = []
    for number in range(n_files):
        position = int(positions[number % len(positions)])
        file = folder / f"{int(bundle.labels[position]):05d}" / f"{number:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bundle.image_record(position)[3].tobytes())
        files.append(file)
    return sorted(files)


def photographs(out: Path, n_images: int) -> Bundle:
    """A bundle of made-up pictures as large as ImageNet's: 500 × 375 pixels, about 75 kB."""
    return open_bundle(_convert_pictures(out, n_images))


def _convert_pictures(out: Path, n_images: int) -> Path:
    from tamis.sources.image_folder import open_image_folder

    folder = out.with_suffix("")
    for number in range(n_images):
        file = folder / f"{number % 10}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_jpeg(_picture(number), 90))
    convert(open_image_folder(folder), out, ConvertSettings())
    return out


def _picture(seed: int) -> NDArray[np.uint8]:
    """Noise at all scales, falling off so slowly that it takes a photograph's bytes."""
    import cv2

    rng = np.random.default_rng(seed)
    image = np.zeros((375, 500, 3))
    for octave in range(8):
        side = 4 * 2**octave
        coarse = rng.normal(size=(side * 3 // 4, side, 3))
        fine = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        image += fine * 50 * 2 ** (-0.4 * octave)
    return np.clip(image + 128, 0, 255).astype(np.uint8)
