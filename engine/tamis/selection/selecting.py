"""Score table and settings → which examples are kept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.score_table import ScoreTable
from tamis.selection.message_passing import choose_d2
from tamis.selection.moderate import choose_moderate
from tamis.selection.quotas import Candidates, class_quotas
from tamis.selection.settings import SelectionSettings
from tamis.selection.strata import choose_stratified
from tamis_kernels import select_top

__all__ = ["Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """Which examples are kept.

    Attributes:
        example_ids: (k,) int64, in the table's order.
        n_total: Examples chosen from.
        per_class: Label → examples kept.
        settings: How they were chosen.
        bundle_digest: The bundle that was scored.
        embeddings_digest: Hash of the embeddings; None where the side uses none.
    """

    example_ids: NDArray[np.int64]
    n_total: int
    per_class: dict[int, int]
    settings: SelectionSettings
    bundle_digest: str
    embeddings_digest: str | None = None

    @property
    def keep_fraction(self) -> float:
        """The share that is kept, exactly."""
        return len(self.example_ids) / self.n_total


def select(
    table: ScoreTable,
    settings: SelectionSettings,
    *,
    embeddings: NDArray[np.floating] | None = None,
    progress: Progress = QUIET,
) -> Selection:
    """Choose examples by a side's rule; every class keeps at least its quota.

    Ties and draws are decided by a hash of seed and id, never by position. O(n) for the sides hard,
    easy and random, O(n log n) for stratified and moderate; d2 see
    :func:`tamis.selection.message_passing.choose_d2`.

    Args:
        table: The examples to choose from.
        settings: See :class:`SelectionSettings`.
        embeddings: (n, d) floats, a row of each example in the table's order; with the side d2.
        progress: Told of the search for neighbours.

    Raises:
        UsageError: ``count`` out of range, more to keep than ``hardest_cut`` leaves, embeddings
            missing, not asked for or of another shape, or as :func:`choose_d2`.
        ScoreTableError: A metric that the table does not hold.
    """
    n_total = len(table.example_ids)
    n_keep = _n_keep(settings, n_total)
    _check_embeddings(settings, embeddings, n_total)
    values, classes = np.unique(table.labels, return_inverse=True)
    quotas = class_quotas(table.labels, n_keep, settings.class_balance)
    everyone = Candidates(
        table.example_ids,
        _scores(table, settings),
        classes,
        np.fromiter(quotas.values(), np.int64),
        n_keep,
        settings.seed,
    )
    rows = np.flatnonzero(_left_by_cut(everyone, settings))
    kept = np.zeros(n_total, np.bool_)
    kept[rows] = _chosen(everyone.part(rows), rows, settings, embeddings, progress)
    found = np.bincount(classes[kept], minlength=len(values))
    return Selection(
        table.example_ids[kept],
        n_total,
        dict(zip(values.tolist(), found.tolist(), strict=True)),
        settings,
        table.bundle_digest,
        None if embeddings is None else _digest(embeddings),
    )


def _n_keep(settings: SelectionSettings, n_total: int) -> int:
    n_keep = settings.count
    if n_keep is None:
        assert settings.keep is not None  # checked by the settings
        n_keep = max(1, int(np.floor(settings.keep * n_total + 0.5)))
    if not 1 <= n_keep <= n_total:
        raise UsageError(
            "--count", expected=f"1 to {n_total}", found=str(n_keep), do="pass another count"
        )
    n_left = n_total - _n_cut(settings, n_total)
    if n_keep > n_left:
        raise UsageError(
            "--hardest-cut",
            expected=f"a cut that leaves the {n_keep:,} examples to keep",
            found=f"one of {settings.hardest_cut:g}, which leaves {n_left:,} of {n_total:,}",
            do="drop less or keep less",
        )
    return n_keep


def _n_cut(settings: SelectionSettings, n_total: int) -> int:
    """Rounded down; a product that falls short of a whole number by float64's rounding is whole."""
    return math.floor((settings.hardest_cut or 0.0) * n_total * (1 + 1e-12))


def _check_embeddings(
    settings: SelectionSettings, embeddings: NDArray[np.floating] | None, n_total: int
) -> None:
    found = "none" if embeddings is None else f"an array {embeddings.shape}"
    if settings.side != "d2" and embeddings is not None:
        raise UsageError(
            "--embeddings",
            expected=f"none with --side {settings.side}, which has no use for them",
            found=found,
            do="leave them out, or pass --side d2",
        )
    shape = () if embeddings is None else embeddings.shape
    if settings.side == "d2" and (len(shape) != 2 or shape[0] != n_total or not shape[1]):
        raise UsageError(
            "--embeddings",
            expected=f"with --side d2, ({n_total}, d), one row per example in the table's order",
            found=found,
            do="write them with: tamis embed BUNDLE EMBEDDINGS.npy",
        )


def _scores(table: ScoreTable, settings: SelectionSettings) -> NDArray[np.float32]:
    """(n,) float32, higher = harder; all alike where ties are to decide."""
    if settings.side == "random":
        return np.zeros(len(table.example_ids), np.float32)
    assert settings.metric is not None  # checked by the settings
    return table.column(settings.metric).values


def _left_by_cut(examples: Candidates, settings: SelectionSettings) -> NDArray[np.bool_]:
    """All but the hardest; a class that would lose more than its quota allows loses less."""
    n_cut = _n_cut(settings, len(examples.ids))
    if not n_cut:
        return np.ones(len(examples.ids), np.bool_)
    n_left = len(examples.ids) - n_cut
    return _highest(replace(examples, n_keep=n_left, scores=-examples.scores))


def _highest(examples: Candidates) -> NDArray[np.bool_]:
    """Each class's quota first, then the best of all the others."""
    kept: NDArray[np.bool_] = select_top(
        examples.scores,
        examples.ids,
        examples.n_keep,
        labels=examples.classes,
        quotas=examples.quotas,
        seed=examples.seed,
    )
    return kept


def _chosen(
    examples: Candidates,
    rows: NDArray[np.int64],
    settings: SelectionSettings,
    embeddings: NDArray[np.floating] | None,
    progress: Progress,
) -> NDArray[np.bool_]:
    """Mark what the side's rule keeps of the examples at ``rows`` of the table."""
    if settings.side == "stratified":
        assert settings.strata is not None  # these are filled in by the settings
        return choose_stratified(examples, settings.strata)
    if settings.side == "moderate":
        return choose_moderate(examples)
    if settings.side == "d2":
        assert settings.neighbours is not None
        assert settings.gamma is not None
        assert embeddings is not None  # checked
        return choose_d2(
            examples,
            embeddings,
            rows,
            neighbours=settings.neighbours,
            gamma=settings.gamma,
            progress=progress,
        )
    sign = -1 if settings.side == "easy" else 1
    return _highest(replace(examples, scores=sign * examples.scores))


def _digest(embeddings: NDArray[np.floating]) -> str:
    return hashlib.sha256(np.ascontiguousarray(embeddings).data).hexdigest()[:16]
