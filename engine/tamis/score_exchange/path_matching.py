"""Whose row it is, by path: exactly, by the end of the path, or by the file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tamis.sources.image_folder import EXTENSIONS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Match", "match_paths"]

_DEEPEST = 100  # folders of an end of a path


@dataclass(frozen=True)
class Match:
    """Which row of a file belongs to which example of a bundle.

    Attributes:
        by: What they were matched by, for people.
        rows: (n,) int64 row of each example, −1 where none or several fit.
        example_hits: (n,) int64 how many rows fit each example.
        row_hits: (m,) int64 how many examples fit each row.
    """

    by: str
    rows: NDArray[np.int64]
    example_hits: NDArray[np.int64]
    row_hits: NDArray[np.int64]

    @property
    def n_matched(self) -> int:
        """Pairs of an example and a row that fit each other and nothing else."""
        return int((self.rows >= 0).sum())

    @property
    def served(self) -> tuple[int, int]:
        """Examples with a row of their own, and examples with any."""
        return self.n_matched, int((self.example_hits > 0).sum())


def match_paths(examples: pa.Array, rows: pa.Array, cover: Literal["examples", "rows"]) -> Match:
    """Match paths by one rule for the whole file.

    The rules, strictest first: the same path; one path is the end of the other, folder by folder
    (``n01/a.JPEG`` and ``train/n01/a.JPEG``); the same without the image's extension. The first
    that serves all examples (or rows) is taken, else the one that serves most. Only where these
    serve none, because no folders agree, file names alone decide.

    A pair counts if neither side fits anything else; otherwise both are ambiguous. O(n + m) for
    each rule and depth of folders.

    Args:
        examples: n source paths, null where unknown.
        rows: m paths of the file.
        cover: What is to be served: every example has a score, or every listed row an example.
    """
    best: Match | None = None
    wanted = len(examples) if cover == "examples" else len(rows)
    for by, form, by_ends in _RULES:
        found = _match(by, form(examples), form(rows), by_ends)
        if found.n_matched == wanted:
            return found
        if best is None or found.served > best.served:
            best = found
    assert best is not None
    if best.example_hits.any():
        return best
    return _match("file name", _name(examples), _name(rows), False)


def _same(paths: pa.Array) -> pa.Array:
    return paths


def _plain(paths: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    slashed = pc.replace_substring(pc.utf8_trim_whitespace(paths), "\\", "/")
    return pc.replace_substring_regex(slashed, r"^(\./)?/*", "")


def _bare(paths: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    endings = "|".join(extension.removeprefix(".") for extension in EXTENSIONS)
    return pc.replace_substring_regex(_plain(paths), rf"(?i)\.({endings})$", "")


def _name(paths: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    return pc.replace_substring_regex(_bare(paths), r"(?s)^.*/", "")


_RULES: tuple[tuple[str, Callable[[pa.Array], pa.Array], bool], ...] = (
    ("path", _same, False),
    ("end of the path", _plain, True),
    ("end of the path without its extension", _bare, True),
)


def _match(by: str, examples: pa.Array, rows: pa.Array, by_ends: bool) -> Match:
    row_hits, example_hits, partner = _find(rows, examples, by_ends)
    if by_ends:
        more_examples, more_rows, example_of = _find(examples, rows, by_ends, proper=True)
        example_hits += more_examples
        row_hits += more_rows
        found = np.flatnonzero(example_of >= 0)
        partner[example_of[found]] = found
    alone = (example_hits == 1) & (partner >= 0)
    alone[alone] = row_hits[partner[alone]] == 1
    return Match(by, np.where(alone, partner, -1), example_hits, row_hits)


_Integers = NDArray[np.int64]


def _find(
    longer: pa.Array, whole: pa.Array, by_ends: bool, *, proper: bool = False
) -> tuple[_Integers, _Integers, _Integers]:
    """Look for the ends of some paths among other paths.

    Args:
        longer: Paths whose ends are looked up.
        whole: Paths to find.
        by_ends: Whether ends count at all, or only the whole path.
        proper: Whether the whole path does not count as an end.

    Returns:
        Hits of each of ``longer``, hits of each of ``whole``, and for each of ``whole`` the place
        of the last of ``longer`` that ends in it, −1 where none does.
    """
    import pyarrow.compute as pc

    encoded = whole.dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(), np.int64)
    known = encoded.dictionary
    counts = np.bincount(codes[codes >= 0], minlength=len(known))
    hits = np.zeros(len(longer), np.int64)
    # One more than known paths: the last place is that of unknown ones.
    found, last = np.zeros(len(known) + 1, np.int64), np.full(len(known) + 1, -1)
    for ends in _ends(longer, known, proper) if by_ends else (longer,):
        at = pc.index_in(ends, value_set=known).fill_null(-1).to_numpy()
        places = np.flatnonzero(at >= 0)
        at = at[places]
        hits[places] += counts[at]
        found[:-1] += np.bincount(at, minlength=len(known))
        last[at] = places
    return hits, found[codes], last[codes]


def _ends(longer: pa.Array, known: pa.Array, proper: bool) -> Iterator[pa.Array]:
    """Ends of paths, of each number of folders that known paths have; null where too short."""
    import pyarrow.compute as pc

    folders = pc.count_substring(longer, "/")
    for depth in np.unique(pc.count_substring(known, "/").to_numpy()).tolist():
        if depth <= _DEEPEST:
            end = pc.extract_regex(longer, rf"(?s)(?P<end>(?:[^/]*/){{{depth}}}[^/]*)$")
            enough = pc.greater_equal(folders, depth + proper)
            yield pc.if_else(enough, pc.struct_field(end, "end"), None)
