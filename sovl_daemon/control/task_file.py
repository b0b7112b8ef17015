"""Tasks read from files, TOML or JSON, with every mistake named by its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sovl_daemon.control.declared import BETWEEN_KEYS, Declared
from sovl_daemon.control.guard import Limit, Pace
from sovl_daemon.control.task import Described, NamedLevel, Rung, Task

SHIPPED = Path(__file__).parent / "tasks"
_SUFFIXES = (".toml", ".json")
_MAX_BYTES = 1 << 20


class TaskError(ValueError):
    """A task's file was refused; `str()` has one line for each mistake, as file:line: key: what."""


def load_tasks(folders: Sequence[Path] = (SHIPPED,)) -> dict[str, Task]:
    """Read every `.toml` and `.json` of the folders, by name; a later folder's task replaces ours.

    A folder that is not there holds no tasks.

    Raises:
        TaskError: a file is refused, or two of one folder have the same name; all mistakes of all
            files, one a line.

    """
    tasks: dict[str, Task] = {}
    mistakes: list[str] = []
    for folder in folders:
        here: dict[str, Path] = {}
        for path in _files(folder):
            try:
                task = load_task(path)
            except TaskError as error:
                mistakes.append(str(error))
                continue
            if task.name in here:
                other = here[task.name].name
                mistakes.append(f"{path}:1: name: {task.name} is also that of {other}")
            here[task.name] = path
            tasks[task.name] = task
    if mistakes:
        raise TaskError("\n".join(mistakes))
    return tasks


def load_task(path: Path) -> Task:
    """Read one task; JSON where the name ends in `.json`.

    Raises:
        TaskError: it cannot be read, is not TOML or JSON, or is no task; one line for each mistake.

    """
    text = _read(path)
    values = _parse(path, text)
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        raise TaskError("\n".join(_lines(path, text, error))) from None


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TaskError(f"{path}:1: larger than 1 MiB; a task is a few dozen lines")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"{path}:1: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path}:1: is not UTF-8 text; save it as UTF-8") from None


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except RecursionError:
        raise TaskError(f"{path}:1: is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = found[1] if found else str(text.count("\n") + 1)
        raise TaskError(f"{path}:{line}: is not TOML: {error}") from None


def _lines(path: Path, text: str, error: ValidationError) -> Iterator[str]:
    """One line on each mistake: file:line: key: problem."""
    for each in error.errors():
        key = each["loc"]
        yield f"{path}:{_line_of(text, key)}: {_dotted(key)}: {_problem(each)}"


def _problem(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"no such key here; allowed: {', '.join(_allowed(error['loc'][:-1]))}"
    if error["type"] == BETWEEN_KEYS:
        return error["msg"]
    # What is a tuple once it is read is a list in a file.
    message = error["msg"].removeprefix("Input ").replace("tuple", "list").replace("Tuple", "List")
    return f"{message}, found {_shown(error)}"


def _shown(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "nothing"
    shown = repr(error["input"])
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _allowed(key: Sequence[str | int]) -> list[str]:
    tables: dict[str, type[Declared]] = {
        "metrics": Described,
        "levels": NamedLevel,
        "limits": Limit,
        "ladder": Rung,
        "pace": Pace,
    }
    names = [part for part in key if part in tables]
    table = tables[str(names[-1])] if names else Task
    return [field.alias or name for name, field in table.model_fields.items()]


def _line_of(text: str, key: Sequence[str | int]) -> int:
    """The line, from 1, where a key stands in TOML or JSON text, or the nearest table around it.

    Found by the words of the text rather than a second parser: a hint for whoever mends the file.
    """
    lines = text.splitlines()
    here = 0
    for place, part in enumerate(key):
        if isinstance(part, int):
            continue
        number = key[place + 1] if place + 1 < len(key) else 0
        occurrence = number if isinstance(number, int) else 0
        here = _find(lines, here, part, occurrence)
    return here + 1


def _find(lines: Sequence[str], start: int, word: str, occurrence: int) -> int:
    name = re.escape(word)
    form = re.compile(rf'^\s*\[\[?{name}\]?\]|(?:^|[\s{{,])"?{name}"?\s*[=:]')
    found = [number for number in range(start, len(lines)) if form.search(lines[number])]
    return found[min(occurrence, len(found) - 1)] if found else start


def _dotted(key: Sequence[str | int]) -> str:
    """The key as one would say it: `limits[2].hard`, counted from 1."""
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the file"
