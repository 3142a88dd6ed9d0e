"""The sweep file."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Literal

import pydantic

from tamis.errors import UsageError
from tamis.metrics.registry import METRICS

__all__ = ["SweepSpec", "read_sweep_spec"]


class SweepSpec(pydantic.BaseModel):
    """A sweep as people write it (YAML).

    Attributes:
        train: Training bundle; paths are relative to the file.
        test: Test bundle.
        scores: Score table of the training bundle.
        metrics: Columns of the table; ``random`` is the baseline and uses no column.
        keep: Keep fractions; 1.0 is the full set, run once per seed.
        side: Which sides to keep.
        class_balance: See :class:`tamis.selection.SelectionSettings`.
        seeds: Seeds 0…n-1, each for selection ties, initialisation, order and augmentation.
        recipe: A recipe's name.
        set: Values of the recipe to replace.
        budget: ``steps``, ``epochs``, or both.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    train: Path
    test: Path
    scores: Path
    metrics: list[str] = pydantic.Field(min_length=1)
    keep: list[float] = pydantic.Field(min_length=1)
    side: list[Literal["hard", "easy"]] = ["hard"]
    class_balance: float = pydantic.Field(default=0.5, ge=0, le=1)
    seeds: int = pydantic.Field(default=3, ge=1)
    recipe: str = "small"
    set: dict[str, Any] = {}
    budget: list[Literal["steps", "epochs"]] = ["steps"]

    @pydantic.field_validator("side", "budget", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("keep")
    @classmethod
    def _fractions(cls, value: list[float]) -> list[float]:
        if not all(0 < keep <= 1 for keep in value):
            raise ValueError("each keep fraction must be 0 < keep ≤ 1, the share that is kept")
        return value

    @pydantic.field_validator("metrics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
        return value


def read_sweep_spec(path: Path) -> SweepSpec:
    """Read and validate a sweep file; paths become absolute.

    Raises:
        UsageError: The file is missing, not YAML, or says something unknown.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = SweepSpec.model_validate(raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            path,
            expected="a YAML file",
            found=str(error).replace("\n", " ") if path.exists() else "no file",
            do="see the README's sweep file",
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        known = ", ".join(SweepSpec.model_fields)
        raise UsageError(
            f"{path}: {where}",
            expected=f"a sweep with the keys {known}",
            found=f"{reprlib.repr(first['input'])} ({first['msg']})",
            do="correct that key",
        ) from error
    base = path.resolve().parent
    places = {key: base / getattr(spec, key) for key in ("train", "test", "scores")}
    return spec.model_copy(update=places)
