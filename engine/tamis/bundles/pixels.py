"""One image of a bundle, decoded at its stored size; and the error where that fails."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.layout import RAW_MODE
from tamis.errors import BundleError, ImageError
from tamis.images import decode_jpeg

__all__ = ["decode_image", "image_error"]


def decode_image(bundle: Bundle, position: int) -> NDArray[np.uint8]:
    """One image of a bundle at its stored size, (height, width, 3) uint8 RGB.

    Raises:
        BundleError: The record does not decode to the stored size; names the example.
    """
    mode, width, height, record = bundle.image_record(position)
    try:
        if mode == RAW_MODE:
            return record.reshape(height, width, 3)
        image = decode_jpeg(record)
        if image.shape != (height, width, 3):
            raise ImageError(f"a JPEG of {image.shape[1]} × {image.shape[0]} pixels")
        return image
    except ImageError as error:
        raise image_error(bundle, position, str(error)) from error


def image_error(bundle: Bundle, position: int, found: str) -> BundleError:
    """The error that names an example whose record is not its image."""
    _, width, height, _ = bundle.image_record(position)
    path = bundle.paths[position].as_py() if bundle.paths is not None else None
    return BundleError(
        bundle.path,
        expected=f"an image of {width} × {height} pixels in example"
        f" {bundle.example_ids[position]} ({path})",
        found=found,
        do=f"run: tamis verify --deep {bundle.path}",
    )
