"""Kernels of tamis: arrays in, arrays out. They know no datasets and no models.

Every kernel has a float64 definition in :mod:`tamis_kernels.reference`, an implementation for the
CPU and one for NVIDIA GPUs, and a public function here that checks its arguments and dispatches by
the array in hand: NumPy, torch or CuPy.
"""

from tamis_kernels.influence import Influence, influence_reduce, memorization
from tamis_kernels.kmeans import KMeans, Lloyd, kmeans
from tamis_kernels.last_layer_grand import last_layer_grand
from tamis_kernels.nearest_prototype import Nearest, nearest_prototype
from tamis_kernels.row_scores import RowScores, row_scores
from tamis_kernels.score_and_update import score_and_update
from tamis_kernels.select_top import select_top
from tamis_kernels.update_statistics import Statistics, new_statistics, update_statistics

__all__ = [
    "Influence",
    "KMeans",
    "Lloyd",
    "Nearest",
    "RowScores",
    "Statistics",
    "influence_reduce",
    "kmeans",
    "last_layer_grand",
    "memorization",
    "nearest_prototype",
    "new_statistics",
    "row_scores",
    "score_and_update",
    "select_top",
    "update_statistics",
]
