"""The page: everything in one HTML file that needs no network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tamis import __version__
from tamis.atomic import atomic_path
from tamis.bundles.bundle import Bundle
from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.report.gallery import gallery
from tamis.report.plots import accuracy_plot, class_keep_plot, correlation_plot, histogram_plot
from tamis.report.summary import AccuracyTable, summarise, verdict, write_csv
from tamis.score_table import ScoreTable
from tamis.statistics import rank_correlation
from tamis.sweep.grid import Sweep
from tamis.sweep.records import TrialRecord, read_records
from tamis.sweep.scoring import open_sweep
from tamis.sweep.spec import SweepSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Attributes:
        html: The page.
        csv: The accuracy table.
        plots: PNG files; an SVG lies beside each.
        tables: What the page shows, for printing.
        verdicts: What it says about the hard side, one list per table.
    """

    html: Path
    csv: Path
    plots: tuple[Path, ...]
    tables: tuple[AccuracyTable, ...]
    verdicts: tuple[list[str], ...]


def write_report(folder: Path, *, overwrite: bool = False, progress: Progress = QUIET) -> Report:
    """Write ``report.html``, ``table.csv`` and the plots into the folder of a sweep.

    Args:
        folder: Holds ``sweep.json`` and ``records.jsonl``.
        overwrite: Replace an existing report.
        progress: Told of every part.

    Raises:
        UsageError: No finished trials there, or a report that stands already.
        TamisError: A bundle or score table of the sweep that is no longer as it was.
    """
    sweep, records = _read_sweep(folder)
    spec, bundle, table = sweep.spec, sweep.train, sweep.table(max(sweep.spec.sizes))
    out = folder / "report.html"
    with atomic_path(out, overwrite=overwrite) as partial, progress.task("report", 4) as advance:
        pictures = gallery(bundle, table)
        advance()
        tables = summarise(records)
        figures = _figures(tables, records, table, bundle)
        advance()
        write_csv(tables, folder / "table.csv")
        plots = {name: _save(figure, folder / f"{name}.png") for name, figure in figures.items()}
        advance()
        verdicts = [verdict(part) for part in tables]
        page = _render(
            spec=spec,
            records=records,
            bundle=bundle,
            tables=list(zip(tables, verdicts, strict=True)),
            plots={name: _data_uri(path.with_suffix(".svg")) for name, path in plots.items()},
            gallery=pictures,
            scores={name: column.info for name, column in table.columns.items()},
            seconds=sum(record.run["train_seconds"] for record in records),
            version=__version__,
        )
        partial.write_text(page, encoding="utf-8")
        advance()
    return Report(out, folder / "table.csv", tuple(plots.values()), tuple(tables), tuple(verdicts))


def _read_sweep(folder: Path) -> tuple[Sweep, list[TrialRecord]]:
    """The sweep that ``sweep.json`` describes, and its records only: earlier settings stay out."""
    known = read_records(folder / "records.jsonl")
    sweep, records = None, []
    if (folder / "sweep.json").is_file():
        text = (folder / "sweep.json").read_text(encoding="utf-8")
        sweep = open_sweep(SweepSpec.model_validate_json(text), folder)
        keys = [sweep.key(trial) for trial in sweep.trials]
        records = [known[key] for key in keys if key in known]
    if sweep is None or not records:
        raise UsageError(
            folder,
            expected="a sweep's folder with sweep.json and finished trials in records.jsonl",
            found=f"{len(records)} finished trials",
            do=f"run first: tamis sweep SWEEP.yaml --out {folder}",
        )
    return sweep, records


def _figures(
    tables: list[AccuracyTable], records: list[TrialRecord], table: ScoreTable, bundle: Bundle
) -> dict[str, Figure]:
    figures = {f"accuracy-{part.budget}": accuracy_plot(part) for part in tables}
    scores = {name: column.values for name, column in table.columns.items()}
    figures["histograms"] = histogram_plot(scores)
    rates, keep = _class_rates(records, table)
    if rates:
        names = list(bundle.classes or ())
        names += [str(label) for label in range(len(names), bundle.n_classes)]
        figures["class-keep"] = class_keep_plot(rates, names, keep)
    if len(scores) > 1:
        correlation = rank_correlation(np.stack(list(scores.values())))
        figures["correlation"] = correlation_plot(list(scores), correlation)
    return figures


def _class_rates(
    records: list[TrialRecord], table: ScoreTable
) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Share of each class kept at the smallest keep fraction, averaged over the seeds."""
    pruned = [record for record in records if record.trial.keep < 1]
    if not pruned:
        return {}, 1.0
    keep = min(record.trial.keep for record in pruned)
    sizes = np.bincount(table.labels).astype(np.float64)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for record in sorted(pruned, key=lambda r: (r.trial.metric != "random", r.trial.metric)):
        trial = record.trial
        if trial.keep == keep:
            kept = np.zeros_like(sizes)
            for label, count in record.per_class_kept.items():
                kept[int(label)] = count
            name = trial.metric if trial.side == "random" else f"{trial.metric}, {trial.side}"
            found.setdefault(name, []).append(kept / np.maximum(sizes, 1))
    return {name: np.mean(rates, axis=0) for name, rates in found.items()}, keep


def _save(figure: Figure, path: Path) -> Path:
    for target in (path, path.with_suffix(".svg")):
        with atomic_path(target, overwrite=True) as partial:
            buffer = io.BytesIO()
            # No creation date, so that the same records give the same file.
            dated = {"Date": None} if target.suffix == ".svg" else {}
            figure.savefig(buffer, format=target.suffix[1:], metadata=dated)
            partial.write_bytes(buffer.getvalue())
    return path


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _render(**values: object) -> str:
    import jinja2

    template = files("tamis.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["points"] = lambda share: f"{100 * share:.2f}"
    return environment.from_string(template).render(**values)
