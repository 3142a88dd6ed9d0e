"""FFCV's DatasetWriter over a list of image files, in a process of its own.

Run as ``python -m tamis.benchmarks.ffcv_writer LIST OUT WORKERS MAX_SIDE``; prints the seconds
that the writing took, without imports. Its own process, because the writer forks, never joins its
workers, and waits for ever when one of them fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tamis.errors import WorkFailedError

__all__ = ["write_with_ffcv"]

_TIMEOUT_S = 600


def write_with_ffcv(files: list[Path], out: Path, workers: int, max_side: int | None) -> float:
    """Write image files as FFCV does; gives the seconds.

    Images are read as torchvision's ImageFolder reads them, stored as JPEG of quality 90, and
    shrunk to ``max_side`` where it is given: ffcv-imagenet's ``write_imagenet.py``.

    Raises:
        WorkFailedError: It failed, or did not end.
    """
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(map(str, files)), encoding="utf-8")
    numbers = [str(workers), str(max_side or 0)]
    command = [sys.executable, "-m", __name__, str(listing), str(out), *numbers]
    # numba's TBB layer hangs at the writer's exit where a process is pinned to one core.
    settings = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=settings, check=True
        )
        return float(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        raise WorkFailedError(
            "FFCV's DatasetWriter",
            expected=f"a bundle within {_TIMEOUT_S} s",
            found=type(error).__name__,
            do="leave this comparison out, or look at: " + " ".join(command),
        ) from error


class _Files:
    """What torchvision's ImageFolder gives: pixels and a label."""

    def __init__(self, files: list[str]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[object, int]:
        from PIL import Image

        with Image.open(self._files[index]) as image:
            return image.convert("RGB"), 0


def _main(listing: str, out: str, workers: str, max_side: str) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    files = Path(listing).read_text(encoding="utf-8").splitlines()
    image = RGBImageField(write_mode="jpg", max_resolution=int(max_side) or None, jpeg_quality=90)
    writer = DatasetWriter(out, {"image": image, "label": IntField()}, num_workers=int(workers))
    start = time.perf_counter()
    writer.from_indexed_dataset(_Files(files), chunksize=20)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    _main(*sys.argv[1:])
