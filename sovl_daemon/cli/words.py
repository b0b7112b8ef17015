"""From typed words to the arguments of a command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bus.commands import CommandDescription
from bus.errors import BAD_ARGUMENT, CommandError

_PAIR = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Argument:
    """What there is to know of an argument to type it: whether it is text, which text, or many."""

    name: str
    required: bool = False
    text: bool = False
    choice: bool = False
    many: bool = False

    @property
    def is_any_text(self) -> bool:
        """Whether it has to be given, and any text will do."""
        return self.required and self.text and not self.choice


def arguments_of(spec: CommandDescription) -> list[Argument]:
    """The arguments of a command in their order, by their JSON schema."""
    required = spec.arguments.get("required", [])
    return [
        Argument(
            name,
            required=name in required,
            text=any(kind.get("type") == "string" for kind in (each, *each.get("anyOf", []))),
            choice=bool({"enum", "const"} & each.keys()),
            many=each.get("type") == "array",
        )
        for name, each in spec.arguments.get("properties", {}).items()
    ]


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


def parse_words(words: list[str], arguments: Sequence[Argument]) -> dict[str, Any]:
    """The words of a shell, as arguments of a command. Raises CommandError.

    `key=value` names an argument, and the other words fill those that are not named, in order.
    Where the first argument is text that must be given, it is the first word if that has a space,
    else all words before the named ones at the end. Where all are `key=value`, none is text: one
    that names nothing is a slip.
    """
    pairs = all(_PAIR.match(word) for word in words) and " " not in "".join(words[:1])
    named = pairs or any(_names(word, arguments[:1]) for word in words)
    if named or not (arguments and arguments[0].is_any_text):
        return _filled(words, arguments)
    count = len(words)
    while count > 1 and (" " in words[0] or _names(words[count - 1], arguments)):
        count -= 1
    text = " ".join(words[:count])
    return {arguments[0].name: text, **_filled(words[count:], arguments[1:])}


def parse_line(rest: str, arguments: Sequence[Argument]) -> dict[str, Any]:
    """What follows a command's name on a line, as `parse_words`; only the text is told otherwise.

    It takes the whole line unless that is quoted: `generate How are you?` and `generate "How are
    you?" 20` both do what one means. Raises CommandError.
    """
    if not rest:
        return {}
    try:
        words = shlex.split(rest)
    except ValueError:  # an apostrophe, most likely
        words = [rest]
    first, named = arguments[:1], all(_names(word, arguments) for word in words)
    takes_text = bool(arguments) and arguments[0].is_any_text
    if not takes_text or (named and any(_names(word, first) for word in words)):
        return _filled(words, arguments)
    if rest[0] not in "\"'":
        return {arguments[0].name: rest}
    return {arguments[0].name: words[0], **_filled(words[1:], arguments[1:])}


def _filled(words: list[str], arguments: Sequence[Argument]) -> dict[str, Any]:
    """Named arguments, and in those that are left the other words."""
    named = parse_pairs([word for word in words if _PAIR.match(word)])
    words = [word for word in words if not _PAIR.match(word)]
    free = [argument for argument in arguments if argument.name not in named]
    rest = words[len(free) - 1 :]
    if free and free[-1].many and rest:  # a last one that takes many takes all that are left
        words = [*words[: len(free) - 1], json.dumps([parse_value(word) for word in rest])]
    if len(words) > len(free):
        allowed = ", ".join(argument.name for argument in free) or "none"
        raise CommandError(BAD_ARGUMENT, f"too many arguments, allowed: {allowed}")
    given = {
        argument.name: word if argument.text else parse_value(word)
        for argument, word in zip(free, words, strict=False)
    }
    return given | named


def _names(word: str, arguments: Sequence[Argument]) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key in {argument.name for argument in arguments}
