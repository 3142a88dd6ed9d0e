"""Scores of other people's files find their examples, or are refused; and go out unchanged."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from command_line import tamis
from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.merge import merge
from tamis.bundles.opening import open_bundle
from tamis.errors import ScoreTableError, TamisError, UsageError
from tamis.score_exchange.exporting import export_list, export_scores
from tamis.score_exchange.formats import read_raw_scores
from tamis.score_exchange.importing import ImportReport, import_scores
from tamis.score_exchange.path_matching import Match, match_paths
from tamis.score_exchange.settings import ImportSettings
from tamis.score_exchange.tensor_pickle import load_arrays
from tamis.score_table import ScoreColumn, ScoreTable, read_score_table, unscored_table
from tamis.selection.files import write_selection
from tamis.selection.selecting import select
from tamis.selection.settings import SelectionSettings

HARDER = ImportSettings(higher=("harder",))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def digits(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def sample(sample_bundle: Path) -> Bundle:
    return open_bundle(sample_bundle)


def paths_of(bundle: Bundle) -> list[str]:
    assert bundle.paths is not None
    found: list[str] = bundle.paths.to_pylist()
    return found


def table_of(bundle: Bundle, **columns: Any) -> ScoreTable:
    table = unscored_table(bundle)
    for name, values in columns.items():
        table.columns[name] = ScoreColumn(np.asarray(values, np.float32))
    return table


def imported(bundle: Bundle, file: Path, settings: ImportSettings = HARDER) -> ImportReport:
    return import_scores(bundle, file, settings)


def bits(values: Any) -> list[int]:
    found: list[int] = np.asarray(values, np.float32).view(np.uint32).tolist()
    return found


# Round trips.


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pickle", ".pkl"])
@given(st.data())
def test_what_goes_out_comes_back_bit_by_bit(sample: Bundle, suffix: str, data: Any) -> None:
    n = sample.n_examples
    columns = {"el2n": data.draw(st.lists(FLOATS, min_size=n, max_size=n))}
    if suffix != ".npy":
        columns['a metric, "odd"'.replace(",", "")] = columns["el2n"][::-1]
    table = table_of(sample, **columns)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"el2n{suffix}"
        done = export_scores(table, file)
        assert (done.metrics, done.n_examples) == (tuple(columns), n)
        assert done.bytes == file.stat().st_size
        back = imported(sample, file)
    assert list(back.table.columns) == list(columns)
    for name, values in columns.items():
        assert bits(back.table.columns[name].values) == bits(values)
    assert np.array_equal(back.table.example_ids, table.example_ids)
    assert back.table.bundle_digest == sample.digest


def test_a_list_of_kept_paths_comes_back_as_ones(digits: Bundle, tmp_path: Path) -> None:
    table = table_of(digits, m=np.random.default_rng(0).random(digits.n_examples))
    chosen = select(table, SelectionSettings("m", keep=0.3))
    write_selection(chosen, tmp_path / "kept.parquet")
    done = export_list(table, tmp_path / "kept.parquet", tmp_path / "kept.txt")
    lines = (tmp_path / "kept.txt").read_text().splitlines()
    assert done.n_examples == len(lines) == len(chosen.example_ids)
    first = int(chosen.example_ids[0])
    assert lines[0] == f"{paths_of(digits)[first]} {digits.labels[first]}"
    for listed, kept in (("kept", 1), ("removed", 0)):
        back = imported(digits, tmp_path / "kept.txt", ImportSettings(listed=listed))  # type: ignore[arg-type]
        values = back.table.columns["kept"].values
        assert np.array_equal(values == kept, np.isin(digits.example_ids, chosen.example_ids))
        assert set(values.tolist()) == {0, 1}
        assert back.table.columns["kept"].info["flipped"] is (listed == "removed")
    assert (back.n_rows, back.n_used, back.matched_by) == (len(lines), len(lines), "path")


def test_a_pickle_is_what_ccs_computes_with(digits: Bundle, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(digits.n_examples, np.float32)
    export_scores(table_of(digits, el2n=scores), tmp_path / "data-score.pickle")
    with (tmp_path / "data-score.pickle").open("rb") as stream:
        loaded = pickle.load(stream)
    order = loaded["el2n"].argsort(descending=True)
    assert np.array_equal(order.numpy(), np.argsort(-scores))
    assert loaded["targets"].tolist() == digits.labels.tolist()


# Formats of others.


def test_the_authors_files(sample: Bundle, tmp_path: Path) -> None:
    """rgeirhos/dataset-pruning-metrics: a header, a row number, the image's name, its score."""
    names = [path.rpartition("/")[2] for path in paths_of(sample)]
    order = np.random.default_rng(3).permutation(sample.n_examples)
    rows = [f"{k},{names[i]},{i + 0.25}" for k, i in enumerate(order)]
    file = tmp_path / "ImageNet-1K_EL2N-1-model.csv"
    file.write_text("\n".join([",image_name,score", *rows, "9,n01440764_1.JPEG,3"]) + "\n")
    done = imported(sample, file)
    column = done.table.columns["ImageNet-1K_EL2N-1-model"]
    assert column.values.tolist() == [i + 0.25 for i in range(sample.n_examples)]
    assert (done.n_rows, done.n_used) == (sample.n_examples + 1, sample.n_examples)
    assert done.matched_by == "end of the path"
    assert done.ignored == ("(unnamed)",)
    assert column.info.pop("file_digest").startswith("sha256:")
    assert column.info == {
        "metric": "ImageNet-1K_EL2N-1-model",
        "column": "ImageNet-1K_EL2N-1-model",
        "high_means": "harder",
        "flipped": False,
        "labels_used": "unknown",
        "imported_from": "ImageNet-1K_EL2N-1-model.csv",
        "format": "csv",
        "matched_by": "end of the path",
    }


def ccs_scores(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The dtypes of CCS's generate_importance_score.py."""
    generator = torch.Generator().manual_seed(0)
    n = bundle.n_examples
    return {
        "targets": torch.tensor(bundle.labels).type(torch.int32),
        "forgetting": torch.randint(0, 9, (n,), generator=generator).type(torch.int32),
        "accumulated_margin": torch.randn(n, generator=generator),
        "el2n": torch.rand(n, generator=generator),
    }


def write_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def save_old(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_pickle, "x.pickle"), (torch.save, "x.pt"), (save_old, "x.pth")],
)
def test_ccs_pickles_and_files_of_torch(
    digits: Bundle, tmp_path: Path, write: Callable[[Any, Path], None], name: str
) -> None:
    scores = ccs_scores(digits)
    write(scores, tmp_path / name)
    settings = ImportSettings(
        metrics=("el2n", "forgetting", "aum=accumulated_margin"), higher=("harder", "aum=easier")
    )
    done = imported(digits, tmp_path / name, settings)
    columns = done.table.columns
    assert list(columns) == ["el2n", "forgetting", "aum"]
    assert bits(columns["el2n"].values) == bits(scores["el2n"])
    assert columns["forgetting"].values.tolist() == scores["forgetting"].tolist()
    assert columns["aum"].values.tolist() == (-scores["accumulated_margin"]).tolist()
    info = columns["aum"].info
    assert (info["flipped"], info["column"]) == (True, "accumulated_margin")


def test_other_order_is_told_by_the_targets(digits: Bundle, tmp_path: Path) -> None:
    scores = ccs_scores(digits)
    write_pickle(scores | {"targets": scores["targets"].flip(0)}, tmp_path / "x.pickle")
    settings = ImportSettings(metrics=("el2n",), higher=("harder",))
    with pytest.raises(ScoreTableError, match=r"labels that fit.*matched by order, found examples"):
        imported(digits, tmp_path / "x.pickle", settings)
    trusted = ImportSettings(("el2n",), ("harder",), ignore_labels=True)
    assert imported(digits, tmp_path / "x.pickle", trusted).n_used == digits.n_examples
    # The same classes under other numbers, or in pairs, are no contradiction.
    for targets in (9 - scores["targets"], scores["targets"] // 2):
        write_pickle(scores | {"targets": targets}, tmp_path / "x.pickle")
        assert imported(digits, tmp_path / "x.pickle", settings).matched_by == "order"
    write_pickle(scores | {"targets": scores["targets"][1:]}, tmp_path / "x.pickle")
    with pytest.raises(ScoreTableError, match="found 1,346 in labels"):
        imported(digits, tmp_path / "x.pickle", settings)


def test_labels_beside_the_scores_are_compared(digits: Bundle, tmp_path: Path) -> None:
    labels, paths = digits.labels.tolist(), paths_of(digits)

    def lines(folder: str, labels: list[Any]) -> None:
        rows = [f"{folder}{p},{c},1" for p, c in zip(paths, labels, strict=True)]
        (tmp_path / "x.csv").write_text("\n".join(["path,class,score", *rows]))

    for named in (labels, [f"digit {label}" for label in labels]):
        lines("train/", named)
        assert imported(digits, tmp_path / "x.csv").matched_by == "end of the path"
        lines("train/", named[::-1])
        with pytest.raises(ScoreTableError, match=r"matched by end of the path, found examples of"):
            imported(digits, tmp_path / "x.csv")
        lines("", named[::-1])  # the very same paths: whoever wrote other labels may mean them
        assert imported(digits, tmp_path / "x.csv").matched_by == "path"


TEXTS = {
    "path,score": "path,score\n{p0},0.5\n{p1},-1e-3\n{p2},7\n",
    "no header": "{p0},0.5\n{p1},-1e-3\n{p2},7\n",
    "tabs": "score\tfile\n0.5\t{p0}\n-1e-3\t{p1}\n7\t{p2}\n",
    "semicolons": "{p0};0.5\r\n{p1};-1e-3\r\n{p2};7\r\n",
    "spaces": "{p0} 0.5\n{p1} -1e-3\n{p2} 7",
    "quoted": '"path","score"\n"{p0}",0.5\n"{p1}",-1e-3\n"{p2}",7\n',
    "blanks": "path, score\n{p0}, 0.5\n{p1}, -1e-3\n{p2}, 7\n",
    "byte order mark": "\ufeffpath,score\n{p0},0.5\n{p1},-1e-3\n{p2},7\n",
    "other order": "path,score\n{p2},7\n{p0},0.5\n{p1},-1e-3\n",
    "row numbers": "1,{p0},0.5\n2,{p1},-1e-3\n3,{p2},7\n",
    "example ids": "example_id,score\n{i2},7\n{i1},-1e-3\n{i0},0.5\n",
    "ids, no header": "{i2},7\n{i1},-1e-3\n{i0},0.5\n",
    "pandas series": ",0\n{i2},7\n{i1},-1e-3\n{i0},0.5\n",
    "ids and split": "id,split,score\n{i2},train,7\n{i1},train,-1e-3\n{i0},train,0.5\n",
    "one a line": "0.5\n-1e-3\n7\n",
    "labels": "path,label,score\n{p0},{l0},0.5\n{p1},{l1},-1e-3\n{p2},{l2},7\n",
    "class and name": "wnid,image,score\na,{p0},0.5\na,{p1},-1e-3\na,{p2},7\n",
    "wrong ids, right paths": "example_id,path,score\n0,{p2},7\n1,{p1},-1e-3\n2,{p0},0.5\n",
    "unknown ids, right paths": "example_id,path,score\n70,{p2},7\n71,{p1},-1e-3\n72,{p0},0.5\n",
    "whole paths": "path,score\n/data/t/{p0},0.5\n/data/t/{p1},-1e-3\n/data/t/{p2},7\n",
    "backslashes": "path,score\n.\\{p0},0.5\n.\\{p1},-1e-3\n.\\{p2},7\n",
}


@pytest.fixture(scope="module")
def three(sample: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three examples, whose ids are not their positions."""
    out = tmp_path_factory.mktemp("three") / "three.beton"
    cut(sample, out, sample.example_ids[[1, 4, 6]])
    return open_bundle(out)


def filled(text: str, bundle: Bundle) -> str:
    names: dict[str, Any] = {}
    for i, path in enumerate(paths_of(bundle)):
        names |= {f"p{i}": path, f"i{i}": bundle.example_ids[i], f"l{i}": bundle.labels[i]}
    return text.format(**names)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_csv_in_all_its_forms(three: Bundle, tmp_path: Path, text: str) -> None:
    (tmp_path / "el2n.csv").write_bytes(filled(text, three).encode())
    done = imported(three, tmp_path / "el2n.csv")
    assert {name: bits(c.values) for name, c in done.table.columns.items()} == {
        "el2n": bits([0.5, -1e-3, 7])
    }
    assert (done.n_rows, done.n_used, done.n_missing) == (3, 3, 0)


def test_wide_csv_and_its_names(three: Bundle, tmp_path: Path) -> None:
    text = "example_id,el2n,aum,note\n{i0},1,0,x\n{i1},2,-3,x\n{i2},3,4,y\n"
    (tmp_path / "x.csv").write_text(filled(text, three))
    done = imported(three, tmp_path / "x.csv", ImportSettings(higher=("el2n=harder", "aum=easier")))
    assert {name: c.values.tolist() for name, c in done.table.columns.items()} == {
        "el2n": [1, 2, 3], "aum": [0, 3, -4],
    }  # fmt: skip
    assert not np.signbit(done.table.columns["aum"].values[0])
    assert done.ignored == ("note",)
    one = imported(three, tmp_path / "x.csv", ImportSettings(("margin=aum",), ("harder",)))
    assert {name: c.values.tolist() for name, c in one.table.columns.items()} == {
        "margin": [0, -3, 4]
    }


@pytest.mark.parametrize(
    "lines",
    ["{p2} {l2}\n{p0} {l0}\n", "{p2}\n\n{p0}\n", "t/{p2}\t5\nt/{p0}   3\n", "{p2} 0\r\n{p0} 1\r\n"],
)
def test_lists_of_paths(three: Bundle, tmp_path: Path, lines: str) -> None:
    (tmp_path / "coreset.txt").write_bytes(filled(lines, three).encode())
    done = imported(three, tmp_path / "coreset.txt", ImportSettings(listed="kept"))
    assert done.table.columns["coreset"].values.tolist() == [1, 0, 1]
    assert (done.n_rows, done.n_used) == (2, 2)


# Matching.

PARTS = st.sampled_from(["a", "b", "c.JPEG", "c.png", "d.x"])
PATHS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6)


def slow_match(examples: list[str], rows: list[str], fits: Callable[[str, str], bool]) -> Match:
    pairs = [(i, j) for i, e in enumerate(examples) for j, r in enumerate(rows) if fits(e, r)]
    of_example = [[j for i, j in pairs if i == place] for place in range(len(examples))]
    of_row = [[i for i, j in pairs if j == place] for place in range(len(rows))]
    found = [js[0] if len(js) == 1 and len(of_row[js[0]]) == 1 else -1 for js in of_example]
    return Match(
        "", *(np.array(x) for x in (found, list(map(len, of_example)), list(map(len, of_row))))
    )


def ends(one: str, other: str) -> bool:
    short, long = sorted((one.split("/"), other.split("/")), key=len)
    return long[len(long) - len(short) :] == short


def bare(path: str) -> str:
    return path.removesuffix(".JPEG").removesuffix(".png")


@given(PATHS, PATHS, st.sampled_from(["examples", "rows"]))
def test_paths_are_matched_by_the_strictest_rule_that_serves_all(
    examples: list[str], rows: list[str], cover: Any
) -> None:
    rules = [
        slow_match(examples, rows, str.__eq__),
        slow_match(examples, rows, ends),
        slow_match(examples, rows, lambda e, r: ends(bare(e), bare(r))),
    ]
    wanted = len(examples) if cover == "examples" else len(rows)
    complete = [rule for rule in rules if rule.n_matched == wanted]
    best = max(rules, key=lambda rule: (rule.n_matched, (rule.example_hits > 0).sum()))
    expected = complete[0] if complete else best
    if not best.example_hits.any():
        ours, theirs = (
            [bare(path.rpartition("/")[2]) for path in side] for side in (examples, rows)
        )
        expected = slow_match(ours, theirs, str.__eq__)
    found = match_paths(pa.array(examples), pa.array(rows), cover)
    for part in ("rows", "example_hits", "row_hits"):
        assert getattr(found, part).tolist() == getattr(expected, part).tolist(), found.by


def test_file_names_decide_only_where_no_folders_agree() -> None:
    flat = match_paths(
        pa.array(["n01/v_1.JPEG", "n02/v_2.JPEG"]),
        pa.array(["val/v_2.jpg", "val/v_1.jpg"]),
        "examples",
    )
    assert (flat.by, flat.rows.tolist()) == ("file name", [1, 0])
    some = match_paths(
        pa.array(["cat/1.png", "dog/2.png"]), pa.array(["cat/1.png", "bird/2.png"]), "examples"
    )
    assert (some.by, some.rows.tolist()) == ("path", [0, -1])
    alike = match_paths(
        pa.array(["1/image.png", "2/image.png"]), pa.array(["x/image.png"] * 3), "examples"
    )
    assert (alike.n_matched, alike.example_hits.tolist()) == (0, [3, 3])
    unknown = match_paths(pa.array([None, "a/b"]), pa.array(["a/b", "c"]), "examples")
    assert unknown.rows.tolist() == [-1, 0]


# Refusals: one line that says what was expected, found, and what to do.

REFUSED = {
    "path missing": ("path,score\n{p0},1\n{p2},2\n", r"none for 1, matched by path; .* '{p1}'"),
    "path twice": ("path,score\n{p0},1\n{p1},2\n{p1},2\n{p2},3\n", r"1 with several.*'{p1}'"),
    "id missing": ("example_id,score\n{i0},1\n{i1},2\n77,3\n", "none for 1, matched by example id"),
    "id twice": ("example_id,score\n{i0},1\n{i1},2\n{i2},3\n{i2},3\n", "1 with several rows"),
    "nothing fits": ("path,score\nq.png,1\nr.png,2\n", r"none; .* 'q.png', .* '{p0}'"),
    "not a number": ("path,score\n{p0},1\n{p1},2\n{p2},n/a\n", r"'n/a' in row 3 of score"),
    "NaN": ("path,score\n{p0},1\n{p1},nan\n{p2},inf\n", r"2 of 3 that are not; .* nan of '{p1}'"),
    "too large": ("path,score\n{p0},1\n{p1},1e39\n{p2},3\n", r"1 of 3 that are not; .* inf of"),
    "ragged": ("path,score\n{p0},1\n{p1},2,3\n{p2},3\n", "Expected 2 columns, got 3"),
    "no scores": ("path,label\n{p0},1\n{p1},1\n{p2},0\n", "no column of scores"),
    "two paths": ("a,b,score\nx,r,1\ny,s,2\nz,t,3\n", r"could be paths \(a, b\)"),
    "two names": ("path,m,m\n{p0},1,1\n{p1},2,1\n{p2},3,1\n", "two columns of the same name"),
    "empty": ("\n\n", "an empty file"),
    "too few": ("1\n2\n", "found 2 in x"),
    "not text": ("path,score\n{p0}\udcff,1\n", "invalid UTF8"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "found"), REFUSED.values(), ids=REFUSED)
def test_csv_that_does_not_fit(three: Bundle, tmp_path: Path, text: str, found: str) -> None:
    data = filled(text, three).encode("utf-8", "surrogateescape")
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(ScoreTableError, match=filled(found, three)) as error:
        imported(three, tmp_path / "x.csv")
    assert "\n" not in str(error.value)


REFUSED_LISTS = {
    "unknown": ("{p0} 1\nq.png 2\n", "1 of 2 that the bundle does not hold, .* 'q.png'"),
    "twice": ("{p0} 1\n{p0} 1\n", "2 that are repeated"),
    "all": ("{p0} 1\n{p1} 2\n{p2} 2\n", "all 3; if the numbers at the ends"),
    "scores": ("{p0} 1.5\n{p1} 2\n", "paths with scores: name the file .csv"),
    "empty": ("\n", "an empty file"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "found"), REFUSED_LISTS.values(), ids=REFUSED_LISTS)
def test_lists_that_do_not_fit(three: Bundle, tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "x.txt").write_text(filled(text, three))
    with pytest.raises(ScoreTableError, match=found):
        imported(three, tmp_path / "x.txt", ImportSettings(listed="kept"))


def test_missing_examples_are_left_out_on_request(three: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(filled("path,score\n{p2},1\n{p0},2\n", three))
    done = imported(three, tmp_path / "x.csv", ImportSettings(higher=("harder",), missing="drop"))
    assert done.table.example_ids.tolist() == three.example_ids[[0, 2]].tolist()
    assert done.table.columns["x"].values.tolist() == [2, 1]
    assert (done.n_missing, done.n_used) == (1, 2)
    (tmp_path / "x.txt").write_text(filled("{p2}\nq.png\n", three))
    some = imported(three, tmp_path / "x.txt", ImportSettings(listed="kept", missing="drop"))
    assert some.table.columns["x"].values.tolist() == [0, 0, 1]
    assert (some.n_rows, some.n_used, some.n_missing) == (2, 1, 0)
    (tmp_path / "x.txt").write_text("q.png\n")
    with pytest.raises(ScoreTableError, match=r"found none; the file's first row is 'q.png'"):
        imported(three, tmp_path / "x.txt", ImportSettings(listed="kept", missing="drop"))


def in_order(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "another number": rng.random(n + 1),
        "argsort": rng.permutation(n),
        "sorted": np.sort(rng.random(n)),
        "sorted down": -np.sort(rng.random(n)),
        "NaN": np.where(np.arange(n) == 5, np.nan, rng.random(n)),
        "float64 beyond float32": np.where(np.arange(n) == 5, 1e300, rng.random(n)),
        "a matrix": rng.random((n, 1)),
        "texts": np.array(["x"] * n),
        "objects": np.array([None] * n),
    }


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("another number", "found 1,348 in x; give the scores"),
        ("argsort", "found every example's place once, as argsort gives it"),
        ("sorted", "found sorted numbers in x"),
        ("sorted down", "found sorted numbers in x"),
        ("NaN", "found 1 of 1,347 that are not; the first is nan of 'digits/0008'"),
        ("float64 beyond float32", "found 1 of 1,347 that are not; the first is inf of"),
        ("a matrix", r"found no vector of numbers but x \(1347, 1\) of float64"),
        ("texts", "found no vector of numbers but x"),
        ("objects", "found "),
    ],
)
def test_vectors_that_do_not_fit(digits: Bundle, tmp_path: Path, what: str, found: str) -> None:
    np.save(tmp_path / "x.npy", in_order(digits.n_examples)[what])
    with pytest.raises(ScoreTableError, match=found):
        imported(digits, tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool, ">f4"])
def test_vectors_of_any_number(digits: Bundle, tmp_path: Path, dtype: Any) -> None:
    values = (np.random.default_rng(1).random(digits.n_examples) * 3).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert bits(imported(digits, tmp_path / "x.npy").table.columns["x"].values) == bits(values)


def test_the_scores_of_an_ancestor_belong_there(digits: Bundle, tmp_path: Path) -> None:
    cut(digits, tmp_path / "cut.beton", np.arange(0, 1347, 2))
    child = open_bundle(tmp_path / "cut.beton")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random(1347))
    with pytest.raises(ScoreTableError, match=r"import them for \S+digits.beton, which this"):
        imported(child, tmp_path / "x.npy")
    whole = imported(digits, tmp_path / "x.npy").table
    assert len(whole.for_bundle(child).example_ids) == child.n_examples


def test_ids_tell_apart_what_paths_do_not(sample: Bundle, tmp_path: Path) -> None:
    merge([sample, sample], tmp_path / "twice.beton", renumber=True)
    twice = open_bundle(tmp_path / "twice.beton")
    scores = np.random.default_rng(0).random(twice.n_examples)
    export_scores(table_of(twice, m=scores), tmp_path / "m.csv")
    done = imported(twice, tmp_path / "m.csv")
    assert bits(done.table.columns["m"].values) == bits(scores)
    assert done.matched_by == "example id"


def test_bundles_without_paths(sample: Bundle, tmp_path: Path) -> None:
    bundle = replace(sample, trailer=None)  # as plain FFCV writes them
    (tmp_path / "x.csv").write_text("path,score\na,1\nb,2\n")
    with pytest.raises(ScoreTableError, match="holds no source paths, found paths"):
        imported(bundle, tmp_path / "x.csv")
    table = table_of(bundle, x=np.arange(bundle.n_examples) % 3)
    export_scores(table, tmp_path / "y.csv")
    assert (tmp_path / "y.csv").read_text().startswith("example_id,label,x\n")
    done = imported(bundle, tmp_path / "y.csv")
    assert bits(done.table.columns["x"].values) == bits(table.columns["x"].values)
    chosen = select(table, SelectionSettings("x", count=1))
    write_selection(chosen, tmp_path / "kept.parquet")
    with pytest.raises(ScoreTableError, match="found 1 of 1 without one that fits on a line"):
        export_list(table, tmp_path / "kept.parquet", tmp_path / "kept.txt")


# What the importing person has to say.

USAGE: dict[str, tuple[ImportSettings, str]] = {
    "nothing": (ImportSettings(), "--higher: .*nothing about el2n, aum; pass --higher harder"),
    "half": (ImportSettings(higher=("aum=easier",)), "nothing about el2n;"),
    "misspelt": (ImportSettings(higher=("hard",)), "found hard"),
    "unknown metric": (ImportSettings(higher=("x=easier",)), "found x=easier"),
    "a list's": (ImportSettings(listed="kept"), "--listed: expected a list of paths"),
    "no column": (ImportSettings(metrics=("el3n",), higher=("harder",)), "found el3n"),
    "identity": (ImportSettings(("label=el2n",), ("harder",)), "found 'label'"),
    "no name": (ImportSettings(("=el2n",), ("harder",)), "found ''"),
}


@pytest.mark.parametrize(("settings", "found"), USAGE.values(), ids=USAGE)
def test_settings_that_say_too_little(
    three: Bundle, tmp_path: Path, settings: ImportSettings, found: str
) -> None:
    (tmp_path / "x.csv").write_text(filled("path,el2n,aum\n{p0},1,2\n{p1},3,4\n{p2},5,6\n", three))
    with pytest.raises(UsageError, match=found):
        imported(three, tmp_path / "x.csv", settings)


def test_a_list_needs_to_be_said_what_it_lists(three: Bundle, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(filled("{p0}\n", three))
    with pytest.raises(UsageError, match="found nothing; pass --listed kept"):
        imported(three, tmp_path / "x.txt", ImportSettings())
    with pytest.raises(UsageError, match="found --higher, which is about scores"):
        imported(three, tmp_path / "x.txt", HARDER)


def test_ccs_s_directions_are_told_and_not_assumed(digits: Bundle, tmp_path: Path) -> None:
    write_pickle(ccs_scores(digits), tmp_path / "x.pickle")
    line = "as CCS writes them: --higher forgetting=harder,accumulated_margin=easier,el2n=harder"
    with pytest.raises(UsageError, match=line):
        imported(digits, tmp_path / "x.pickle", ImportSettings())


def test_columns_are_added_and_replaced_only_on_request(three: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([3.0, 1, 2]))
    table = table_of(three, old=[1, 2, 3])
    both = import_scores(three, tmp_path / "m.npy", HARDER, table=table).table
    assert list(both.columns) == ["old", "m"]
    with pytest.raises(UsageError, match=r"--append: .*found m; give them other names"):
        import_scores(three, tmp_path / "m.npy", HARDER, table=both)
    easier = ImportSettings(higher=("easier",))
    again = import_scores(three, tmp_path / "m.npy", easier, table=both, overwrite=True).table
    assert again.columns["m"].values.tolist() == [-3, -1, -2]
    drop = ImportSettings(("n",), ("harder",), missing="drop")
    with pytest.raises(UsageError, match="--missing drop, which leaves some out"):
        import_scores(three, tmp_path / "m.npy", drop, table=both)


def test_tables_of_another_bundle_or_of_fewer_examples(
    three: Bundle, sample: Bundle, tmp_path: Path
) -> None:
    np.save(tmp_path / "m.npy", np.array([3.0, 1, 2]))
    with pytest.raises(ScoreTableError, match="expected scores of the same bundle"):
        import_scores(three, tmp_path / "m.npy", HARDER, table=table_of(sample))
    fewer = unscored_table(three, np.array([0, 2]))  # as score --on-error skip leaves them
    done = import_scores(three, tmp_path / "m.npy", HARDER, table=fewer)
    assert done.table.columns["m"].values.tolist() == [3, 2]
    assert (done.n_missing, done.n_used, done.n_rows) == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x.json", "expected scores as .npy, .npz, .csv, .*found .json"),
        ("x", "found a name without an ending"),
        ("none.csv", "found no file; check the name"),
        ("none.npy", "found no file; check the name"),
        ("none.pickle", "found no file; check the name"),
        ("junk.npy", "expected a vector with a number for each example"),
        ("junk.npz", "expected a vector with a number"),
        ("junk.pt", "expected a pickled dict"),
        ("empty.npy", "expected a vector"),
        ("empty.pkl", "expected a pickled dict"),
        ("swapped.npy", r"no .npy file \(one of several arrays has the ending .npz\)"),
        ("swapped.npz", r"no .npz file \(one of a single array"),
    ],
)
def test_files_that_are_not_what_they_say(
    three: Bundle, tmp_path: Path, name: str, found: str
) -> None:
    for suffix in (".npy", ".npz", ".pt"):
        (tmp_path / f"junk{suffix}").write_bytes(b"\x93junk")
    for suffix in (".npy", ".pkl"):
        (tmp_path / f"empty{suffix}").write_bytes(b"")
    with (tmp_path / "swapped.npy").open("wb") as stream:
        np.savez(stream, a=np.arange(3))
    with (tmp_path / "swapped.npz").open("wb") as stream:
        np.save(stream, np.arange(3))
    with pytest.raises(TamisError, match=found):
        imported(three, tmp_path / name)


def test_exports_that_cannot_be(three: Bundle, sample: Bundle, tmp_path: Path) -> None:
    table = table_of(three, a=[1, 2, 3], b=[1, 2, 3])
    with pytest.raises(UsageError, match=r"found a, b; pass --metric NAME, or name the file .npz"):
        export_scores(table, tmp_path / "x.npy")
    with pytest.raises(UsageError, match="found none in the table"):
        export_scores(table_of(three), tmp_path / "x.csv")
    with pytest.raises(UsageError, match=r"expected a name that ends in .npy, .*found .parquet"):
        export_scores(table, tmp_path / "x.parquet")
    with pytest.raises(ScoreTableError, match="found c;"):
        export_scores(table, tmp_path / "x.csv", ("c",))
    export_scores(table, tmp_path / "x.npy", ("b",))
    with pytest.raises(UsageError, match="--overwrite"):
        export_scores(table, tmp_path / "x.npy", ("a",))
    other = select(table_of(sample, m=range(sample.n_examples)), SelectionSettings("m", count=2))
    write_selection(other, tmp_path / "kept.parquet")
    with pytest.raises(ScoreTableError, match="found one from another bundle"):
        export_list(table, tmp_path / "kept.parquet", tmp_path / "x.txt")
    with pytest.raises(ScoreTableError, match="found no file"):
        export_list(table, tmp_path / "none.parquet", tmp_path / "x.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.parquet", "x.npy"]


# Pickles.


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "turned": base.t(),
        "part": base[1:3, 2:5],
        "step": torch.arange(20, dtype=torch.int64)[3::4],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "none": torch.empty((0, 3), dtype=torch.float16),
        "half": torch.tensor([0.5, -2], dtype=torch.float16),
        "brain": torch.tensor([0.1, -3e38], dtype=torch.bfloat16),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "bools": torch.tensor([True, False]),
        "grad": torch.ones(3, requires_grad=True),
    }


@pytest.mark.parametrize("write", [write_pickle, torch.save, save_old])
def test_tensors_of_all_kinds(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    write(tensors(), tmp_path / "x")
    loaded = load_arrays(tmp_path / "x")
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].shape == tuple(tensor.shape)
        assert loaded[name].tolist() == tensor.tolist()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_all_kinds(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "bools": np.array([True, False]),
        "none": np.empty((0, 2), np.float16),
    }
    (tmp_path / "x").write_bytes(pickle.dumps(arrays, protocol))
    loaded = load_arrays(tmp_path / "x")
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


def test_pickles_of_a_list_or_of_one_array(three: Bundle, tmp_path: Path) -> None:
    for value in (np.array([3.0, 1, 2]), torch.tensor([3.0, 1, 2]), {"x": [3, 1, 2.0]}):
        write_pickle(value, tmp_path / "x.pkl")
        assert imported(three, tmp_path / "x.pkl").table.columns["x"].values.tolist() == [3, 1, 2]
    write_pickle({"x": np.ones(3), "epoch": 3, "deep": {"y": 1}}, tmp_path / "x.pkl")
    assert imported(three, tmp_path / "x.pkl").ignored == ("epoch", "deep")


class Reduced:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def test_no_code_is_run(three: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "was here"
    inner = pickle.dumps(Reduced(os.system, (f"touch '{target}'",)), 2)
    calls = (
        (os.system, (f"touch '{target}'",)),
        (eval, (f"open({str(target)!r}, 'w')",)),
        (getattr, ("", "join")),
        (np.save, (str(target), 1)),
        (torch.load, (str(target),)),
        (torch.storage._load_from_bytes, (inner,)),
    )
    for call in calls:
        for value in (Reduced(*call), {"el2n": Reduced(*call)}, [{"a": Reduced(*call)}]):
            write_pickle(value, tmp_path / "x.pickle")
            with pytest.raises(ScoreTableError, match=r"found the name \S+, which could run code"):
                imported(three, tmp_path / "x.pickle")
    saved = io.BytesIO()
    torch.save({"el2n": Reduced(os.system, (f"touch '{target}'",))}, saved)
    (tmp_path / "x.pt").write_bytes(saved.getvalue())
    with pytest.raises(ScoreTableError, match=r"found the name \S+, which could run code"):
        imported(three, tmp_path / "x.pt")
    assert not target.exists()


def legacy(count: int) -> bytes:
    """torch's older format with another number of numbers in its storage."""
    stream = io.BytesIO()
    torch.save(torch.ones(3), stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    return data.replace(struct.pack("<q", 3) + struct.pack("<f", 1), struct.pack("<q", count))


def zipped(names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return stream.getvalue()


ARRAY = pickle.dumps({"a": np.arange(12, dtype=np.uint8).reshape(3, 4)}, 2)
HOSTILE = {
    "objects": pickle.dumps({"a": np.array([None, []], object)}, 2),
    "a huge shape": ARRAY.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "a negative shape": ARRAY.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86"),
    "a huge string": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x10\x00\x00abc.",
    "a huge byte array": b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00abc.",
    "a huge frame": b"\x80\x04\x95\x00\x00\x00\x00\x00\x10\x00\x00.",
    "a huge memo": b"\x80\x02}r\xff\xff\xff\xffK\x01.",
    "a persistent id": b"\x80\x02U\x01aQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "state of a class": b"\x80\x02cnumpy\nndarray\n}U\x05buildK\x01sb.",
    "state of a function": b"\x80\x02c_codecs\nencode\n}U\x01xK\x01sb.",
    "state of a dict": b"\x80\x02ccollections\nOrderedDict\n)R}U\x01xK\x01sb.",
    "a storage with fewer numbers": legacy(2),
    "a storage with very many": legacy(2**60),
    "a storage with less than none": legacy(-1),
    "no data.pkl": zipped({"x/other": b""}),
    "compressed": zipped({"x/data.pkl": b"\x80\x02}." + bytes(9999)}, zipfile.ZIP_DEFLATED),
    "big-endian": zipped({"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"big"}),
    "a cut zip": zipped({"x/data.pkl": b"\x80\x02}."})[:-30],
    "another size of tensor": zipped(
        {
            "x/data.pkl": b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n((U\x07storage"
            b"ctorch\nFloatStorage\nX\x01\x00\x00\x000U\x03cpuK\x03tQK\x00K\x04\x85K\x01\x85\x89Ntrs.",
            "x/data/0": bytes(12),
        }
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_else_a_pickle_may_hold(three: Bundle, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pickle").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ScoreTableError, match="expected a pickled dict"):
            imported(three, tmp_path / "x.pickle")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    # And none of it lasts.
    write_pickle(np.array([3.0, 1, 2]), tmp_path / "x.pickle")
    assert imported(three, tmp_path / "x.pickle").n_used == 3


@given(
    st.sampled_from(["pickle", "zip", "old"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_is_an_error_or_harmless(kind: str, changes: list[tuple[float, int]]) -> None:
    stream = io.BytesIO()
    if kind == "pickle":
        pickle.dump(tensors(), stream)
    else:
        torch.save(tensors(), stream, _use_new_zipfile_serialization=kind == "zip")
    data = bytearray(stream.getvalue())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with TemporaryDirectory() as folder:
        (Path(folder) / "x.pt").write_bytes(data)
        try:
            raw = read_raw_scores(Path(folder) / "x.pt")
        except ScoreTableError:
            return
    for values in raw.columns.values():
        assert values.ndim == 1
        values.sum()


# The commands.


def test_from_somebody_s_csv_to_a_list_for_dali(digits: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(digits.n_examples).astype(np.float32)
    rows = [f"train/{path},{score}" for path, score in zip(paths_of(digits), scores, strict=True)]
    (tmp_path / "aum.csv").write_text("\n".join(["file,score", *rows]))
    table = tmp_path / "s.parquet"
    done = tamis("import-scores", digits.path, tmp_path / "aum.csv", table)
    assert (done.returncode, done.stdout, table.exists()) == (2, "", False)
    assert done.stderr.startswith("tamis: --higher: expected what a higher number means: harder")
    assert done.stderr.count("\n") == 1
    done = tamis(
        "import-scores", digits.path, tmp_path / "aum.csv", table, "--higher", "easier", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "metrics": {
            "aum": {
                "min": float(-scores.max()), "max": float(-scores.min()), "flipped": True,
                "column": "aum",
            }
        },
        "n_examples": 1347, "n_missing": 0, "n_rows": 1347, "n_used": 1347,
        "matched_by": "end of the path", "ignored": [],
    }  # fmt: skip
    assert bits(read_score_table(table).columns["aum"].values) == bits(0 - scores)
    kept, listed = tmp_path / "kept.parquet", tmp_path / "kept.txt"
    assert tamis("select", table, kept, "--metric", "aum", "--keep", 0.2).returncode == 0
    done = tamis("export-scores", table, listed, "--selection", kept)
    assert (done.returncode, done.stdout) == (0, f"{listed}: 269 kept examples, 3.8 kB\n")
    done = tamis(
        "import-scores", digits.path, listed, table, "--append", "--listed", "kept",
        "--metric", "in-coreset",
    )  # fmt: skip
    assert "in-coreset  0 to 1; higher = kept" in done.stdout, done.stderr
    assert list(read_score_table(table).columns) == ["aum", "in-coreset"]
    done = tamis("export-scores", table, tmp_path / "o.npz", "--metric", "aum", "--json")
    assert json.loads(done.stdout)["metrics"] == ["aum"]
    assert bits(np.load(tmp_path / "o.npz")["aum"]) == bits(0 - scores)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["x.txt"], "found neither; run: tamis export-scores SCORES KEPT.txt --selection"),
        (["x.npy", "--selection", "k.parquet"], "found --selection;"),
        (["x.txt", "--selection", "k.parquet", "--metric", "a"], "found --selection and --metric;"),
    ],
)
def test_a_list_is_of_a_selection(tmp_path: Path, arguments: list[str], found: str) -> None:
    done = tamis("export-scores", tmp_path / "s.parquet", *arguments)
    assert done.returncode == 2
    assert found in done.stderr
