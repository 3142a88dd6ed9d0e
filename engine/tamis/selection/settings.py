"""How examples are chosen: the options, their ranges, and which side uses which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tamis.errors import UsageError

__all__ = ["MOST_STRATA", "SelectionSettings", "Side"]

Side = Literal["hard", "easy", "random", "stratified", "moderate", "d2"]

MOST_STRATA = 1000
"""Of ``stratified``; Zheng et al. use 50."""

# What a side uses besides what all sides use, with its value where none is given.
_OWN: dict[str, dict[str, float]] = {
    "stratified": {"hardest_cut": 0.0, "strata": 50},
    "d2": {"hardest_cut": 0.0, "neighbours": 10, "gamma": 0.1},
}


@dataclass(frozen=True)
class SelectionSettings:
    """How examples are chosen.

    Attributes:
        metric: Column of the score table; None with ``side="random"``.
        keep: Share to keep, 0 < keep ≤ 1; or None with ``count``.
        count: Number to keep; or None with ``keep``.
        side: ``hard`` keeps the highest scores, ``easy`` the lowest, ``random`` looks at none,
            ``stratified`` keeps some of every score
            (:func:`tamis.selection.strata.choose_stratified`), ``moderate`` those around the
            median (:func:`tamis.selection.moderate.choose_moderate`), ``d2`` hard ones that differ
            (:func:`tamis.selection.message_passing.choose_d2`).
        class_balance: b from 0 to 1: each class keeps at least this share of what it would keep
            if every class kept the same share.
        seed: Of ties and of random draws.
        hardest_cut: Share of all examples, the hardest, dropped before ``stratified`` or ``d2``
            chooses: 0 ≤ cut < 1, and keep ≤ 1 − cut. Default there: 0.
        strata: Of ``stratified``: parts of the range of scores, 1 to 1000. Default there: 50.
        neighbours: Of ``d2``: k of the graph, k ≥ 1. Default there: 10.
        gamma: Of ``d2``: γ ≥ 0; the larger, the closer an example must be to a kept one to be held
            for a repetition. Default there: 0.1.

    Raises:
        UsageError: Values out of range or in contradiction, or options that the side has no use
            for.
    """

    metric: str | None = None
    keep: float | None = None
    count: int | None = None
    side: Side = "hard"
    class_balance: float = 0.0
    seed: int = 0
    hardest_cut: float | None = None
    strata: int | None = None
    neighbours: int | None = None
    gamma: float | None = None

    def __post_init__(self) -> None:
        self._check_amount()
        self._check_choice()
        own = _OWN.get(self.side, {})
        for name in dict.fromkeys(name for options in _OWN.values() for name in options):
            if getattr(self, name) is None:
                # Frozen from here on: records then say what was used, not what was typed.
                object.__setattr__(self, name, own.get(name))
            elif name not in own:
                users = [side for side, options in _OWN.items() if name in options]
                raise UsageError(
                    f"--{name.replace('_', '-')}",
                    expected=f"none with --side {self.side}, which has no use for it",
                    found=f"{getattr(self, name):g}",
                    do=f"leave it out, or pass --side {' or '.join(users)}",
                )
        self._check_own()

    def _check_amount(self) -> None:
        if (self.keep is None) == (self.count is None):
            raise UsageError(
                "--keep, --prune, --count",
                expected="exactly one of them",
                found="none" if self.keep is None else "several",
                do="pass for example --keep 0.7",
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UsageError(
                "keep fraction",
                expected="0 < keep ≤ 1, the share that is kept",
                found=f"{self.keep:g}",
                do="pass for example --keep 0.7 (or --prune 0.3, which is the same)",
            )

    def _check_choice(self) -> None:
        sides = get_args(Side)
        if self.side not in sides:
            raise UsageError(
                "--side", expected=" or ".join(sides), found=self.side, do="choose one of them"
            )
        if not 0 <= self.class_balance <= 1:
            raise UsageError(
                "--class-balance",
                expected="0 (none) to 1 (the same share of every class)",
                found=f"{self.class_balance:g}",
                do="the paper's ImageNet benchmark uses 0.5",
            )
        if self.side != "random" and self.metric is None:
            raise UsageError(
                "--metric",
                expected="a metric for every side but random",
                found="none",
                do="pass --metric NAME, or --side random",
            )

    def _check_own(self) -> None:
        cut = self.hardest_cut
        if cut is not None and not 0 <= cut < 1:
            raise UsageError(
                "--hardest-cut",
                expected="0 ≤ cut < 1, the share of the hardest that is dropped first",
                found=f"{cut:g}",
                do="pass for example --hardest-cut 0.1",
            )
        if cut is not None and self.keep is not None and self.keep > 1 - cut + 1e-9:
            raise UsageError(
                "--hardest-cut",
                expected=f"at most {1 - self.keep:.6g}, which leaves {self.keep:.6g} to keep",
                found=f"{cut:g}",
                do="drop less or keep less",
            )
        if self.strata is not None and not 1 <= self.strata <= MOST_STRATA:
            raise UsageError(
                "--strata",
                expected=f"1 to {MOST_STRATA} parts of the range of scores",
                found=str(self.strata),
                do="50 is usual",
            )
        if self.neighbours is not None and self.neighbours < 1:
            raise UsageError(
                "--neighbours",
                expected="1 or more of every example",
                found=str(self.neighbours),
                do="5 to 15 are usual",
            )
        if self.gamma is not None and not 0 <= self.gamma < math.inf:
            raise UsageError(
                "--gamma", expected="0 or more", found=f"{self.gamma:g}", do="0.1 to 1 are usual"
            )
