import pytest
import torch

from sovl_daemon.engine.model import formats
from sovl_daemon.engine.model.formats import as_format_of
from sovl_daemon.engine.model.matrix import (
    HAS_INT4,
    HAS_INT8,
    Int4Matrix,
    Int8Matrix,
    Matrix,
    stack,
)
from sovl_daemon.engine.model.precision import Precision


def weights(out: int = 192, width: int = 64, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    torch.manual_seed(0)
    # Rows and groups of very different size, one of them empty.
    scale = torch.logspace(-3, 1, out)[:, None] * torch.linspace(0.1, 3, width)
    plain = torch.randn(out, width) * scale
    plain[3] = 0
    return plain.to(dtype)


@pytest.mark.parametrize("kind", [Int8Matrix, Int4Matrix])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 15, 16, 40])
def test_packed_and_plain_multiply_alike(
    kind: type[Int8Matrix] | type[Int4Matrix], rows: int, dtype: torch.dtype
) -> None:
    weight = weights(dtype=dtype)
    x = torch.randn(rows, 64).to(dtype)
    packed, plain = kind([weight], dtype), kind([weight], dtype, kernel=False)
    assert packed.kernel
    assert not plain.kernel
    assert packed(x).dtype == dtype
    difference = (packed(x) - plain(x)).norm() / plain(x).norm()
    assert float(difference) < 0.01


def test_this_torch_has_the_packed_operators() -> None:
    """If a new torch drops them, everything still works, only slower: then say so here."""
    assert HAS_INT8
    assert HAS_INT4


@pytest.mark.parametrize(("kind", "error"), [(Int8Matrix, 0.01), (Int4Matrix, 0.15)])
def test_the_product_is_close_to_the_exact_one(
    kind: type[Int8Matrix] | type[Int4Matrix], error: float
) -> None:
    weight = weights(dtype=torch.float32)
    x = torch.randn(4, 64)
    exact = x @ weight.T
    assert float((kind([weight], torch.float32)(x) - exact).norm() / exact.norm()) < error


@pytest.mark.parametrize("kind", [Int8Matrix, Int4Matrix])
def test_quantised_in_chunks_is_as_in_one(
    kind: type[Int8Matrix] | type[Int4Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weights(out=208)
    whole = kind([weight], weight.dtype)
    monkeypatch.setattr("sovl_daemon.engine.model.formats._AT_ONCE", 1)
    # The borders of the parts are not those of the chunks.
    chunked = kind(weight.split([70, 8, 130]), weight.dtype)
    for tensor, expected in zip(chunked.tensors(), whole.tensors(), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("kind", [Int8Matrix, Int4Matrix])
def test_the_weights_are_left_as_they_are(kind: type[Int8Matrix] | type[Int4Matrix]) -> None:
    weight = weights(dtype=torch.float32)
    kind([weight], torch.float32)
    assert torch.equal(weight, weights(dtype=torch.float32))


def test_rounding_is_at_most_half_a_step() -> None:
    weight = weights(dtype=torch.float32)
    values, scales = formats.int8(weight)
    error = (values * scales[:, None] - weight).abs()
    assert bool((error <= 0.501 * scales[:, None]).all())
    nibbles, pairs = formats.int4(weight)
    scale, zero = pairs.transpose(0, 1).unbind(-1)
    near = (nibbles.view(192, 2, 32) - 8) * scale[..., None] + zero[..., None]
    assert (int(nibbles.min()), int(nibbles.max())) == (0, 15)
    assert bool(((near - weight.view(192, 2, 32)).abs() <= 0.51 * scale[..., None] + 1e-30).all())


@pytest.mark.parametrize("out", [24, 40])
@pytest.mark.parametrize("kind", [Int8Matrix, Int4Matrix])
def test_a_size_the_operator_refuses_is_multiplied_plainly(
    kind: type[Int8Matrix] | type[Int4Matrix], out: int
) -> None:
    weight = weights(out=out)
    matrix = kind([weight], weight.dtype)
    x = torch.randn(2, 64).to(torch.bfloat16)
    assert not matrix.kernel
    exact = x.float() @ weight.float().T
    assert float((matrix(x) - exact).norm() / exact.norm()) < 0.15


@pytest.mark.parametrize("width", [12, 40, 172])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_width_that_the_operator_reads_past_the_end_of(rows: int, width: int) -> None:
    """In bfloat16 it gave what lay behind the matrix, or ended the process."""
    weight = weights(width=width)
    x = torch.randn(rows, width).to(torch.bfloat16)
    matrix = Int8Matrix([weight], weight.dtype)
    assert not matrix.kernel
    exact = x.float() @ weight.float().T
    assert float((matrix(x) - exact).norm() / exact.norm()) < 0.15


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_weights_of_another_format_are_converted_first(precision: Precision) -> None:
    parts = weights(dtype=torch.float32).split([64, 128])
    converted = [part.to(torch.bfloat16) for part in parts]
    for few_rows in (True, False):
        taken = stack(parts, torch.bfloat16, precision, few_rows=few_rows)
        expected = stack(converted, torch.bfloat16, precision, few_rows=few_rows)
        for tensor, other in zip(taken.tensors(), expected.tensors(), strict=True):
            assert torch.equal(tensor, other)


@pytest.mark.parametrize(
    ("precision", "size"),
    [("fp32", 4), ("int8", 1 + 2 / 64), ("int4", 0.5 + 2 * 2 / 32)],
)
def test_stacked_parts_are_one_matrix_of_its_own(precision: Precision, size: float) -> None:
    parts = list(weights(dtype=torch.float32).split([64, 32, 96]))
    matrix: Matrix = stack(parts, torch.float32, precision, few_rows=False)
    x = torch.randn(1, 64)
    before = matrix(x)
    assert before.dtype == torch.float32
    expected = torch.cat([x @ part.T for part in parts], 1)
    assert float((before - expected).norm() / expected.norm()) < 0.1
    assert matrix.precision == precision
    assert sum(held.numel() * held.element_size() for held in matrix.tensors()) == size * 192 * 64
    for part in parts:
        part.zero_()
    assert torch.equal(matrix(x), before)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float32])
def test_a_format_is_the_same_by_whichever_way(stored: torch.dtype, wanted: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = torch.randn(1000, 600).to(stored)  # more than is taken at a time
    weights[0, :3] = torch.tensor([60_000.0, 6e-8, -0.0])
    found = as_format_of(torch.empty(0, dtype=wanted), weights)
    assert torch.equal(found, weights.to(wanted))
    assert (found is weights) == (stored == wanted)
