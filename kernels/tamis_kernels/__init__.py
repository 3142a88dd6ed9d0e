"""Kernels of tamis: arrays in, arrays out. They know no datasets and no models.

Every kernel has a float64 definition in :mod:`tamis_kernels.reference` and a public function here
that checks its arguments and dispatches by the array in hand.
"""

from tamis_kernels.nearest_prototype import Nearest, nearest_prototype
from tamis_kernels.row_scores import RowScores, row_scores

__all__ = ["Nearest", "RowScores", "nearest_prototype", "row_scores"]
