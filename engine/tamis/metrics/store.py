"""What a campaign has computed so far, on disk: a run that is finished is never trained again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from tamis.atomic import atomic_path
from tamis.errors import ScoreTableError, first_line
from tamis.models.network import Network
from tamis.models.registry import build_network
from tamis.models.weights import weights_digest

__all__ = ["Arrays", "RunStore"]

Arrays = dict[str, NDArray[Any]]


class RunStore:
    """Named results, each written whole or not at all.

    A name carries a hash of everything that the result depends on. Results of other settings lie
    in the folder side by side and do not disturb.

    Args:
        folder: Made at the first result; None keeps results in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[str, bytes] = {}

    def name(self, kind: str, number: int, **about: Any) -> str:
        """The name of a result: its kind, its number, and a hash of what it depends on."""
        text = json.dumps({**about, "kind": kind}, sort_keys=True)
        return f"{kind}-{number:04d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def path(self, file: str) -> Path | None:
        """Where a file of somebody else's writing lies in the folder; None without one."""
        return self._folder / file if self._folder is not None else None

    def holds(self, name: str) -> bool:
        """Whether arrays are there under a name."""
        return self._has(f"{name}.npz")

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self._write(f"{name}.npz", buffer.getvalue())

    def load(self, name: str, *only: str) -> Arrays | None:
        """Arrays by name, or None.

        Args:
            name: Of the result.
            only: Arrays that are read, of those that are there; by default all.

        Raises:
            ScoreTableError: A damaged file.
        """
        if not self.holds(name):
            return None
        with self._archive(name) as archive:
            return {key: archive[key] for key in archive.files if not only or key in only}

    def columns(self, name: str) -> tuple[str, ...]:
        """Names of the arrays of a result, none of which is read; empty without the result.

        Raises:
            ScoreTableError: A damaged file.
        """
        if not self.holds(name):
            return ()
        with self._archive(name) as archive:
            return tuple(archive.files)

    def save_model(self, name: str, model: Network) -> None:
        """Keep a network."""
        buffer = io.BytesIO()
        torch.save({"config": model.config, "state": model.state_dict()}, buffer)
        self._write(f"{name}.pt", buffer.getvalue())

    def load_model(self, name: str, device: torch.device) -> Network:
        """A network by name.

        Raises:
            ScoreTableError: A damaged file, or none.
        """
        try:
            raw = self._read(f"{name}.pt")
            known = str((self.load(name, "network") or {})["network"])
            kept = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
            model = build_network(kept["config"])
            model.load_state_dict(kept["state"])
            if weights_digest(model) != known:
                raise ValueError("other weights than were written")
        except ScoreTableError:
            raise
        except Exception as error:  # torch names no class for what a damaged file raises
            raise self._damaged(f"{name}.pt", error) from error
        # As networks are trained: other layouts sum in another order.
        return model.placed(device).eval()

    @contextmanager
    def _archive(self, name: str) -> Iterator[NpzFile]:
        try:
            with self._open(f"{name}.npz") as source, np.load(source, allow_pickle=False) as found:
                yield found
        except Exception as error:  # zipfile raises a dozen kinds for damage
            raise self._damaged(f"{name}.npz", error) from error

    def _has(self, file: str) -> bool:
        return file in self._kept if self._folder is None else (self._folder / file).is_file()

    def _open(self, file: str) -> BinaryIO:
        if self._folder is None:
            return io.BytesIO(self._kept[file])
        return (self._folder / file).open("rb")

    def _read(self, file: str) -> bytes:
        return self._kept[file] if self._folder is None else (self._folder / file).read_bytes()

    def _write(self, file: str, content: bytes) -> None:
        if self._folder is None:
            self._kept[file] = content
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._folder / file, overwrite=True) as partial:
            partial.write_bytes(content)

    def _damaged(self, file: str, error: BaseException) -> ScoreTableError:
        assert self._folder is not None
        arrays = self._folder / file.replace(".pt", ".npz")
        return ScoreTableError(
            self._folder / file,
            expected="a finished run of a campaign",
            found=f"a damaged file ({first_line(error)})",
            do=f"have the run repeated: rm {arrays}",
        )
