"""The file that a training is kept in while it is under way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tamis.atomic import atomic_path
from tamis.errors import UsageError, first_line
from tamis.models.weights import UNREADABLE
from tamis.training.workers import Workers

__all__ = ["ProgressFile"]

_VERSION = 1


class ProgressFile:
    """Network, optimizer, loader and random states, written whole or not at all.

    Args:
        path: The file.
        identity: What a run that goes on must have in common with the one that wrote it, by the
            words that an error names it with.
        resume: Go on from it, where it is there.
        every: Seconds between two writings at the ends of epochs.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, object], *, resume: bool, every: float = 60.0
    ) -> None:
        self.path, self._resume, self._every = path, resume, every
        self._identity = {name: str(value) for name, value in identity.items()}
        self._written = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What was kept, with its tensors on a device; None to begin anew.

        Raises:
            UsageError: Another run's, or a damaged file.
        """
        if not self._resume or not self.path.exists():
            return None
        try:
            kept: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            version, identity, state = kept["version"], kept["identity"], kept["state"]
        except UNREADABLE as error:
            raise UsageError(
                self.path,
                expected="a training that was interrupted",
                found=f"a damaged file ({first_line(error)})",
                do="start again without --resume, with --overwrite",
            ) from error  # fmt: skip
        if version != _VERSION or identity != self._identity:
            odd = [
                f"{name} {identity.get(name)}, now {value}"
                for name, value in self._identity.items()
                if identity.get(name) != value
            ]
            raise UsageError(
                "--resume",
                expected="the run that was interrupted",
                found=f"another one: {'; '.join(odd) or f'of version {version}'}",
                do="repeat its command, or start again without --resume, with --overwrite",
            )
        generators = state.pop("random")
        torch.set_rng_state(generators["cpu"].cpu())
        if device.type == "cuda" and generators["cuda"] is not None:
            torch.cuda.set_rng_state(generators["cuda"].cpu(), device)
        return dict(state)

    def is_due(self, workers: Workers) -> bool:
        """Whether it is time to write, by the first process's clock; the same in all."""
        late = float(workers.writes and time.monotonic() - self._written >= self._every)
        return bool(workers.sum(workers.tensor(late)) > 0) if workers.size > 1 else bool(late)

    def save(self, state: dict[str, Any], device: torch.device, workers: Workers) -> None:
        """Replace what is there; the first process writes."""
        self._written = time.monotonic()
        if workers.writes:
            on_gpu = device.type == "cuda"
            generators = {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
            }
            content = {"version": _VERSION, "identity": self._identity}
            content["state"] = {**state, "random": generators}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path, overwrite=True) as partial:
                torch.save(content, partial)
        workers.wait()

    def kept_text(self) -> str:
        """How to go on from what is there, for the end of an error; empty where nothing is."""
        if not self.path.exists():
            return ""
        return f"; the state before is in {self.path}"
