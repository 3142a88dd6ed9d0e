"""What a loader is asked for, whichever decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from tamis.errors import UsageError

__all__ = [
    "USUAL_DECODING",
    "Augmentation",
    "Decoding",
    "LoaderSettings",
    "OnError",
    "Order",
    "RandomResizedCrop",
    "Resample",
]

Order = Literal["bundle", "random", "quasi_random"]
OnError = Literal["fail", "skip"]
Resample = Literal["antialias", "area"]


class Decoding(TypedDict):
    """How images become pixels; see :class:`LoaderSettings`."""

    resample: Resample
    exact: bool


USUAL_DECODING: Decoding = {"resample": "antialias", "exact": False}


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to a square (Szegedy et al. 2015, torchvision's).

    Attributes:
        scale: Least and largest share of the image's area.
        ratio: Least and largest width by height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        ordered = 0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]
        if not ordered:
            raise UsageError(
                "random resized crop",
                expected="0 < least scale ≤ largest ≤ 1 and 0 < least ratio ≤ largest",
                found=f"scale {self.scale}, ratio {self.ratio}",
                do="leave them out for torchvision's",
            )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn from (seed, epoch, example id).

    Attributes:
        crop: Cut out a random part, instead of the centre.
        flip: Mirror half of the images.
        alternating: Mirror each image in every other epoch, a random half in the first, instead of
            anew in each (Jordan 2024, arXiv:2404.00498): no two epochs in a row show the same.
        translate: Shift by up to this many pixels in each direction; edges are reflected.
        cutout: Side in pixels of a grey square over a random centre (DeVries and Taylor 2017).
        seed: Independent of the order's seed.
    """

    crop: RandomResizedCrop | None = None
    flip: bool = False
    alternating: bool = False
    translate: int = 0
    cutout: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.translate < 0 or self.cutout < 0:
            raise UsageError(
                "augmentation",
                expected="a shift and a cutout of 0 pixels or more",
                found=f"{self.translate} and {self.cutout}",
                do="use 0 for none",
            )


@dataclass(frozen=True)
class LoaderSettings:
    """Which batches a loader gives; the same with every backend.

    Attributes:
        batch_size: Examples in a full batch, of one shard.
        resolution: Side of the images in pixels.
        mode: ``score``: every example as it is, once. ``train``: shuffled and augmented.
        order: ``bundle``, ``random``, or ``quasi_random``: whole pages in random order, and
            examples at random among a few pages, for disks that are slow at random. None is
            ``bundle`` in score mode and ``random`` in train mode.
        seed: The order's.
        augmentation: In train mode.
        center_ratio: Side of the centred square by the image's shorter side.
        shard: Which part of how many, for as many processes. Shard i of n gets its part of each
            batch that one loader with n times the batch size would give. In train mode all
            shards have as many batches as each other.
        on_error: ``skip`` leaves a damaged example out of its batch and notes it.
        resample: ``antialias`` resizes by triangles, as torchvision, Pillow and DALI do; ``area``
            as FFCV does.
        exact: Decode JPEGs at their full size. Else those that are shown far smaller, by triangles,
            are decoded at 1/2, 1/4 or 1/8 of it, which is faster; NOTES.md says how far off. Areas
            are always exact; so is DALI.
    """

    batch_size: int
    resolution: int
    mode: Literal["score", "train"] = "score"
    order: Order | None = None
    seed: int = 0
    augmentation: Augmentation | None = None
    center_ratio: float = 1.0
    shard: tuple[int, int] = (0, 1)
    on_error: OnError = "fail"
    resample: Resample = "antialias"
    exact: bool = False

    def __post_init__(self) -> None:
        index, count = self.shard
        for name, fits, expected, found in (
            ("batch_size", self.batch_size >= 1, "at least 1", self.batch_size),
            ("resolution", 1 <= self.resolution <= 65535, "1 to 65,535 pixels", self.resolution),
            ("mode", self.mode in ("score", "train"), "score or train", self.mode),
            (
                "order",
                self.order in (None, "bundle", "random", "quasi_random"),
                "bundle, random or quasi_random",
                self.order,
            ),
            ("seed", self.seed >= 0, "0 or more", self.seed),
            ("center_ratio", 0 < self.center_ratio <= 1, "above 0, at most 1", self.center_ratio),
            ("shard", 0 <= index < count, "(i, n) with 0 ≤ i < n", self.shard),
            ("on_error", self.on_error in ("fail", "skip"), "fail or skip", self.on_error),
            (
                "resample",
                self.resample in ("antialias", "area"),
                "antialias or area",
                self.resample,
            ),
        ):
            if not fits:
                raise UsageError(name, expected=expected, found=str(found), do="choose one of them")
        if self.mode == "score" and self.augmentation is not None:
            raise UsageError(
                "augmentation",
                expected="none in score mode, which shows images as they are",
                found=str(self.augmentation),
                do="leave it out, or use train mode",
            )

    @property
    def traversal(self) -> Order:
        """The order, filled in."""
        return self.order or ("random" if self.mode == "train" else "bundle")
