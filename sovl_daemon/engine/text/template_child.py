"""A process that renders chat templates, and nothing else: they are programs of strangers.

Run by its path, and with `-P`: it reads an order as JSON from standard input and writes a
list of outcomes. Its time, memory and files are bounded, as jinja's sandbox bounds none of them.
"""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 3
_MEMORY_BYTES = 512 << 20
_LONGEST = 1 << 20  # characters


class _Generation(Extension):
    """The tag by which trainers mark what is an answer's; here it is nothing but its contents."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        """Return what stands inside."""
        next(parser.stream)
        inside: list[nodes.Node] = parser.parse_statements(
            ("name:endgeneration",), drop_needle=True
        )
        return inside


class TextPart(TypedDict):
    """A part of a turn's content, for templates that take them so."""

    type: Literal["text"]
    text: str


class Turn(TypedDict):
    """One turn, as templates know it."""

    role: str
    content: str | list[TextPart]


class Conversation(TypedDict):
    """The variables of a template that are one conversation's own."""

    messages: list[Turn]
    add_generation_prompt: bool


# Those of all conversations: switches, and special tokens by their names.
Variables = Mapping[str, str | bool | None]


class Order(TypedDict):
    """What is asked on standard input: `template`, written for each of the conversations."""

    template: str
    variables: Variables
    conversations: Sequence[Conversation]


class Rendering(TypedDict, total=False):
    """What came of a conversation: its `text`, or an `error` in one line."""

    text: str
    error: str


def main() -> None:
    """Read one order and write its outcomes."""
    limits = {
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, maximum in limits.items():
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (maximum, maximum) if hard < 0 else (min(maximum, hard), hard))
    order: Order = json.load(sys.stdin)
    variables, conversations = order["variables"], order["conversations"]
    try:
        template = _environment().from_string(order["template"])
    except Exception as error:  # jinja's own, or too deep for Python's compiler
        outcomes = [_failure(error)] * len(conversations)
    else:
        outcomes = [_render(template, variables, each) for each in conversations]
    json.dump(outcomes, sys.stdout)


def _render(
    template: jinja2.Template, variables: Variables, conversation: Conversation
) -> Rendering:
    parts, length = [], 0
    try:
        for part in template.generate({**variables, **conversation}):
            parts.append(part)
            length += len(part)
            if length > _LONGEST:
                return {"error": f"it writes over {_LONGEST} characters"}
    except Exception as error:  # a template may raise anything of Python's
        return _failure(error)
    return {"text": "".join(parts)}


def _failure(error: Exception) -> Rendering:
    if isinstance(error, MemoryError):
        return {"error": "it takes too much memory"}
    return {"error": next(iter(str(error).strip().splitlines()), type(error).__name__)}


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates of transformers are written for."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), **options)

    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


if __name__ == "__main__":
    main()
