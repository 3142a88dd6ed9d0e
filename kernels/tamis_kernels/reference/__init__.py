"""Float64 NumPy definitions: the ground truth that every kernel is tested against.

Written for reading, from the formulas of the papers named, not for speed or memory. One file a
kernel, of the same name.
"""

from tamis_kernels.reference.influence import influence_reduce, memorization
from tamis_kernels.reference.kmeans import kmeans
from tamis_kernels.reference.last_layer_grand import last_layer_grand
from tamis_kernels.reference.nearest_prototype import nearest_prototype
from tamis_kernels.reference.row_scores import row_scores
from tamis_kernels.reference.select_top import select_top
from tamis_kernels.reference.update_statistics import Presentation, update_statistics

__all__ = [
    "Presentation",
    "influence_reduce",
    "kmeans",
    "last_layer_grand",
    "memorization",
    "nearest_prototype",
    "row_scores",
    "select_top",
    "update_statistics",
]
