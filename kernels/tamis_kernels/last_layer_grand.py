"""Gradient norm of the cross-entropy with respect to the last layer, in closed form."""

from __future__ import annotations

from typing import Any

from tamis_kernels.arrays import Place, check_matrix, dtype_of, place_of, strides_of
from tamis_kernels.row_scores import row_scores

__all__ = ["last_layer_grand"]

_DTYPES = ("float32", "float16", "bfloat16")


def last_layer_grand(logits: Any, labels: Any, features: Any, *, bias: bool = True) -> Any:
    """Norm of each example's gradient with respect to the last layer's weights and bias.

    ‖(p − onehot(y)) ⊗ [h, 1]‖_F = EL2N · √(‖h‖² + 1), without a bias EL2N · ‖h‖: the gradient norm
    (GraNd) of Paul et al. 2021, arXiv:2107.07075, for the last layer alone, as DeepCore computes it
    (Guo et al. 2022, arXiv:2204.08499). It starts from logits, not from probabilities, so that
    confident examples keep their differences; squares are summed in float64, so that no feature is
    too large or too small for its square. Relative error against the float64 definition is below
    2e-6 where EL2N and the result are above float32's smallest normal number.

    On a GPU it is two launches on the caller's current stream; nothing is copied, nothing waits,
    and a CUDA graph of torch can capture it once it has run.

    Args:
        logits: (n, c) float32, float16 or bfloat16, c ≥ 2; see :func:`row_scores`.
        labels: (n,) integers from 0 to c−1; on a GPU int64 or int32.
        features: (n, d) float32, float16 or bfloat16, d ≥ 1, of the same library and on the same
            device: the last layer's input h. A row with a NaN gives NaN; one with an infinite
            feature gives infinity, or NaN where EL2N is 0.
        bias: Whether the layer has a bias.

    Returns:
        (n,) float32 of the library and on the device of the logits; n = 0 gives an empty array. A
        row that :func:`row_scores` scores NaN is NaN. O(n · (c + d)), no temporary of that size; on
        a GPU matrices whose neighbouring columns do not lie side by side are copied first.

    Raises:
        TypeError: Arrays of another kind or dtype, of two libraries, or a bias that is no bool.
        ValueError: Shapes that do not fit, two devices, or on the CPU a label out of range.
    """
    if not isinstance(bias, bool):
        raise TypeError(f"bias: expected True or False, found {bias!r}")
    place = place_of(logits=logits, labels=labels, features=features)
    check_matrix("logits", logits, _DTYPES, "(n, c ≥ 2)")
    n_rows = int(logits.shape[0])
    check_matrix("features", features, _DTYPES, f"({n_rows}, d ≥ 1)")
    if features.shape[0] != n_rows or features.shape[1] < 1:
        raise ValueError(
            f"features: expected shape ({n_rows}, d ≥ 1), found {tuple(features.shape)}"
        )
    el2n = row_scores(logits, labels).el2n
    norms = place.empty((n_rows,), "float32")
    if n_rows and place.on_gpu:
        _on_gpu(place, features, bias, el2n, norms)
    elif n_rows:
        _on_cpu(place, features, bias, el2n, norms)
    return norms


def _on_cpu(place: Place, features: Any, bias: bool, el2n: Any, norms: Any) -> None:
    from tamis_kernels.cpu.last_layer_grand import launch

    launch(*place.rows(features), float(bias), place.host(el2n), place.host(norms))


def _on_gpu(place: Place, features: Any, bias: bool, el2n: Any, norms: Any) -> None:
    from tamis_kernels.cuda.cupy_door import CupyRuntime, contiguous
    from tamis_kernels.cuda.last_layer_grand import launch

    if strides_of(features)[1] != 1:
        features = contiguous(features)
    launch(CupyRuntime(place), features, dtype_of(features), el2n, norms, bias=bias)
