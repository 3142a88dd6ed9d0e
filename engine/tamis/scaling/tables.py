"""A study or a plan as rows for CSV files, and as plain values for JSON."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tamis.atomic import atomic_path
from tamis.scaling.analysis import CurveStudy, LawFit
from tamis.scaling.estimates import Estimate
from tamis.scaling.planning import Choice, Plan
from tamis.scaling.studies import EnvelopeStudy, ScalingStudy

__all__ = ["plan_values", "study_values", "write_csv"]

_PARAMETERS = ("a", "nu", "b", "beta", "c")


def study_values(study: ScalingStudy) -> dict[str, Any]:
    """Everything but the resamples."""
    return {
        "curves": [_curve(one) for one in study.curves],
        "skipped": [{**vars(key), "reason": reason} for key, reason in study.skipped.items()],
        "envelopes": [_envelope(one) for one in study.envelopes],
        "noise": [
            {"recipe": recipe, "budget": budget, **vars(noise)}
            for (recipe, budget), noise in study.noises.items()
        ],
        "settings": dict(vars(study.settings)),
        "words": study.words,
    }


def plan_values(plan: Plan) -> dict[str, Any]:
    """Everything but the resamples."""
    needed = plan.needed
    return {
        "goal": dict(vars(plan.goal)),
        "n_total": plan.n_total,
        "chosen": None if plan.chosen is None else _choice(plan.chosen),
        "reached": plan.reached,
        "rivals": [{**_choice(c), "chosen_is_better": often} for c, often in plan.rivals],
        "sides": [
            {**vars(s), "hard": _estimate(s.hard), "easy": _estimate(s.easy)} for s in plan.sides
        ],
        "needed": needed and {**vars(needed), "n_total": _estimate(needed.n_total)},
        "choices": [_choice(c) for c in plan.choices],
        "words": plan.words,
    }


def write_csv(study: ScalingStudy, out: Path, *, overwrite: bool = False) -> None:
    """One line for each curve and law, whether it could be fitted or not; envelopes have keep 0."""
    columns = [
        "recipe", "budget", "metric", "side", "keep", "n_sizes", "n_seeds", "n_least", "n_most",
        "law", "chosen", "akaike_weight", "aicc", "held_out", "left_out", "refused",
        *(f"{name}{end}" for name in _PARAMETERS for end in ("", "_low", "_high")),
    ]  # fmt: skip
    with (
        atomic_path(out, overwrite=overwrite) as partial,
        partial.open("w", newline="", encoding="utf-8") as sink,
    ):
        writer = csv.DictWriter(sink, columns, restval="", lineterminator="\n")
        writer.writeheader()
        judged = [one.judged for one in study.envelopes if one.envelope is not None]
        for one in (*study.curves, *(j for j in judged if j is not None)):
            writer.writerows(_law_rows(one))


def _law_rows(study: CurveStudy) -> list[dict[str, object]]:
    curve = study.curve
    start = {
        **vars(curve.key), "n_sizes": len(curve.n_kept), "n_seeds": len(curve.seeds),
        "n_least": curve.n_kept[0], "n_most": curve.n_kept[-1],
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for fit in study.fits:
        numbers: dict[str, object] = {}
        for name, value in fit.parameters.items():
            numbers |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append(
            {
                **start, **numbers, "law": fit.law.name, "chosen": fit is study.chosen,
                "akaike_weight": fit.weight, "aicc": float(fit.aicc[0]),
                "held_out": fit.held_out, "left_out": fit.left_out,
            }
        )  # fmt: skip
    return rows + [
        {**start, "law": name, "chosen": False, "refused": reason}
        for name, reason in study.refused.items()
    ]


def _curve(study: CurveStudy) -> dict[str, Any]:
    curve = study.curve
    return {
        **vars(curve.key),
        "n_kept": curve.n_kept.tolist(),
        "n_total": curve.n_total.tolist(),
        "n_runs": curve.n_runs.tolist(),
        "error": curve.means.tolist(),
        "law": study.chosen.law.name,
        "laws": [_law(fit) for fit in study.fits],
        "refused": study.refused,
        "slopes": [
            {"n_low": s.n_low, "n_high": s.n_high, **_estimate(s.slope)} for s in study.slopes
        ],
        "end_slope": _estimate(study.end_slope),
        "bend": _estimate(study.bend),
        "end_bend": _estimate(study.end_bend),
        "misfit": study.misfit,
        "resampled": study.resampled,
    }


def _law(fit: LawFit) -> dict[str, Any]:
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "parameters": {name: _estimate(value) for name, value in fit.parameters.items()},
        "aicc": float(fit.aicc[0]),
        "akaike_weight": fit.weight,
        "held_out": fit.held_out,
        "left_out": fit.left_out,
    }


def _envelope(one: EnvelopeStudy) -> dict[str, Any]:
    envelope, verdict = one.envelope, one.verdict
    found: dict[str, Any] = {
        "name": one.name, "recipe": one.key.recipe, "budget": one.key.budget,
        "metric": one.key.metric, "side": one.key.side,
    }  # fmt: skip
    if envelope is not None:
        found |= {
            "n_total": envelope.n_total,
            "frontier": {
                "n_kept": envelope.frontier.n_kept.tolist(),
                "n_total": envelope.frontier.n_total.tolist(),
                "keep": envelope.keep.tolist(),
                "error": envelope.frontier.means.tolist(),
                "exhausted": envelope.exhausted.tolist(),
            },
        }
    return found | {
        "judged": None if one.judged is None else _curve(one.judged),
        "baseline": None if one.baseline is None else _curve(one.baseline),
        "verdict": {
            **vars(verdict),
            "bend": _estimate(verdict.bend),
            "more_bend": _estimate(verdict.more_bend),
            "beta": _estimate(verdict.beta),
        },
    }


def _choice(choice: Choice) -> dict[str, Any]:
    values = {name: value for name, value in vars(choice).items() if name != "samples"}
    return {**values, "error": _estimate(choice.error), "name": choice.name}


def _estimate(value: Estimate | None) -> Any:
    return None if value is None else dict(vars(value))
