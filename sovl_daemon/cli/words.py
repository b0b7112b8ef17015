"""From typed words to the arguments of a command."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import orjson

from bus.errors import BAD_ARGUMENT, CommandError

_PAIR = re.compile(r"[A-Za-z_]\w*=")


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


def parse_words(words: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    """The words of a shell, by the JSON schema of a command's arguments. Raises CommandError.

    `key=value` names an argument, and the other words fill those that are not named, in order.
    Where the first argument is text that must be given, it is the first word if that has a space,
    else all words before the named ones at the end. Where all are `key=value`, none is text: one
    that names nothing is a slip.
    """
    names = list(schema.get("properties", {}))
    pairs = all(_PAIR.match(word) for word in words) and " " not in "".join(words[:1])
    named = pairs or any(_names(word, names[:1]) for word in words)
    if named or not _begins_with_text(schema):
        return _filled(words, names, schema)
    count = len(words)
    while count > 1 and (" " in words[0] or _names(words[count - 1], names)):
        count -= 1
    return {names[0]: " ".join(words[:count]), **_filled(words[count:], names[1:], schema)}


def parse_line(rest: str, schema: dict[str, Any]) -> dict[str, Any]:
    """What follows a command's name on a line, as `parse_words`; only the text is told otherwise.

    It takes the whole line unless that is quoted: `generate How are you?` and `generate "How are
    you?" 20` both do what one means. Raises CommandError.
    """
    names = list(schema.get("properties", {}))
    if not rest:
        return {}
    try:
        words = shlex.split(rest)
    except ValueError:  # an apostrophe, most likely
        words = [rest]
    named = all(_names(word, names) for word in words)
    if not _begins_with_text(schema) or (named and any(_names(w, names[:1]) for w in words)):
        return _filled(words, names, schema)
    if rest[0] not in "\"'":
        return {names[0]: rest}
    return {names[0]: words[0], **_filled(words[1:], names[1:], schema)}


def _filled(words: list[str], names: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    """Named arguments, and in those of `names` that are left the other words."""
    properties = schema.get("properties", {})
    named = parse_pairs([word for word in words if _PAIR.match(word)])
    names = [name for name in names if name not in named]
    words = _gathered([word for word in words if not _PAIR.match(word)], names, properties)
    if len(words) > len(names):
        allowed = ", ".join(names) or "none"
        raise CommandError(BAD_ARGUMENT, f"too many arguments, allowed: {allowed}")
    values = zip(names, words, strict=False)
    return {name: _typed(word, properties[name]) for name, word in values} | named


def _names(word: str, names: list[str]) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key in names


def _begins_with_text(schema: dict[str, Any]) -> bool:
    """Whether the first argument is any text, and has to be given."""
    properties = schema.get("properties", {})
    first = list(properties)[:1]
    return schema.get("required", [])[:1] == first != [] and _is_free_text(properties[first[0]])


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
