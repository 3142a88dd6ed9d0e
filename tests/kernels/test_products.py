"""Matrix products on a CPU: what they give, by which library, and what they leave as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tamis_kernels.cpu.products as products
from tamis_kernels import nearest_prototype
from tamis_kernels.cpu.products import Product

BACKENDS: Any = torch.backends
MATRIX = np.random.default_rng(0).standard_normal((33, 50), np.float32)
ROWS = np.random.default_rng(1).standard_normal((700, 33), np.float32)

by_onednn = pytest.mark.skipif(
    not BACKENDS.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU on which products of float32 are torch's."""
    monkeypatch.setattr(products, "flags", lambda: frozenset({"avx512f"}))


def multiplied(rows: NDArray[Any], matrix: NDArray[Any], at_once: int = 64) -> NDArray[Any]:
    """By chunks, the last of which is smaller."""
    product = Product(matrix)
    with product.one_thread_each:
        chunk, multiply = product.room(at_once)
        parts = []
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            chunk[: len(part)] = part
            parts.append(multiply(len(part)).copy())
    return np.concatenate(parts)


def check_float32(found: NDArray[Any]) -> None:
    exact = ROWS.astype(np.float64) @ MATRIX
    sizes = np.linalg.norm(ROWS, axis=1)[:, None] * np.linalg.norm(MATRIX, axis=0)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= (33 + 4) * 2.0**-24 * sizes).all()


@pytest.mark.parametrize("flags", [pytest.param({"avx512f"}, marks=by_onednn), set()])
def test_float32_by_either_library(flags: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "flags", lambda: frozenset(flags))
    assert Product(MATRIX).packs_every_time == (not flags)
    check_float32(multiplied(ROWS, MATRIX))


def test_int8_is_exact() -> None:
    rows, matrix = (np.clip(40 * a, -127, 127).astype(np.int8) for a in (ROWS, MATRIX))
    found = multiplied(rows, matrix)
    assert found.dtype == np.int32
    assert np.array_equal(found, rows.astype(np.int64) @ matrix.astype(np.int64))


def test_bfloat16_is_rounded_once() -> None:
    rows, matrix = (torch.from_numpy(a).bfloat16() for a in (ROWS, MATRIX))
    found = multiplied(rows.view(torch.uint16).numpy(), matrix.view(torch.uint16).numpy())
    exact = rows.double() @ matrix.double()
    sums = torch.from_numpy(found).view(torch.bfloat16).double()
    rounding = 2.0**-8 * exact.abs() + 1e-5  # and float32's of the sums
    assert ((sums - exact).abs() <= rounding).all()


@by_onednn
@pytest.mark.parametrize("setting", ["legacy", "matmul", "everything", "off"])
@pytest.mark.usefixtures("avx512")
def test_torch_is_not_asked_where_it_may_use_fewer_bits(setting: str) -> None:
    precision = torch.get_float32_matmul_precision()
    before = BACKENDS.fp32_precision, BACKENDS.mkldnn.matmul.fp32_precision
    with ExitStack() as stack:
        stack.callback(setattr, BACKENDS.mkldnn.matmul, "fp32_precision", before[1])
        stack.callback(setattr, BACKENDS, "fp32_precision", before[0])
        if setting == "legacy":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("medium")
        elif setting == "matmul":
            BACKENDS.mkldnn.matmul.fp32_precision = "bf16"
        elif setting == "everything":
            BACKENDS.mkldnn.matmul.fp32_precision = "none"
            BACKENDS.fp32_precision = "bf16"
        else:
            stack.callback(setattr, BACKENDS.mkldnn, "enabled", True)
            BACKENDS.mkldnn.enabled = False
        assert Product(MATRIX).packs_every_time
    assert not Product(MATRIX).packs_every_time


@by_onednn
@pytest.mark.usefixtures("avx512")
def test_settings_of_torch_that_do_not_matter() -> None:
    before = BACKENDS.cuda.matmul.fp32_precision
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    torch.set_default_dtype(torch.float64)
    try:
        assert not Product(MATRIX).packs_every_time
        found = multiplied(ROWS, MATRIX)
    finally:
        BACKENDS.cuda.matmul.fp32_precision = before
        torch.set_default_dtype(torch.float32)
    check_float32(found)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    nearest_prototype(np.tile(ROWS, (5, 1)), MATRIX.T)
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_threads_at_the_same_time_leave_the_libraries_as_they_were() -> None:
    rows = np.tile(ROWS, (6, 1))
    before = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: nearest_prototype(rows, MATRIX.T).index, range(12)))
    assert all(np.array_equal(index, found[0]) for index in found)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_a_thread_that_leaves_before_others_has_its_setting_back() -> None:
    def inside() -> int:
        with products._TORCH:
            torch.set_num_threads(1)  # as for its first chunk
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with products._TORCH, ThreadPoolExecutor(1) as pool:
            assert pool.submit(inside).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
