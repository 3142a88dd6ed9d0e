"""All curves, envelopes and verdicts of a set of points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.scaling.analysis import LEAST_SIZES, CurveStudy, analyse
from tamis.scaling.curves import Curve, CurveKey, make_curves
from tamis.scaling.envelope import Envelope, make_envelope
from tamis.scaling.laws import POWER
from tamis.scaling.noise import Noise, fit_noise
from tamis.scaling.points import Point, PointSet
from tamis.scaling.resampling import LEAST_SEEDS, Seeds
from tamis.scaling.verdict import Verdict, judge

__all__ = ["EnvelopeStudy", "ScalingStudy", "Settings", "study_scaling"]


@dataclass(frozen=True)
class Settings:
    """How points are studied.

    Attributes:
        metric: The only one, besides the unpruned set; None for all.
        n_total: The largest stock of the envelopes; None for the largest that was measured.
        n_resamples: Of the intervals.
        seed: Of the resamples.
    """

    metric: str | None = None
    n_total: float | None = None
    n_resamples: int = 500
    seed: int = 0


@dataclass(frozen=True)
class EnvelopeStudy:
    """The best keep fractions of one metric and side, or the unpruned curve alone.

    Attributes:
        key: Recipe, budget, metric and side; keep is 0, or 1 of the unpruned curve.
        envelope: None of the unpruned curve.
        judged: The analysis of the part that says how errors scale; None with too few sizes.
        baseline: The unpruned curve over the same sizes, as a power law; None where there is none.
        verdict: Better than a power law?
    """

    key: CurveKey
    envelope: Envelope | None
    judged: CurveStudy | None
    baseline: CurveStudy | None
    verdict: Verdict

    @property
    def name(self) -> str:
        """For people, without recipe and budget."""
        if self.envelope is None:
            return "all"
        return self.key.metric + ("" if self.key.side == "random" else f", {self.key.side}")


@dataclass(frozen=True)
class ScalingStudy:
    """What a set of points says.

    Attributes:
        points: That were looked at.
        curves: One analysis for each recipe, budget, metric, side and keep fraction.
        skipped: Curves of too few sizes, and why.
        envelopes: One for each metric and side, the unpruned curve first.
        noises: (recipe, budget) → how far runs scatter.
        draws: The resamples that all share.
        settings: How.
    """

    points: PointSet
    curves: tuple[CurveStudy, ...]
    skipped: dict[CurveKey, str]
    envelopes: tuple[EnvelopeStudy, ...]
    noises: dict[tuple[str, str], Noise]
    draws: Seeds
    settings: Settings

    @property
    def words(self) -> tuple[str, ...]:
        """The verdicts and what holds for all of them."""
        several = len({(e.key.recipe, e.key.budget) for e in self.envelopes}) > 1
        said = []
        for one in self.envelopes:
            group = ", ".join(part for part in (one.key.recipe, one.key.budget) if part)
            where = f" ({group})" if several and group else ""
            said.append(f"{one.name}{where}: {' '.join(one.verdict.words)}")
        few = sum(c.resampled != "seeds" for c in self.curves)
        if few:
            said.append(
                f"{few} of {len(self.curves)} curves have fewer than {LEAST_SEEDS} seeds at some"
                " size: their intervals assume the scatter of all runs, or of the points about"
                " their law."
            )
        if sum(e.verdict.answer != "cannot tell" for e in self.envelopes) > 1:
            said.append(
                f"{len(self.envelopes)} verdicts at 95 %: about one in twenty errs by chance."
            )
        if self.points.left_out:
            said.append(self.points.left_out)
        return tuple(said)


def study_scaling(
    points: PointSet, settings: Settings | None = None, *, progress: Progress = QUIET
) -> ScalingStudy:
    """Fit every curve, find the envelopes, judge them.

    Five laws, 500 resamples and five sizes take about 0.2 s of one core a curve.

    Args:
        points: Any number of runs.
        settings: See :class:`Settings`.
        progress: Told of every curve.

    Raises:
        UsageError: An unknown metric, or no curve with three sizes.
    """
    settings = settings or Settings()
    chosen = _of_metric(points.points, settings.metric)
    curves = make_curves(chosen)
    _refuse_few_sizes(curves)
    draws = Seeds(np.array([p.seed for p in chosen]), settings.n_resamples, settings.seed)
    groups: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for key, curve in curves.items():
        if len(curve.n_kept):
            groups[key.recipe, key.budget].append(curve)
    noises = {group: fit_noise(found, points.n_test) for group, found in groups.items()}
    studies, skipped = [], {}
    with progress.task("curves", len(curves)) as advance:
        for key, curve in curves.items():
            if len(curve.n_kept) >= LEAST_SIZES:
                studies.append(analyse(curve, noises[key.recipe, key.budget], draws))
            else:
                skipped[key] = f"{len(curve.n_kept)} sizes; laws ask for {LEAST_SIZES}"
            advance()
    envelopes = [
        one
        for group, found in groups.items()
        for one in _envelopes(found, studies, noises[group], draws, settings)
    ]
    return ScalingStudy(
        replace(points, points=tuple(chosen)), tuple(studies), skipped, tuple(envelopes), noises,
        draws, settings,
    )  # fmt: skip


def _of_metric(points: Iterable[Point], metric: str | None) -> list[Point]:
    points = list(points)
    names = sorted({p.metric for p in points} - {"full"})
    if metric is None:
        return points
    if metric not in names:
        raise UsageError(
            "--metric",
            expected=", ".join(names) or "none, as all runs keep all",
            found=metric,
            do="name one of these, or leave it out",
        )
    # Random stays: what every metric is compared with.
    return [p for p in points if p.metric in (metric, "full", "random")]


def _refuse_few_sizes(curves: dict[CurveKey, Curve]) -> None:
    most = max((len(curve.n_kept) for curve in curves.values()), default=0)
    if most < LEAST_SIZES:
        raise UsageError(
            "the runs",
            expected=f"a metric, side and keep fraction with at least {LEAST_SIZES} set sizes",
            found=f"at most {most}",
            do="run a sweep with more of them, as sizes: [1.0, 0.5, 0.25, 0.125, 0.0625]",
        )


def _envelopes(
    curves: list[Curve],
    studies: list[CurveStudy],
    noise: Noise,
    draws: Seeds,
    settings: Settings,
) -> list[EnvelopeStudy]:
    """Those of one recipe and budget."""
    full = next((c for c in curves if c.key.metric == "full"), None)
    found = []
    if full is not None:
        study = next((s for s in studies if s.curve.key == full.key), None)
        verdict = judge(study, len(full.n_kept))
        found.append(EnvelopeStudy(full.key, None, study, None, verdict))
    ways = dict.fromkeys((c.key.metric, c.key.side) for c in curves if c.key.metric != "full")
    for way in sorted(ways, key=lambda way: (way[0] != "random", way)):
        members = [c for c in curves if (c.key.metric, c.key.side) == way]
        members += [full] if full is not None else []
        envelope = make_envelope(members, noise, settings.n_total)
        if envelope is not None:
            found.append(_one_envelope(envelope, full, noise, draws))
    return found


def _one_envelope(
    envelope: Envelope, full: Curve | None, noise: Noise, draws: Seeds
) -> EnvelopeStudy:
    part = envelope.judged(0.0 if full is None else full.n_kept[0])
    study = analyse(part, noise, draws) if len(part.n_kept) >= LEAST_SIZES else None
    baseline = None
    if full is not None and study is not None:
        # Near chance level every curve is flat and then bends: compare at the same sizes, or at
        # all where too few are the same.
        low, high = part.n_kept[[0, -1]]
        shared = full.part((full.n_kept >= 0.99 * low) & (full.n_kept <= 1.01 * high))
        for curve in (shared, full):
            if len(curve.n_kept) >= LEAST_SIZES + 1:
                baseline = analyse(curve, noise, draws, [POWER])
                break
    remarks = []
    if study is not None and (part.n_kept == part.n_total).all():
        remarks.append("Keeping all is best at every size.")
    if study is not None and baseline is None:
        remarks.append("There is no unpruned curve to compare with over these sizes.")
    verdict = judge(study, len(part.n_kept), baseline, remarks)
    return EnvelopeStudy(envelope.frontier.key, envelope, study, baseline, verdict)
