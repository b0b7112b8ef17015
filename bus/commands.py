"""What a command is: its name, its arguments and its help in one place.

The hub checks arguments with it, the console completes from it, the documents are made from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bus.errors import BAD_ARGUMENT, BAD_COMMAND, CommandError

Handler = TypeVar("Handler", bound=Callable[..., Any])

MAX_FAULTS = 20  # more of them in one call are counted, not explained


class Arguments(BaseModel):
    """Base of a command's arguments: unknown ones are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoArguments(Arguments):
    """For commands that take none."""


@dataclass(frozen=True)
class CommandSpec:
    """A command that an agent offers. `internal` ones are for other agents, not for clients.

    A `long` one takes as long as its work takes: it has no deadline unless one is given.
    """

    name: str
    agent: str
    help: str
    arguments: type[Arguments]
    method: str
    internal: bool = False
    long: bool = False

    def check(self, args: dict[str, Any]) -> dict[str, Any]:
        """`args` with types and ranges checked. Raises CommandError naming every fault."""
        if len(args) > len(self.arguments.model_fields) + MAX_FAULTS:
            known = ", ".join(self.arguments.model_fields) or "none"
            raise CommandError(
                BAD_ARGUMENT, f"{self.name}: {len(args)} arguments are too many, allowed: {known}"
            )
        try:
            return self.arguments.model_validate(args).model_dump(mode="json", exclude_unset=True)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            faults = [_fault(self.arguments, each) for each in errors[:MAX_FAULTS]]
            if len(errors) > MAX_FAULTS:
                faults.append(f"and {len(errors) - MAX_FAULTS} more")
            raise CommandError(
                BAD_ARGUMENT, f"{self.name}: {'; '.join(faults)}", {"faults": faults}
            ) from None

    def describe(self) -> dict[str, Any]:
        """For clients: name, help, whether it is long, and the JSON schema of the arguments."""
        return {
            "name": self.name,
            "agent": self.agent,
            "help": self.help,
            "long": self.long,
            "arguments": self.arguments.model_json_schema(),
        }


def _fault(arguments: type[Arguments], error: Any) -> str:
    where = shown(".".join(str(part) for part in error["loc"])) or "arguments"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown argument{_nearest(where, arguments.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: is required"
    return f"{where}: {error['msg']}, got {error['input']!r:.80}"


def shown(name: str) -> str:
    """A name from outside as it may stand in a message of one line."""
    return (name if name.isprintable() else ascii(name))[:100]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


@dataclass(frozen=True)
class _Mark:
    name: str
    help: str
    arguments: type[Arguments]
    internal: bool
    long: bool


def command(
    arguments: type[Arguments] = NoArguments,
    *,
    name: str = "",
    internal: bool = False,
    long: bool = False,
) -> Callable[[Handler], Handler]:
    """Offer a method `async def f(self, args, call) -> dict` of an agent as a command.

    The first line of its docstring is the help. The name defaults to the method's. `long` is work
    that is long by nature: it has no deadline unless one is given.
    """

    def mark(handler: Handler) -> Handler:
        title = name or handler.__name__
        help_line = (handler.__doc__ or "").strip().split("\n")[0]
        handler.__sovl_command__ = _Mark(title, help_line, arguments, internal, long)  # type: ignore[attr-defined]
        return handler

    return mark


def commands_of(agent: type[Any]) -> list[CommandSpec]:
    """The commands that an agent class offers."""
    specs = []
    for method in dir(agent):
        found = getattr(getattr(agent, method), "__sovl_command__", None)
        if isinstance(found, _Mark):
            specs.append(
                CommandSpec(
                    found.name,
                    agent.name,
                    found.help,
                    found.arguments,
                    method,
                    found.internal,
                    found.long,
                )
            )
    return specs


class CommandTable:
    """All commands of a daemon by name. A name offered twice is refused at start."""

    def __init__(self, specs: Iterable[CommandSpec]) -> None:
        self._specs: dict[str, CommandSpec] = {}
        for spec in specs:
            if spec.name in self._specs:
                owner = self._specs[spec.name].agent
                raise ValueError(f"command {spec.name!r}: offered by both {owner} and {spec.agent}")
            self._specs[spec.name] = spec

    def find(self, name: str, *, internal: bool) -> CommandSpec:
        """Look a command up. Raises CommandError with the nearest one."""
        spec = self._specs.get(name)
        if spec is None or (spec.internal and not internal):
            names = [each.name for each in self.public()]
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
            raise CommandError(
                BAD_COMMAND,
                f"{shown(name)}: no such command, {hint}",
                {"nearest": close, "known": names},
            )
        return spec

    def public(self) -> list[CommandSpec]:
        """The commands that clients may call, by name."""
        return sorted(
            (each for each in self._specs.values() if not each.internal), key=lambda s: s.name
        )
