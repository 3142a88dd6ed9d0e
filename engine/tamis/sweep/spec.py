"""The sweep file."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from tamis.errors import UsageError, first_line
from tamis.selection.settings import MOST_STRATA

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
        hardest_cut: Of the side stratified: see
            :class:`tamis.selection.settings.SelectionSettings`; none without that side.
        strata: As ``hardest_cut``.
        class_balance: As there, for all sides.
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
    keep: list[Annotated[float, pydantic.Field(gt=0, le=1)]] = pydantic.Field(min_length=1)
    side: list[Literal["hard", "easy", "stratified", "moderate"]] = ["hard"]
    hardest_cut: float | None = pydantic.Field(default=None, ge=0, lt=1)
    strata: int | None = pydantic.Field(default=None, ge=1, le=MOST_STRATA)
    class_balance: float = pydantic.Field(default=0.5, ge=0, le=1)
    seeds: int = pydantic.Field(default=3, ge=1)
    recipe: str = "small"
    set: dict[str, Any] = {}
    budget: list[Literal["steps", "epochs"]] = ["steps"]

    @pydantic.field_validator("side", "budget", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @pydantic.field_validator("side", mode="before")
    @classmethod
    def _without_embeddings(cls, value: Any) -> Any:
        if value == "d2" or (isinstance(value, list) and "d2" in value):
            raise ValueError("sides that need no embeddings; for d2 run tamis select and train")
        return value

    @pydantic.field_validator("hardest_cut", "strata")
    @classmethod
    def _of_stratified(cls, value: Any, others: pydantic.ValidationInfo) -> Any:
        if value is not None and "stratified" not in others.data.get("side", ["stratified"]):
            raise ValueError("none unless side names stratified")
        return value

    @pydantic.field_validator("hardest_cut")
    @classmethod
    def _leaves_enough(cls, value: float | None, others: pydantic.ValidationInfo) -> float | None:
        most = max((keep for keep in others.data.get("keep", []) if keep < 1), default=0.0)
        if value is not None and most > 1 - value + 1e-9:
            raise ValueError(f"at most {1 - most:.6g}, which leaves {most:g} to keep")
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
    except pydantic.ValidationError as error:
        raise _refusal(path, error) from error
    # PyYAML also lets errors of int() and datetime() out, and nests as deep as the file does.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        is_yaml_s = isinstance(error, yaml.YAMLError)  # of several lines, the last ones say where
        raise UsageError(
            path,
            expected="a YAML file",
            found=str(error) if is_yaml_s else first_line(error),
            do="see the README's sweep file",
        ) from error
    base = path.resolve().parent
    places = {key: base / getattr(spec, key) for key in ("train", "test", "scores")}
    return spec.model_copy(update=places)


# What pydantic says in words that a reader of YAML would not use.
_PLAINLY = {"too_short": "at least one entry", "path_type": "a path"}


def _refusal(path: Path, error: pydantic.ValidationError) -> UsageError:
    """The first problem of a sweep file; a misspelt key before the one that is missing for it."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    kind, place, given = (problems[0][part] for part in ("type", "loc", "input"))
    keys = list(SweepSpec.model_fields)
    if not place or kind == "invalid_key":
        return UsageError(
            path,
            expected="keys and values, as 'seeds: 5'",
            found=reprlib.repr(place[0] if place else given),
            do="see the README's sweep file",
        )
    name = str(place[0])
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, keys, n=1)
        return UsageError(
            path,
            expected=f"the keys {', '.join(keys)}",
            found=f"the unknown key {name}",
            do=f"did you mean {near[0]}?" if near else "remove it",
        )
    if kind == "missing":
        return UsageError(path, expected=f"the key {name}", found="none", do="add it")
    says = re.sub(r"^(Input should be|Value error,) ", "", problems[0]["msg"])
    number = place[1] if len(place) > 1 and name != "set" else None
    entry = f", entry {number + 1}" if isinstance(number, int) else ""
    return UsageError(
        f"{path}: {name}{entry}",
        expected=_PLAINLY.get(str(kind), says),
        found=reprlib.repr(given),
        do="correct it",
    )
