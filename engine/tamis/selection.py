"""Score table → kept ids."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.arrays import n_repeated
from tamis.atomic import atomic_path, refuse_other_suffix
from tamis.bundles.bundle import Bundle
from tamis.errors import ScoreTableError, UsageError, first_line
from tamis.score_table import ScoreTable
from tamis_kernels import select_top

__all__ = [
    "Selection",
    "SelectionSettings",
    "Side",
    "class_quotas",
    "read_selected_ids",
    "select",
    "write_selection",
]

Side = Literal["hard", "easy", "random"]
_SIDES: tuple[Side, ...] = ("hard", "easy", "random")


@dataclass(frozen=True)
class SelectionSettings:
    """How examples are chosen.

    Attributes:
        metric: Column of the score table; None with ``side="random"``.
        keep: Share to keep, 0 < keep ≤ 1; or None with ``count``.
        count: Number to keep; or None with ``keep``.
        side: ``hard`` keeps the highest scores, ``easy`` the lowest, ``random`` neither.
        class_balance: b from 0 to 1: each class keeps at least this share of what it would keep
            if every class kept the same share.
        seed: Of ties and of the random side.
    """

    metric: str | None = None
    keep: float | None = None
    count: int | None = None
    side: Side = "hard"
    class_balance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.count is None):
            raise UsageError(
                "--keep, --prune, --count",
                expected="exactly one of them",
                found="none" if self.keep is None else "several",
                do="pass for example --keep 0.7",
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UsageError(
                "keep fraction",
                expected="0 < keep ≤ 1, the share that is kept",
                found=f"{self.keep:g}",
                do="pass for example --keep 0.7 (or --prune 0.3, which is the same)",
            )
        if self.side not in _SIDES:
            raise UsageError(
                "--side", expected=" or ".join(_SIDES), found=self.side, do="choose one of them"
            )
        if not 0 <= self.class_balance <= 1:
            raise UsageError(
                "--class-balance",
                expected="0 (none) to 1 (stratified)",
                found=f"{self.class_balance:g}",
                do="the paper's ImageNet benchmark uses 0.5",
            )
        if self.side != "random" and self.metric is None:
            raise UsageError(
                "--metric",
                expected="a metric for the sides hard and easy",
                found="none",
                do="pass --metric NAME, or --side random",
            )


@dataclass(frozen=True)
class Selection:
    """Which examples are kept.

    Attributes:
        example_ids: (k,) int64, in the table's order.
        n_total: Examples chosen from.
        per_class: Label → examples kept.
        settings: How they were chosen.
        bundle_digest: The bundle that was scored.
    """

    example_ids: NDArray[np.int64]
    n_total: int
    per_class: dict[int, int]
    settings: SelectionSettings
    bundle_digest: str

    @property
    def keep_fraction(self) -> float:
        """The share that is kept, exactly."""
        return len(self.example_ids) / self.n_total


def class_quotas(labels: NDArray[np.integer], n_keep: int, class_balance: float) -> dict[int, int]:
    """The least number of examples that each class keeps.

    With f = n_keep / n, class c of n_c examples keeps at least ⌈b·f·n_c⌉ (paper, §5: with b = 0.5
    "essential" on ImageNet). Where the ceilings add up to more than ``n_keep``, which b near 1 can
    cause, the classes with the smallest fractional part are rounded down instead, so that totals
    stay exact.

    Returns:
        Label → quota; the quotas sum to at most ``n_keep``.
    """
    values, sizes = np.unique(labels, return_counts=True)
    # In integers where exact: n_keep · n_c / n, so that b = 1 does not round up by an ulp.
    share = class_balance * (n_keep * sizes.astype(np.float64) / len(labels))
    share = np.where(np.abs(share - np.rint(share)) < 1e-9, np.rint(share), share)
    quotas = np.ceil(share).astype(np.int64)
    excess = int(quotas.sum()) - n_keep
    if excess > 0:
        fraction = np.where(quotas > share, share - np.floor(share), np.inf)
        quotas[np.argsort(fraction, kind="stable")[:excess]] -= 1
    return dict(zip(values.tolist(), quotas.tolist(), strict=True))


def select(table: ScoreTable, settings: SelectionSettings) -> Selection:
    """Choose examples: each class's quota first, then the best of all the others.

    Ties are broken by a hash of seed and id, never by position. O(n).

    Raises:
        UsageError: ``count`` out of range.
        ScoreTableError: A metric that the table does not hold.
    """
    n_total = len(table.example_ids)
    n_keep = settings.count
    if n_keep is None:
        assert settings.keep is not None  # checked by the settings
        n_keep = max(1, int(np.floor(settings.keep * n_total + 0.5)))
    if not 1 <= n_keep <= n_total:
        raise UsageError(
            "--count", expected=f"1 to {n_total}", found=str(n_keep), do="pass another count"
        )
    values, classes = np.unique(table.labels, return_inverse=True)
    quotas = class_quotas(table.labels, n_keep, settings.class_balance)
    kept: NDArray[np.bool_] = select_top(
        _scores(table, settings),
        table.example_ids,
        n_keep,
        labels=classes,
        quotas=np.fromiter(quotas.values(), np.int64),
        seed=settings.seed,
    )
    found = np.bincount(classes[kept], minlength=len(values))
    per_class = dict(zip(values.tolist(), found.tolist(), strict=True))
    return Selection(table.example_ids[kept], n_total, per_class, settings, table.bundle_digest)


def _scores(table: ScoreTable, settings: SelectionSettings) -> NDArray[np.float32]:
    """(n,) float32, the highest to be kept first; all alike where ties are to decide."""
    if settings.side == "random":
        return np.zeros(len(table.example_ids), np.float32)
    assert settings.metric is not None  # checked by the settings
    scores = table.column(settings.metric).values
    return scores if settings.side == "hard" else -scores


def write_selection(selection: Selection, out: Path, *, overwrite: bool = False) -> None:
    """Write the kept ids as Parquet, with how they were chosen as schema metadata.

    Raises:
        UsageError: ``out`` exists, its folder does not, or it does not end in .parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_other_suffix(out, ".parquet")
    how = {
        **asdict(selection.settings),
        "keep_fraction": selection.keep_fraction,
        "prune_fraction": 1 - selection.keep_fraction,
        "n_total": selection.n_total,
        "listed": "kept",
    }
    schema = pa.schema(
        [pa.field("example_id", pa.int64())],
        metadata={"tamis_bundle": selection.bundle_digest, "tamis_selection": json.dumps(how)},
    )
    with atomic_path(out, overwrite=overwrite) as partial:
        pq.write_table(pa.table([pa.array(selection.example_ids)], schema=schema), partial)


def read_selected_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    """Kept ids from a selection (.parquet), an .npy of ids, or a text file of source paths.

    Raises:
        ScoreTableError: An unreadable file, no or repeated ids, a selection for another bundle,
            or a path that the bundle does not hold or holds twice.
    """
    try:
        ids = _listed_ids(path, bundle)
        if not len(ids) or n_repeated(ids):
            raise ValueError("repeated ids" if len(ids) else "no ids")
        return ids
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ScoreTableError(
            path,
            expected="a selection: .parquet from tamis select, .npy of ids, or text of paths",
            found=first_line(error),
            do="write one with: tamis select SCORES KEPT.parquet",
        ) from error


def _listed_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    if path.suffix == ".parquet":
        return _read_parquet_ids(path, bundle)
    if path.suffix == ".npy":
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(ids, np.ndarray):
            raise ValueError("an archive of several arrays")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"an array {ids.shape} of {ids.dtype}")
        return np.asarray(ids, np.int64)
    lines = path.read_text(encoding="utf-8").splitlines()
    return _ids_of_paths([line.strip() for line in lines if line.strip()], bundle)


def _read_parquet_ids(path: Path, bundle: Bundle) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        if table.column_names != ["example_id"]:
            others = [name for name in table.column_names if name != "example_id"]
            raise ValueError(f"a table with the columns {', '.join(others)[:80]}, a score table?")
        if table["example_id"].null_count:
            raise ValueError("missing ids")
        ids = table["example_id"].cast(pa.int64()).to_numpy()
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(str(error)) from error
    digest = (table.schema.metadata or {}).get(b"tamis_bundle", b"").decode()
    if digest and digest not in (ancestor.digest for ancestor in bundle.lineage):
        raise ScoreTableError(
            path,
            expected=f"a selection from {bundle.path} ({bundle.digest}) or from its ancestors",
            found=f"one from another bundle ({digest})",
            do="select again from the scores of this bundle",
        )
    return np.asarray(ids, np.int64)


def _ids_of_paths(paths: list[str], bundle: Bundle) -> NDArray[np.int64]:
    known = [] if bundle.paths is None else bundle.paths.to_pylist()
    counts = Counter(known)
    missing = [path for path in paths if counts[path] != 1]
    if missing:
        some = missing[0]
        why = "several examples have" if counts[some] else "the bundle does not hold"
        raise ValueError(f"{len(missing)} unusable paths; {some!r} is one that {why}")
    ids = dict(zip(known, bundle.example_ids.tolist(), strict=True))
    return np.array([ids[path] for path in paths], np.int64)
