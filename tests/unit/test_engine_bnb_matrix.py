"""bitsandbytes runs on a CPU too: the same classes, other kernels than a GPU has."""

import builtins
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.model import bnb_matrix
from sovl_daemon.engine.model.bnb_matrix import BnbInt4Matrix, BnbInt8Matrix, obstacle
from sovl_daemon.engine.model.matrix import Matrix, PlainMatrix
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.model.switch import PrecisionSwitch
from tests.unit.engine_tiny import read, save_tiny

CPU = torch.device("cpu")
Kind = type[BnbInt8Matrix] | type[BnbInt4Matrix]
ERRORS = {BnbInt8Matrix: 0.02, BnbInt4Matrix: 0.13}
KINDS = pytest.mark.parametrize("kind", ERRORS)


def weights(out: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    plain = torch.randn(out, width) * torch.logspace(-2, 0, out)[:, None]
    plain[3] = 0
    return plain


def inputs(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """With one column a hundred times as large as the others, as language models have it."""
    x = torch.randn(rows, width)
    x[:, 5] *= 100
    return x.to(dtype)


def error(matrix: Matrix, x: torch.Tensor, weight: torch.Tensor) -> float:
    exact = x.float() @ weight.T
    return float((matrix(x).float() - exact).norm() / exact.norm())


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(("out", "width"), [(48, 32), (192, 64), (20, 96), (576, 576)])
def test_the_product_is_close_to_the_exact_one(
    kind: Kind, dtype: torch.dtype, rows: int, out: int, width: int
) -> None:
    weight, x = weights(out, width), inputs(rows, width, dtype)
    matrix = kind([weight], dtype, CPU)
    assert matrix(x).dtype == dtype
    assert matrix(x).shape == (rows, out)
    assert error(matrix, x, weight) < ERRORS[kind]


@KINDS
def test_inputs_that_lie_apart_in_memory(kind: Kind) -> None:
    matrix = kind([weights(48, 32)], torch.float32, CPU)
    x = inputs(4, 64, torch.float32)[:, ::2]
    assert torch.equal(matrix(x), matrix(x.contiguous()))


@KINDS
def test_quantised_in_chunks_and_parts_is_as_in_one(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weights(208, 96)
    whole = kind([weight], torch.float32, CPU)
    monkeypatch.setattr("sovl_daemon.engine.model.formats._AT_ONCE", 1)
    chunked = kind(weight.split([70, 8, 130]), torch.float32, CPU)
    for tensor, expected in zip(chunked.tensors(), whole.tensors(), strict=True):
        assert torch.equal(tensor, expected)
    x = inputs(2, 96, torch.float32)
    assert torch.equal(chunked(x), whole(x))


@pytest.mark.parametrize(
    ("kind", "width", "size"),
    [
        (BnbInt8Matrix, 576, 1 + 4 / 576),
        (BnbInt4Matrix, 576, 0.5 + 4 / 64),
        (BnbInt4Matrix, 96, 0.5 + 4 / 32),
    ],
)
def test_tensors_are_all_that_is_held_and_nothing_of_the_parts(
    kind: Kind, width: int, size: float
) -> None:
    weight, x = weights(64, width), inputs(1, width, torch.bfloat16)
    matrix = kind([weight], torch.bfloat16, CPU)
    before = matrix(x)
    held = sum(tensor.numel() * tensor.element_size() for tensor in matrix.tensors())
    assert held == pytest.approx(size * weight.numel())
    weight.zero_()
    assert torch.equal(matrix(x), before)


@pytest.mark.parametrize("width", [50, 16, 65])
def test_a_width_without_whole_blocks_has_8_bits_but_not_4(width: int) -> None:
    weight = weights(48, width)
    assert error(BnbInt8Matrix([weight], torch.float32, CPU), weight, weight) < 0.03
    with pytest.raises(OptionError, match=f"rows of {width} weights .* multiple of 32; use int8"):
        BnbInt4Matrix([weight], torch.float32, CPU)


# A model that believes it is on a GPU


def stand_in(
    parts: Any, dtype: torch.dtype, precision: Precision, *, few_rows: bool, device: torch.device
) -> Matrix:
    """What `stack` does for a GPU, with what it is given on this CPU."""
    if precision == "int8":
        return BnbInt8Matrix(parts, dtype, device)
    if precision == "int4":
        return BnbInt4Matrix(parts, dtype, device)
    return PlainMatrix(torch.cat([part.to(device, dtype) for part in parts]), precision)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_switches_to_them_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    from sovl_daemon.engine.model.model import load_model

    model = load_model(save_tiny(tmp_path), device="cpu", dtype=dtype)
    exact, size = read(model, range(5, 25)).float(), model.weight_bytes
    monkeypatch.setattr("sovl_daemon.engine.model.llama.stack", stand_in)
    # The large random weights of the tiny model make much of little; one that has nothing in
    # common with it would be 1.4 away.
    for precision, limit in (("int8", 0.1), ("int4", 0.8)):
        switched(model, precision)
        close = read(model, range(5, 25)).float()
        assert 0 < float((close - exact).norm() / exact.norm()) < limit
        assert model.weight_bytes < 0.7 * size
    switched(model, model.plain)
    assert torch.equal(read(model, range(5, 25)).float(), exact)
    assert model.weight_bytes == size


def switched(model: LoadedModel, precision: Any) -> None:
    assert model.lean is not None
    assert model.mapped_weights is not None
    switch = PrecisionSwitch(model.lean, model.mapped_weights, precision)
    while switch.step():
        pass


# Where the library is of no use


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    obstacle.cache_clear()
    yield
    obstacle.cache_clear()


def test_nothing_is_in_the_way_here() -> None:
    assert obstacle(CPU) == ""


def refuse(name: str, *args: Any, real: Callable[..., Any] = builtins.__import__) -> Any:
    if name == "bitsandbytes":
        raise ImportError("no bitsandbytes for this Python\nand more")
    return real(name, *args)


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        ("import", "bitsandbytes does not work here: no bitsandbytes for this Python"),
        ("product", "bitsandbytes multiplies wrongly on cpu: update it"),
    ],
)
def test_what_is_in_the_way_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, breaks: str, expected: str
) -> None:
    if breaks == "import":
        monkeypatch.setattr(builtins, "__import__", refuse)
    else:
        monkeypatch.setattr(BnbInt4Matrix, "__call__", lambda _, x: torch.zeros(len(x), 64))
    assert obstacle(CPU) == expected


def test_a_model_tells_why_it_has_one_precision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sovl_daemon.engine.model.llama import Llama
    from sovl_daemon.engine.model.model import load_model

    model = load_model(save_tiny(tmp_path), device="cpu", dtype="float32")
    monkeypatch.setattr(Llama, "device", torch.device("cuda"))
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    assert model.precisions == ["fp32"]
    with pytest.raises(OptionError, match=r"on cuda: use fp32 \(bitsandbytes does not work here: "):
        model.switch("int8")
    monkeypatch.setattr(bnb_matrix, "obstacle", lambda device: "")
    assert model.precisions == ["fp32", "int8", "int4"]


def test_another_device_has_one_precision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sovl_daemon.engine.model.llama import Llama
    from sovl_daemon.engine.model.model import load_model

    model = load_model(save_tiny(tmp_path), device="cpu", dtype="float32")
    monkeypatch.setattr(Llama, "device", torch.device("mps"))
    with pytest.raises(OptionError, match=r"use fp32 \(there are no .* fewer bits for mps\)"):
        model.switch("int4")


def test_a_cpu_never_loads_it(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from sovl_daemon.engine.model.model import load_model
model = load_model(Path({str(save_tiny(tmp_path))!r}), device="cpu")
for precision in ("int8", "int4"):
    switch = model.switch(precision)
    while switch.step():
        pass
sys.exit("bitsandbytes" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
