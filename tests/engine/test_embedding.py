"""Files of embeddings: what they hold, what they say, and that an interruption leaves no trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from loading import with_damage
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.opening import open_bundle
from tamis.cli.app import app
from tamis.encoders.base import Encoder
from tamis.encoders.embedding import embed_bundle, embed_examples
from tamis.encoders.embedding_file import open_embeddings, provenance_trailer
from tamis.encoders.network import quietly
from tamis.encoders.opening import open_encoder
from tamis.encoders.rows import RowSettings, encoder_loader
from tamis.encoders.unfinished import left_behind
from tamis.errors import BundleError, ScoreTableError, TamisError, UsageError, WorkFailedError
from tamis.images import decode_any
from tamis.loaders.settings import Decoding, Resample
from tamis.progress import Advance
from tamis.sources.opening import open_source

CPU = torch.device("cpu")
BATCH = 200  # of 1,347 digits: seven batches, the last of 147


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers to seven digits, also on a CPU that would multiply in bfloat16; and one thread, which
    small networks are quickest on."""
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of random weights, as TorchScript."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    path = tmp_path_factory.mktemp("network") / "net.pt"
    with quietly():
        torch.jit.save(torch.jit.script(net), path)
    return path


@pytest.fixture
def encoder(network: Path) -> Encoder:
    return open_encoder(f"file:{network}?crop=1", CPU, resolution=8)


def embed(bundle: Bundle, encoder: Encoder, out: Path, **options: Any) -> Any:
    return embed_bundle(bundle, encoder, out, CPU, **{"batch_size": BATCH, **options})


def raw_digits(bundle: Bundle) -> NDArray[np.uint8]:
    """(n, 8, 8, 3) from the bundle's bytes."""
    return np.stack([bundle.image_record(i)[3].reshape(8, 8, 3) for i in range(bundle.n_examples)])


class Stopping:
    """An encoder to which something happens at a call."""

    def __init__(self, encoder: Encoder, call: int, what: Callable[[Tensor], Tensor]) -> None:
        self._encoder, self._left, self._what = encoder, call, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def __call__(self, images: Tensor) -> Tensor:
        self._left -= 1
        rows = self._encoder(images)
        return rows if self._left else self._what(rows)


def interrupt(rows: Tensor) -> Tensor:
    raise KeyboardInterrupt


def interrupted(bundle: Bundle, encoder: Encoder, out: Path, call: int = 4, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(bundle, Stopping(encoder, call, interrupt), out, **options)


# ---- what the file holds


def test_rows_are_what_the_network_says_of_each_image(
    digits: Bundle, encoder: Encoder, network: Path, tmp_path: Path
) -> None:
    done = embed(digits, encoder, tmp_path / "e.npy")
    rows = np.load(tmp_path / "e.npy")
    assert (rows.dtype, rows.shape) == (np.float32, (1347, 24))
    with quietly():
        net = torch.jit.load(network)  # type: ignore[no-untyped-call]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for i in range(0, 1347, 61):  # one by one
        pixels = ((raw_digits(digits)[i] / 255 - mean) / std).astype(np.float32)
        wanted = net(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        assert rows[i] == pytest.approx(wanted.detach().numpy()[0], rel=1e-4, abs=1e-5)
    assert (done.n_examples, done.n_features, done.n_resumed) == (1347, 24, 0)
    assert done.bytes == (tmp_path / "e.npy").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["e.npy"]


def test_pixels_are_exact_whatever_the_loader_and_the_batches(
    digits: Bundle, tmp_path: Path
) -> None:
    pixels = open_encoder("pixels", CPU, resolution=8)
    wanted = raw_digits(digits).transpose(0, 3, 1, 2).reshape(1347, -1).astype(np.float32) / 255
    for batch_size, backend in ((1, "ffcv"), (5000, "ffcv"), (100, "memory"), (449, "auto")):
        out = tmp_path / f"{batch_size}.npy"
        embed(digits, pixels, out, batch_size=batch_size, backend=backend)
        assert np.array_equal(np.load(out, mmap_mode="r"), wanted)
    loader = encoder_loader(
        digits, pixels, CPU, RowSettings(), selection=digits.example_ids[[9, 700, 3]]
    )
    assert np.array_equal(embed_examples(pixels, loader), wanted[[9, 700, 3]])


def test_float16_is_half_as_large_and_rounded(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    embed(digits, encoder, tmp_path / "a.npy")
    embed(digits, encoder, tmp_path / "b.npy", dtype="float16")
    full, half = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))
    large = Stopping(encoder, 1, lambda rows: rows + 65536)
    with pytest.raises(UsageError, match=r"as float16 holds, found others.*pass --dtype float32"):
        embed(digits, large, tmp_path / "c.npy", dtype="float16")
    lost = Stopping(encoder, 2, lambda rows: rows / 0)
    with pytest.raises(UsageError, match=f"of example {digits.example_ids[BATCH]}; check its wei"):
        embed(digits, lost, tmp_path / "c.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_the_file_says_where_it_comes_from(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "e.npy"
    done = embed(digits, encoder, out)
    found = open_embeddings(out, digits)
    assert found.provenance == done.provenance == json.loads(json.dumps(done.provenance))
    assert found.provenance is not None
    assert found.provenance["bundle"] == digits.digest
    assert found.provenance["encoder"] == encoder.provenance()
    assert (found.provenance["batch_size"], found.provenance["skipped"]) == (BATCH, [])
    assert np.array_equal(found.rows, np.load(out))
    assert not found.rows.flags.writeable
    data = out.read_bytes()
    out.write_bytes(data.replace(digits.digest.encode(), b"xxh3:" + b"0" * 32))
    with pytest.raises(ScoreTableError, match="found those of a bundle with other images"):
        open_embeddings(out, digits)


def test_files_of_others_say_nothing(digits: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "e.npy"
    rows = np.random.default_rng(0).normal(size=(1347, 5))
    np.save(out, rows)
    assert open_embeddings(out, digits).provenance is None
    end = out.read_bytes()
    for after in (b"x", b"tamisemb", provenance_trailer({"bundle": "x"})[1:]):
        out.write_bytes(end + after)
        assert open_embeddings(out, digits).provenance is None
        assert np.array_equal(open_embeddings(out, digits).rows, rows)
    with pytest.raises(ScoreTableError, match=r"\(1347, d\).*found no file"):
        open_embeddings(tmp_path / "none.npy", digits)
    for wrong in (rows[1:], rows[0], rows.astype(int)):
        np.save(out, wrong)
        with pytest.raises(ScoreTableError, match=r"found an array \("):
            open_embeddings(out, digits)
    np.savez(tmp_path / "e.npz", rows)
    with pytest.raises(ScoreTableError, match="found an archive of several arrays"):
        open_embeddings(tmp_path / "e.npz", digits)
    out.write_bytes(end[:-8])
    with pytest.raises(ScoreTableError):
        open_embeddings(out, digits)


# ---- interruptions

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import tamis.devices
from tamis.bundles.opening import open_bundle
from tamis.encoders.embedding import embed_bundle
from tamis.encoders.opening import open_encoder

tamis.devices._cpu_has_bf16 = lambda: False
torch.set_num_threads(1)
cpu = torch.device("cpu")
encoder = open_encoder(sys.argv[2], cpu, resolution=8)
calls = 0

class Killing:
    def __getattr__(self, name):
        return getattr(encoder, name)

    def __call__(self, images):
        global calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return encoder(images)

embed_bundle(open_bundle(Path(sys.argv[1])), Killing(), Path(sys.argv[3]), cpu, batch_size=200)
"""


def test_a_killed_run_is_resumed_to_the_same_bytes(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "e.npy"
    command = [sys.executable, "-c", KILLED, str(digits.path), encoder.spec, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    hidden = [".e.npy.journal", ".e.npy.part"]
    assert sorted(path.name for path in tmp_path.iterdir()) == hidden
    assert left_behind(out) == 3 * BATCH
    with pytest.raises(UsageError, match="had come to example 600; pass --resume to go on"):
        embed(digits, encoder, out)
    calls = Stopping(encoder, -1, interrupt)
    resumed = embed(digits, calls, out, resume=True)
    assert resumed.n_resumed == 3 * BATCH
    assert calls._left == -1 - 4
    embed(digits, encoder, tmp_path / "whole.npy")
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert left_behind(out) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", "whole.npy"]


@pytest.mark.parametrize(
    ("harm", "kept"),
    [
        (lambda part, journal: None, 600),
        (lambda part, journal: os.truncate(part, part.stat().st_size - 1), 400),
        (lambda part, journal: os.truncate(journal, journal.stat().st_size - 1), 400),
        (lambda part, journal: part.write_bytes(part.read_bytes() + bytes(1000)), 600),
        (lambda part, journal: part.write_bytes(part.read_bytes()[:20300] + b"?"), 200),
        (lambda part, journal: journal.write_bytes(b'{"n_rows": 9'), 0),
        (lambda part, journal: part.unlink(), 0),
    ],
    ids=["none", "rows-short", "journal-short", "rows-long", "rows-lost", "no-journal", "no-rows"],
)
def test_what_is_not_whole_is_made_again(
    digits: Bundle,
    encoder: Encoder,
    tmp_path: Path,
    harm: Callable[[Path, Path], None],
    kept: int,
) -> None:
    out = tmp_path / "e.npy"
    interrupted(digits, encoder, out)
    harm(tmp_path / ".e.npy.part", tmp_path / ".e.npy.journal")
    assert embed(digits, encoder, out, resume=True).n_resumed == kept
    embed(digits, encoder, tmp_path / "whole.npy")
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_another_task_is_not_resumed(
    digits: Bundle, encoder: Encoder, network: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.npy"
    interrupted(digits, encoder, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = open_encoder(f"file:{network}?crop=0.5", CPU, resolution=8)
    others: list[tuple[Encoder, dict[str, Any], str]] = [
        (other, {}, "another encoder, or one that has changed"),
        (encoder, {"dtype": "float16"}, "another dtype"),
        (encoder, {"batch_size": 100}, "another batch_size"),
        (encoder, {"backend": "memory"}, "another loader"),
    ]
    for one, options, found in others:
        with pytest.raises(UsageError, match=f"found {found}; go on with the same ones, or pass"):
            embed(digits, one, out, resume=True, **options)
    convert(open_source("digits:test"), tmp_path / "test.beton")
    test = open_bundle(tmp_path / "test.beton")
    with pytest.raises(UsageError, match="found another bundle"):
        embed(test, encoder, out, resume=True)
    (tmp_path / "test.beton").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    embed(digits, other, out, overwrite=True)
    assert (
        open_embeddings(out, digits).provenance
        == embed(digits, other, tmp_path / "x.npy").provenance
    )
    with pytest.raises(UsageError, match="found an existing one"):
        embed(digits, other, out, resume=True)


def test_an_error_leaves_nothing_unless_asked_to(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    failing = Stopping(encoder, 3, lambda rows: rows * np.nan)
    with pytest.raises(UsageError, match="finite"):
        embed(digits, failing, tmp_path / "e.npy")
    assert list(tmp_path.iterdir()) == []
    failing = Stopping(encoder, 3, lambda rows: rows * np.nan)
    with pytest.raises(UsageError, match="finite"):
        embed(digits, failing, tmp_path / "e.npy", resume=True)
    assert left_behind(tmp_path / "e.npy") == 2 * BATCH


def test_a_full_disk_leaves_what_was_written(
    digits: Bundle, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 7:  # header and task, two for each of two blocks, rows
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    out = tmp_path / "e.npy"
    with monkeypatch.context() as patched:
        patched.setattr("tamis.encoders.unfinished.os.write", full)
        with pytest.raises(WorkFailedError, match=r"found No space left on device; .*--resume"):
            embed(digits, encoder, out)
    assert left_behind(out) == 2 * BATCH
    assert embed(digits, encoder, out, resume=True).n_resumed == 2 * BATCH


def test_one_process_at_a_time(digits: Bundle, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "e.npy"

    def second(rows: Tensor) -> Tensor:
        with pytest.raises(UsageError, match="found another one that is writing it now"):
            embed(digits, encoder, out, resume=True)
        return rows

    embed(digits, Stopping(encoder, 2, second), out)
    assert open_embeddings(out, digits).rows.shape == (1347, 24)


def test_rows_reach_the_disk_as_they_are_made(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    sizes: list[int] = []

    class Watching:
        @contextmanager
        def _task(self) -> Iterator[Advance]:
            def advance(units: int = 1, /) -> None:
                sizes.append((tmp_path / ".e.npy.part").stat().st_size)

            yield advance

        def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
            assert (description, total) == ("embed", 1347)
            return self._task()

    embed(digits, encoder, tmp_path / "e.npy", progress=Watching())
    assert np.diff(sizes).tolist() == [*[BATCH * 24 * 4] * 6, 147 * 24 * 4]


# ---- damage


@pytest.mark.parametrize("backend", ["ffcv", "memory"])
def test_damaged_examples_have_rows_of_nan(
    digits: Bundle, encoder: Encoder, tmp_path: Path, backend: str
) -> None:
    # The first, one whole batch and more, two at the end of a batch, the last ones.
    gone = [0, *range(390, 611), 998, 999, *range(1300, 1347)]
    damaged = with_damage(digits, tmp_path / "x.beton", gone)
    out, options = tmp_path / "e.npy", {"backend": backend, "on_error": "skip"}
    done = embed(damaged, encoder, out, **options)
    assert [one.example_id for one in done.skipped] == digits.example_ids[gone].tolist()
    assert done.provenance["skipped"] == digits.example_ids[gone].tolist()
    embed(digits, encoder, tmp_path / "whole.npy")
    rows, whole = np.load(out), np.load(tmp_path / "whole.npy")
    assert np.flatnonzero(np.isnan(rows).all(axis=1)).tolist() == gone
    left = np.setdiff1d(np.arange(1347), gone)
    assert rows[left] == pytest.approx(whole[left], rel=1e-5, abs=1e-6)
    for call in (1, 2, 3, 4):
        again = tmp_path / f"{call}.npy"
        interrupted(damaged, encoder, again, call, **options)
        assert embed(damaged, encoder, again, resume=True, **options).skipped == done.skipped
        assert again.read_bytes() == out.read_bytes()


def test_damage_is_named_unless_it_is_skipped(
    digits: Bundle, encoder: Encoder, tmp_path: Path
) -> None:
    damaged = with_damage(digits, tmp_path / "x.beton", [700])
    with pytest.raises(BundleError, match=str(digits.example_ids[700])):
        embed(damaged, encoder, tmp_path / "e.npy", resume=True)
    assert left_behind(tmp_path / "e.npy") == 600
    done = embed(damaged, encoder, tmp_path / "e.npy", resume=True, on_error="skip")
    assert (done.n_resumed, len(done.skipped)) == (600, 1)


# ---- the command


def command(*arguments: object) -> None:
    app([*map(str, arguments)], prog_name="tamis", standalone_mode=False)


def test_the_command(
    digits: Bundle,
    encoder: Encoder,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "e.npy"
    wanted = ("embed", digits.path, out, "--encoder", f"file:{network}?crop=1", "--resolution", 8)
    command(*wanted, "--batch-size", BATCH, "--device", "cpu", "--json")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    found = json.loads(printed)
    assert (found["n_examples"], found["n_features"], found["dtype"]) == (1347, 24, "float32")
    assert found["images_per_second"] == pytest.approx(1347 / found["seconds"])
    assert found["provenance"]["encoder"]["labels_used"] is None
    embed(digits, encoder, tmp_path / "same.npy")
    assert out.read_bytes() == (tmp_path / "same.npy").read_bytes()
    with pytest.raises(UsageError, match="found an existing one"):
        command(*wanted)
    command(*wanted, "--overwrite", "--dtype", "float16", "--loader", "memory")
    assert "1,347 × 24 float16" in capsys.readouterr().out
    assert np.load(out).dtype == np.float16
    command("embed", digits.path, tmp_path / "p.npy", "--encoder", "pixels", "--recipe", "digits")
    assert np.load(tmp_path / "p.npy").shape == (1347, 192)


def test_the_command_goes_on_where_it_was_interrupted(
    digits: Bundle,
    encoder: Encoder,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "e.npy"
    interrupted(digits, encoder, out, batch_size=256)
    wanted = ("embed", digits.path, out, "--encoder", f"file:{network}?crop=1", "--resolution", 8)
    with pytest.raises(UsageError, match="an interrupted run that had come to example 768"):
        command(*wanted)
    command(*wanted, "--resume")
    assert "1,347 × 24 float32, 768 of them before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--encoder", "npy:e.npy"), "found embeddings"),
        (("--encoder", "swav"), "expected selfsup, pixels"),
        (("--encoder", "selfsup", "--resolution", 9), "pass --set resolution=9"),
        (("--encoder", "pixels", "--resolution", 0), "at least 1 pixel"),
        (("--encoder", "pixels", "--batch-size", 0), "at least 1"),
    ],
)
def test_the_command_refuses_in_one_line(
    digits: Bundle, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    with pytest.raises(TamisError, match=re.escape(says)) as caught:
        command("embed", digits.path, tmp_path / "e.npy", *options)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


# ---- a GPU


@pytest.mark.gpu
def test_a_gpu_gives_the_same_rows(
    digits: Bundle, encoder: Encoder, network: Path, tmp_path: Path
) -> None:
    gpu = torch.device("cuda")
    there = open_encoder(f"file:{network}?crop=1", gpu, resolution=8)
    embed(digits, encoder, tmp_path / "a.npy")
    embed_bundle(digits, there, tmp_path / "b.npy", gpu, batch_size=BATCH)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert b == pytest.approx(a, abs=0.01 * float(a.std()))  # TF32
    assert open_embeddings(tmp_path / "b.npy", digits).provenance is not None


# ---- photographs


@pytest.mark.real_data
def test_photographs_are_prepared_as_for_imagenet(real_data: Path, tmp_path: Path) -> None:
    """By a script without training, of fifty photographs."""
    folder = tmp_path / "images"
    for source in sorted((real_data / "imagenet-sample").rglob("*.JPEG"))[:500:10]:
        (folder / source.parent.name).mkdir(parents=True)
        (folder / source.parent.name / source.name).symlink_to(source)
    convert(open_source(str(folder)), tmp_path / "in.beton")
    bundle = open_bundle(tmp_path / "in.beton")
    assert bundle.n_examples == 50
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 256, 8, 8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    with quietly():
        torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
    found = {}
    hows: tuple[Resample, ...] = ("antialias", "area")
    for how in hows:
        decoding: Decoding = {"resample": how, "exact": False}
        encoder = open_encoder(f"file:{tmp_path / 'net.pt'}", CPU, decoding=decoding)
        embed(bundle, encoder, tmp_path / f"{how}.npy", batch_size=32)
        found[how] = np.load(tmp_path / f"{how}.npy")
        assert found[how].shape == (50, 256)

    by_area, by_pillow = [], []
    for i in range(0, 50, 2):
        pixels = decode_any(bundle.image_record(i)[3].tobytes())
        by_area.append(features(net, center_by_area(pixels)))
        by_pillow.append(features(net, resized_and_cropped(pixels)))
    wanted = np.stack(by_area)
    assert found["area"][::2] == pytest.approx(wanted, abs=0.02 * float(wanted.std()))
    # Pillow shrinks to 256 pixels and then cuts; another part would not agree so well.
    assert agreement(found["antialias"][::2], np.stack(by_pillow)) > 0.99
    wide = open_encoder(f"file:{tmp_path / 'net.pt'}?crop=1", CPU)
    embed(bundle, wide, tmp_path / "w.npy", batch_size=32)
    assert agreement(np.load(tmp_path / "w.npy")[::2], np.stack(by_pillow)) < 0.97


def features(net: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((pixels / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)
    with torch.no_grad():
        made: NDArray[np.float32] = net(torch.from_numpy(x)[None])[0].numpy()
    return made


def center_by_area(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = int(0.875 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side >= 224 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (224, 224), interpolation=how), np.uint8)


def resized_and_cropped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """torchvision's Resize(256) and CenterCrop(224)."""
    height, width = pixels.shape[:2]
    scale = 256 / min(height, width)
    size = max(256, int(width * scale)), max(256, int(height * scale))
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    return resized[top : top + 224, left : left + 224]


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlation over all features and images, each feature around its mean."""
    return float(np.corrcoef((a - a.mean(0)).ravel(), (b - b.mean(0)).ravel())[0, 1])
