"""The sweep file."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import Any, Literal

import pydantic

from tamis.errors import UsageError, first_line
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
            raise ValueError("keep fractions 0 < keep ≤ 1, the share that is kept")
        return value

    @pydantic.field_validator("metrics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in METRICS:
                raise ValueError(f"metrics among {', '.join(METRICS)}")
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
            found=_yaml_problem(error) if isinstance(error, yaml.YAMLError) else first_line(error),
            do="see the README's sweep file",
        ) from error
    except pydantic.ValidationError as error:
        raise _refusal(path, error) from error
    base = path.resolve().parent
    places = {key: base / getattr(spec, key) for key in ("train", "test", "scores")}
    return spec.model_copy(update=places)


def _refusal(path: Path, error: pydantic.ValidationError) -> UsageError:
    """The first problem of a sweep file; a misspelt key before the one that is missing for it."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    kind, place, given = (problems[0][part] for part in ("type", "loc", "input"))
    keys = list(SweepSpec.model_fields)
    if not place:
        return UsageError(
            path,
            expected="keys and values, as 'seeds: 5'",
            found=type(given).__name__,
            do="see the README's sweep file",
        )
    name = str(place[0])
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, keys, n=1)
        found = f"the unknown key {name}"
        do = f"did you mean {near[0]}?" if near else "remove it"
        return UsageError(path, expected=f"the keys {', '.join(keys)}", found=found, do=do)
    if kind == "missing":
        return UsageError(path, expected=f"the key {name}", found="none", do="add it")
    expected = re.sub(r"^(Input should be|Value error,) ", "", problems[0]["msg"])
    entry = "".join(f", entry {part + 1}" for part in place[1:] if isinstance(part, int))
    return UsageError(
        f"{path}: {name}{entry}", expected=expected, found=reprlib.repr(given), do="correct it"
    )


def _yaml_problem(error: Exception) -> str:
    """YAML's complaint on one line, with the place."""
    return " ".join(str(error).split())
