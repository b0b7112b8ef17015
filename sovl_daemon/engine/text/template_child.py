"""A process that renders chat templates, and nothing else: they are programs of strangers.

Run by its path, and with `-P`: it reads an order as JSON from standard input and writes a
list of outcomes. Its time, memory and files are bounded, as jinja's sandbox bounds none of them.
"""

import json
import resource
import sys
from datetime import datetime
from typing import Any

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


def main() -> None:
    """Answer one order."""
    _bound()
    order = json.load(sys.stdin)
    try:
        template = _environment().from_string(order["template"])
    except Exception as error:  # jinja's own, or too deep for Python's compiler
        outcomes = [_failure(error)] * len(order["conversations"])
    else:
        outcomes = [_render(template, order["variables"] | each) for each in order["conversations"]]
    json.dump(outcomes, sys.stdout)


def _bound() -> None:
    limits = {
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, maximum in limits.items():
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (maximum, maximum) if hard < 0 else (min(maximum, hard), hard))


def _render(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, str]:
    parts, length = [], 0
    try:
        for part in template.generate(**variables):
            parts.append(part)
            length += len(part)
            if length > _LONGEST:
                return {"error": f"it writes over {_LONGEST} characters"}
    except Exception as error:  # a template may raise anything of Python's
        return _failure(error)
    return {"text": "".join(parts)}


def _failure(error: Exception) -> dict[str, str]:
    if isinstance(error, MemoryError):
        return {"error": "it takes too much memory"}
    return {"error": next(iter(str(error).strip().splitlines()), type(error).__name__)}


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates of transformers are written for."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main()
