"""The form of a task's file: TOML, checked key by key, with every mistake named by its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MOST_BYTES = 1 << 20

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=80)]
Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\n\r]*\S[^\n\r]*$")]


class TaskError(ValueError):
    """A task's file was refused; `str()` has one line for each mistake, as file:line: key: what."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LevelTable(_Table):
    """From this value on, the metric is called so."""

    start: Annotated[float, Field(alias="from")]
    word: Line


class MetricTable(_Table):
    """`[[metrics]]`: what is measured, in the order of the prompt."""

    name: Name
    label: Line
    unit: str = ""
    low: float = 0.0
    high: float
    fresh_s: Annotated[float, Field(gt=0)] = 3.0
    frozen_s: Annotated[float, Field(gt=0)] | None = None
    levels: Annotated[list[LevelTable], Field(min_length=1)]


class LimitTable(_Table):
    """`[[limits]]`: hard rule and grey zone of one metric."""

    metric: Name
    hard: float | None = None
    grey: float | None = None
    low: float | None = None
    spare: Annotated[float, Field(gt=0)] | None = None
    fatal: float | None = None
    high_is_bad: bool = True
    hard_s: Annotated[float, Field(ge=0)] = 0.5
    grey_s: Annotated[float, Field(ge=0)] = 3.0
    low_s: Annotated[float, Field(ge=0)] = 30.0
    holds_work: bool = True


class RungTable(_Table):
    """`[[ladder]]`: one action, the cheapest first."""

    action: Name
    when: Line
    lasting: bool = True
    again_s: Annotated[float, Field(gt=0)] = 60.0
    relief: dict[Name, float] = {}


class PaceTable(_Table):
    """`[pace]`: how often it may move."""

    dwell_s: Annotated[float, Field(gt=0)] = 60.0
    cooldown_s: Annotated[float, Field(gt=0)] = 15.0
    urgent_s: Annotated[float, Field(gt=0)] = 5.0
    ask_every_s: Annotated[float, Field(gt=0)] = 5.0
    per_hour: Annotated[int, Field(ge=1)] = 20


class TaskTable(_Table):
    """A task's file as a whole."""

    name: Name
    title: Line
    about: Line
    decide: Line = "Decide if adjustments are needed."
    deadline_s: Annotated[float, Field(gt=0)] = 2.0
    abstain: Annotated[float, Field(ge=0, lt=0.5)] = 0.4
    pace: PaceTable = PaceTable()
    metrics: Annotated[list[MetricTable], Field(min_length=1)]
    limits: Annotated[list[LimitTable], Field(min_length=1)]
    ladder: Annotated[list[RungTable], Field(min_length=1)]


def read_task_table(path: Path) -> tuple[TaskTable, str]:
    """Read and check a file's form; return it with its text. JSON where the name ends in `.json`.

    Raises:
        TaskError: it cannot be read, is not TOML or JSON, or has keys or values it may not have.

    """
    text = _read(path)
    values = _parse(path, text)
    try:
        return TaskTable.model_validate(values), text
    except ValidationError as error:
        raise TaskError("\n".join(_lines(path, text, error))) from None


def located(path: Path, text: str, key: Sequence[str | int], problem: str) -> str:
    """One line on a mistake: file:line: key: problem."""
    return f"{path}:{line_of(text, key)}: {_dotted(key)}: {problem}"


def line_of(text: str, key: Sequence[str | int]) -> int:
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


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
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
    for each in error.errors():
        key = each["loc"]
        if each["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed(key[:-1]))
            yield located(path, text, key, f"no such key here; allowed: {allowed}")
        else:
            message = each["msg"].removeprefix("Input ").removeprefix("Value error, ")
            yield located(path, text, key, f"{message}, found {_shown(each)}")


def _shown(error: Any) -> str:
    if error["type"] == "missing":
        return "nothing"
    shown = repr(error["input"])
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _allowed(key: Sequence[str | int]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "metrics": MetricTable,
        "levels": LevelTable,
        "limits": LimitTable,
        "ladder": RungTable,
        "pace": PaceTable,
    }
    names = [part for part in key if part in tables]
    table = tables[str(names[-1])] if names else TaskTable
    return [field.alias or name for name, field in table.model_fields.items()]


def _dotted(key: Sequence[str | int]) -> str:
    """The key as one would say it: `limits[2].hard`, counted from 1."""
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the file"
