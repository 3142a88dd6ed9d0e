"""An encoder made of a torch module."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tamis.devices import autocast
from tamis.encoders.base import Preparation, unusable
from tamis.errors import first_line
from tamis.inference import in_parts
from tamis.loaders.settings import Decoding

__all__ = ["NetworkEncoder", "Origin", "quietly", "without_classifier"]


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    Attributes:
        spec: What it was opened by.
        weights: Digest of its weights.
        library: Name and version of what built it.
        labels_used: Whether it was trained with class labels; None where nobody says.
        training: How it was trained, where that was done here.
    """

    spec: str
    weights: str
    library: str
    labels_used: bool | None
    training: dict[str, Any] | None = None


class NetworkEncoder:
    """See :class:`tamis.encoders.base.Encoder`. Tries the network on two grey images at once.

    Attributes:
        n_features: d.

    Args:
        origin: Where the network comes from.
        module: (b, 3, r, r) float32, normalised → (b, d) or (b, d, 1, 1).
        preparation: How images become its input.
        device: Where it goes.
        mixed: Multiply in bfloat16 where the hardware does (:func:`tamis.devices.autocast`).

    Raises:
        UsageError: The network does not take such images, or gives something else.
    """

    def __init__(
        self,
        origin: Origin,
        module: nn.Module,
        preparation: Preparation,
        device: torch.device,
        *,
        mixed: bool = True,
    ) -> None:
        self._origin, self._preparation, self._mixed = origin, preparation, mixed
        self._device, self._module = device, module.eval()
        # Weights that lie as the images do are not turned round for every batch.
        self._module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (preparation.mean, preparation.std)
        )
        self.n_features = self._width()

    @property
    def spec(self) -> str:
        """What it was opened by."""
        return self._origin.spec

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self._preparation.resolution

    @property
    def crop_ratio(self) -> float:
        """Side of the centred square by the image's shorter side."""
        return self._preparation.crop_ratio

    @property
    def decoding(self) -> Decoding:
        """How images become pixels."""
        return self._preparation.decoding

    def shown(self, decoding: Decoding) -> NetworkEncoder:
        """The same with images that become pixels in another way."""
        other = copy(self)
        other._preparation = replace(self._preparation, decoding=decoding)
        return other

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted, in units of 0…255."""
        return self._preparation.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Divided by, in units of 0…255."""
        return self._preparation.std

    @property
    def module(self) -> nn.Module:
        """The network itself, for fine-tuning: (b, 3, r, r) normalised → features."""
        return self._module

    def provenance(self) -> dict[str, Any]:
        """See :meth:`tamis.encoders.base.Encoder.provenance`."""
        with self._precision():
            low = torch.is_autocast_enabled(self._device.type)
        return {
            "spec": self.spec,
            "weights": self._origin.weights,
            "library": self._origin.library,
            "torch": torch.__version__,
            "labels_used": self._origin.labels_used,
            "training": self._origin.training,
            "n_features": self.n_features,
            "resolution": self.resolution,
            "crop_ratio": self.crop_ratio,
            "mean": list(self.mean),
            "std": list(self.std),
            **self.decoding,
            "precision": "bfloat16" if low else "float32",
        }

    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, r, r) uint8 → (b, d) float32 on the device."""
        with torch.no_grad(), self._precision():
            return in_parts(self._rows, images.to(self._device))

    def _rows(self, images: Tensor) -> Tensor:
        x = (images.float() - self._mean) / self._std
        rows: Tensor = self._module(x.contiguous(memory_format=torch.channels_last))
        # Pooling may have left sides of one pixel.
        return (rows.flatten(1) if rows.shape[2:] == (1, 1) else rows).float()

    def _precision(self) -> AbstractContextManager[None]:
        return autocast(self._device) if self._mixed else nullcontext()

    def _width(self) -> int:
        side, shape = self.resolution, None
        try:
            with quietly():
                shape = self(torch.full((2, 3, side, side), 128, dtype=torch.uint8)).shape
            found = f"a tensor of shape {tuple(shape)}"
        except Exception as error:  # foreign code raises anything
            found = first_line(error)
        if shape is None or len(shape) != 2 or shape[0] != 2:
            raise unusable(
                self.spec,
                expected=f"a network that makes (2, d) of images (2, 3, {side}, {side})",
                found=found,
                do="give one that ends in its pooled features, or another --resolution",
            )
        return shape[1]


@contextmanager
def quietly() -> Iterator[None]:
    """Without what foreign libraries warn of and log: it is about code that the user did not write.

    What goes wrong they raise, and that is told in one line.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def without_classifier(module: nn.Module) -> nn.Module:
    """Replace the last linear layer of a classifier by nothing, so that its input comes out.

    It is looked for where torchvision and those who follow it keep it: in ``fc`` (ResNet),
    ``classifier``, ``heads`` or ``head``; of several layers there the last. Other networks are
    returned as they are.
    """
    for name in ("fc", "classifier", "heads", "head"):
        part = getattr(module, name, None)
        if isinstance(part, nn.Linear):
            setattr(module, name, nn.Identity())
        elif isinstance(part, nn.Sequential) and len(part) and isinstance(part[-1], nn.Linear):
            part[-1] = nn.Identity()
    return module
