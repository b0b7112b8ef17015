"""Where values come from: the command line, the environment and the JSON file."""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from config import keys
from config.faults import Fault

ENV_PREFIX = "SOVL_"
ENV_DELIMITER = "__"
_MAX_BYTES = 16 << 20


@dataclass
class ConfigSource:
    """What one source says.

    Attributes:
        values: Nested sections and keys, ready for pydantic-settings.
        origins: For each dotted key the words that name its place; empty for the file.
        faults: What was wrong with the source itself.

    """

    values: dict[str, JsonValue] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def provides(self, location: Sequence[str | int]) -> bool:
        """Tell whether this source has a value at a location."""
        value: Any = self.values
        try:
            for step in location:
                value = value[step]
        except (LookupError, TypeError):  # no such key or item, or nothing that has any
            return False
        return True

    def origin(self, location: Sequence[str | int]) -> str:
        """Name the place of the value at a location."""
        names = (".".join(map(str, location[:end])) for end in range(len(location), 0, -1))
        return next((self.origins[name] for name in names if name in self.origins), "")


def command_line(overrides: Mapping[str, str]) -> ConfigSource:
    """Read overrides given as dotted key to text."""
    return _from_texts((name, text, "command line") for name, text in overrides.items())


def environment(environ: Mapping[str, str]) -> ConfigSource:
    """Read the variables `SOVL_SECTION__KEY`; plain `SOVL_NAME` variables are not settings."""
    return _from_texts(
        (_dotted(variable), text, f"environment variable {variable}")
        for variable, text in sorted(environ.items())
        if variable.startswith(ENV_PREFIX) and ENV_DELIMITER in variable.removeprefix(ENV_PREFIX)
    )


def _dotted(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).lower().replace(ENV_DELIMITER, ".")


def _from_texts(entries: Iterator[tuple[str, str, str]]) -> ConfigSource:
    source = ConfigSource()
    for name, text, origin in entries:
        found = keys.matches(name, keys.KEYS)
        if len(found) != 1:
            source.faults.append(Fault(name, keys.unknown(name, "key"), origin))
        elif found[0] in source.origins:
            source.faults.append(Fault(found[0], "given twice, keep one", origin))
        else:
            source.origins[found[0]] = origin
            place(source.values, found[0], parse_text(keys.KEYS[found[0]], text))
    return source


def place(values: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    """Put a value at a dotted key into nested sections."""
    *sections, leaf = key.split(".")
    inside: Any = values
    for section in sections:
        inside = inside.setdefault(section, {})
    inside[leaf] = value


def parse_text(field: FieldInfo, text: str) -> Any:
    """Read a value written as text: JSON, else the text itself.

    A key that holds text keeps `123` and `true` as they were typed; quotes and null are JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not keys.is_text(field) or isinstance(value, str):
        return value
    return None if value is None and keys.allows_null(field) else text


def json_file(path: Path, *, required: bool = True) -> ConfigSource:
    """Read the configuration file; a missing one says nothing unless it is required."""
    try:
        return _from_json(path, _read(path))
    except FileNotFoundError:
        if path.is_symlink():
            problem = "a link to a file that is not there"
        elif required:
            problem = "no such file, name another or leave it out to use the defaults"
        else:
            return ConfigSource()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text at byte {error.start}"
    except json.JSONDecodeError as error:
        problem = f"not JSON at line {error.lineno} column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:  # a number too long, or nesting too deep
        problem = f"not JSON: {error}"
    return ConfigSource(faults=[Fault(str(path), problem)])


def _read(path: Path) -> str:
    """The text of a regular file: a pipe would be waited for, and a device has no end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8-sig") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > _MAX_BYTES:
            raise OSError(errno.EINVAL, f"larger than {_MAX_BYTES >> 20} MiB")
        return file.read()


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys it was given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.doubled = [name for name in self if names.count(name) > 1]


def _from_json(path: Path, text: str) -> ConfigSource:
    values = json.loads(text, object_pairs_hook=_Object)
    if not isinstance(values, _Object):
        return ConfigSource(faults=[Fault(str(path), "not a JSON object of sections")])
    source = ConfigSource(values, faults=list(_doubled_keys(values, "")))
    for section, target in keys.MOVED.items():
        if section not in source.values:
            continue
        moved = source.values.pop(section)
        parent, _, leaf = target.partition(".")
        inside = source.values.setdefault(parent, {})
        if isinstance(inside, dict) and leaf in inside:
            source.faults.append(Fault(section, f"also written as {target}, keep one"))
        elif isinstance(inside, dict):
            inside[leaf] = moved
    return source


def _doubled_keys(values: _Object, prefix: str) -> Iterator[Fault]:
    for name in values.doubled:
        yield Fault(prefix + name, "written twice in the file, keep one")
    for name, value in values.items():
        if isinstance(value, _Object):
            yield from _doubled_keys(value, f"{prefix}{name}.")
