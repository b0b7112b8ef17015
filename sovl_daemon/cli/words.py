"""From typed words to the arguments of a command."""

from __future__ import annotations

import json
import shlex
from typing import Any

import orjson

from bus.errors import BAD_ARGUMENT, CommandError


def parse_pairs(words: list[str]) -> dict[str, Any]:
    """`key=value …`; a value is JSON where it can be, else text. Raises CommandError."""
    args = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CommandError(BAD_ARGUMENT, f"{word!r}: write arguments as key=value")
        args[key] = parse_value(value)
    return args


def parse_value(text: str) -> Any:
    """JSON where it can be, else the text itself."""
    try:
        return orjson.loads(text)  # strict: NaN and 1e400 are no JSON, and refused as what they are
    except ValueError:
        return text


def parse_line(rest: str, schema: dict[str, Any]) -> dict[str, Any]:
    """What follows a command's name, by the JSON schema of its arguments.

    Words fill the arguments in order, or name them (`key=value`). Where the first argument is
    text that must be given, it takes the whole line unless that is quoted: `generate How are you?`
    and `generate "How are you?" 20` both do what one means. Raises CommandError.
    """
    properties = schema.get("properties", {})
    names = list(properties)
    if not rest:
        return {}
    try:
        words = shlex.split(rest)
    except ValueError:  # an apostrophe, most likely
        words = [rest]
    if all(word.partition("=")[0] in names and "=" in word for word in words):
        return parse_pairs(words)
    free = names[:1] == schema.get("required", [])[:1] != [] and _is_free_text(properties[names[0]])
    if free and rest[0] not in "\"'":
        return {names[0]: rest}
    words = _gathered(words, names, properties)
    if len(words) > len(names):
        allowed = ", ".join(names) or "none"
        raise CommandError(BAD_ARGUMENT, f"too many arguments, allowed: {allowed}")
    values = zip(names, words, strict=False)
    return {name: _typed(word, properties[name]) for name, word in values}


def _gathered(words: list[str], names: list[str], properties: dict[str, Any]) -> list[str]:
    """A last argument that is a list takes all the words that are left, as JSON."""
    rest = words[len(names) - 1 :]
    if not names or properties[names[-1]].get("type") != "array" or not rest:
        return words
    return [*words[: len(names) - 1], json.dumps([parse_value(word) for word in rest])]


def _is_text(prop: dict[str, Any]) -> bool:
    kinds = [prop, *prop.get("anyOf", [])]
    return any(kind.get("type") == "string" for kind in kinds)


def _is_free_text(prop: dict[str, Any]) -> bool:
    return _is_text(prop) and not {"enum", "const"} & prop.keys()


def _typed(word: str, prop: dict[str, Any]) -> Any:
    return word if _is_text(prop) else parse_value(word)
