"""The report of a sweep: one HTML file that needs no network, and its tables and plots as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tamis.atomic import atomic_path, refuse_existing
from tamis.benchmarks.records import FIGURE_HEADERS
from tamis.errors import UsageError
from tamis.progress import QUIET, Progress
from tamis.report.csv_file import write_csv
from tamis.report.figures import Plot, draw_plots, save_plot
from tamis.report.gallery import gallery
from tamis.report.latex import latex_tables
from tamis.report.laws import scaling_studies
from tamis.report.provenance import provenance
from tamis.report.sections import make_sections
from tamis.report.summary import AccuracyTable, summarise
from tamis.report.throughput import read_throughput
from tamis.sweep.results import SweepResults, next_step, read_results
from tamis.sweep.scoring import scoring_seconds

__all__ = ["Report", "read_sweep", "write_report"]


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Attributes:
        html: The page.
        csv: The accuracy tables, one line a cell.
        latex: The same for papers.
        plots: PNG files; an SVG lies beside each.
        tables: What the page shows, for printing.
        verdicts: What it says about the hard side, one list per table.
    """

    html: Path
    csv: Path
    latex: Path
    plots: tuple[Path, ...]
    tables: tuple[AccuracyTable, ...]
    verdicts: tuple[list[str], ...]


def write_report(
    folder: Path,
    *,
    bench: Path | None = None,
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> Report:
    """Write ``report.html``, ``table.csv``, ``table.tex`` and the plots into a sweep's folder.

    The page is put in place last: where it stands, the files beside it are of the same call.

    Args:
        folder: Holds ``sweep.json`` and ``records.jsonl``.
        bench: Records of ``tamis bench``, of which the page is to show the last.
        overwrite: Replace an existing report.
        progress: Told of every part.

    Raises:
        UsageError: No finished trials there, a report that stands already, or no record.
        TamisError: A bundle or score table of the sweep that is no longer as it was.
    """
    results = read_sweep(folder)
    sweep, records = results.sweep, results.records
    bundle, table = sweep.train, sweep.table(max(sweep.spec.sizes))
    out, csv, tex = folder / "report.html", folder / "table.csv", folder / "table.tex"
    refuse_existing(out, overwrite)
    throughput = read_throughput(bench) if bench else None
    # What is on record of a table from elsewhere is an earlier state of the sweep's.
    scoring = scoring_seconds(folder) if sweep.spec.scores is None else {}
    with progress.task("report", 3) as advance:
        sections = make_sections(summarise(records), scoring, results.given_up)
        tables = [part for section in sections for part in section.tables]
        pictures = gallery(bundle, table)
        advance()
        studies = scaling_studies(sections, records, sweep.test.n_examples, progress=progress)
        figures = draw_plots(sections, studies, records, table, bundle)
        plots = {
            name: save_plot(figure, folder / f"{name}.png") for name, figure in figures.items()
        }
        advance()
        write_csv([cell for part in sections for cell in part.cells], bundle.class_names, csv)
        with atomic_path(tex, overwrite=True) as partial:
            partial.write_text(latex_tables(tables, bundle.class_names), encoding="utf-8")
        page = _render(
            name=sweep.spec.train.name,
            spec=sweep.spec,
            records=records,
            bundle=bundle,
            n_trials=len(sweep.trials),
            left_out=results.left_out,
            stopped=results.stopped,
            given_up=results.given_up,
            sections=sections,
            laws={name: study.words for name, study in studies.items()},
            plots=plots,
            class_plots=_class_plots(plots),
            gallery=pictures,
            has_scoring=bool(scoring),
            throughput=throughput,
            figure_headers=FIGURE_HEADERS,
            seconds=results.seconds,
            provenance=provenance(sweep, records, table, folder),
        )
        with atomic_path(out, overwrite=overwrite) as partial:
            partial.write_text(page, encoding="utf-8")
        advance()
    verdicts = tuple(sentences for section in sections for sentences in section.verdicts)
    paths = tuple(plot.png for plot in plots.values())
    return Report(out, csv, tex, paths, tuple(tables), verdicts)


def read_sweep(folder: Path) -> SweepResults:
    """What came of the sweep in a folder, of which there has to be something to show.

    Raises:
        UsageError: No finished trials there.
        TamisError: As :func:`tamis.sweep.results.read_results`.
    """
    results = read_results(folder) if (folder / "sweep.json").is_file() else None
    if results is not None and results.records:
        return results
    given_up = results is not None and bool(results.stopped)
    raise UsageError(
        folder,
        expected="a sweep's folder with sweep.json and finished trials in records.jsonl",
        found="0 finished trials" + (" in cells that were not given up" if given_up else ""),
        do=next_step(folder, given_up=given_up),
    )


def _class_plots(plots: dict[str, Plot]) -> dict[str, Plot]:
    return {name: plot for name, plot in plots.items() if name.startswith("class-keep-")}


def _render(**values: object) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tamis.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = lambda share: f"{100 * share:.2f}"
    environment.filters["signed"] = lambda share: f"{100 * share:+.2f}".replace("-", "−")
    environment.filters["p"] = _p_text
    return environment.get_template("page.html.j2").render(**values)


def _p_text(p: float) -> str:
    """A p-value for people: two digits, an en dash where there is none."""
    if p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
