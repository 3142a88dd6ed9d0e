"""Recipes: everything that decides a training run besides data and seeds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tamis.errors import UsageError
from tamis.loaders.settings import Decoding, Resample

__all__ = ["RECIPES", "Recipe", "get_recipe", "scoring_recipe"]


_RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (
        ("resolution", "width", "epochs", "batch_size", "learning_rate"),
        "more than 0",
        lambda value: 0 < value < math.inf,
    ),
    (
        ("warmup", "momentum", "label_smoothing", "ema"),
        "0 or more and less than 1",
        lambda value: 0 <= value < 1,
    ),
    (
        (
            "weight_decay", "translate", "cutout", "rate_batch", "head_rate", "norm_rate",
            "start_resolution", "test_resolution",
        ),
        "0 or more",
        lambda value: 0 <= value < math.inf,
    ),
    (("center_ratio",), "above 0, at most 1", lambda value: 0 < value <= 1),
    (("ramp_start", "ramp_end"), "0 to 1", lambda value: 0 <= value <= 1),
)  # fmt: skip
_CHOICES = {
    "network": ("small-resnet", "cifar-net", "resnet18-cifar", "resnet18", "resnet50", "backbone"),
    "optimizer": ("sgd", "muon"),
    "schedule": ("triangle", "linear", "steps"),
    "resample": ("antialias", "area"),
}


@dataclass(frozen=True)
class Recipe:
    """A network, and how it is trained and tested.

    Attributes:
        name: As in :data:`RECIPES`.
        network: See :data:`tamis.models.registry.NETWORKS`; or ``backbone``, one to go on from.
        resolution: Side of the training images in pixels, at the end of the training.
        width: Channels of the first stage, of networks that come in several widths.
        epochs: Over the full set; see ``budget`` in :func:`tamis.training.loop.n_steps`.
        batch_size: Examples a step, on all GPUs together.
        learning_rate: The peak; of ``rate_batch`` examples a step, where that is given.
        rate_batch: Batch size that the rate belongs to: with another one the rate changes in
            proportion (Goyal et al. 2017, arXiv:1706.02677). 0: it does not depend on it.
        schedule: Of the rate. ``triangle``: up over the warm-up, then down to zero; ``linear``:
            down to zero; ``steps``: a fifth after 30, 60 and 80 % (200 epochs: 60, 120, 160).
        warmup: Share of the steps in which a triangle rises.
        optimizer: ``sgd`` with momentum, or ``muon`` for convolutions and SGD for the
            rest; see :mod:`tamis.training.optimizers`.
        momentum: Of the optimizer.
        nesterov: Nesterov's momentum rather than the plain one; Muon's always is.
        weight_decay: On convolution and linear weights; none on norms and biases. With ``muon``:
            the share that a weight loses at the peak rate, of all but convolutions.
        head_rate: With ``muon``: the head's rate, and
        norm_rate: that of norms and biases, for losses that are summed over a full batch.
        label_smoothing: Share of the target that goes to all classes alike.
        flip: Mirror half of the images.
        alternating_flip: Mirror each image in every other epoch, instead of at random.
        translate: Random shift in pixels.
        cutout: Side in pixels of a grey square.
        random_crop: Cut out random parts of 8 to 100 % of the area, resized.
        start_resolution: Of the first epochs; 0: the same throughout. It grows to ``resolution``
            between ``ramp_start`` and ``ramp_end``, in multiples of 32 pixels.
        ramp_start: Share of the epochs.
        ramp_end: Share of the epochs.
        test_resolution: Side of the test images; 0: as in training.
        center_ratio: Side of the test images' centred square by their shorter side.
        resample: How images are resized, and
        exact: whether JPEGs that are shown far smaller are decoded at their full size; see
            :class:`tamis.loaders.settings.LoaderSettings`.
        blurpool: Blur before convolutions that stride, of networks that can.
        ema: Decay a step of an average of the weights, which is what is tested; 0: none.
        flip_test: Test with the mean of the logits for an image and its mirror image.
        compile: Compile the network on a GPU.
    """

    name: str
    network: str
    resolution: int
    epochs: int
    batch_size: int
    learning_rate: float
    width: int = 64
    rate_batch: int = 0
    schedule: str = "triangle"
    warmup: float = 0.2
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    head_rate: float = 0.0
    norm_rate: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = True
    alternating_flip: bool = False
    translate: int = 0
    cutout: int = 0
    random_crop: bool = False
    start_resolution: int = 0
    ramp_start: float = 0.0
    ramp_end: float = 0.0
    test_resolution: int = 0
    center_ratio: float = 1.0
    resample: Resample = "antialias"
    exact: bool = False
    blurpool: bool = False
    ema: float = 0.0
    flip_test: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for names, expected, fits in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not fits(value):
                    raise _wrong(name, expected, value)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _wrong(name, " or ".join(choices), getattr(self, name))
        if self.optimizer == "muon" and not (self.head_rate and self.norm_rate):
            raise _wrong("optimizer", "head_rate and norm_rate besides muon", "0 for them")
        if self.ramp_end < self.ramp_start:
            raise _wrong("ramp_end", f"ramp_start, {self.ramp_start:g}, or more", self.ramp_end)
        if self.start_resolution > self.resolution:
            raise _wrong(
                "start_resolution", f"at most {self.resolution}, the last", self.start_resolution
            )

    @property
    def digest(self) -> str:
        """Hash of every value."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def peak_rate(self) -> float:
        """The learning rate of this batch size."""
        return self.learning_rate * (self.batch_size / self.rate_batch if self.rate_batch else 1)

    @property
    def decoding(self) -> Decoding:
        """How images become pixels, as loaders take it."""
        return {"resample": self.resample, "exact": self.exact}

    @property
    def test_side(self) -> int:
        """Side of the test images in pixels."""
        return self.test_resolution or self.resolution

    def check_plain_images(self, option: str) -> None:
        """Refuse a recipe whose images only ``tamis train`` shows as it says.

        Args:
            option: What chose the recipe.

        Raises:
            UsageError: Images that grow, random parts, or test images of another size.
        """
        if self.start_resolution or self.random_crop or self.test_resolution:
            raise UsageError(
                option,
                expected="a recipe whose images are of one size and whole, to score or embed",
                found=self.name,
                do="use another one, or embed with --encoder and score from embeddings",
            )

    def side(self, epoch: int) -> int:
        """Side of the training images in an epoch, in pixels."""
        start, end = self.start_resolution or self.resolution, self.resolution
        # Rounded: shares of epochs are to give back whole ones.
        first, last = (round(s * self.epochs, 9) for s in (self.ramp_start, self.ramp_end))
        if epoch >= last:
            return end
        if epoch <= first:
            return start
        exact = start + (end - start) * (epoch - first) / (last - first)
        return min(end, max(start, 32 * round(exact / 32)))


def _wrong(name: str, expected: str, found: object) -> UsageError:
    return UsageError(
        f"recipe setting {name}", expected=expected, found=f"{found}", do="correct it"
    )


# Epochs → those between which images grow.
_RAMPS = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}


def _imagenet(depth: int, epochs: int) -> Recipe:
    """FFCV's rn18 and rn50 (Leclerc et al. 2023), which were tuned at 16 to 88 epochs."""
    rate, decay = (0.5, 5e-5) if depth == 18 else (0.425, 1e-4)
    first, last = _RAMPS[epochs]
    return Recipe(
        f"imagenet-rn{depth}-{epochs}",
        f"resnet{depth}",
        resolution=192,
        start_resolution=160,
        ramp_start=first / epochs,
        ramp_end=last / epochs,
        test_resolution=256,
        center_ratio=224 / 256,
        epochs=epochs,
        batch_size=1024,
        learning_rate=rate,
        rate_batch=1024,
        warmup=2 / epochs,
        nesterov=False,
        weight_decay=decay,
        label_smoothing=0.1,
        random_crop=True,
        blurpool=True,
        flip_test=True,
        compile=True,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # 32 × 32 classes of things, as CIFAR-10 and SVHN; minutes on a CPU.
        Recipe(
            "small", "small-resnet", 32, width=32, epochs=15, batch_size=64, learning_rate=0.2,
            translate=2,
        ),
        # 8 × 8 handwritten digits: a mirrored digit is another sign; a second on a CPU.
        Recipe(
            "digits", "small-resnet", 8, width=16, epochs=8, batch_size=64, learning_rate=0.1,
            flip=False,
        ),
        # Jordan 2024, arXiv:2404.00498, with Muon (airbench94_muon).
        Recipe(
            "cifar-fast", "cifar-net", 32, width=64, epochs=8, batch_size=2000,
            learning_rate=0.24, head_rate=0.67, norm_rate=0.053, momentum=0.6,
            optimizer="muon", schedule="linear", weight_decay=4e-3, label_smoothing=0.2,
            alternating_flip=True, translate=2, flip_test=True, compile=True,
        ),
        # The schedule of Paul et al. 2021, which the paper's CIFAR-10 and SVHN runs share.
        Recipe(
            "cifar-resnet18", "resnet18-cifar", 32, epochs=200, batch_size=128,
            learning_rate=0.1, schedule="steps", translate=4, compile=True,
        ),
        # Of a network that --start names; for 224 pixels, as most of them were trained at.
        Recipe(
            "finetune", "backbone", 224, epochs=10, batch_size=128, learning_rate=0.01,
            rate_batch=128, warmup=0.1, weight_decay=1e-4, random_crop=True,
            center_ratio=224 / 256,
        ),
        *(_imagenet(depth, epochs) for depth in (18, 50) for epochs in _RAMPS),
    )
}  # fmt: skip


def get_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name, with some values replaced.

    Args:
        name: A key of :data:`RECIPES`.
        overrides: Attribute → value; text is read as JSON ("12", "false", "0.1").

    Raises:
        UsageError: An unknown recipe or attribute, or a value of another type.
    """
    if name not in RECIPES:
        raise UsageError(
            "recipe", expected=" or ".join(RECIPES), found=name, do="choose one of them"
        )
    recipe = RECIPES[name]
    values: dict[str, Any] = {}
    types = {field.name: type(getattr(recipe, field.name)) for field in fields(recipe)}
    types.pop("name")
    for key, raw in (overrides or {}).items():
        wanted = types.get(key)
        value = _parsed(raw)
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is None or type(value) is not wanted:
            kind = f"a value of type {wanted.__name__}" if wanted else "one of " + ", ".join(types)
            raise UsageError(
                f"recipe setting {key}", expected=kind, found=repr(raw), do="correct it"
            )
        values[key] = value
    return replace(recipe, **values)


def scoring_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe for networks that score: as :func:`get_recipe`, with labels as they are.

    Smoothed labels hold the logits of all that is learned together, which scores are to tell
    apart.

    Args:
        name: As there.
        overrides: As there; with ``label_smoothing`` it is what is asked for.

    Raises:
        UsageError: As there.
    """
    return get_recipe(name, {"label_smoothing": 0.0, **(overrides or {})})


def _parsed(raw: Any) -> Any:
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        return raw
