"""theory: solve, simulate, curve, figure, plan."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tamis.cli.options import Json, Overwrite, Seed, help_without_command, refuse_no_picture
from tamis.cli.output import pairs, print_json, print_table, show_progress

if TYPE_CHECKING:
    from tamis.theory.noisy import Labels
    from tamis.theory.planning import Choice
    from tamis.theory.tables import Table

__all__ = ["curve", "figure", "plan", "simulate", "solve", "theory"]

theory = typer.Typer(
    name="theory",
    help="The teacher–student perceptron with pruning: solved, simulated, used to plan.",
)
theory.callback(invoke_without_command=True)(help_without_command)

_AlphaTot = Annotated[
    float, typer.Option(help="Examples per dimension before pruning.", show_default=False)
]
_Share = Annotated[float, typer.Option("--keep", help="Share to keep, 0.01 to 1.")]
_Theta = Annotated[
    float, typer.Option(help="Angle between scorer and teacher in degrees, 0 to 60; 0 is perfect.")
]
_Side = Annotated[Literal["hard", "easy", "random"], typer.Option(help="Which examples to keep.")]
_LabelNoise = Annotated[
    float | None,
    typer.Option(
        help="Share of wrong labels, 0 to 0.45; the student is then ridge regression. Default: no"
        " wrong labels, and the max-margin student."
    ),
]
_Ridge = Annotated[
    float | None, typer.Option(help="With --label-noise: the penalty. Default: the best one.")
]
_CheckLabels = Annotated[
    bool,
    typer.Option(
        "--check-labels",
        help="With --label-noise: drop first what the scorer contradicts. --keep counts all.",
    ),
]
_Dim = Annotated[int, typer.Option(help="Dimensions N.")]


def _labels(noise: float | None, checked: bool) -> Labels | None:
    from tamis.errors import UsageError
    from tamis.theory.noisy import Labels

    if noise is None:
        if checked:
            raise UsageError(
                "--check-labels",
                expected="--label-noise with it, which may be 0",
                found="it alone",
                do="add --label-noise, or leave --check-labels out",
            )
        return None
    return Labels(noise, checked)


def _refuse_ignored(because: str, options: dict[str, object]) -> None:
    from tamis.errors import UsageError

    for option, value in options.items():
        if value is not None:
            raise UsageError(
                option,
                expected=f"nothing with {because}",
                found=str(value),
                do="leave one of them out",
            )


@theory.command()
def solve(
    alpha_tot: _AlphaTot,
    keep: _Share = 1.0,
    theta: _Theta = 0.0,
    side: _Side = "hard",
    label_noise: _LabelNoise = None,
    check_labels: _CheckLabels = False,
    ridge: _Ridge = None,
    json: Json = False,
) -> None:
    """Test error, overlaps and margin of the student, for many dimensions."""
    from tamis.theory.points import solve_point

    found = solve_point(
        alpha_tot, keep, theta, side, labels=_labels(label_noise, check_labels), ridge=ridge
    )
    if json:
        print_json(asdict(found))
        return
    shown: dict[str, object] = {
        "test error": f"{found.error:.6g}",
        "R, overlap with the teacher": f"{found.R:.6g}",
        "rho, overlap with the scorer": f"{found.rho:.6g}",
        "kept per dimension": f"{found.alpha_prune:g}",
    }
    if label_noise is None:
        shown |= {"kappa, the margin": f"{found.kappa:.6g}", "residual": f"{found.residual:.1e}"}
    else:
        shown |= {"ridge": f"{found.ridge:.4g}"}
    pairs(shown)


@theory.command()
def simulate(
    alpha_tot: _AlphaTot,
    keep: _Share = 1.0,
    theta: _Theta = 0.0,
    side: _Side = "hard",
    dim: _Dim = 200,
    trials: Annotated[int, typer.Option(help="Independent training sets.")] = 40,
    label_noise: _LabelNoise = None,
    check_labels: _CheckLabels = False,
    ridge: _Ridge = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: all cores.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The same by training exact students on drawn sets."""
    from tamis.theory.points import simulate_point, solve_point
    from tamis.theory.simulation import Setting

    setting = Setting(n_dims=dim, trials=trials, seed=seed, workers=workers)
    solved = solve_point(
        alpha_tot, keep, theta, side, labels=_labels(label_noise, check_labels), ridge=ridge
    )
    with show_progress() as progress:
        found = simulate_point(solved, setting, progress=progress)
    if json:
        print_json(asdict(found) | {"solved": asdict(solved)})
        return
    rows = [
        [name, f"{getattr(found, name):.6f}", f"{getattr(found, f'{name}_se'):.6f}",
         f"{getattr(solved, name):.6f}"]
        for name in ("error", "R", "rho", "kappa")
        if name != "kappa" or label_noise is None
    ]  # fmt: skip
    title = f"{trials} trials, {found.n_kept:,} of {found.n_total:,} examples in {dim} dimensions"
    print_table(["", "mean", "standard error", "solved"], rows, title)


@theory.command()
def curve(
    quantity: Annotated[
        Literal["error", "envelope", "information", "phase", "crossover"],
        typer.Option(
            help="error: for each share and size; envelope: the best share for each size;"
            " information: nats per example; phase: error of the hardest minus that of the easiest;"
            " crossover: from which alpha_tot on the hardest win."
        ),
    ] = "error",
    sizes: Annotated[
        str | None,
        typer.Option(
            help="alpha_prune (of phase: alpha_tot), as 1,2,5 or LOW:HIGH:COUNT. Default:"
            " 0.5:20:25."
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Shares, as sizes. Default: 1,0.5,0.2,0.1.")
    ] = None,
    theta: Annotated[
        str | None, typer.Option(help="Angles in degrees, as sizes. Default: 0.")
    ] = None,
    side: Annotated[
        Literal["hard", "easy", "random"] | None, typer.Option(help="Default: hard.")
    ] = None,
    alpha_tot: Annotated[
        float | None, typer.Option(help="Of envelope: the largest stock. Default: 100 × size.")
    ] = None,
    label_noise: _LabelNoise = None,
    check_labels: _CheckLabels = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the table as CSV. Default: to the terminal.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Tables of the theory as CSV, or with --json as rows."""
    from tamis.atomic import refuse_existing, refuse_other_suffix
    from tamis.theory.tables import Grid, make_table

    if out is not None:
        refuse_other_suffix(out, ".csv")
        refuse_existing(out, overwrite)
    grid = Grid.of(
        quantity, sizes=sizes, keep=keep, theta=theta, side=side, alpha_tot=alpha_tot,
        labels=_labels(label_noise, check_labels),
    )  # fmt: skip
    table = make_table(grid)
    if out is not None:
        _write_csv(table, out, overwrite)
    if json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        print_json({"quantity": quantity, "rows": rows, "csv": str(out) if out else None})
    elif out is not None:
        print(f"{out}: {len(table.rows):,} rows")
    else:
        print(table.csv(), end="")


def _write_csv(table: Table, out: Path, overwrite: bool) -> None:
    from tamis.atomic import atomic_path

    with atomic_path(out, overwrite=overwrite) as partial:
        partial.write_text(table.csv(), encoding="utf-8")


@theory.command()
def figure(
    number: Annotated[
        int, typer.Argument(min=1, max=2, help="1: perfect metric; 2: imperfect.", metavar="1|2")
    ],
    out: Annotated[Path, typer.Option(help="A .png, .svg or .pdf file.", show_default=False)],
    simulation: Annotated[
        bool, typer.Option("--simulation/--no-simulation", help="Dots beside the curves.")
    ] = True,
    dim: Annotated[int | None, typer.Option(help="Dimensions of the dots. Default: 200.")] = None,
    trials: Annotated[int | None, typer.Option(help="Of each dot. Default: 20.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads. Default: all cores.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the dots. Default: 0.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw the paper's theoretical figure 1 or 2."""
    from tamis.atomic import atomic_path, refuse_existing
    from tamis.theory.figures import draw_figure
    from tamis.theory.simulation import Setting

    refuse_no_picture("--out", out)
    refuse_existing(out, overwrite)
    setting = None
    if simulation:
        setting = Setting(
            n_dims=200 if dim is None else dim,
            trials=20 if trials is None else trials,
            seed=seed or 0,
            workers=workers,
        )
    else:
        _refuse_ignored(
            "--no-simulation",
            {"--dim": dim, "--trials": trials, "--workers": workers, "--seed": seed},
        )
    start = time.perf_counter()
    with show_progress() as progress:
        drawn = draw_figure(2 if number == 2 else 1, setting, progress=progress)
    with atomic_path(out, overwrite=overwrite) as partial:
        drawn.savefig(partial, format=out.suffix[1:])
    seconds = time.perf_counter() - start
    if json:
        print_json({"figure": str(out.resolve()), "seconds": seconds})
    else:
        print(f"{out}: drawn in {seconds:.0f} s")


@theory.command()
def plan(
    alpha_tot: _AlphaTot,
    theta: _Theta = 0.0,
    keep: Annotated[
        float | None, typer.Option(help="A share that is given; then only the side is chosen.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Relative error that a smaller set may cost. Default: 0.05."),
    ] = None,
    label_noise: _LabelNoise = None,
    check_labels: _CheckLabels = False,
    json: Json = False,
) -> None:
    """Which side to keep, and how much."""
    from tamis.theory.planning import make_plan

    if keep is not None:
        _refuse_ignored("--keep", {"--tolerance": tolerance})
    found = make_plan(
        alpha_tot, theta, keep=keep, tolerance=0.05 if tolerance is None else tolerance,
        labels=_labels(label_noise, check_labels),
    )  # fmt: skip
    if json:
        chosen: dict[str, Any] = asdict(found.chosen)
        print_json(chosen | asdict(found) | {"words": found.words})
        return
    print(found.words)
    choices: list[Choice] = [found.chosen, *found.rivals, found.best, found.full]
    rows = [[c.side, f"{c.keep:.3f}", f"{c.error:.5f}"] for c in dict.fromkeys(choices)]
    print_table(["side", "keep", "test error"], rows)
