"""Files of arrays: .npy, .npz, pickles and files of torch.save."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.score_exchange.raw_scores import RawScores
from tamis.score_exchange.tensor_pickle import load_arrays

__all__ = ["read_npy", "read_npz", "read_pickle"]

_LABELS = ("targets", "target", "labels", "label")  # CCS writes targets
_IDS = ("example_id", "example_ids")


def read_npy(path: Path) -> RawScores:
    """One vector in the dataset's order.

    Raises:
        ValueError: Not an .npy file, or one that holds no vector of numbers.
    """
    _check_magic(path, b"\x93NUMPY", "no .npy file (one of several arrays has the ending .npz)")
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    return _from_arrays("npy", {path.stem: values})


def read_npz(path: Path) -> RawScores:
    """One array per metric; ``example_id`` and ``label`` or ``targets``, if there, are those.

    Raises:
        ValueError: Not an .npz file, or one without a vector of numbers.
    """
    _check_magic(path, b"PK", "no .npz file (one of a single array has the ending .npy)")
    with np.load(path, allow_pickle=False) as loaded:
        return _from_arrays("npz", dict(loaded))


def read_pickle(path: Path) -> RawScores:
    """A pickled dict of metric name → array or tensor as CCS writes it, or one array or tensor.

    Raises:
        ValueError: No vector of numbers in it.
        Exception: Anything that a damaged or hostile file causes; see
            :func:`tamis.score_exchange.tensor_pickle.load_arrays`.
    """
    loaded = load_arrays(path)
    if type(loaded) is not dict:
        loaded = {path.stem: loaded}
    return _from_arrays("pickle", {str(name): _listed(value) for name, value in loaded.items()})


def _check_magic(path: Path, magic: bytes, otherwise: str) -> None:
    """Refuse other files in words: NumPy would advise to load them as pickles."""
    with path.open("rb") as stream:
        if stream.read(len(magic)) != magic:
            raise ValueError(otherwise)


def _listed(value: Any) -> Any:
    """A list of numbers as an array."""
    if type(value) is list and value and all(type(entry) in (int, float) for entry in value):
        return np.array(value, np.float64)
    return value


def _from_arrays(kind: Literal["npy", "npz", "pickle"], arrays: dict[str, Any]) -> RawScores:
    vectors: dict[str, NDArray[Any]] = {
        name: value
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biuf"
    }
    ids, labels = (
        next((name for name in names if name in vectors and vectors[name].dtype.kind in "iu"), None)
        for names in (_IDS, _LABELS)
    )
    columns = {name: value for name, value in vectors.items() if name not in (*_IDS, *_LABELS)}
    ignored = [name for name in arrays if name not in columns and name not in (ids, labels)]
    if not columns:
        shown = ", ".join(_described(name, arrays[name]) for name in ignored[:4])
        raise ValueError(f"no vector of numbers{shown and ' but '}{shown}")
    rows = [*columns, *([] if labels is None else [labels])]
    if ids is not None and any(len(vectors[name]) != len(vectors[ids]) for name in rows):
        raise ValueError(f"vectors of another length than {ids}")
    return RawScores(
        kind,
        columns,
        example_ids=None if ids is None else vectors[ids].astype(np.int64),
        labels=None if labels is None else vectors[labels],
        ignored=tuple(ignored),
    )


def _described(name: str, value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{name} {value.shape} of {value.dtype}"
    return f"{name}, a {type(value).__name__.lstrip('_')}"
