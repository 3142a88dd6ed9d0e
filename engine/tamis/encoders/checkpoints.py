"""Reading tensors, and nothing else, from checkpoint files."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from tamis.encoders.base import unusable
from tamis.encoders.optional import missing_library
from tamis.errors import first_line

__all__ = ["file_digest", "find_tensors", "read_tensors"]

_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError)


def file_digest(path: Path, spec: str) -> str:
    """xxh3 of a file's bytes.

    Raises:
        UsageError: It cannot be read.
    """
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                state.update(chunk)
    except OSError as error:
        raise unusable(
            spec, expected="a checkpoint file", found=first_line(error), do="check the path"
        ) from error
    return "xxh3:" + state.hexdigest()


def read_tensors(path: Path, spec: str) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file or of one that ``torch.save`` wrote, on the host.

    Of nested dictionaries the names are joined by dots. No code of the file is run: pickles may
    hold tensors and plain values only.

    Raises:
        UsageError: Another file, a damaged one, or one that holds other objects.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path, spec)
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        held = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise unusable(
            spec,
            expected="a file of tensors",
            found=f"one that also holds {held[1]}" if held else "no such file, or a damaged one",
            do="save the network's state_dict() alone, by torch.save or as .safetensors",
        ) from error
    except _UNREADABLE as error:
        raise unusable(
            spec,
            expected="a file that torch.save wrote",
            found=first_line(error),
            do="download or save it again",
        ) from error
    return dict(_tensors(raw, ""))


def _read_safetensors(path: Path, spec: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except Exception as error:
        raise missing_library(spec, "safetensors", "safetensors", error) from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (SafetensorError, *_UNREADABLE) as error:
        raise unusable(
            spec,
            expected="a .safetensors file",
            found=first_line(error),
            do="download or save it again",
        ) from error


def _tensors(raw: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in raw.items() if isinstance(raw, dict) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def find_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], spec: str
) -> dict[str, Tensor]:
    """The tensors of a network among those of a checkpoint, which may stand under a prefix.

    ``module.``, ``state_dict.module.encoder_q.``, ``teacher.backbone.``: whatever comes before
    names that are all there. What else a checkpoint holds (heads, an optimizer) is left out. Of
    several networks the teacher is taken, which is the one that its authors evaluate, else the
    first.

    Args:
        tensors: Of the checkpoint.
        wanted: Of the network, with the shapes that are needed.
        spec: For the error.

    Returns:
        What :meth:`torch.nn.Module.load_state_dict` takes.

    Raises:
        UsageError: One that is missing or has another shape.
    """
    # Batch norms of old checkpoints have no counters; torch fills them in.
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    ends = (name for name in tensors if f".{name}".endswith(f".{names[0]}"))
    prefixes = [name[: len(name) - len(names[0])] for name in ends] or [""]
    prefixes.sort(key=lambda prefix: "teacher" not in prefix)
    whole = [prefix for prefix in prefixes if all(prefix + name in tensors for name in names)]
    prefix = whole[0] if whole else prefixes[0]
    for name in names:
        there = tensors.get(prefix + name)
        if there is None or there.shape != wanted[name].shape:
            raise unusable(
                spec,
                expected=f"a tensor {name} of shape {tuple(wanted[name].shape)}",
                found="none" if there is None else f"one of shape {tuple(there.shape)}",
                do="give the checkpoint of this architecture, or the architecture of this one",
            )
    return {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
