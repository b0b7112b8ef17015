"""The generated parts of the documents, made from the code: `./scripts/docs` rewrites them.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Its rows come from
the code. What code cannot say is written by hand: where the last column of a table is headed
`Meaning`, the generator keeps what stands there.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

import bus.broker
import bus.errors
import bus.messages
import bus.router
import bus.size
import bus.subscriber
import bus.topics
import sovl_daemon.hub_sockets
from bus.commands import CommandSpec, commands_of
from bus.envelope import Envelope, Payload
from bus.errors import CommandError
from config import KEYS, Settings, get_value
from config.keys import range_text, unit
from documents.log_events import LogEvent, log_events, name_of
from sovl_daemon.cli import app, exits
from sovl_daemon.client import errors as client_errors
from sovl_daemon.controls import Controls
from sovl_daemon.registry import GROUP

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "bus", "config", "sovl_daemon")
_PART = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_ROW = re.compile(r"^\| `([^`]+)` \|.*?((?:[^|\\]|\\.)*) \|$", re.MULTILINE)

Kept = Mapping[str, str]
"""Hand-written meanings by the name in the first column."""


class UnknownPart(Exception):
    """A document asks for a part that nobody generates."""


def documents() -> list[Path]:
    """The documents that have generated parts."""
    return [path for path in sorted((ROOT / "docs").glob("*.md")) if _PART.search(_read(path))]


def updated(text: str) -> str:
    """A document with its generated parts made anew. Raises UnknownPart."""
    return _PART.sub(lambda found: found[1] + _generate(found[2], found[3]) + found[4], text)


def _generate(title: str, before: str) -> str:
    name, _, argument = title.partition(" ")
    if name == "file":
        return _quoted(argument)
    if name not in PARTS:
        raise UnknownPart(f"{title}: no such part; there are: file, {', '.join(PARTS)}")
    meanings = {row[1]: row[2].strip() for row in _ROW.finditer(before)}
    return f"\n{PARTS[name](meanings).strip()}\n\n"


def _quoted(path: str) -> str:
    language = {".py": "python", ".toml": "toml"}[Path(path).suffix]
    return f"\n```{language}\n{_read(ROOT / path).strip()}\n```\n\n"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _table(*header: str, rows: Iterable[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown: its paragraphs unfolded, and JSON's null for Python's None."""
    paragraphs = re.split(r"\n\s*\n", (docstring or "").strip())
    return re.sub(r"\bNone\b", "null", "\n\n".join(" ".join(each.split()) for each in paragraphs))


# Fields, from their JSON schema


def _fields(model: type[BaseModel], column: str) -> str:
    """A table of a model's fields and, under it, those of the models inside it."""
    schema = model.model_json_schema()
    return "\n".join([_schema_table(schema, column), *_inner(schema, _schema_table).values()])


def _inner(schema: dict[str, Any], table: Callable[[dict[str, Any], str], str]) -> dict[str, str]:
    """What each model inside a schema is, with a table of its fields."""
    return {
        name: f"Each `{name}`: {_prose(part.get('description'))}\n\n{table(part, 'Field')}"
        for name, part in schema.get("$defs", {}).items()
    }


def _schema_table(schema: dict[str, Any], column: str) -> str:
    properties = schema.get("properties", {})
    if not properties:
        return "No fields.\n"
    described = any("description" in each for each in properties.values())
    rows = []
    for name, each in properties.items():
        default = f"`{json.dumps(each.get('default', {}))}`"  # only objects are made by a factory
        needed = "required" if name in schema.get("required", ()) else default
        row = [f"`{name}`", _type(each), needed, _range(each)]
        rows.append([*row, _cell(each.get("description", ""))] if described else row)
    header = (column, "Type", "Default", "Allowed", *(("What it is",) if described else ()))
    return _table(*header, rows=rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of name to {_type(schema['additionalProperties'])}"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    kind = str(schema.get("type", "anything"))
    return words.get(kind, kind)


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {}",
    "pattern": "`{}`",
}


def _range(schema: dict[str, Any]) -> str:
    kinds = (schema, *schema.get("anyOf", ()))
    found = [f"`{word}`" for each in kinds for word in each.get("enum", ())]
    found += [
        _LIMITS[limit].format(each[limit]) for each in kinds for limit in _LIMITS if limit in each
    ]
    return _cell(", ".join(found))


# The protocol


def _envelope(kept: Kept) -> str:
    schema = Envelope.model_json_schema()
    rows = [
        [f"`{name}`", "object" if name == "payload" else _type(each), kept.get(name, "")]
        for name, each in schema["properties"].items()
    ]
    return _table("Field", "Type", "Meaning", rows=rows)


def payloads(module: Any) -> list[type[Payload]]:
    """The payload classes of a module that have a kind, in the order they are written."""
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    return [
        each
        for each in classes
        if issubclass(each, Payload) and each.kind and each.__module__ == module.__name__
    ]


def _kinds(kept: Kept) -> str:
    kinds = payloads(bus.messages)
    overview = [[f"`{each.kind}`", kept.get(each.kind, "")] for each in kinds]
    sections = (
        f"#### {each.kind}\n\n{_prose(each.__doc__)}\n\n{_fields(each, 'Field')}" for each in kinds
    )
    return "\n".join([_table("Kind", "Meaning", rows=overview), *sections])


def _events(kept: Kept) -> str:
    return "\n".join(
        f"### {each.kind}\n\n{_prose(each.__doc__)}\n\n{_fields(each, 'Field')}"
        for each in payloads(bus.topics)
    )


def error_codes() -> list[str]:
    """The codes of bus/errors.py, then those that only one agent uses."""
    shared = [text for name, text in vars(bus.errors).items() if name.isupper()]
    own = {
        str(call.args[0].value)
        for tree in _sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and name_of(call.func) == "CommandError" and call.args
        if isinstance(call.args[0], ast.Constant)
    }
    return [*shared, *sorted(own - {*shared})]


def _errors(kept: Kept) -> str:
    rows = [[f"`{code}`", str(exits.exit_code(CommandError(code, ""))), kept.get(code, "")]
            for code in error_codes()]  # fmt: skip
    return _table("Code", "Exit code of `sovl`", "Meaning", rows=rows)


_LIMIT_KEYS = (
    "bus.max_message_bytes",
    "bus.max_pending_per_client",
    "bus.max_pending_per_agent",
    "bus.command_deadline_s",
    "bus.subscriber_queue",
    "bus.subscriber_stall_s",
)
_LIMIT_CONSTANTS = {
    "MAX_BYTES": bus.size.MAX_BYTES,
    "BEAT_S": bus.messages.BEAT_S,
    "SILENCE_S": bus.subscriber.SILENCE_S,
    "CANCEL_GRACE_S": bus.router.CANCEL_GRACE_S,
    "CLIENT_QUEUE": sovl_daemon.hub_sockets.CLIENT_QUEUE,
    "MAX_TOPICS": bus.broker.MAX_TOPICS,
}


def _limits(kept: Kept) -> str:
    defaults = Settings()
    rows = [
        [key, f"{get_value(defaults, key)}", f"{range_text(KEYS[key])} {unit(KEYS[key])}"]
        for key in _LIMIT_KEYS
    ]
    rows += [[name, f"{value}", "fixed"] for name, value in _LIMIT_CONSTANTS.items()]
    filled = ([f"`{name}`", *rest, kept.get(name, "")] for name, *rest in rows)
    return _table("Limit", "Default", "Can be set to", "Meaning", rows=filled)


# Commands


def shipped_agents() -> list[Any]:
    """The agent classes that come with the daemon, as pyproject.toml names them."""
    project = tomllib.loads(_read(ROOT / "pyproject.toml"))["project"]
    points = project["entry-points"][GROUP].items()
    return [EntryPoint(name, value, GROUP).load() for name, value in points]


def _daemon_commands(kept: Kept) -> str:
    specs = [spec for agent in shipped_agents() for spec in agent.commands()]
    return commands(sorted(specs, key=lambda spec: (spec.internal, spec.name)))


def _control_commands(kept: Kept) -> str:
    return commands(sorted(commands_of(Controls), key=lambda spec: spec.name))


def commands(specs: Iterable[CommandSpec]) -> str:
    """A section for each command; what several answer is told in full under the first."""
    told: dict[str, str] = {}  # the command under which a model is told
    return "\n".join(_command(spec, told) for spec in specs)


def _command(spec: CommandSpec, told: dict[str, str]) -> str:
    whose = "" if spec.agent == Controls.name else f" Agent: `{spec.agent}`."
    long = " Without a deadline unless one is given." * spec.long
    for_agents = " For other agents only." * spec.internal
    none = " No arguments." * (not spec.request.model_fields)
    parts = [f"### {spec.name}\n\n{spec.help}{whose}{for_agents}{long}{none}\n"]
    inner: dict[str, str] = {}
    if not none:
        schema = spec.request.model_json_schema()
        parts.append(_schema_table(schema, "Argument"))
        inner |= _inner(schema, _schema_table)
    if spec.reply.model_fields:
        first = told.setdefault(spec.reply.__name__, spec.name)
        if first == spec.name:
            schema = spec.reply.model_json_schema()
            parts.append(_answer_table(schema, "Answer"))
            inner |= _inner(schema, _answer_table)
        else:
            parts.append(f"Answers as [{first}](#{first}).\n")
    for name, text in inner.items():
        first = told.setdefault(name, spec.name)
        parts.append(
            text if first == spec.name else f"Each `{name}`: as under [{first}](#{first}).\n"
        )
    return "\n".join(parts)


def _answer_table(schema: dict[str, Any], column: str) -> str:
    properties = schema.get("properties", {})
    described = any("description" in each for each in properties.values())
    rows = [
        [f"`{name}`", _type(each), *([_cell(each.get("description", ""))] if described else ())]
        for name, each in properties.items()
    ]
    return _table(column, "Type", *(("What it is",) if described else ()), rows=rows)


def _cli(kept: Kept) -> str:
    return "\n".join(_subcommand(typer.main.get_command(app.app), "sovl", None))


def subcommands() -> set[str]:
    """Every `sovl …` there is, such as `sovl keys new`."""
    return set(re.findall(r"^### (sovl.*)$", _cli({}), re.MULTILINE))


def _subcommand(command: Any, title: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=title.rpartition(" ")[2], parent=parent)
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    yield f"### {title}\n\n{command.help}\n\n```sh\n{usage}\n```\n"
    records = [each.get_help_record(context) for each in command.params if each.name != "help"]
    rows = [[f"`{_cell(name)}`", _cell(text)] for name, text in filter(None, records)]
    if rows:
        yield _table("Argument or option", "What it is", rows=rows)
    for name, each in getattr(command, "commands", {}).items():
        yield from _subcommand(each, f"{title} {name}", context)


def exit_codes() -> dict[int, list[str]]:
    """Each exit code of `sovl` with the errors that lead to it."""
    numbers = {value for name, value in vars(exits).items() if name.isupper() and name[0] != "_"
               if isinstance(value, int)}  # fmt: skip
    causes: dict[int, list[str]] = {number: [] for number in sorted({0, *numbers})}
    for code in error_codes():
        causes[exits.exit_code(CommandError(code, ""))].append(code)
    for kind in client_errors.ClientError.__subclasses__():
        if kind.__module__ == client_errors.__name__:
            causes[exits.exit_code(kind(""))].append(kind.__name__)
    return dict(sorted(causes.items()))


def _exits(kept: Kept) -> str:
    rows = (
        [f"`{code}`", ", ".join(f"`{each}`" for each in causes), kept.get(str(code), "")]
        for code, causes in exit_codes().items()
    )
    return _table("Exit code", "Errors", "Meaning", rows=rows)


# The log


def _sources() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(_read(path))


def logged() -> dict[str, LogEvent]:
    """Every event that the daemon logs, by name."""
    return log_events(_sources())


def _log(kept: Kept) -> str:
    rows = []
    for name, event in logged().items():
        names = [f"`{each}`" for each in event.fields] + ["…"] * event.open
        rows.append(
            [f"`{name}`", ", ".join(sorted(event.levels)), ", ".join(names), kept.get(name, "")]
        )
    return _table("Event", "Level", "Fields", "Meaning", rows=rows)


PARTS: dict[str, Callable[[Kept], str]] = {
    "envelope": _envelope,
    "kinds": _kinds,
    "events": _events,
    "errors": _errors,
    "limits": _limits,
    "daemon-commands": _daemon_commands,
    "control-commands": _control_commands,
    "cli": _cli,
    "exits": _exits,
    "log": _log,
}


def rewrite() -> None:
    """Rewrite the generated parts of every document."""
    for path in documents():
        path.write_text(updated(_read(path)), encoding="utf-8")
