"""Loading, editing and comparing settings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config import ConfigError, Settings, changed, get_value, load, resolve_key, with_value
from config.keys import ambiguous, matches


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text('{"controls_config": {"base_temperature": 0.8}, "host": {"threads": 3}}')
    return path


TEMPERATURE = "controls_config.base_temperature"
VARIABLE = "SOVL_CONTROLS_CONFIG__BASE_TEMPERATURE"


def test_defaults_stand_when_no_source_speaks(tmp_path: Path) -> None:
    settings = load(environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})
    assert settings == Settings()
    assert settings.controls_config.base_temperature == 0.7
    assert settings.core_config.base_model_name == "smollm2-135m"
    assert settings.core_config.scaffold_model_name == "smollm2-135m"
    assert settings.lora_config.lora_target_modules == ("q_proj", "v_proj")
    assert settings.agents.placement == {}


def test_the_file_beats_the_defaults(file: Path) -> None:
    settings = load(file, environ={})
    assert settings.controls_config.base_temperature == 0.8
    assert settings.host.threads == 3
    assert settings.host.nice == 5


def test_the_environment_beats_the_file(file: Path) -> None:
    settings = load(file, environ={VARIABLE: "0.9"})
    assert settings.controls_config.base_temperature == 0.9
    assert settings.host.threads == 3


def test_the_command_line_beats_the_environment(file: Path) -> None:
    settings = load(file, overrides={TEMPERATURE: "1.1"}, environ={VARIABLE: "0.9"})
    assert settings.controls_config.base_temperature == 1.1


def test_a_wrong_value_that_is_overridden_does_no_harm(file: Path) -> None:
    file.write_text('{"controls_config": {"base_temperature": 9}}')
    assert load(file, environ={VARIABLE: "0.9"}).controls_config.base_temperature == 0.9


def test_the_default_file_is_read_when_none_is_named(file: Path) -> None:
    settings = load(environ={"CONFIGURATION_DIRECTORY": str(file.parent)})
    assert settings.host.threads == 3


def test_the_environment_argument_replaces_that_of_the_process(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0.9")
    assert load(file, environ={}).controls_config.base_temperature == 0.8
    assert load(file).controls_config.base_temperature == 0.9
    assert Settings().controls_config.base_temperature == 0.7


def test_plain_variables_are_not_settings(file: Path) -> None:
    environ = {"SOVL_CONNECT": "x", "SOVL_CONFIG": "y", "SOVL_HOST": "z", "OTHER__KEY": "1"}
    assert load(file, environ=environ) == load(file, environ={})


def test_the_shipped_file_loads_as_the_defaults() -> None:
    assert load(Path(config.__file__).with_name("config.json"), environ={}) == Settings()


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file, environ={}).host.threads == 3


@pytest.mark.parametrize("nested", [True, False])
def test_the_dry_run_section_may_stand_at_either_level(file: Path, nested: bool) -> None:
    section = {"dry_run_params": {"max_samples": 7}}
    values = {"training_config": section} if nested else section | {"training_config": {}}
    file.write_text(json.dumps(values))
    settings = load(file, environ={"SOVL_DRY_RUN_PARAMS__MAX_LENGTH": "64"})
    assert settings.training_config.dry_run_params.max_samples == 7
    assert settings.training_config.dry_run_params.max_length == 64


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("host.threads", "4", 4),
        ("training_config.learning_rate", "1e-4", 1e-4),
        ("training_config.learning_rate", "1", 1.0),
        ("core_config.use_dynamic_layers", "true", True),
        ("core_config.quantization", "int8", "int8"),
        ("core_config.quantization", '"int8"', "int8"),
        ("core_config.cross_attn_layers", "[1, 2]", (1, 2)),
        ("generation.system_prompt", "123", "123"),
        ("generation.system_prompt", "null", "null"),
        ("generation.system_prompt", "[be brief", "[be brief"),
        ("generation.system_prompt", "", ""),
        ("generation.seed", "null", None),
        ("controls_config.dynamic_cross_attn_mode", "confidence", "confidence"),
        ("controls_config.dynamic_cross_attn_mode", "null", None),
        ("bus.listen", "tcp://[::1]:5000", "tcp://[::1]:5000"),
        ("store.state_dir", "/var/lib/x", Path("/var/lib/x")),
        ("agents.placement", '{"trainer": "host"}', {"trainer": "host"}),
        ("agents.disabled", '["dreamer"]', ("dreamer",)),
        ("dry_run_params.max_samples", "9", 9),
    ],
)
def test_text_becomes_a_value_alike_from_everywhere(
    key: str, text: str, value: object, tmp_path: Path
) -> None:
    nowhere = {"CONFIGURATION_DIRECTORY": str(tmp_path)}
    variable = "SOVL_" + key.upper().replace(".", "__")
    assert get_value(with_value(Settings(), key, text), key) == value
    assert get_value(load(overrides={key: text}, environ=nowhere), key) == value
    assert get_value(load(environ={**nowhere, variable: text}), key) == value


def test_a_new_value_leaves_the_old_settings_as_they_were() -> None:
    old = Settings()
    new = with_value(old, "base_temperature", "0.9")
    assert (old.controls_config.base_temperature, old) == (0.7, Settings())
    assert new.controls_config.base_temperature == 0.9
    assert changed(old, new) == {TEMPERATURE: (0.7, 0.9)}
    assert changed(old, old) == {}


def test_a_refused_value_leaves_the_old_settings_as_they_were() -> None:
    old = Settings()
    with pytest.raises(ConfigError, match=r"out of range, allowed 0\.5 to 1\.5"):
        with_value(old, TEMPERATURE, "3")
    assert old == Settings()


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.controls_config.base_temperature = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.bus = settings.bus  # type: ignore[misc]


def test_a_bare_key_stands_for_the_only_one_of_its_name() -> None:
    assert resolve_key("base_temperature") == TEMPERATURE
    assert resolve_key(TEMPERATURE) == TEMPERATURE
    assert resolve_key("max_samples") == "training_config.dry_run_params.max_samples"


def test_a_shared_bare_key_stands_for_nothing() -> None:
    found = matches("level", ["log.level", "screen.level", "water_level"])
    assert found == ["log.level", "screen.level"]
    assert ambiguous(found) == "stands for several keys, write log.level or screen.level"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("base_temprature", f"unknown key, did you mean {TEMPERATURE}?"),
        ("core_config.base_modle_name", "unknown key, did you mean base_model_name?"),
        ("host.base_temperature", "unknown key, base_temperature belongs in controls_config"),
        ("core_config", "is a section, name a key in it"),
        ("zzz", "unknown key, docs/configuration.md lists them all"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(name: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_key(name)
    assert str(caught.value) == f"{name}: {line}"


def test_importing_it_loads_no_tensors() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'zmq'}"
    program = f"import config, sys; sys.exit(not {heavy}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
