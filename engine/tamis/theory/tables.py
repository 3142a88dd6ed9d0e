"""Tables of the theory: which quantity, on which grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tamis.errors import UsageError
from tamis.theory.curves import best_keep
from tamis.theory.domain import KEEP, Side, check_range
from tamis.theory.information import gibbs_information, paper_information
from tamis.theory.noisy import Labels
from tamis.theory.phases import crossover, phase_map
from tamis.theory.points import solve_point
from tamis.theory.solver import solve

__all__ = ["Grid", "Quantity", "Table", "make_table"]

Quantity = Literal["error", "envelope", "information", "phase", "crossover"]

_Array = NDArray[np.float64]
_Rows = Iterator[tuple[float | str | None, ...]]

_MOST_ROWS = 1_000_000

# Which options a quantity looks at.
_USES: dict[str, tuple[str, ...]] = {
    "error": ("sizes", "keep", "theta", "side", "labels"),
    "envelope": ("sizes", "theta", "side", "alpha_tot"),
    "information": ("sizes", "keep"),
    "phase": ("sizes", "keep", "theta", "labels"),
    "crossover": ("keep", "theta", "labels"),
}
_OPTIONS = {"labels": "--label-noise", "alpha_tot": "--alpha-tot"}


@dataclass(frozen=True)
class Grid:
    """What to tabulate.

    Attributes:
        quantity: See :func:`make_table`.
        sizes: (n,) alpha_prune; of ``phase`` alpha_tot.
        keep, theta: (m,) shares and (k,) angles in degrees.
        side: Which examples are kept.
        alpha_tot: The largest stock of ``envelope``.
        labels: Those of the ridge student; None for the max-margin student.
    """

    quantity: Quantity
    sizes: _Array
    keep: _Array
    theta: _Array
    side: Side = "hard"
    alpha_tot: float | None = None
    labels: Labels | None = None

    @staticmethod
    def of(
        quantity: Quantity,
        *,
        sizes: str | None = None,
        keep: str | None = None,
        theta: str | None = None,
        side: Side | None = None,
        alpha_tot: float | None = None,
        labels: Labels | None = None,
    ) -> Grid:
        """From texts such as ``1,2,5`` or ``LOW:HIGH:COUNT``; None for the usual values.

        Raises:
            UsageError: A text that is neither, or an option that the quantity does not look at.
        """
        given = {
            "sizes": sizes, "keep": keep, "theta": theta, "side": side, "alpha_tot": alpha_tot,
            "labels": labels,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None and name not in _USES[quantity]:
                raise UsageError(
                    _OPTIONS.get(name, f"--{name}"),
                    expected=f"nothing for {quantity}",
                    found=str(value),
                    do="leave it out",
                )
        # With all kept, the two sides are the same.
        shares = "0.5,0.2,0.1" if quantity == "crossover" else "1,0.5,0.2,0.1"
        return Grid(
            quantity,
            _numbers("--sizes", sizes or "0.5:20:25"),
            _numbers("--keep", keep or shares),
            _numbers("--theta", theta or "0"),
            side or "hard",
            alpha_tot,
            labels,
        )


@dataclass(frozen=True)
class Table:
    """Columns and rows; None where a quantity has no value."""

    columns: tuple[str, ...]
    rows: list[tuple[float | str | None, ...]]

    def csv(self) -> str:
        """As comma-separated lines, the first with the names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(f"{v:.10g}" if isinstance(v, float) else v for v in row)
        return text.getvalue()


def make_table(grid: Grid) -> Table:
    """Tabulate.

    ``error``: error, R, rho, kappa for each angle, share and size. ``envelope``: the best share and
    its error. ``information``: nats per example, with two overlaps and as the paper has it.
    ``phase``: error of the hardest minus error of the easiest. ``crossover``: alpha_tot from which
    on the hardest are better than the easiest, and than as many random ones; empty where they
    always or never are.

    Raises:
        UsageError: A value outside of the domain, or more than a million rows.
    """
    n_rows = len(grid.sizes) * len(grid.keep) * len(grid.theta)
    if n_rows > _MOST_ROWS:
        raise UsageError(
            "the table", expected="at most a million rows", found=f"{n_rows:,}", do="ask for fewer"
        )
    check_range("keep", grid.keep, KEEP)
    columns, rows = _TABLES[grid.quantity]
    plain = ([_plain(value) for value in row] for row in rows(grid))
    return Table(columns, [tuple(row) for row in plain])


def _errors(grid: Grid) -> _Rows:
    if grid.labels is None:
        theta, keep = grid.theta[:, None, None], grid.keep[:, None]
        found = solve(grid.sizes / keep, keep, theta, grid.side)
        columns = np.broadcast_arrays(
            theta, keep, grid.sizes, found.error, found.R, found.rho, found.kappa
        )
        for row in zip(*(column.ravel() for column in columns), strict=True):
            yield (grid.side, *row)
        return
    for theta in grid.theta:
        for keep in grid.keep:
            for size in grid.sizes:
                one = solve_point(size / keep, keep, theta, grid.side, labels=grid.labels)
                yield grid.side, theta, keep, size, one.error, one.R, one.rho, None


def _envelopes(grid: Grid) -> _Rows:
    for theta in grid.theta:
        best = best_keep(grid.sizes, theta, grid.side, largest_alpha_tot=grid.alpha_tot)
        for size, keep, error in zip(best.alpha_prune, best.keep, best.error, strict=True):
            yield grid.side, theta, size, keep, error


def _information(grid: Grid) -> _Rows:
    for keep in grid.keep:
        exact = gibbs_information(grid.sizes, keep)
        formula = paper_information(exact.R, keep)
        for row in zip(grid.sizes, exact.information, formula, exact.q, exact.R, strict=True):
            yield (keep, *row)


def _phases(grid: Grid) -> _Rows:
    for theta in grid.theta:
        lead = phase_map(grid.sizes, grid.keep, theta, grid.labels)
        for place, keep in enumerate(grid.keep):
            for size, value in zip(grid.sizes, lead[place], strict=True):
                yield theta, keep, size, value


def _crossovers(grid: Grid) -> _Rows:
    theta, keep = grid.theta[:, None], grid.keep
    easy = crossover(keep, theta, "easy", grid.labels)
    random = crossover(keep, theta, "random", grid.labels)
    columns = np.broadcast_arrays(theta, keep, easy, random)
    yield from zip(*(column.ravel() for column in columns), strict=True)


_TABLES: dict[str, tuple[tuple[str, ...], Callable[[Grid], _Rows]]] = {
    "error": (("side", "theta", "keep", "alpha_prune", "error", "R", "rho", "kappa"), _errors),
    "envelope": (("side", "theta", "alpha_prune", "keep", "error"), _envelopes),
    "information": (
        ("keep", "alpha_prune", "information", "paper_information", "q", "R"),
        _information,
    ),
    "phase": (("theta", "keep", "alpha_tot", "hard_minus_easy"), _phases),
    "crossover": (("theta", "keep", "alpha_tot_easy", "alpha_tot_random"), _crossovers),
}


def _plain(value: float | str | None) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    return None if np.isnan(value) else float(value)


def _numbers(option: str, text: str) -> _Array:
    """``1,2,5``, or ``LOW:HIGH:COUNT`` spaced evenly in the logarithm (from 0 on: evenly)."""
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        low, high, count = text.split(":")
        ends, n = (float(low), float(high)), int(count)
        if not (1 <= n <= _MOST_ROWS and 0 <= ends[0] <= ends[1] < np.inf):
            raise ValueError
        return np.geomspace(*ends, n) if ends[0] > 0 else np.linspace(*ends, n)
    except ValueError:
        raise UsageError(
            option,
            expected="numbers as 1,2,5, or LOW:HIGH:COUNT with 0 ≤ LOW ≤ HIGH",
            found=text,
            do=f"write for example {option} 0.5:20:25",
        ) from None
