"""Recipes: everything that decides a training run besides data and seeds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tamis.errors import UsageError

__all__ = ["RECIPES", "Recipe", "get_recipe"]


_RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (
        ("resolution", "width", "epochs", "batch_size", "learning_rate"),
        "more than 0",
        lambda value: 0 < value < math.inf,
    ),
    (("warmup", "momentum"), "0 or more and less than 1", lambda value: 0 <= value < 1),
    (("weight_decay", "translate"), "0 or more", lambda value: 0 <= value < math.inf),
)


@dataclass(frozen=True)
class Recipe:
    """A small residual network trained by SGD with Nesterov momentum and a triangular rate.

    Attributes:
        name: As in :data:`RECIPES`.
        resolution: Side of the images in pixels.
        width: Channels of the first stage; see :class:`tamis.models.small_resnet.SmallResNet`.
        epochs: Over the full set; see ``budget`` in :func:`tamis.training.loop.train`.
        batch_size: Examples a step.
        learning_rate: The peak.
        warmup: Share of the steps in which the rate rises linearly; then it falls to zero.
        momentum: Nesterov's.
        weight_decay: On convolution and linear weights; none on norms and biases.
        flip: Mirror half of the images.
        translate: Random shift in pixels.
    """

    name: str
    resolution: int
    width: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    flip: bool = True
    translate: int = 4

    def __post_init__(self) -> None:
        for names, expected, fits in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not fits(value):
                    raise UsageError(
                        f"recipe setting {name}",
                        expected=expected,
                        found=f"{value}",
                        do="correct it",
                    )

    @property
    def digest(self) -> str:
        """Hash of every value."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # 32 × 32 classes of things, as CIFAR-10 and SVHN; minutes on a CPU.
        Recipe("small", 32, 32, epochs=15, batch_size=64, learning_rate=0.2, translate=2),
        # 8 × 8 handwritten digits: a mirrored digit is another sign; a second on a CPU.
        Recipe(
            "digits", 8, 16, epochs=8, batch_size=64, learning_rate=0.1, flip=False, translate=0
        ),
    )
}


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


def _parsed(raw: Any) -> Any:
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        return raw
