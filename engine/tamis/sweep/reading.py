"""The sweep file: YAML → :class:`SweepSpec`, or one line on what is wrong and where."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import Any

import pydantic

from tamis.errors import UsageError, first_line
from tamis.sweep.spec import EarlyStopRule, ScoringSpec, SweepSpec

__all__ = ["read_sweep_spec"]


def read_sweep_spec(path: Path) -> SweepSpec:
    """Read and validate a sweep file; paths become absolute.

    Raises:
        UsageError: The file is missing, not YAML, or says something unknown.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        spec = SweepSpec.model_validate(yaml.safe_load(text))
    except pydantic.ValidationError as error:
        raise _refusal(path, text, error) from error
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
    given = {key: getattr(spec, key) for key in ("train", "test", "scores")}
    places = {key: base / place for key, place in given.items() if place is not None}
    return spec.model_copy(update=places)


# What pydantic says in words that a reader of YAML would not use.
_PLAINLY = {
    "too_short": "at least one entry",
    "path_type": "a path",
    "model_type": "keys and values of its own",
}

# Keys whose values have keys of their own.
_INSIDE: dict[object, type[pydantic.BaseModel]] = {
    "scoring": ScoringSpec,
    "stop_early": EarlyStopRule,
}


def _refusal(path: Path, text: str, error: pydantic.ValidationError) -> UsageError:
    """The first problem of a sweep file; a misspelt key before the one that is missing for it."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    kind, place, given = problems[0]["type"], problems[0]["loc"], problems[0]["input"]
    if not place or kind == "invalid_key":
        return UsageError(
            path,
            expected="keys and values, as 'seeds: 5'",
            found=reprlib.repr(place[0] if place else given),
            do="see the README's sweep file",
        )
    inside = _INSIDE.get(place[0]) if len(place) > 1 else None
    name = str(place[1] if inside else place[0])
    where = f"{path}, line {_line(text, place)}"
    if kind == "extra_forbidden":
        keys = list((inside or SweepSpec).model_fields)
        near = difflib.get_close_matches(name, keys, n=1)
        return UsageError(
            where,
            expected=f"the keys {', '.join(keys)}",
            found=f"the unknown key {name}",
            do=f"did you mean {near[0]}?" if near else "remove it",
        )
    if kind == "missing":
        key = f"the key {name}" + (f" of {place[0]}" if inside else "")
        return UsageError(path, expected=key, found="none", do="add it")
    says = re.sub(r"^(Input should be|Value error,) ", "", problems[0]["msg"])
    number = place[-1] if len(place) > 1 and "set" not in place else None
    entry = f", entry {number + 1}" if isinstance(number, int) else ""
    return UsageError(
        f"{where}: {name}{entry}",
        expected=_PLAINLY.get(str(kind), says),
        found=reprlib.repr(given),
        do="correct it",
    )


def _line(text: str, place: tuple[Any, ...]) -> int:
    """Where in the file a key or an entry stands, from 1."""
    import yaml

    node = yaml.compose(text, yaml.SafeLoader)
    line = node.start_mark.line
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == part]
            if not found:
                break
            key, node = found[-1]
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1
