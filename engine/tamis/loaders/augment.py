"""Random changes of training images, drawn from (seed, epoch, example id)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.hashing import example_uniform
from tamis.loaders.batch import Augmentation

__all__ = ["sampling_grid"]


def sampling_grid(
    example_ids: NDArray[np.int64], augmentation: Augmentation, epoch: int, side: int
) -> tuple[Tensor, Tensor]:
    """Where each output row and column of each image comes from.

    Shifting, mirroring and reflecting at the edges are one gather:
    ``images[i, rows[i, r], columns[i, c]]``.

    Args:
        example_ids: (b,) int64.
        augmentation: What to change.
        epoch: Counted from 0.
        side: Pixels of the square images.

    Returns:
        Rows and columns, (b, side) int64 each, on the host.
    """

    def draw(purpose: str) -> NDArray[np.float64]:
        return example_uniform(example_ids, augmentation.seed, purpose, epoch)

    reach = min(augmentation.translate, side - 1)
    grids = []
    for purpose in ("shift rows", "shift columns"):
        shift = np.floor(draw(purpose) * (2 * reach + 1)).astype(np.int64) - reach
        index = np.abs(np.arange(side) + shift[:, None])
        grids.append(np.where(index >= side, 2 * (side - 1) - index, index))
    rows, columns = grids
    if augmentation.flip:
        mirrored = draw("flip") < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    return torch.from_numpy(rows), torch.from_numpy(columns)
