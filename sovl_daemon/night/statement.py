"""Simple statements in English, taken apart into who, what and which."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["of", "own", "my", "by", "age", "does"]

# What people say before what they want remembered.
_LEAD = re.compile(
    r"^(?:(?:please|hey|hi|hello|oh|well|so|and|also|by the way|fyi|note)[,:.!]?\s+)*"
    r"(?:(?:please\s+)?(?:remember|note|know|keep in mind|don't forget|learn)(?:\s+(?:this|that))?"
    r"\s*[:,]?\s+"
    r"|(?:did you know|i want you to know|you should know|let me tell you|i tell you)"
    r"(?:\s+that)?\s*[:,]?\s+)?",
    re.IGNORECASE,
)
_IS = r"(?:is|was|are|were)"
_CALLED = r"(?:called |named )?"
_PREPOSITION = r"(?:as|in|at|for|on|from|with|to|near|by)"
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("age", re.compile(r"^(?P<subject>.+?) is (?P<object>[\w-]+) years? old$")),
    ("by", re.compile(rf"^(?P<subject>.+?) {_IS} (?P<relation>\w+) by (?P<object>.+)$")),
    (
        "of",
        re.compile(
            rf"^[Tt]he (?P<relation>[\w -]+?) of (?P<subject>.+?) {_IS} {_CALLED}(?P<object>.+)$"
        ),
    ),
    ("my", re.compile(rf"^[Mm]y (?P<relation>[\w' -]+?) {_IS} {_CALLED}(?P<object>.+)$")),
    (
        "own",
        re.compile(
            r"^(?P<subject>.+?)(?:'s|(?<=s)') (?P<relation>[\w -]+?) "
            rf"{_IS} {_CALLED}(?P<object>.+)$"
        ),
    ),
    (
        "does",
        re.compile(
            rf"^(?P<subject>(?:[A-Z][\w'-]*\s)+)(?P<relation>[a-z]+(?: {_PREPOSITION})?) "
            rf"(?P<object>.+)$"
        ),
    ),
)
_ARTICLE = re.compile(r"^(?:a|an|the) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """`text`, a sentence without its full stop, is that `relation` ties `subject` to `object`.

    `object` is without its article. By `kind`: the relation of the subject is the object ("of",
    "own"; "my": of whoever says it), the subject was done so by the object ("by"), is so many
    years old ("age"), or does so ("does", the relation is a verb, maybe with a preposition).
    """

    kind: Kind
    subject: str
    relation: str
    object: str
    text: str


def find_statements(told: str) -> list[Statement]:
    """Return the statements in what was told, in order; a sentence of another form gives none."""
    found = (_statement(sentence) for sentence in sentences(told))
    return [each for each in found if each is not None]


def sentences(told: str) -> list[str]:
    """Return the sentences of a text that are no questions, without lead and full stop."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", told.strip())
    bare = (_LEAD.sub("", part.strip(), count=1) for part in parts if not part.endswith("?"))
    return [text for text in (each.rstrip(" .!") for each in bare) if text]


def _statement(text: str) -> Statement | None:
    for kind, pattern in _PATTERNS:
        if match := pattern.match(text):
            parts = {key: value.strip() for key, value in match.groupdict().items()}
            bare = _ARTICLE.sub("", parts["object"])
            return Statement(kind, parts.get("subject", ""), parts.get("relation", ""), bare, text)
    return None
