"""What a command is: its name, its arguments and its help in one place.

The hub checks arguments with it, the console completes from it, the documents are made from it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bus.errors import BAD_ARGUMENT, BAD_COMMAND, INTERNAL, CommandError

Given = ParamSpec("Given")

MAX_FAULTS = 20  # more of them in one call are counted, not explained


class Reply(BaseModel):
    """Base of what a command answers: the `data` of its result.

    What is unset is not sent; fields that a newer peer added are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    def wire(self) -> dict[str, Any]:
        """The data of the result, as JSON may hold it."""
        return self.model_dump(mode="json", exclude_unset=True)


class AgentStats(Reply):
    """Base of what an agent counts, shown by `sovl stats`."""


class Done(Reply):
    """The reply of commands that have nothing to tell."""


class CommandDescription(Reply):
    """A command, told to clients."""

    name: str = Field(description="what it is asked for by")
    agent: str = Field(description="who answers")
    help: str = Field(description="what it does")
    long: bool = Field(description="whether it has no deadline unless one is given")
    arguments: dict[str, Any] = Field(description="JSON schema of its arguments")
    reply: dict[str, Any] | None = Field(default=None, description="JSON schema of its answer")


ReplyT = TypeVar("ReplyT", bound=Reply)


class Request(BaseModel, Generic[ReplyT]):
    """Base of a command's contract: its name, its arguments and what it answers.

    `class Add(Request[Sum], command="add")` is asked for with `await agent.ask(Add(a=1, b=2))`,
    which returns a `Sum`. Unknown arguments are refused, not ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    command_name: ClassVar[str] = ""
    reply_type: ClassVar[type[Reply]]

    def __init_subclass__(cls, command: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.command_name = command

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        for base in cls.__mro__:
            found = base.__dict__.get("__pydantic_generic_metadata__", {}).get("args")
            if found and isinstance(found[0], type):
                cls.reply_type = found[0]
                return

    def wire(self) -> dict[str, Any]:
        """The arguments that were given, as JSON may hold them."""
        return self.model_dump(mode="json", exclude_unset=True)

    def read(self, data: Mapping[str, Any]) -> ReplyT:
        """The reply that an answer's data is. Raises CommandError where it is another one's."""
        try:
            return cast(ReplyT, self.reply_type.model_validate(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CommandError(
                INTERNAL, f"{self.command_name}: the reply does not fit: {where}: {first['msg']}"
            ) from None


@dataclass(frozen=True)
class CommandSpec:
    """A command that an agent offers. `internal` ones are for other agents, not for clients.

    A `long` one takes as long as its work takes: it has no deadline unless one is given.
    """

    name: str
    agent: str
    help: str
    request: type[Request[Any]]
    method: str
    internal: bool = False
    long: bool = False

    @property
    def reply(self) -> type[Reply]:
        """What it answers."""
        return self.request.reply_type

    def parse(self, args: Mapping[str, Any]) -> Request[Any]:
        """The request that `args` make. Raises CommandError naming every fault."""
        if len(args) > len(self.request.model_fields) + MAX_FAULTS:
            known = ", ".join(self.request.model_fields) or "none"
            raise CommandError(
                BAD_ARGUMENT, f"{self.name}: {len(args)} arguments are too many, allowed: {known}"
            )
        try:
            return self.request.model_validate(args)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            faults = [_fault(self.request, each) for each in errors[:MAX_FAULTS]]
            if len(errors) > MAX_FAULTS:
                faults.append(f"and {len(errors) - MAX_FAULTS} more")
            raise CommandError(
                BAD_ARGUMENT, f"{self.name}: {'; '.join(faults)}", {"faults": faults}
            ) from None

    def describe(self) -> CommandDescription:
        """For clients."""
        return CommandDescription(
            name=self.name,
            agent=self.agent,
            help=self.help,
            long=self.long,
            arguments=_schema(self.request),
            reply=_schema(self.reply),
        )


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _fault(request: type[Request[Any]], error: Any) -> str:
    where = shown(".".join(str(part) for part in error["loc"])) or "arguments"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown argument{_nearest(where, request.model_fields)}"
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
    request: type[Request[Any]]
    help: str
    internal: bool
    long: bool


def command(
    request: type[Request[ReplyT]], *, internal: bool = False, long: bool = False
) -> Callable[[Callable[Given, Awaitable[ReplyT]]], Callable[Given, Awaitable[ReplyT]]]:
    """Offer a method `async def f(self, request, job) -> Reply` of an agent as a command.

    The first line of its docstring is the help. `long` is work that is long by nature: it has no
    deadline unless one is given.
    """

    def mark(handler: Any) -> Any:
        given = list(inspect.signature(handler).parameters.values())[1].annotation
        if given not in (request, request.__name__):
            raise TypeError(f"{handler.__qualname__}: takes {given}, offers {request.__name__}")
        help_line = (handler.__doc__ or "").strip().split("\n")[0]
        handler.__sovl_command__ = _Mark(request, help_line, internal, long)
        return handler

    return mark


def commands_of(agent: type[Any]) -> list[CommandSpec]:
    """The commands that an agent class offers."""
    specs = []
    for method in dir(agent):
        found = getattr(getattr(agent, method), "__sovl_command__", None)
        if isinstance(found, _Mark):
            name, helps = found.request.command_name, found.help
            specs.append(
                CommandSpec(
                    name, agent.name, helps, found.request, method, found.internal, found.long
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
