"""The manuals' words for precision and the scaffold's influence, with the real model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.client import CommandError
from sovl_daemon.testing import Daemon, running

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("default_model")]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    layers = {"core_config.cross_attn_layers": [5, 7]}
    with running(tmp_path_factory.mktemp("tuning"), **layers) as running_daemon:
        running_daemon.logged("scaffold.ready")
        yield running_daemon


def value(daemon: Daemon, key: str) -> Any:
    with daemon.client() as client:
        return client.control("config", key=key)["value"]


def test_the_scaffold_is_the_base_and_looks_at_the_configured_layers(daemon: Daemon) -> None:
    assert daemon.logged("scaffold.ready")["layers"] == [5, 7]


def test_cross(daemon: Daemon) -> None:
    told = [
        ("cross weight 0.7", "Scaffold influence: weight=0.70, blend_strength=1.00, dynamic=off"),
        ("cross blend 0.5", "Scaffold influence: weight=0.70, blend_strength=0.50, dynamic=off"),
        ("cross layers 0.5 0.6", "weight=per-layer, blend_strength=0.50, dynamic=off"),
        ("cross confidence", "weight=per-layer, blend_strength=0.50, dynamic=confidence"),
        ("tune cross 0.8", "weight=0.80, blend_strength=0.50, dynamic=confidence"),
        ("cross temperament", "weight=0.80, blend_strength=0.50, dynamic=temperament"),
        ("cross off", "weight=0.80, blend_strength=0.50, dynamic=off"),
        ("tune cross", "weight=0.80, blend_strength=0.50, dynamic=off"),
    ]
    console = daemon.sovl("console", text="\n".join(line for line, _ in told))
    answers = console.stdout.splitlines()
    assert len(answers) == len(told), console.stderr
    assert [text for (_, text), line in zip(told, answers, strict=True) if text not in line] == []
    assert value(daemon, "fusion.weight") == 0.8
    assert value(daemon, "fusion.blend") == 0.5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["cross", "layers", "0.5", "0.6", "0.7"], "3 layer weights for 2 fused layers (5, 7)"),
        (["cross", "weight", "1.5"], "fusion.weight"),
        (["cross", "weight"], "weight takes one number"),
        (["cross", "off", "1"], "off takes none"),
        (["cross", "sideways"], "what"),
        (["tune", "cross", "2"], "weight"),
    ],
)
def test_mistakes_change_nothing(daemon: Daemon, words: list[str], complaint: str) -> None:
    before = value(daemon, "fusion.weight"), value(daemon, "fusion.layer_weights")
    done = daemon.sovl("call", *words)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (value(daemon, "fusion.weight"), value(daemon, "fusion.layer_weights")) == before


def test_layers_are_chosen_live(daemon: Daemon) -> None:
    with daemon.client() as client:
        assert client.ask("dynamic")["layers"] == list(range(10, 20))  # the middle third of 30
        assert value(daemon, "core_config.use_dynamic_layers") is True
        assert client.ask("fixed")["text"] == "Fixed layers: 5, 7"
        client.control("config_set", key="cross_attn_layers", value="[99]")
        refused = "layer 99 cannot be fused: the base has layers 0 to 29"
        with pytest.raises(CommandError, match=refused):
            client.ask("cross", what="weight", values=[0.3])
        client.control("config_set", key="cross_attn_layers", value="[5, 7]")
    assert daemon.logged("tuning.refused")["reason"] == refused


def test_precision_by_its_word(daemon: Daemon) -> None:
    with daemon.client() as client:
        for word in ("int8", "int4", "fp16"):
            assert client.ask(word)["text"].startswith(f"Precision: {word}")
            assert value(daemon, "core_config.quantization") == word


def test_without_a_scaffold_the_base_answers(runtime: Path) -> None:
    with running(runtime, **{"core_config.scaffold_model_name": "./no-such-model"}) as daemon:
        assert "no-such-model" in daemon.logged("scaffold.refused")["reason"]
        with daemon.client() as client:
            prompt = "What is the capital of France?"
            assert "Paris" in client.ask("generate", prompt=prompt, temperature=0)["text"]
