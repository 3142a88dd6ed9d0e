"""Interrupted conversions: killed, out of disk, stopped; continued to the same bytes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sample_images import jpeg_bytes, picture
from tamis.bundles import convert as convert_module
from tamis.bundles import estimate
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.unfinished import ROW
from tamis.bundles.verify import verify
from tamis.errors import BundleError, SourceError, UsageError, WorkFailedError
from tamis.manifest import Parent
from tamis.sources.base import SourceItem
from tamis.sources.opening import open_source

N = 300


@dataclass
class Pictures:
    """N small pictures, JPEG and pixels; ``before`` is called before each is given."""

    before: Callable[[int], None] = lambda position: None
    unreadable: set[int] = field(default_factory=lambda: {7, 123})
    classes: tuple[str, ...] | None = ("a", "b")
    largest: int | None = None
    n_bytes: int | None = N * 100_000  # as if they were large: few are encoded ahead
    lineage: tuple[Parent, ...] = ()
    fingerprint: str = "1"

    def describe(self) -> dict[str, Any]:
        return {"kind": "pictures", "sizes": (1, 2)}

    def __len__(self) -> int:
        return N

    def items(self, start: int = 0) -> Iterator[SourceItem]:
        for position in range(start, N):
            self.before(position)
            yield SourceItem(f"é{position}.jpg", position % 2, partial(self.load, position))

    def load(self, position: int) -> bytes | NDArray[np.uint8]:
        if position in self.unreadable:
            raise OSError(errno.EIO, "a bad sector")
        image = picture(20 + position % 30, 25, position)
        return jpeg_bytes(Image.fromarray(image)) if position % 3 else image


SKIP = ConvertSettings(on_error="skip", page_size=2 << 20)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block every few images instead of every 8 MiB."""
    monkeypatch.setattr(convert_module, "_WRITE_BYTES", 9_000)


@pytest.fixture
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bundle of an undisturbed conversion."""
    out = tmp_path_factory.mktemp("undisturbed") / "x.beton"
    convert(Pictures(), out, SKIP)
    return out.read_bytes()


def stop_at(place: int) -> Callable[[int], None]:
    def before(position: int) -> None:
        if position == place:
            raise KeyboardInterrupt

    return before


def interrupt(out: Path, place: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(Pictures(before=stop_at(place)), out, SKIP, workers=2, **options)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


LEFT = [".x.beton.journal", ".x.beton.part"]


def test_ctrl_c_again_and_again(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 100)
    assert names(tmp_path) == LEFT
    interrupt(out, 101, resume=True)
    interrupt(out, 290, resume=True)
    report = convert(Pictures(), out, SKIP, resume=True, workers=1)
    assert report.n_resumed > 150
    assert report.n_examples == N - 2
    assert [entry["path"] for entry in report.skipped] == ["é7.jpg", "é123.jpg"]
    assert names(tmp_path) == ["x.beton"]
    assert out.read_bytes() == expected
    bundle = open_bundle(out)
    assert verify(bundle, deep=True).ok
    kept = [i for i in range(N) if i not in (7, 123)]
    assert bundle.example_ids.tolist() == kept
    assert bundle.labels.tolist() == [i % 2 for i in kept]
    assert bundle.paths is not None
    assert bundle.paths.to_pylist() == [f"é{i}.jpg" for i in kept]


def test_nothing_done_yet_leaves_nothing(tmp_path: Path) -> None:
    interrupt(tmp_path / "x.beton", 0)
    assert names(tmp_path) == []


def test_resume_where_there_is_nothing_to_resume(tmp_path: Path, expected: bytes) -> None:
    report = convert(Pictures(), tmp_path / "x.beton", SKIP, resume=True)
    assert report.n_resumed == 0
    assert (tmp_path / "x.beton").read_bytes() == expected


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes) -> None:
    room = 60_000
    whole = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if offset + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(descriptor, data, offset)

    out = tmp_path / "x.beton"
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(WorkFailedError, match=r"No space left on device; .* with --resume"):
        convert(Pictures(), out, SKIP)
    assert names(tmp_path) == LEFT
    monkeypatch.setattr(os, "pwrite", whole)
    assert convert(Pictures(), out, SKIP, resume=True).n_resumed > 0
    assert out.read_bytes() == expected


def test_what_was_left_is_not_thrown_away_by_accident(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 250)
    with pytest.raises(UsageError, match=r"interrupted conversion.*--resume.*--overwrite"):
        convert(Pictures(), out, SKIP)
    assert names(tmp_path) == LEFT
    report = convert(Pictures(), out, SKIP, overwrite=True)
    assert report.n_resumed == 0
    assert out.read_bytes() == expected
    assert names(tmp_path) == ["x.beton"]


def test_another_task_is_not_mixed_in(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 250)
    with pytest.raises(UsageError, match="found another source"):
        convert(Pictures(fingerprint="2"), out, SKIP, resume=True)
    with pytest.raises(UsageError, match="found other settings"):
        convert(Pictures(), out, ConvertSettings(quality=80, on_error="skip"), resume=True)
    assert names(tmp_path) == LEFT
    convert(Pictures(), out, SKIP, resume=True)
    assert out.read_bytes() == expected


def test_a_folder_that_changed_since(
    sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out" / "x.beton"
    shutil.copytree(sample_folder, folder)
    out.parent.mkdir()
    source = open_source(str(folder))
    last = len(source) - 1

    class Stopping:
        n_bytes = 10**9  # as if the images were large: few are encoded ahead

        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def __len__(self) -> int:
            return len(source)

        def items(self, start: int = 0) -> Iterator[SourceItem]:
            for position, item in enumerate(source.items(start), start):
                if position == last:
                    raise KeyboardInterrupt
                yield item

    monkeypatch.setattr(convert_module, "_WRITE_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        convert(Stopping(), out, ConvertSettings(on_error="skip"), workers=1)
    assert names(out.parent) == LEFT
    image = next(folder.rglob("*.jpg"))
    image.write_bytes(image.read_bytes())
    os.utime(image, ns=(1, 1))
    with pytest.raises(UsageError, match="found another source"):
        convert(
            open_source(str(folder)), out, ConvertSettings(on_error="skip"), workers=1, resume=True
        )


def test_an_unreadable_image_leaves_nothing_unless_resuming(tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    settings = ConvertSettings(page_size=2 << 20)
    with pytest.raises(SourceError, match="a bad sector"):
        convert(Pictures(unreadable={290}), out, settings)
    assert names(tmp_path) == []
    with pytest.raises(SourceError, match="a bad sector"):
        convert(Pictures(unreadable={290}), out, settings, resume=True)
    assert names(tmp_path) == LEFT
    report = convert(Pictures(unreadable=set()), out, settings, resume=True)
    assert report.n_resumed > 200
    assert report.n_examples == N


def test_a_journal_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 250)
    wider = np.dtype([*ROW.descr, ("more", "u1")])
    for module in ("unfinished", "convert"):
        monkeypatch.setattr(f"tamis.bundles.{module}.ROW", wider)
    with pytest.raises(UsageError, match="found an interrupted conversion that had come to image"):
        convert(Pictures(), out, SKIP)
    with pytest.raises(UsageError, match="found the journal of another version"):
        convert(Pictures(), out, SKIP, resume=True)
    assert names(tmp_path) == LEFT


@pytest.mark.parametrize("tail", [1, 10, 100, 1000, 5000])
def test_a_torn_journal(tmp_path: Path, expected: bytes, tail: int) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 250)
    journal = tmp_path / LEFT[0]
    os.truncate(journal, journal.stat().st_size - tail)
    report = convert(Pictures(), out, SKIP, resume=True)
    assert report.n_resumed < 250
    assert out.read_bytes() == expected


def test_a_journal_that_is_none(tmp_path: Path, expected: bytes) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 250)
    (tmp_path / LEFT[0]).write_bytes(b"\xff" * 5000)
    assert convert(Pictures(), out, SKIP, resume=True).n_resumed == 0
    assert out.read_bytes() == expected


@pytest.mark.parametrize("place", [0.2, 0.6, 0.95])
def test_a_payload_that_lost_bytes_in_a_crash(
    tmp_path: Path, expected: bytes, place: float
) -> None:
    out = tmp_path / "x.beton"
    interrupt(out, 280)
    payload = tmp_path / LEFT[1]
    with payload.open("r+b") as file:
        file.seek(int(payload.stat().st_size * place))
        file.write(bytes(64))
    report = convert(Pictures(), out, SKIP, resume=True)
    assert 0 < report.n_resumed < 280
    assert out.read_bytes() == expected


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    said = []

    def second(position: int) -> None:
        if position == 200:
            with pytest.raises(UsageError, match="another conversion that is writing it now"):
                convert(Pictures(), out, SKIP)
            said.append(position)

    convert(Pictures(before=second), out, SKIP)
    assert said == [200]
    assert open_bundle(out).n_examples == N - 2


def test_too_little_room_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 50_000

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(UsageError, match=r"GB free \(from a sample of 64 images\), found 0.00 GB"):
        convert(Pictures(), tmp_path / "x.beton", SKIP)
    assert names(tmp_path) == []


def test_the_estimate_is_near_the_truth(tmp_path: Path) -> None:
    guess = estimate.estimate(Pictures(), SKIP, tmp_path / "x.beton", 1)
    report = convert(Pictures(), tmp_path / "x.beton", SKIP)
    assert guess.n_examples == N
    assert guess.n_sampled == 64
    assert guess.bytes == pytest.approx(report.bytes, rel=0.3)


# ---- SIGKILL

SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_resume import SKIP, Pictures, convert, convert_module
convert_module._WRITE_BYTES = 9_000
def before(position):
    print("working", flush=True)
    time.sleep(0.003)
convert(Pictures(before=before), Path(sys.argv[1]), SKIP, workers=2, overwrite=True, resume=True)
"""


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("existing", [False, True])
def test_killed_at_random_moments(
    tmp_path: Path, expected: bytes, digits_bundle: Path, existing: bool
) -> None:
    out = tmp_path / "x.beton"
    if existing:
        out.write_bytes(digits_bundle.read_bytes())
    moments = random.Random(3)
    for _ in range(3):
        before = size_of(tmp_path / LEFT[0])
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, out, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            # Not by the clock: on a busy machine nothing would have been written yet.
            wanted = before + moments.randrange(1000, 4000)
            deadline = time.monotonic() + 60
            while size_of(tmp_path / LEFT[0]) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(20) == -signal.SIGKILL
        # The final name holds the old bundle or nothing.
        assert names(tmp_path) == LEFT + ["x.beton"] * existing
        if existing:
            assert out.read_bytes() == digits_bundle.read_bytes()
        with pytest.raises(BundleError):
            open_bundle(tmp_path / LEFT[1])
    report = convert(Pictures(), out, SKIP, overwrite=existing, resume=True)
    assert report.n_resumed > 0
    assert out.read_bytes() == expected
    assert names(tmp_path) == ["x.beton"]
