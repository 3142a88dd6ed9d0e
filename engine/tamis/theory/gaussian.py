"""The Gaussian density, and where it ends for float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAR", "normal_density"]

FAR = 9.5
"""Beyond it the density is below 1e-20."""

_AT_0 = 1 / np.sqrt(2 * np.pi)


def normal_density(x: Any) -> NDArray[np.float64]:
    """exp(−x²/2) / √(2 pi) of an array or a number."""
    return np.asarray(_AT_0 * np.exp(-0.5 * np.square(x)), np.float64)
