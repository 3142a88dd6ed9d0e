"""``tamis bench bundles``: convert, cut and verify against cp, tar and FFCV's DatasetWriter."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tamis.benchmarks.ffcv_writer import write_with_ffcv
from tamis.benchmarks.material import image_files, photographs, repeated
from tamis.benchmarks.measuring import Row, drop_from_cache, row, sync, timed
from tamis.bundles.bundle import Bundle
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.verify import verify
from tamis.devices import n_cores
from tamis.errors import WorkFailedError
from tamis.progress import QUIET, Progress
from tamis.sources.bundle_images import open_bundle_images
from tamis.sources.image_folder import open_image_folder

__all__ = ["BundleBench", "bench_bundles"]

_PICTURES = 200
_SMALL_SIDE = 32  # CIFAR


@dataclass(frozen=True)
class BundleBench:
    """How much is measured.

    Attributes:
        large_bytes: Size of the bundle with the images as they are.
        small_bytes: Size of the bundle with images of 32 × 32, about 1 kB each.
        n_files: Image files that are converted.
        repetitions: Turns; the median counts.
    """

    large_bytes: int = 2 << 30
    small_bytes: int = 256 << 20
    n_files: int = 3000
    repetitions: int = 5


def bench_bundles(
    bundle: Path | None,
    folder: Path,
    size: BundleBench | None = None,
    *,
    progress: Progress = QUIET,
) -> list[Row]:
    """Measure the work on bundles; needs about three times ``large_bytes`` of disk in ``folder``.

    Args:
        bundle: Whose images to work on, repeated as often as needed; None makes pictures.
        folder: A folder on the disk to be measured; nothing stays in it.
        size: How much is measured.
        progress: Told of every run.
    """
    size = size or BundleBench()
    with TemporaryDirectory(prefix=".tamis-bench-", dir=folder) as name:
        work = Path(name)
        images = open_bundle(bundle) if bundle else photographs(work / "made.beton", _PICTURES)
        with progress.task("bench bundles", 17 * size.repetitions) as advance:
            rows = [
                *_cut_rows(images, work, size, advance),
                *_verify_rows(work, size, advance),
                *_convert_rows(images, work, size, advance),
            ]
    return rows


def _cut_rows(
    images: Bundle, work: Path, size: BundleBench, advance: Callable[[], object]
) -> Iterator[Row]:
    small = work / "small-images.beton"
    convert(
        open_bundle_images(images.path), small, ConvertSettings(max_side=_SMALL_SIDE, mode="jpeg")
    )
    for name, parent, total, goal in (
        ("large", images, size.large_bytes, 0.8),
        ("small", open_bundle(small), size.small_bytes, 0.4),
    ):
        mean = len(parent.data) / parent.n_examples
        whole = repeated(parent, work / f"{name}.beton", max(int(total / mean), 4))
        yield from _cut_against_cp(whole, work, size.repetitions, goal, advance)


def _cut_against_cp(
    whole: Bundle, work: Path, repetitions: int, goal: float, advance: Callable[[], object]
) -> Iterator[Row]:
    half = np.random.default_rng(1).permutation(whole.n_examples)[: whole.n_examples // 2]
    expected, out, copy = work / "half.beton", work / "out.beton", work / "copy.beton"
    cut(whole, expected, half)
    kilobytes = whole.extents[..., 1].mean() / 1e3
    path = whole.path
    del whole  # its map would keep the pages in memory

    def copy_with_cp() -> None:
        subprocess.run(["cp", expected, copy], check=True)
        sync(copy)

    def fresh(name: str) -> None:
        for file in (out, copy):
            file.unlink(missing_ok=True)

    def cold(name: str) -> None:
        fresh(name)
        drop_from_cache(path)
        drop_from_cache(expected)

    for state, before in (("warm", fresh), ("cold", cold)):
        seconds = timed(
            {"cut": lambda: cut(open_bundle(path), out, half), "cp": copy_with_cp},
            repetitions,
            before=before,
            advance=advance,
        )
        yield row(
            f"cut half, {kilobytes:.1f} kB each, {state}",
            expected.stat().st_size / 1e6,
            "MB/s",
            seconds["cut"],
            peer="cp + fsync",
            peer_seconds=seconds["cp"],
            goal=goal,
        )
    fresh("")
    expected.unlink()


def _verify_rows(work: Path, size: BundleBench, advance: Callable[[], object]) -> Iterator[Row]:
    for name, goal in (("large", 1000.0), ("small", None)):
        path = work / f"{name}.beton"
        kilobytes = open_bundle(path).extents[..., 1].mean() / 1e3
        seconds = timed({"verify": partial(_verify, path)}, size.repetitions, advance=advance)
        yield row(
            f"verify, {kilobytes:.1f} kB each, warm",
            path.stat().st_size / 1e6,
            "MB/s",
            seconds["verify"],
            goal=goal,
        )
        path.unlink()


def _verify(path: Path) -> None:
    found = verify(open_bundle(path))
    if not found.ok:
        raise WorkFailedError(
            path, expected="a sound bundle", found=str(found.damaged[0]), do="report this"
        )


def _convert_rows(
    images: Bundle, work: Path, size: BundleBench, advance: Callable[[], object]
) -> Iterator[Row]:
    workers = n_cores()
    files = image_files(images, work / "files", size.n_files)
    few = files[: max(len(files) // 4, 1)]  # FFCV's writer decodes and encodes every one
    out, tar = work / "out.beton", work / "out.tar"

    def tar_them() -> None:
        subprocess.run(["tar", "-cf", tar, "-C", work, "files"], check=True)
        sync(tar)

    def tamis(max_side: int | None) -> None:
        convert(
            open_image_folder(work / "files"),
            out,
            ConvertSettings(max_side=max_side),
            workers=workers,
        )

    def fresh(name: str) -> None:
        for file in (out, tar):
            file.unlink(missing_ok=True)

    for name, max_side, goal in (
        ("convert, JPEGs passed", None, 10.0),
        ("convert to 224 pixels", 224, 1.2),
    ):
        contenders: dict[str, Callable[[], object]] = {"tamis": partial(tamis, max_side)}
        if max_side is None:
            contenders["tar"] = tar_them
        seconds = timed(contenders, size.repetitions, before=fresh, advance=advance)
        fresh("")
        peers = []
        for _ in range(size.repetitions):
            peers.append(write_with_ffcv(few, out, workers, max_side))
            fresh("")
            advance()
        yield row(
            name,
            len(files),
            "images/s",
            seconds["tamis"],
            peer="FFCV's writer",
            peer_seconds=float(np.median(peers)),
            peer_amount=len(few),
            goal=goal,
        )
        if max_side is None:
            yield row(
                name,
                len(files),
                "images/s",
                seconds["tamis"],
                peer="tar -cf + fsync",
                peer_seconds=seconds["tar"],
                goal=0.5,
            )
