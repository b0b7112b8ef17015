import json
import re

import pytest
from typer.testing import CliRunner

from sovl_daemon.cli.app import app
from sovl_daemon.cli.model import _throttled
from sovl_daemon.models import StageProgress
from sovl_daemon.models.catalogue import DEFAULT_MODEL
from tests import tiny_models


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mind"
    return tiny_models.save(tiny_models.llama(), folder)


@pytest.fixture
def sovl_model(tmp_path):
    def run(*arguments):
        store = ["--model-dir", str(tmp_path / "store")]
        return CliRunner().invoke(app, ["model", *map(str, arguments), *store])

    return run


def test_the_whole_cycle(sovl_model, source):
    assert f"run: sovl model pull {DEFAULT_MODEL}" in sovl_model("list").stdout
    pulled = sovl_model("pull", source)
    assert (pulled.exit_code, pulled.stdout.split(":")[0]) == (0, "mind")
    assert "float16" in pulled.stdout
    assert "loading the weights ...\n" in pulled.stderr
    listed = sovl_model("list").stdout
    assert "mind" in listed
    assert "float16" in listed
    assert sovl_model("verify").stdout == "mind: sound\n"
    assert sovl_model("remove", "mind").stdout == "mind removed\n"
    assert "no models in" in sovl_model("list").stdout


def test_the_whole_cycle_in_json(sovl_model, source):
    lines = [json.loads(line) for line in sovl_model("pull", source, "--json").stdout.splitlines()]
    *steps, result = lines
    assert {step["event"] for step in steps} == {"progress"}
    assert set(steps[0]) == {"event", "stage", "done", "total", "unit"}
    assert result["event"] == "pulled"
    assert json.loads(sovl_model("list", "--json").stdout) == [result["manifest"]]
    assert json.loads(sovl_model("verify", "mind", "--json").stdout) == {"mind": []}
    assert json.loads(sovl_model("remove", "mind", "--json").stdout) == {"removed": "mind"}


def test_damage_is_named_and_exits_1(sovl_model, source, tmp_path):
    sovl_model("pull", source)
    (tmp_path / "store" / "mind" / "config.json").unlink()
    found = sovl_model("verify", "mind")
    assert found.exit_code == 1
    assert found.stdout == "mind: 1 faults\n  config.json: missing\n"
    assert json.loads(sovl_model("verify", "--json").stdout) == {"mind": ["config.json: missing"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove", "mine"], "no model 'mine' in .*store; see: sovl model list"),
        (["verify", "mine"], "no model 'mine' in .*; run: sovl model pull mine"),
        (["verify", "smolm2"], "nearest: smollm2-135m"),
        (["remove", "../x"], "'../x' cannot name a model"),
        (["pull", "/no/such/folder"], "/no/such/folder: there is no such file or folder"),
        (["pull", "/no/such.gguf"], "no such GGUF file"),
    ],
)
def test_errors_are_one_line_and_exit_1(sovl_model, arguments, message):
    result = sovl_model(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if not line.endswith("...")]
    assert len(errors) == 1
    assert errors[0].startswith("sovl: ")
    assert re.search(message, errors[0])


def test_a_file_in_the_place_of_the_store_is_one_line(sovl_model, source, tmp_path):
    (tmp_path / "store").write_text("")
    result = sovl_model("pull", source)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["remove"], ["pull", "a", "b"], ["list", "--colour"]])
def test_bad_usage_exits_2(sovl_model, arguments):
    assert sovl_model(*arguments).exit_code == 2


def test_the_configured_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    listed = CliRunner().invoke(app, ["model", "list"])
    assert str(tmp_path / "cache" / "sovl" / "models") in listed.stdout.replace("\n", "")


def test_reports_are_thinned_out_but_for_first_and_last():
    shown = []
    report = _throttled(shown.append)
    for done in range(1001):
        report(StageProgress("a", done, 1000, "B"))
    report(StageProgress("b", 0, None, ""))
    assert [step.stage for step in shown].count("a") < 500
    assert shown[0].done == 0
    assert shown[-2].done == 1000
    assert shown[-1].stage == "b"
