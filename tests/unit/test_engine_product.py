"""Products of many rows where the CPU emulates their format."""

import sys
from collections.abc import Iterator

import pytest
import torch

from sovl_daemon.engine.learning.lean_batch import _FrozenLinear
from sovl_daemon.engine.model import product as module
from sovl_daemon.engine.model.matrix import Int8Matrix, OffloadedMatrix, PlainMatrix
from sovl_daemon.engine.model.product import (
    is_emulated,
    is_faster,
    product,
    seconds_of,
    widened,
    widened_from,
)

OUT, WIDTH = 300, 256
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A CPU that is faster in float32 from 10 rows on; what was multiplied so is counted."""
    rows: list[int] = []

    def spy(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return widened(x, weight)

    monkeypatch.setattr(module, "widened_from", lambda dtype: 10)
    monkeypatch.setattr(module, "widened", spy)
    yield rows


def made(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, WIDTH).to(dtype), torch.randn(OUT, WIDTH).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("at_once", [1, 7 * WIDTH, 1 << 18])
def test_a_part_at_a_time_is_the_same_product(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    x, weight = made(20, dtype)
    y = widened(x, weight)
    assert y.dtype == dtype
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(y, exact.to(dtype), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("dtype", HALVES)
def test_only_many_rows_go_by_way_of_float32(dtype: torch.dtype, emulated: list[int]) -> None:
    for rows in (1, 9, 10, 64):
        product(*made(rows, dtype))
    assert emulated == [10, 64]


def test_float32_and_small_matrices_stay_as_they_are(emulated: list[int]) -> None:
    product(*made(64, torch.float32))
    product(torch.ones(64, 8).bfloat16(), torch.ones(8, 8).bfloat16())
    assert emulated == []


def test_every_kind_of_matrix_does(emulated: list[int]) -> None:
    x, weight = made(64, torch.bfloat16)
    exact = (x.double() @ weight.double().T).bfloat16()
    eight = weight[:288]
    plain, offloaded = PlainMatrix(weight, "fp16"), OffloadedMatrix([weight])
    for matrix in (plain, offloaded):
        torch.testing.assert_close(matrix(x), exact, rtol=0.02, atol=0.01)
    difference = Int8Matrix([eight], torch.bfloat16)(x) - exact[:, :288]
    assert float(difference.norm() / exact.norm()) < 0.02
    assert emulated == [64, 64, 64]


def test_gradients_to_the_input_do_too(emulated: list[int]) -> None:
    x, weight = made(64, torch.bfloat16)
    x.requires_grad_()
    loss = _FrozenLinear.apply(x, weight).float().square().sum()
    loss.backward()
    expected = x.detach().clone().requires_grad_()
    torch.nn.functional.linear(expected, weight).float().square().sum().backward()
    assert x.grad is not None
    assert expected.grad is not None
    difference = (x.grad - expected.grad).float().norm() / expected.grad.float().norm()
    assert float(difference) < 0.01
    assert emulated == [64, 64]


def test_what_is_emulated_is_measured_once() -> None:
    widened_from.cache_clear()
    found = widened_from(torch.bfloat16)
    assert found == sys.maxsize or found in (8, 16, 32, 128)
    assert widened_from(torch.bfloat16) == found
    assert is_emulated(torch.bfloat16) == (found < sys.maxsize)
    assert not is_emulated(torch.float32)


def test_the_faster_is_found_by_the_time_of_the_core_and_the_threads_are_as_before() -> None:
    a, b = torch.randn(64, 64), torch.randn(400, 400)
    used: list[int] = []

    def quick() -> None:
        used.append(torch.get_num_threads())
        a @ a

    def slow() -> None:
        for _ in range(20):
            b @ b

    torch.set_num_threads(2)
    try:
        assert is_faster(quick, slow)
        assert not is_faster(slow, quick)
        first, second = seconds_of(quick, slow)
        assert first < second
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(used) == {1}
