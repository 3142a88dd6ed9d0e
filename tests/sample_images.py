"""A small class folder with an image of every kind that converters meet; bundles of digits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tamis.bundles.convert import convert
from tamis.sources.opening import open_source

__all__ = ["JPEGS", "SAMPLES", "jpeg_bytes", "picture", "write_digits", "write_samples"]

# Name → file in the folder, in the order in which torchvision's ImageFolder lists the files.
SAMPLES = {
    "colour_420": "bird/colour-420.jpg",
    "colour_444": "bird/colour-444.JPEG",
    "grey": "bird/grey.jpg",
    "cmyk": "cat/cmyk.jpg",
    "large": "cat/large.jpg",
    "progressive": "cat/progressive.JPG",
    "palette": "dog/palette.png",  # longer side 100: becomes a JPEG
    "rgba": "dog/rgba.png",  # longer side 40: stays pixels
    "rotated": "dog/puppies/rotated.jpg",  # EXIF says: turn by 90°
}
# Those that libjpeg-turbo decodes to RGB, so that they are copied byte for byte.
JPEGS = ("colour_420", "colour_444", "grey", "large", "progressive", "rotated")

_ORIENTATION = 0x0112


def picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """A smooth random image with some noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int64)
    noisy = smooth + rng.integers(-6, 7, smooth.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def jpeg_bytes(
    image: Image.Image, *, subsampling: int = 2, progressive: bool = False, exif: bytes = b""
) -> bytes:
    """A JPEG; ``subsampling`` 2 is 4:2:0, 0 is 4:4:4."""
    sink = io.BytesIO()
    image.save(
        sink, "JPEG", quality=88, subsampling=subsampling, progressive=progressive, exif=exif
    )
    return sink.getvalue()


def write_samples(root: Path) -> None:
    """Fill ``root`` with the files of :data:`SAMPLES`."""

    def rgb(width: int, height: int, seed: int) -> Image.Image:
        return Image.fromarray(picture(width, height, seed))

    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    transparent = rgb(40, 30, 8)
    transparent.putalpha(Image.linear_gradient("L").resize((40, 30)))
    palette = io.BytesIO()
    rgb(100, 80, 7).quantize(32).save(palette, "PNG")
    rgba = io.BytesIO()
    transparent.save(rgba, "PNG")
    encoded = {
        "colour_420": jpeg_bytes(rgb(37, 53, 1)),  # odd sides: chroma ends in half a block
        "colour_444": jpeg_bytes(rgb(64, 48, 2), subsampling=0),
        "grey": jpeg_bytes(rgb(50, 41, 3).convert("L")),
        "cmyk": jpeg_bytes(rgb(72, 60, 4).convert("CMYK")),
        "large": jpeg_bytes(rgb(300, 220, 5)),
        "progressive": jpeg_bytes(rgb(90, 70, 6), progressive=True),
        "palette": palette.getvalue(),
        "rgba": rgba.getvalue(),
        "rotated": jpeg_bytes(rgb(60, 44, 9), exif=exif.tobytes()),
    }
    for name, path in SAMPLES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded[name])


def write_digits(root: Path) -> None:
    """Convert scikit-learn's digits to train.beton (1,347) and test.beton (450), raw, 8 × 8."""
    for part in ("train", "test"):
        convert(open_source(f"digits:{part}"), root / f"{part}.beton")
