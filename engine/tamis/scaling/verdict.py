"""Better than a power law? What the data support, in words.

"Yes" asks for all of this:

- at least 5 sizes over at least a factor of ten;
- a law that falls faster than any power law has a lower AICc than both power laws, in the data and
  in 95 % of the resamples;
- the local slope grows with the size: the interval of its growth lies above 0;
- so it does among the larger half of the sizes alone: near chance level every curve is flat;
- it grows more than that of the unpruned curve over the same sizes.

"No" asks for as many sizes, for an exponential law that is excluded (the interval of the stretching
exponent lies below 1), and for a growth that is not shown, or of which the unpruned curve has at
least half. All else is "cannot tell".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tamis.scaling.analysis import LEAST_SIZES, NO_LAW, CurveStudy
from tamis.scaling.estimates import Estimate, estimate

__all__ = ["Answer", "Verdict", "judge"]

Answer = Literal["yes", "no", "cannot tell"]

_SIZES = 5
_FACTOR = 10.0
_SURE = 0.95
_NOTHING = 1e-9  # growth that is rounding


@dataclass(frozen=True)
class Verdict:
    """An answer with its evidence; NaN or None where there is none.

    Attributes:
        answer: Whether the data support "better than a power law".
        words: Sentences: answer, range, evidence.
        n_sizes: That were judged.
        factor: Largest size over smallest.
        delta_aicc: By how much the best steeper law is better than both power laws.
        share: Of the resamples in which it is.
        bend: Growth of the local slope per factor of ten.
        more_bend: That less the unpruned curve's.
        beta: The stretching exponent: 0 is a power law, 1 an exponential.
    """

    answer: Answer
    words: tuple[str, ...]
    n_sizes: int
    factor: float
    delta_aicc: float
    share: float
    bend: Estimate | None
    more_bend: Estimate | None
    beta: Estimate | None


def judge(
    study: CurveStudy | None,
    n_sizes: int,
    baseline: CurveStudy | None = None,
    remarks: Sequence[str] = (),
) -> Verdict:
    """Judge a curve or an envelope.

    Args:
        study: Its analysis; None where it has too few sizes for one.
        n_sizes: Its sizes.
        baseline: The unpruned curve over the same sizes; None where the curve is the unpruned one,
            or where there is none to compare with.
        remarks: Sentences that follow the evidence.
    """
    if study is None:
        found = f"{n_sizes} size" + ("" if n_sizes == 1 else "s")
        said = (f"cannot tell: {found}, and the smallest law asks for {LEAST_SIZES}.",)
        nan = math.nan
        return Verdict("cannot tell", said, n_sizes, nan, nan, nan, None, None, None)
    sizes = study.curve.n_kept
    factor = float(sizes[-1] / sizes[0])
    delta, often = study.steeper()
    more = _difference(study, baseline)
    stretched = study.fit("stretched exponential")
    beta = stretched.parameters["beta"] if stretched else None
    missing = _missing(len(sizes), factor, study)
    against_yes = _against_yes(study, delta, often, more, baseline is not None)
    against_no = _against_no(study, often, more, beta)
    answer: Answer = "cannot tell"
    if missing:
        reason = ": " + "; ".join(missing)
    elif not against_yes:
        answer, reason = "yes", ""
    elif not against_no:
        answer, reason = "no", ""
    else:
        reason = f": for a yes {against_yes[0]}; for a no {against_no[0]}"
    words = [f"{_ANSWERS[answer]}{reason}.", *_evidence(study, factor, delta, often)]
    words += [*_slopes(study, more), *remarks, *_limits(answer, study, beta, baseline is None)]
    return Verdict(answer, tuple(words), len(sizes), factor, delta, often, study.bend, more, beta)


_ANSWERS: dict[Answer, str] = {
    "yes": "yes, better than a power law is supported",
    "no": "no, nothing better than a power law is seen",
    "cannot tell": "cannot tell",
}


def _against_yes(
    study: CurveStudy, delta: float, often: float, more: Estimate | None, compared: bool
) -> list[str]:
    """What a "yes" lacks."""
    lacks = []
    if not (delta > 0 and often >= _SURE):
        lacks.append("no steeper law is surely better than power laws")
    if not _above(study.bend):
        lacks.append("it is not sure that the slope grows")
    if not _above(study.end_bend):
        lacks.append("it is not sure that the slope still grows at the larger sizes")
    if compared and not _above(more):
        lacks.append("it is not sure that the slope grows more than that of the unpruned curve")
    return lacks


def _against_no(
    study: CurveStudy, often: float, more: Estimate | None, beta: Estimate | None
) -> list[str]:
    """What a "no" lacks."""
    if _below(more, 0):
        return []
    lacks = []
    if beta is None or not beta.high < 1:
        lacks.append("an exponential law is not excluded")
    # A bend that the unpruned curve has, too, is not the pruning's.
    shared = _above(study.bend) and study.bend is not None and _below(more, study.bend.value / 2)
    if not shared and (often >= _SURE or (_above(study.bend) and _above(study.end_bend))):
        lacks.append("a law steeper than power laws may well hold")
    return lacks


def _above(value: Estimate | None) -> bool:
    return value is not None and value.known and value.low > _NOTHING


def _below(value: Estimate | None, limit: float) -> bool:
    return value is not None and value.known and value.high <= limit + _NOTHING


def _missing(n_sizes: int, factor: float, study: CurveStudy) -> list[str]:
    """What a decided answer would ask for and the data do not have."""
    missing = []
    if n_sizes < _SIZES:
        missing.append(f"{n_sizes} sizes, and {_SIZES} are needed")
    if factor < _FACTOR * 0.99:
        missing.append(f"sizes over a factor of {factor:.3g}, and {_FACTOR:g} is needed")
    if study.resampled == "nothing":
        missing.append("no two runs of one size, which would say how much they scatter")
    return missing


def _difference(study: CurveStudy, baseline: CurveStudy | None) -> Estimate | None:
    if baseline is None or study.bends is None or baseline.bends is None:
        return None
    rows = min(len(study.bends), len(baseline.bends))
    return estimate(np.asarray(study.bends[:rows] - baseline.bends[:rows], np.float64))


def _evidence(study: CurveStudy, factor: float, delta: float, often: float) -> list[str]:
    sizes = study.curve.n_kept
    ends = f"{sizes[0]:,.0f} to {sizes[-1]:,.0f} examples"
    span = f"{len(sizes)} sizes, {ends}, a factor of {factor:.3g}"
    if math.isnan(delta):
        return [f"{span}: too few runs to compare power laws with steeper ones."]
    best = study.chosen.law.name
    again = "" if math.isnan(often) else f"; a steeper one is best in {often:.0%} of the resamples"
    others = "power laws" if delta > 0 else "steeper ones"
    return [f"{span}: the {best} law is best, its AICc {abs(delta):.1f} below {others}{again}."]


def _slopes(study: CurveStudy, more: Estimate | None) -> list[str]:
    if study.bend is None:
        return []
    said = f"The local slope changes by {study.bend.text(2)} per factor of ten"
    if study.end_bend is not None and len(study.curve.n_kept) >= _SIZES:
        said += f" ({study.end_bend.text(2)} among the larger half of the sizes)"
    if more is not None:
        said += f", that of the unpruned curve by {more.text(2)} less"
    return [said + "."]


def _limits(answer: Answer, study: CurveStudy, beta: Estimate | None, alone: bool) -> list[str]:
    """What to bear in mind."""
    said = []
    if answer == "no" and beta is not None and beta.high < 1:
        said.append(
            f"An exponential law is excluded: the stretching exponent is {beta.text(2)}, where 0 is"
            " a power law and 1 an exponential."
        )
    if answer == "yes" and alone:
        said.append(
            "Near chance level every curve flattens: does it hold without the smallest sizes?"
        )
    if study.misfit < NO_LAW:
        said.append(
            "No law describes the points within the scatter of their runs"
            f" (p = {study.misfit:.1g}): trust the slopes more than the laws."
        )
    return said
