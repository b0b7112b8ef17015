"""Turn validation errors into faults a person can act on."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config import keys
from config.faults import Fault

_SHOWN = 60  # characters of a wrong value that a fault repeats

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "dict": "an object",
    "model": "a section, an object of keys",
}

Origin = Callable[[Sequence[str | int]], str]
"""Names where the value at a location came from; empty for the file and the defaults."""


def json_text(value: Any) -> str:
    """Return a value as JSON writes it, in one line."""
    return json.dumps(value, default=str, ensure_ascii=False)


def explain(error: ValidationError, origin: Origin = lambda _: "") -> list[Fault]:
    """Return one fault for each error pydantic found."""
    return [_fault(details, origin) for details in error.errors(include_url=False)]


def _fault(details: ErrorDetails, origin: Origin) -> Fault:
    location = details["loc"]
    because = details.get("ctx", {}).get("because")  # the other key when a rule joins two of them
    blamed = origin(location) or (origin((*location[:-1], because)) if because else "")
    return Fault(".".join(map(str, location)), _problem(details), blamed)


def _problem(details: ErrorDetails) -> str:
    kind = details["type"]
    name = ".".join(map(str, details["loc"]))
    field = _field(details["loc"])
    limits = f", allowed {keys.range_text(field)}" if field and keys.range_text(field) else ""
    if kind == "extra_forbidden":
        return keys.unknown(name, "key" if len(details["loc"]) > 1 else "section")
    if kind == "refused":
        return f"{_shown(details['input'])} {details['ctx']['problem']}"
    if kind.startswith(("greater_than", "less_than")):
        return f"{_shown(details['input'])} is out of range{limits}"
    if kind == "literal_error" and field:
        words = ", ".join(f'"{word}"' for word in keys.choices(field))
        null = " or null" if keys.allows_null(field) else ""
        return f"{_shown(details['input'])} is not one of {words}{null}"
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected:
        return f"{_shown(details['input'])} is not {expected}{limits}"
    return f"{_shown(details['input'])} is refused: {details['msg']}"


def _field(location: Sequence[str | int]) -> FieldInfo | None:
    """Find the key a location is in: the location may go on into a list or an object."""
    names = [".".join(map(str, location[:end])) for end in range(len(location), 0, -1)]
    return next((keys.KEYS[name] for name in names if name in keys.KEYS), None)


def _shown(value: Any) -> str:
    text = json_text(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
