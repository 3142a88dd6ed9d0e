"""How a conversion stores images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tamis.bundles.writer import check_page_size
from tamis.errors import UsageError
from tamis.images import MAX_PIXELS

__all__ = ["MAX_SIDE", "ConvertSettings"]

MAX_SIDE = 65535  # FFCV stores sides as u16


@dataclass(frozen=True)
class ConvertSettings:
    """How images are stored.

    Attributes:
        max_side: Images with a longer side are shrunk by area to this side; None keeps all sizes.
        quality: JPEG quality, 1 to 100, where an image has to be encoded.
        mode: ``auto`` passes JPEGs through, stores other images of at most 64 × 64 as pixels and
            the rest as JPEG; ``jpeg`` stores JPEGs only; ``raw`` stores pixels only.
        jpeg_share: With ``auto``: the share of images stored as JPEG, the others as pixels; which
            ones depends on their ids alone (FFCV's ``proportion``, which draws them at random).
        page_size: Bytes; None takes FFCV's 8 MiB, or more where the largest file needs it.
        max_pixels: Images with more are refused before they are decoded (decompression bombs).
        tiles: Rewrite JPEGs without loss with restart markers, so that loaders can decode a part
            of them alone.
        on_error: ``fail`` stops at an unreadable image, ``skip`` leaves it out and lists it.
    """

    max_side: int | None = None
    quality: int = 90
    mode: Literal["auto", "jpeg", "raw"] = "auto"
    jpeg_share: float | None = None
    page_size: int | None = None
    max_pixels: int = MAX_PIXELS
    on_error: Literal["fail", "skip"] = "fail"
    tiles: bool = False

    def __post_init__(self) -> None:
        if self.max_side is not None and not 1 <= self.max_side <= MAX_SIDE:
            raise UsageError(
                "--max-side",
                expected=f"1 to {MAX_SIDE} pixels",
                found=str(self.max_side),
                do="leave it out to keep every size",
            )
        if not 1 <= self.quality <= 100:
            raise UsageError(
                "--quality", expected="1 to 100", found=str(self.quality), do="90 is FFCV's usual"
            )
        if self.max_pixels < 1:
            raise UsageError(
                "--max-pixels",
                expected="1 or more",
                found=str(self.max_pixels),
                do=f"leave it out for {MAX_PIXELS:,}",
            )
        if self.page_size is not None:
            check_page_size(self.page_size)
        for option, value, choices in (
            ("--mode", self.mode, ("auto", "jpeg", "raw")),
            ("--on-error", self.on_error, ("fail", "skip")),
        ):
            if value not in choices:
                raise UsageError(
                    option, expected=" or ".join(choices), found=value, do="choose one of them"
                )
        if self.tiles and self.mode == "raw":
            raise UsageError(
                "--tiles",
                expected="a mode that stores JPEGs",
                found="--mode raw, which stores pixels",
                do="leave one of the two out",
            )
        self._check_jpeg_share()

    def _check_jpeg_share(self) -> None:
        if self.jpeg_share is None:
            return
        if self.mode != "auto":
            raise UsageError(
                "--jpeg-share",
                expected="--mode auto",
                found=f"--mode {self.mode}",
                do="leave one of the two out",
            )
        if not 0 <= self.jpeg_share <= 1:
            raise UsageError(
                "--jpeg-share",
                expected="0 to 1",
                found=str(self.jpeg_share),
                do="0.5 stores every other image as pixels",
            )
