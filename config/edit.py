"""Read, change, compare and save settings by dotted key."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from config.explain import explain
from config.faults import ConfigError, Fault
from config.keys import KEYS, resolve_key
from config.settings import Settings
from config.size import oversize
from config.sources import parse_text, place
from sovl_daemon.durable import replacing


def get_value(settings: Settings, key: str) -> Any:
    """Return the value of a dotted (or unique bare) key.

    Raises:
        ConfigError: There is no such key.

    """
    return _value(settings, resolve_key(key))


def _value(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def with_value(settings: Settings, key: str, text: str) -> Settings:
    """Return new settings in which one key has the value written in `text`.

    Args:
        settings: The settings to start from.
        key: Dotted or unique bare key.
        text: JSON, else plain text.

    Raises:
        ConfigError: There is no such key, or the value is refused.

    """
    return with_values(settings, {key: text})


def with_values(settings: Settings, texts: Mapping[str, str]) -> Settings:
    """Return new settings in which several keys have the values written in `texts`.

    Only what comes of them all together has to be allowed.

    Args:
        settings: The settings to start from.
        texts: JSON, else plain text, by dotted or unique bare key.

    Raises:
        ConfigError: There is no such key, one is given twice, or a value is refused.

    """
    values, placed = settings.model_dump(), set[str]()
    for key, text in texts.items():
        name = resolve_key(key)
        if name in placed:
            raise ConfigError([Fault(name, "is given twice")])
        placed.add(name)
        place(values, name, parse_text(KEYS[name], text))
    try:
        changed_settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
    if faults := tuple(oversize(changed_settings)):
        raise ConfigError(faults)
    return changed_settings


def changed(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the old and new value of every dotted key that differs."""
    pairs = {key: (_value(old, key), _value(new, key)) for key in KEYS}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def save(settings: Settings, path: Path) -> None:
    """Write what differs from the defaults; a reader sees the old file or the new one, whole.

    An existing file keeps its mode, and its owner as far as the system allows. A link is followed.

    Raises:
        ConfigError: The file cannot be written; the old one is untouched.

    """
    written = json.loads(settings.model_dump_json())
    values: dict[str, JsonValue] = {}
    for key in changed(Settings(), settings):
        place(values, key, reduce(getitem, key.split("."), written))
    try:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(f"{json.dumps(values, indent=2, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise ConfigError([Fault(str(path), f"cannot be written: {error.strerror}")]) from error
