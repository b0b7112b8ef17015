import pytest
import torch

from sovl_daemon.engine.model.matrix import Int8Matrix, VnniMatrix, stack, whole_numbers_are_faster

OUT, WIDTH = 192, 64


def weights() -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(OUT, WIDTH) * torch.logspace(-3, 1, OUT)[:, None]).bfloat16()


def inputs(rows: int = 5) -> torch.Tensor:
    """Rows of very different size, each with one number far above the others; one is empty."""
    x = torch.randn(rows, WIDTH) * torch.logspace(-3, 3, rows)[:, None]
    x[:, 3] *= 200
    x[1] = 0
    return x


def split_of(weight: torch.Tensor) -> VnniMatrix:
    return VnniMatrix(weight.split([70, 122]), weight.dtype)


def exact(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The product by the same values and scales, in float64."""
    values, scales = Int8Matrix([weight], weight.dtype).tensors()
    return x.double() @ (values.double() * scales.double()[:, None]).T


def test_the_same_weights_are_held() -> None:
    weight = weights()
    values, scales = split_of(weight).tensors()
    expected, same = Int8Matrix([weight], weight.dtype).tensors()
    assert torch.equal(values, expected)
    assert torch.equal(scales, same.float())


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-3)])
def test_inputs_lose_little_whatever_their_size(dtype: torch.dtype, error: float) -> None:
    x = inputs().to(dtype)
    expected = exact(weights(), x)
    y = split_of(weights())(x)
    assert y.dtype == dtype
    assert bool(((y - expected).norm(dim=1) <= error * expected.norm(dim=1)).all())


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    x, matrix = inputs(), split_of(weights())
    together = matrix(x)
    for row, alone in zip(together, x, strict=True):
        assert torch.equal(matrix(alone[None])[0], row)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_row_stays_alone(broken: float) -> None:
    x, matrix = inputs(), split_of(weights())
    expected = matrix(x)
    x[2, 7] = broken
    y = matrix(x)
    assert not torch.isfinite(y[2]).any()
    kept = [0, 1, 3, 4]
    assert torch.equal(y[kept], expected[kept])


def test_the_largest_products_do_not_overflow() -> None:
    weight = torch.full((16, WIDTH), 3.0)
    x = torch.ones(1, WIDTH)
    torch.testing.assert_close(VnniMatrix([weight], weight.dtype)(x), x @ weight.T)


def test_it_is_taken_for_few_rows_where_the_cpu_can() -> None:
    few = stack([weights()], torch.bfloat16, "int8", few_rows=True)
    assert isinstance(few, VnniMatrix) == whole_numbers_are_faster(torch.bfloat16)
    assert isinstance(stack([weights()], torch.bfloat16, "int8", few_rows=False), Int8Matrix)
