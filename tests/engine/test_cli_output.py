"""What people read: sizes, progress in logs, provenance."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tamis.cli.bundles import _provenance
from tamis.cli.output import pairs, print_table, show_progress
from tamis.errors import UsageError, first_line
from tamis.manifest import Manifest, Parent
from tamis.units import size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0.0 kB"),
        (340_700, "340.7 kB"),
        (1_000_000, "1.00 MB"),
        (2.5e9, "2.50 GB"),
        (1.5e12, "1,500.00 GB"),
    ],
)
def test_sizes(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0, 10, 31, 40, 62])
    monkeypatch.setattr("tamis.cli.output.time.monotonic", lambda: next(clock))
    with show_progress() as progress, progress.task("score", 4000) as advance:
        for _ in range(4):
            advance(310)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "tamis: score: 620 of 4,000, 20/s",
        "tamis: score: 1,240 of 4,000, 20/s",
    ]


def test_tables_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [["forgetting", "self-supervised prototypes", *["51.2 ± 0.7"] * 8]]
    headers = [str(number) for number in range(len(rows[0]))]
    print_table(headers, rows)
    assert "forgetting   self-supervised prototypes   51.2 ± 0.7" in capfd.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TERM", "xterm")
    for columns in (120, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_table(headers, rows)
        shown = re.sub(r"\x1b\[\d*m", "", capfd.readouterr().out)
        if columns == 120:
            assert max(map(len, shown.splitlines())) <= 120
        words = " ".join(headers + rows[0]).split()
        assert Counter(words) - Counter(shown.split()) == Counter()


def test_provenance_tells_siblings_from_ancestors() -> None:
    a, b = Parent("xxh3:a", 5, "a.beton", False), Parent("xxh3:b", 5, "b.beton", False)
    whole = Parent("xxh3:w", 10, "whole.beton", True)
    bundles = [{"path": parent.path} for parent in (a, b)]
    merged = Manifest("merge", {"bundles": bundles, "renumber": False}, parents=(a, b, whole))
    assert _provenance(merged) == {
        "made by": "tamis merge (0.1.0)",
        "settings": "renumber False",
        "from": "a.beton, b.beton",
        "ancestors": "whole.beton",
    }
    skipped = ({"path": "x.jpg", "reason": "no image"}, {"path": "y.jpg", "reason": "a bomb"})
    settings = {
        "source": {"kind": "image folder", "name": "train"},
        "quality": 90,
        "max_side": None,
    }
    assert _provenance(Manifest("convert", settings, skipped=skipped)) == {
        "made by": "tamis convert (0.1.0)",
        "settings": "source image folder train, quality 90",
        "skipped": "x.jpg: no image and 1 more (--json lists all)",
    }
    one, two = Parent("xxh3:1", 9, "train.beton", False), Parent("xxh3:2", 9, "train.beton", True)
    found = _provenance(Manifest("cut", {"files": list("abcdefghij")}, parents=(one, two)))
    assert (found["from"], found["ancestors"]) == ("train.beton", "train.beton")
    assert found["settings"] == "files a, b, c, d, e, f, g, h, … (10)"
    assert _provenance(None) == {"made by": "plain FFCV (no trailer)"}


@pytest.mark.parametrize("bundles", [5, None, ["a"], [{}], [{"path": 3}], {"path": "x"}])
def test_a_stranger_s_manifest_may_say_anything(
    bundles: object, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"bundles": bundles, "x": "\ud800", "y": "\x1b[2J\nmade by  tamis convert"}
    found = _provenance(Manifest("merge", settings, skipped=({},)))
    pairs(found)
    out = capsys.readouterr().out
    assert "\\ud800, y \\x1b[2J\\nmade by" in out
    assert out.count("\n") == len(found)
    assert "skipped   ?: ?" in out


def test_errors_do_not_move_the_cursor() -> None:
    error = UsageError("a\x1b]0;owned\x07.jpg", expected="b\n", found="\udcff", do="ä")
    assert str(error) == "a\\x1b]0;owned\\x07.jpg: expected b , found \\udcff; ä"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), "no file"),
        (OSError(5, "Input/output error\nand more"), "Input/output error"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "bytes that are not UTF-8 text"),
        (ValueError("\nfoo"), "foo"),
        (ValueError("x" * 300), "x" * 200),
        (EOFError(), "EOFError"),
    ],
)
def test_first_lines(error: Exception, says: str) -> None:
    assert first_line(error) == says
