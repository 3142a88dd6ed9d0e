"""The whole line on scikit-learn's handwritten digits: real images, no download, three minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.verify import verify
from tamis.devices import resolve_device
from tamis.errors import UsageError, WorkFailedError
from tamis.metrics.campaign import score
from tamis.metrics.registry import get_metrics
from tamis.metrics.settings import CampaignSettings
from tamis.progress import QUIET, Progress
from tamis.report.page import Report, write_report
from tamis.score_table import ScoreTable, write_score_table
from tamis.selection.files import write_selection
from tamis.selection.selecting import Selection, select
from tamis.selection.settings import SelectionSettings
from tamis.sources.opening import open_source
from tamis.sweep.reading import read_sweep_spec
from tamis.sweep.running import run_sweep
from tamis.training.checkpoints import write_run
from tamis.training.recipes import get_recipe
from tamis.training.runs import train_on_bundle

__all__ = ["run_demo"]

_MARK = ".tamis-demo"
_RECIPE = "digits"
_SCORED = [
    "random", "el2n", "loss", "margin", "entropy", "forgetting", "aum", "memorization",
    "prototypes", "selfsup-prototypes",
]  # fmt: skip
_SWEPT = ["random", "el2n", "forgetting", "selfsup-prototypes"]
_KEEP = [1.0, 0.6, 0.4, 0.2]


def run_demo(out: Path, *, seeds: int = 4, workers: int = 2, progress: Progress = QUIET) -> Report:
    """Convert, score, select, cut, verify, train, sweep and report, into a folder.

    A folder of an earlier demo is replaced; any other non-empty folder is refused.

    Args:
        out: The folder.
        seeds: Runs per cell of the sweep.
        workers: Processes of the sweep.
        progress: Told of everything.

    Raises:
        UsageError: The folder holds something else.
        WorkFailedError: A stage did not give what the next one needs.
    """
    _prepare(out)
    device = resolve_device()
    with progress.task("demo", 7) as advance:
        for part in ("train", "test"):
            convert(open_source(f"digits:{part}"), out / f"{part}.beton")
        training, testing = open_bundle(out / "train.beton"), open_bundle(out / "test.beton")
        advance()
        recipe = get_recipe(_RECIPE)
        campaign = CampaignSettings(recipe)
        table = score(training, get_metrics(_SCORED), campaign, device, progress=progress).table
        write_score_table(table, out / "scores.parquet")
        advance()
        kept = _select(table, out)
        pruned = _cut(training, kept, out, progress)
        advance()
        trained, record = train_on_bundle(pruned, testing, recipe, device=device, progress=progress)
        write_run(out / "run", record, trained.model)
        advance()
        spec = _write_sweep(out, seeds)
        done = run_sweep(read_sweep_spec(spec), out / "sweep", workers=workers, progress=progress)
        if done.n_failed:
            raise WorkFailedError(
                "sweep", expected="every trial to finish", found=done.failures[0], do="report it"
            )
        advance(2)
        report = write_report(out / "sweep", progress=progress)
        advance()
    return report


def _prepare(out: Path) -> None:
    if out.exists():
        if not (out / _MARK).exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                out,
                expected="a new folder or that of an earlier demo",
                found="something else",
                do="choose another one with --out",
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def _select(table: ScoreTable, out: Path) -> Selection:
    settings = SelectionSettings(metric="el2n", keep=0.4, class_balance=0.5)
    kept = select(table, settings)
    write_selection(kept, out / "kept.parquet")
    return kept


def _cut(training: Bundle, kept: Selection, out: Path, progress: Progress) -> Bundle:
    cut(training, out / "pruned.beton", kept.example_ids, progress=progress)
    pruned = open_bundle(out / "pruned.beton")
    found = verify(pruned, deep=True)
    if not found.ok:
        raise WorkFailedError(
            pruned.path, expected="a sound bundle", found=found.damaged[0].reason, do="report it"
        )
    return pruned


def _write_sweep(out: Path, seeds: int) -> Path:
    spec = {
        "train": "train.beton",
        "test": "test.beton",
        "scores": "scores.parquet",
        "metrics": _SWEPT,
        "keep": _KEEP,
        "side": ["hard", "easy"],
        "class_balance": 0.5,
        "seeds": seeds,
        "recipe": _RECIPE,
        "budget": "steps",
    }
    path = out / "sweep.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path
