"""`sovl model eval` with tiny models, and once with the real one."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from sovl_daemon.cli import evaluation, exits
from sovl_daemon.cli.app import app
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.switch import PrecisionSwitch
from tests.unit.engine_tiny import save_tiny

Eval = Callable[..., Result]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a Llama and a GPT-2."""
    root = tmp_path_factory.mktemp("store")
    save_tiny(root / "tiny", dtype=torch.bfloat16)
    save_tiny(root / "gpt2", "gpt2", dtype=torch.bfloat16)
    return root


@pytest.fixture
def sovl_eval(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eval:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SOVL_HOST__DEVICE", "cpu")
    monkeypatch.setenv("SOVL_HOST__THREADS", "1")

    def run(*arguments: object) -> Result:
        given = [*map(str, arguments), "--model-dir", str(store)]
        return CliRunner().invoke(app, ["model", "eval", *given])

    return run


def rows(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {row["precision"]: row for row in json.loads(result.stdout)["precisions"]}


def complaint(result: Result) -> str:
    """The one line of standard error that is no progress."""
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]
    return line


@pytest.fixture
def sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU with fast 16-bit matmuls, whichever this one is."""
    seconds = {torch.bfloat16: 1.0, torch.float32: 2.0}
    monkeypatch.setattr(
        "sovl_daemon.engine.model.precision._times_as_long",
        lambda one, other: seconds[one] / seconds[other],
    )
    monkeypatch.setattr("sovl_daemon.engine.model.model.is_emulated", lambda dtype: False)


@pytest.mark.usefixtures("sixteen_bits")
def test_each_precision_has_its_cost(sovl_eval: Eval) -> None:
    result = sovl_eval("tiny", "--windows", 3, "--json")
    found = rows(result)
    assert list(found) == ["fp16", "int8", "int4"]
    whole = json.loads(result.stdout)
    assert (whole["model"], whole["dtype"], whole["device"]) == ("tiny", "bfloat16", "cpu")
    assert (whole["tokens"], whole["window"]) == (3 * 128, 128)
    assert found["fp16"]["increase"] == 0
    for row in found.values():
        increase = row["perplexity"] / found["fp16"]["perplexity"] - 1
        assert row["increase"] == pytest.approx(increase)
    sizes = [row["weight_bytes"] for row in found.values()]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.usefixtures("sixteen_bits")
def test_people_see_a_table_and_progress(sovl_eval: Eval) -> None:
    result = sovl_eval("tiny", "--windows", 2)
    about, header, *table = result.stdout.splitlines()
    assert about.startswith("tiny: bfloat16 on cpu (as stored); 256 tokens of text")
    assert header.split() == ["precision", "perplexity", "increase", "weights"]
    assert [line.split()[0] for line in table] == ["fp16", "int8", "int4"]
    assert table[0].split()[2] == "+0.00%"
    for stage in ("loading the model", "reading in fp16", "reading in int4"):
        assert f"{stage} ...\n" in result.stderr


@pytest.mark.usefixtures("sixteen_bits")
def test_only_what_is_asked_for_is_measured(sovl_eval: Eval) -> None:
    found = rows(sovl_eval("tiny", "--precision", "int4, int8,int4", "--windows", 1, "--json"))
    assert list(found) == ["int4", "int8"]
    assert [row["increase"] for row in found.values()] == [None, None]
    assert all(row["perplexity"] > 1 for row in found.values())


@pytest.mark.usefixtures("sixteen_bits")
def test_a_precision_that_cannot_be_had_is_named_with_its_reason(sovl_eval: Eval) -> None:
    found = rows(sovl_eval("gpt2", "--windows", 1, "--json"))
    assert found["fp16"]["perplexity"] > 1
    assert found["int8"]["perplexity"] is None
    assert "precision 'int8' is not possible for this GPT2LMHeadModel" in found["int8"]["reason"]
    shown = sovl_eval("gpt2", "--windows", 1).stdout
    assert "int4 cannot be had: precision 'int4' is not possible" in shown


@pytest.mark.usefixtures("sixteen_bits")
def test_without_a_single_measurement_it_fails(sovl_eval: Eval) -> None:
    result = sovl_eval("gpt2", "--precision", "int8", "--windows", 1)
    assert result.exit_code == exits.FAILED
    assert "int8 cannot be had" in result.stdout


def test_where_a_cpu_computes_in_32_bits_they_stand_for_fp16(
    sovl_eval: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.bfloat16: 2.0, torch.float32: 1.0}
    monkeypatch.setattr(
        "sovl_daemon.engine.model.precision._times_as_long",
        lambda one, other: seconds[one] / seconds[other],
    )
    found = rows(sovl_eval("tiny", "--precision", "fp16,fp32,int8", "--windows", 1, "--json"))
    assert list(found) == ["fp32", "int8"]
    assert found["int8"]["increase"] is not None


@pytest.mark.usefixtures("sixteen_bits")
def test_a_switch_without_memory_is_a_reason_and_the_next_goes_on(
    sovl_eval: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = LoadedModel.switch

    class Full(PrecisionSwitch):
        def step(self) -> bool:
            super().step()
            raise MemoryError

    def full_in_int8(model: LoadedModel, precision: Any) -> PrecisionSwitch | None:
        found = switch(model, precision)
        if precision == "int8" and found is not None:
            found.__class__ = Full
        return found

    expected = rows(sovl_eval("tiny", "--precision", "fp16", "--windows", 1, "--json"))
    monkeypatch.setattr(LoadedModel, "switch", full_in_int8)
    found = rows(sovl_eval("tiny", "--precision", "int8,fp16", "--windows", 1, "--json"))
    assert found["int8"]["reason"] == "no memory to hold the weights in int8"
    assert found["fp16"] == expected["fp16"]  # rolled back


def test_the_text_can_be_ones_own(sovl_eval: Eval, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\ufeffdéjà vu, the quick brown fox", encoding="utf-8")
    own = json.loads(sovl_eval("tiny", "--precision", "fp16", "--text", file, "--json").stdout)
    assert 2 <= own["tokens"] < 32
    usual = json.loads(sovl_eval("tiny", "--precision", "fp16", "--json").stdout)
    assert own["precisions"][0]["perplexity"] != usual["precisions"][0]["perplexity"]


def test_of_a_long_file_no_more_is_read_than_needed(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 100_000)
    assert len(evaluation.read_text(file, 1)) == 512 * 64
    assert len(evaluation.read_text(file, 1000)) == 500_000
    assert len(evaluation.read_text(None, 1)) == 512 * 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"own.txt: No such file or directory; give a text file"),
        (b"", r"the text is too short \(0 tokens\): give one of 2 or more"),
        (b"a", r"the text is too short \(1 tokens\)"),
        (b"\xff\xfe\xfa", r"own.txt: not UTF-8; give a text file in UTF-8"),
    ],
)
def test_a_bad_text_is_one_line(
    sovl_eval: Eval, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_bytes(content)
    result = sovl_eval("tiny", "--text", file)
    assert result.exit_code == exits.USAGE
    assert re.search(message, complaint(result))


def test_a_folder_is_no_text(sovl_eval: Eval, tmp_path: Path) -> None:
    result = sovl_eval("tiny", "--text", tmp_path)
    assert result.exit_code == exits.USAGE
    assert "Is a directory; give a text file" in complaint(result)


def test_an_unknown_model_is_one_line(sovl_eval: Eval) -> None:
    result = sovl_eval("tinny")
    assert result.exit_code == exits.FAILED
    assert "no model 'tinny'" in complaint(result)
    assert "nearest: tiny" in complaint(result)


def test_a_damaged_model_is_one_line(sovl_eval: Eval, store: Path) -> None:
    save_tiny(store / "damaged")
    (store / "damaged" / "model.safetensors").write_bytes(b"no weights")
    result = sovl_eval("damaged")
    assert result.exit_code == exits.FAILED
    assert "cannot load the model" in complaint(result)


@pytest.mark.parametrize("precision", ["int3", "", "fp16,,int8", "FP16"])
def test_an_unknown_precision_is_one_line(sovl_eval: Eval, precision: str) -> None:
    result = sovl_eval("tiny", "--precision", precision)
    assert result.exit_code == exits.USAGE
    assert "is unknown; give one or more of fp32, fp16, int8, int4" in complaint(result)


def test_no_windows_is_bad_usage(sovl_eval: Eval) -> None:
    assert sovl_eval("tiny", "--windows", 0).exit_code == exits.USAGE


def test_the_configured_base_is_the_default(
    sovl_eval: Eval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOVL_CORE_CONFIG__BASE_MODEL_NAME", "gpt2")
    result = sovl_eval("--precision", "fp16", "--windows", 1, "--json")
    assert json.loads(result.stdout)["model"] == "gpt2"


@pytest.mark.long  # a perplexity in each precision; a tiny model shows above that they are right
@pytest.mark.model
@pytest.mark.usefixtures("sixteen_bits")
def test_quantising_the_default_model_costs_little(
    default_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOVL_HOST__DEVICE", "cpu")
    arguments = [default_model.name, "--windows", "1", "--model-dir", str(default_model.parent)]
    found = rows(CliRunner().invoke(app, ["model", "eval", *arguments, "--json"]))
    assert 5 < found["fp16"]["perplexity"] < 40
    assert found["int8"]["increase"] < 0.02
    assert found["int4"]["increase"] < 0.06
    weights = {name: row["weight_bytes"] for name, row in found.items()}
    assert weights["int8"] < 0.62 * weights["fp16"]
    assert weights["int4"] < 0.45 * weights["fp16"]
