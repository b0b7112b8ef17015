"""The reference of the settings and the shipped defaults, made from the models.

`./scripts/docs` writes `docs/configuration.md` and `config/config.json`.
"""

import tomllib
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config import keys
from config.edit import get_value
from config.explain import json_text
from config.settings import Settings

_ROOT = Path(__file__).parents[2]
REFERENCE = _ROOT / "docs" / "configuration.md"
DEFAULTS = _ROOT / "config" / "config.json"
KNOB_TESTS = _ROOT / "tests" / "knobs.toml"

_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}

_INTRODUCTION = """# Configuration

This page is generated from the models by `./scripts/docs`; do not edit it.

A value is looked for in these places, the first that has it wins:

1. the command line, as `section.key=value`;
2. the environment, as `SOVL_SECTION__KEY` in capitals, for example
   `SOVL_CONTROLS_CONFIG__BASE_TEMPERATURE=0.9`;
3. the configuration file, a JSON object of sections;
4. the defaults below, which `config/config.json` repeats in full.

A file needs only what differs from the defaults:

```json
{
  "core_config": {"quantization": "int8"},
  "controls_config": {"base_temperature": 0.9}
}
```

On the command line and in the environment a value is JSON; what is not JSON is taken as text, so
`int8` needs no quotes. Lists and objects are written whole: `'["q_proj", "v_proj"]'`. A path is
written from `/` or from `~/`. The section `dry_run_params` may stand at the top level of the file.

Nothing is guessed: an unknown key, a wrong type, a value out of range, a key written twice, NaN
and infinity are all refused. Every mistake is named in a line of its own, all of them at once:

```text
controls_config.base_temperature: 3.0 is out of range, allowed 0.5 to 1.5
core_config.base_modle_name: unknown key, did you mean base_model_name?
```

*Live* keys take effect while it runs, *restart* keys at the next start. Which test shows what a
knob of core, LoRA, training or controls does is told [at the end](#tests-of-the-knobs).
"""

_TESTS = """## Tests of the knobs

Each knob of core, LoRA, training and controls has a test in which turning it changes what happens;
run one with `./scripts/test TEST`. The list is `tests/knobs.toml`; a test holds it to be complete.

| Knob | Test |
|---|---|
"""


def reference() -> str:
    """Return the whole of `docs/configuration.md`."""
    return "\n".join([_INTRODUCTION, *_sections(Settings, ""), _tests()])


def knob_tests() -> dict[str, str]:
    """Return the test of each knob, by its dotted key."""
    document = tomllib.loads(KNOB_TESTS.read_text(encoding="utf-8"))
    return dict(_leaves(document, ""))


def defaults() -> str:
    """Return the whole of `config/config.json`."""
    return Settings().model_dump_json(indent=2) + "\n"


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _tests() -> str:
    return _TESTS + "".join(f"| `{key}` | `{test}` |\n" for key, test in knob_tests().items())


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Render each section as a heading and a table, those nested in it after it."""
    for name, field in model.model_fields.items():
        section = keys.section_of(field)
        if section is not None:
            yield _section(f"{prefix}{name}", section)
            yield from _sections(section, f"{prefix}{name}.")


def _section(name: str, section: type[BaseModel]) -> str:
    names = [f"{name}.{leaf}" for leaf in section.model_fields]
    rows = "\n".join(_row(key) for key in names if key in keys.KEYS)
    return (
        f"## {name}\n\n{cleandoc(section.__doc__ or '')}\n\n"
        "| Key | Type | Default | Range | Takes effect | Meaning |\n"
        f"|---|---|---|---|---|---|\n{rows}\n"
    )


def _row(key: str) -> str:
    field = keys.KEYS[key]
    cells = (
        f"`{key.rpartition('.')[2]}`",
        _type_text(field),
        f"`{json_text(get_value(Settings(), key))}`",
        _range_cell(field),
        _effect(key),
        str(field.description),
    )
    return f"| {' | '.join(cells)} |"


def _effect(key: str) -> str:
    return "restart" if keys.needs_restart(key) else "live"


def _range_cell(field: FieldInfo) -> str:
    unit = keys.unit(field)
    return f"{keys.range_text(field)} ({unit})" if unit else ""


def _type_text(field: FieldInfo) -> str:
    return " or ".join(map(_kind_text, keys.members(field.annotation)))


def _kind_text(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    items = [_kind_text(keys.members(item)[0]) for item in get_args(kind) if item is not ...]
    if get_origin(kind) is tuple:
        return f"list of {items[0]}s"
    if get_origin(kind) is dict:
        return f"object of {items[0]} to {items[1]}"
    return "null" if kind is NoneType else _TYPES[kind]


def rewrite() -> None:
    """Write both files."""
    REFERENCE.write_text(reference(), encoding="utf-8")
    DEFAULTS.write_text(defaults(), encoding="utf-8")
