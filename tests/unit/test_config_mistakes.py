"""Every mistake is named in one line, wherever it was made, and all of them at once."""

from pathlib import Path

import pytest

from config import ConfigError, load

IN_FILE = [
    (
        '{"controls_config": {"base_temperature": 3.0}}',
        "controls_config.base_temperature: 3.0 is out of range, allowed 0.5 to 1.5",
    ),
    (
        '{"core_config": {"base_modle_name": "gpt2"}}',
        "core_config.base_modle_name: unknown key, did you mean base_model_name?",
    ),
    (
        '{"core_config": {"base_temperature": 0.7}}',
        "core_config.base_temperature: unknown key, base_temperature belongs in controls_config",
    ),
    (
        '{"core_config": {"sleep_log_mim": 7}}',
        "core_config.sleep_log_mim: unknown key, did you mean controls_config.sleep_log_min?",
    ),
    (
        '{"contols_config": {"base_temperature": 0.7}}',
        "contols_config: unknown section, did you mean controls_config?",
    ),
    (
        '{"base_temperature": 0.7}',
        "base_temperature: unknown section, base_temperature belongs in controls_config",
    ),
    ('{"qqq": {}}', "qqq: unknown section, docs/configuration.md lists them all"),
    (
        '{"Core_Config": {}}',
        "Core_Config: unknown section, did you mean core_config?",
    ),
    (
        '{"core_config": {"quantization": "fp8"}}',
        'core_config.quantization: "fp8" is not one of "fp16", "int8", "int4"',
    ),
    (
        '{"controls_config": {"dynamic_cross_attn_mode": "mood"}}',
        'controls_config.dynamic_cross_attn_mode: "mood" is not one of '
        '"confidence", "temperament" or null',
    ),
    (
        '{"controls_config": {"base_temperature": "warm"}}',
        'controls_config.base_temperature: "warm" is not a number, allowed 0.5 to 1.5',
    ),
    (
        '{"controls_config": {"sleep_log_min": true}}',
        "controls_config.sleep_log_min: true is not a whole number, allowed 5 to 20",
    ),
    (
        '{"controls_config": {"sleep_log_min": 7.0}}',
        "controls_config.sleep_log_min: 7.0 is not a whole number, allowed 5 to 20",
    ),
    (
        '{"controls_config": {"base_temperature": true}}',
        "controls_config.base_temperature: true is not a number, allowed 0.5 to 1.5",
    ),
    (
        '{"controls_config": {"base_temperature": NaN}}',
        "controls_config.base_temperature: NaN is not a finite number, allowed 0.5 to 1.5",
    ),
    (
        '{"supervision": {"drain_s": Infinity}}',
        "supervision.drain_s: Infinity is not a finite number, allowed 0 to 600",
    ),
    (
        '{"supervision": {"drain_s": 1e999}}',
        "supervision.drain_s: Infinity is not a finite number, allowed 0 to 600",
    ),
    (
        '{"controls_config": {"enable_dreaming": 1}}',
        "controls_config.enable_dreaming: 1 is not true or false",
    ),
    (
        '{"core_config": {"base_model_name": 5}}',
        "core_config.base_model_name: 5 is not text",
    ),
    (
        '{"core_config": {"base_model_name": " "}}',
        'core_config.base_model_name: " " must not be empty',
    ),
    (
        '{"core_config": {"base_model_name": null}}',
        "core_config.base_model_name: null is not text",
    ),
    (
        '{"core_config": {"cross_attn_layers": "5, 7"}}',
        'core_config.cross_attn_layers: "5, 7" is not a list, allowed 0 to 1023',
    ),
    (
        '{"core_config": {"cross_attn_layers": [5, -1]}}',
        "core_config.cross_attn_layers.1: -1 is out of range, allowed 0 to 1023",
    ),
    (
        '{"core_config": {"cross_attn_layers": [5, 5]}}',
        "core_config.cross_attn_layers: [5, 5] names a layer twice",
    ),
    (
        '{"core_config": {"use_dynamic_layers": true, "layer_selection_mode": "custom", '
        '"custom_layers": []}}',
        'core_config.custom_layers: [] names no layer, but layer_selection_mode is "custom"',
    ),
    (
        '{"supervision": {"heartbeat_s": 4}}',
        "supervision.dead_after_s: 3.0 must be more than heartbeat_s (4.0)",
    ),
    (
        '{"supervision": {"backoff_initial_s": 40}}',
        "supervision.backoff_max_s: 30 must be at least backoff_initial_s (40.0)",
    ),
    (
        '{"lora_config": {"lora_dropout": 1}}',
        "lora_config.lora_dropout: 1 is out of range, allowed 0 to below 1",
    ),
    (
        '{"lora_config": {"lora_target_modules": []}}',
        "lora_config.lora_target_modules: [] names no module",
    ),
    (
        '{"training_config": {"learning_rate": 0}}',
        "training_config.learning_rate: 0 is out of range, allowed above 0 to 1",
    ),
    (
        '{"dry_run_params": {"max_samples": 0}}',
        "training_config.dry_run_params.max_samples: 0 is out of range, allowed 1 to 100000",
    ),
    (
        '{"dry_run_params": {}, "training_config": {"dry_run_params": {}}}',
        "dry_run_params: also written as training_config.dry_run_params, keep one",
    ),
    (
        '{"dry_run_params": {}, "training_config": 5}',
        "training_config: 5 is not a section, an object of keys",
    ),
    (
        '{"controls_config": {"save_path_prefix": "../state"}}',
        'controls_config.save_path_prefix: "../state" is not a plain file name: '
        "letters, digits, dot, _ and -, at most 64",
    ),
    (
        '{"host": {"device": "gpu"}}',
        'host.device: "gpu" is not one of "auto", "cpu", "cuda", "cuda:N"',
    ),
    (
        '{"bus": {"listen": "tcp://0.0.0.0:65534"}}',
        'bus.listen: "tcp://0.0.0.0:65534" is not an endpoint: tcp://HOST:PORT, '
        "PORT from 1 to 65533",
    ),
    (
        '{"bus": {"listen": "ipc:///x"}}',
        'bus.listen: "ipc:///x" is not an endpoint: tcp://HOST:PORT, PORT from 1 to 65533',
    ),
    (
        '{"store": {"state_dir": "state"}}',
        'store.state_dir: "state" is a relative path, write it from / or from ~/',
    ),
    ('{"store": {"state_dir": 5}}', "store.state_dir: 5 is not a path"),
    (
        r'{"store": {"state_dir": "/a\u0000b"}}',
        r'store.state_dir: "/a\u0000b" contains a zero byte',
    ),
    (
        r'{"generation": {"system_prompt": "\ud800"}}',
        r'generation.system_prompt: "\ud800" contains a character that is not valid Unicode text',
    ),
    (
        '{"generation": {"seed": -1}}',
        "generation.seed: -1 is out of range, allowed 0 to 4294967295",
    ),
    ('{"agents": {"placement": []}}', "agents.placement: [] is not an object"),
    (
        '{"agents": {"placement": {"generator": 1}}}',
        "agents.placement.generator: 1 is not text",
    ),
    (
        '{"core_config": {"quantization": "int8", "quantization": "int4"}}',
        "core_config.quantization: written twice in the file, keep one",
    ),
    ('{"bus": {}, "bus": {}}', "bus: written twice in the file, keep one"),
    (
        r'{"bus": {"a\nb": 1}}',
        r"bus.a\nb: unknown key, docs/configuration.md lists them all",
    ),
    (
        '{"host": {"device": "' + "x" * 100 + '"}, "agents": {"disabled": "' + "y" * 100 + '"}}',
        'agents.disabled: "' + "y" * 56 + "... is not a list\n"
        'host.device: "' + "x" * 56 + '... is not one of "auto", "cpu", "cuda", "cuda:N"',
    ),
]


@pytest.mark.parametrize(("text", "lines"), IN_FILE, ids=[lines for _, lines in IN_FILE])
def test_a_mistake_in_the_file(text: str, lines: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert str(caught.value) == lines
    assert len(caught.value.faults) == len(lines.splitlines())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{\n "a": 1,\n "b" 2}', "not JSON at line 3 column 6: Expecting ':' delimiter"),
        (b"", "not JSON at line 1 column 1: Expecting value"),
        (b"[1]", "not a JSON object of sections"),
        (b'{"a": "\xff"}', "not UTF-8 text at byte 7"),
        (b"[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit (4300 digits)"),
    ],
)
def test_a_file_that_is_not_json(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert str(caught.value).startswith(f"{file}: {problem}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "no.json", environ={})
    assert str(caught.value) == (
        f"{tmp_path}/no.json: no such file, name another or leave it out to use the defaults"
    )


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={})
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_an_unreadable_default_file_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        (
            "SOVL_CONTROLS_CONFIG__BASE_TEMPERATURE",
            "3",
            "controls_config.base_temperature: 3 is out of range, allowed 0.5 to 1.5",
        ),
        (
            "SOVL_CORE_CONFIG__BASE_MODLE_NAME",
            "x",
            "core_config.base_modle_name: unknown key, did you mean base_model_name?",
        ),
        (
            "SOVL_CONTOLS_CONFIG__BASE_TEMPERATURE",
            "1",
            "contols_config.base_temperature: unknown key, "
            "base_temperature belongs in controls_config",
        ),
        (
            "SOVL_HOST__THREADS",
            "many",
            'host.threads: "many" is not a whole number, allowed 0 to 256',
        ),
        (
            "SOVL_CORE_CONFIG__CROSS_ATTN_LAYERS",
            "[1, -2]",
            "core_config.cross_attn_layers.1: -2 is out of range, allowed 0 to 1023",
        ),
        (
            "SOVL_SUPERVISION__HEARTBEAT_S",
            "4",
            "supervision.dead_after_s: 3.0 must be more than heartbeat_s (4.0)",
        ),
        ("SOVL_HOST__", "1", "host.: unknown key, docs/configuration.md lists them all"),
        (
            "SOVL_AGENTS__PLACEMENT__GENERATOR",
            "hub",
            "agents.placement.generator: unknown key, "
            "agents.placement takes its whole value at once",
        ),
    ],
)
def test_a_mistake_in_the_environment(variable: str, text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"CONFIGURATION_DIRECTORY": str(tmp_path), variable: text})
    assert str(caught.value) == f"{line} (environment variable {variable})"


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        (
            "base_temperature",
            "NaN",
            "controls_config.base_temperature: NaN is not a finite number, allowed 0.5 to 1.5",
        ),
        ("bus.lisen", "x", "bus.lisen: unknown key, did you mean listen?"),
        (
            "temprature",
            "1",
            "temprature: unknown key, did you mean controls_config.base_temperature?",
        ),
        (
            "logging.level",
            "loud",
            'logging.level: "loud" is not one of "debug", "info", "warning", "error"',
        ),
        (
            "enable_dreaming",
            "maybe",
            'controls_config.enable_dreaming: "maybe" is not true or false',
        ),
    ],
)
def test_a_mistake_on_the_command_line(key: str, text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={key: text}, environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})
    assert str(caught.value) == f"{line} (command line)"


def test_a_key_given_twice_on_the_command_line(tmp_path: Path) -> None:
    twice = {"host.nice": "1", "nice": "2"}
    with pytest.raises(ConfigError) as caught:
        load(overrides=twice, environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})
    assert str(caught.value) == "host.nice: given twice, keep one (command line)"


def test_all_mistakes_of_all_sources_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        '{"core_config": {"quantization": "fp8", "quantization": "fp8", "random_seed": -1},'
        ' "controls_config": {"sleep_log_min": 4, "nice": 3}}'
    )
    with pytest.raises(ConfigError) as caught:
        load(
            file,
            overrides={"controls_config.sleep_log_min": "99", "bus.lisen": "x"},
            environ={"SOVL_HOST__NICE": "low", "SOVL_HOST__NISE": "1"},
        )
    assert str(caught.value).splitlines() == [
        "bus.lisen: unknown key, did you mean listen? (command line)",
        "host.nise: unknown key, did you mean nice? (environment variable SOVL_HOST__NISE)",
        "core_config.quantization: written twice in the file, keep one",
        "core_config.random_seed: -1 is out of range, allowed 0 to 4294967295",
        'core_config.quantization: "fp8" is not one of "fp16", "int8", "int4"',
        "controls_config.sleep_log_min: 99 is out of range, allowed 5 to 20 (command line)",
        "controls_config.nice: unknown key, nice belongs in host",
        'host.nice: "low" is not a whole number, allowed 0 to 19 '
        "(environment variable SOVL_HOST__NICE)",
    ]


def test_a_broken_file_does_not_hide_the_other_sources(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{")
    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"host.nice": "99"}, environ={})
    assert [fault.key for fault in caught.value.faults] == [str(file), "host.nice"]
    assert caught.value.faults[1].origin == "command line"
