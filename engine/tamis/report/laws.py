"""Scaling laws of a report's sections, where a sweep has sizes enough for any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tamis.progress import QUIET, Progress
from tamis.report.sections import Section
from tamis.scaling.analysis import LEAST_SIZES
from tamis.scaling.points import PointSet, points_of_records
from tamis.scaling.studies import ScalingStudy, study_scaling
from tamis.sweep.records import TrialRecord

__all__ = ["scaling_studies"]


def scaling_studies(
    sections: Iterable[Section],
    records: Sequence[TrialRecord],
    n_test: int,
    *,
    progress: Progress = QUIET,
) -> dict[str, ScalingStudy]:
    """Name of a section → its laws, as ``tamis fit`` finds them; none of fewer than three sizes.

    Args:
        sections: Of the report.
        records: Finished trials of all of them.
        n_test: Test examples.
        progress: Told of every curve.
    """
    studies = {}
    for section in sections:
        first = section.tables[0]
        own = [
            record
            for record in records
            if (record.trial.recipe, record.trial.budget) == (first.recipe, first.budget)
        ]
        points = points_of_records(own)
        sizes: dict[tuple[str, str, float], set[int]] = {}
        for point in points:
            sizes.setdefault((point.metric, point.side, point.keep), set()).add(point.n_kept)
        if max(len(found) for found in sizes.values()) >= LEAST_SIZES:
            studies[section.name] = study_scaling(
                PointSet(tuple(points), n_test), progress=progress
            )
    return studies
