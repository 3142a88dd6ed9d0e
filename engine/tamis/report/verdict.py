"""What a table shows about keeping the hardest, in plain sentences."""

from __future__ import annotations

from tamis.report.summary import AccuracyTable, Difference, Row

__all__ = ["verdict"]

_Compared = tuple[Row, float, Difference]


def verdict(table: AccuracyTable) -> list[str]:
    """What the table shows about keeping the hardest.

    A difference counts where the paired t-test's p is below 5 %; how many remain after Holm's
    correction is said, because of many comparisons one in twenty does so by chance.
    """
    compared = [
        (row, keep, cell.minus_random)
        for row, keep, cell in table.cells
        if row.side == "hard" and cell.minus_random is not None
    ]
    if not compared:
        return ["Nothing was compared with random on the hard side."]
    if all(difference.interval.n < 2 for _, _, difference in compared):
        return ["One seed says nothing about chance: run at least two to compare with random."]
    decided = [entry for entry in compared if entry[2].is_decided]
    better = [entry for entry in decided if entry[2].interval.mean > 0]
    worse = [entry for entry in decided if entry[2].interval.mean < 0]
    sentences = []
    if better:
        sentences.append("Keeping the hardest beats random at " + _listed(better) + ".")
    else:
        metrics = " or ".join(dict.fromkeys(row.metric for row, _, _ in compared))
        sentences.append(f"Keeping the hardest by {metrics} beat random nowhere in this sweep.")
    if worse:
        sentences.append("Keeping the hardest is worse than random at " + _listed(worse) + ".")
    n_stay = sum(difference.stays_decided for _, _, difference in decided)
    corrected = (
        f"; {n_stay} of them remain after Holm's correction for the table's {table.n_compared}"
    )
    sentences.append(
        f"Counted are paired 95 % intervals that exclude zero, {len(decided)} of {len(compared)}"
        f" comparisons, and about one in twenty does by chance{corrected if decided else ''}."
    )
    return sentences


def _listed(entries: list[_Compared]) -> str:
    by_size = sorted(entries, key=lambda entry: -abs(entry[2].interval.mean))
    return "; ".join(
        f"{row.metric}, keep {keep:g} ({100 * d.interval.mean:+.2f} ±"
        f" {100 * d.interval.half_width:.2f} points)"
        for row, keep, d in by_size
    )
