"""How a model's chat template lays out a conversation, asked of the template itself.

It is rendered in a process of its own, and never sees what people write: it is given stand-ins, and
what it writes around them is kept. So a message can neither steer the template nor be lost in it
unseen, and what is the template's own can be told from what is not.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sovl_daemon.engine.errors import TemplateError, first_line
from sovl_daemon.engine.text import template_child
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.text.template_child import Conversation, Turn, Variables

_PATIENCE_S = 120.0  # by the clock, where others have the processor

# A base model has never seen a chat template; a written dialogue it has.
DIALOGUE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}"
    "{% else %}{{ '' if loop.first or loop.previtem.role == 'system' else '\\n' }}"
    "{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAssistant:' }}{% endif %}"
)

# Said for the user where a template lets nobody else speak first.
PLACEHOLDER = "Hello."

_ROLES = {"s": "system", "u": "user", "a": "assistant"}
# Stand-ins are private characters; white space beside them tells whether the template strips.
_STAND_IN = "\x1d\ue000{}\ue001\x1d"
_PLACE = re.compile("(\x1d?)\ue000([0-9]+)\ue001(\x1d?)")
_THOUGHT = "<think>\ue002</think>"
_TURNS_AT_ONCE = 24
_THINK = re.compile(r"<think>(?!.*</think>)", re.DOTALL)
# Answers are short and are learned from: a thought has no place there, and most templates ask.
_VARIABLES = {
    "tools": None,
    "documents": None,
    "enable_thinking": False,
    "thinking": False,
    "bos_token": "",
}


class TemplatePart(NamedTuple):
    """A part of a prompt: the template's `own` writing, or somebody's words."""

    text: str
    own: bool


class _Placeholder(NamedTuple):
    place: int
    strip_start: bool
    strip_end: bool

    def filled(self, content: str) -> str:
        content = content.lstrip() if self.strip_start else content
        return content.rstrip() if self.strip_end else content


_Layout = tuple[str | _Placeholder, ...]


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template can and cannot do, found out by asking it.

    `parts`: content as a list of typed parts; `system`: it takes a system message; `first`: an
    answer may stand before any question; `thoughtless`: it drops the thoughts of past answers.
    `opening` is written behind what it ends a prompt with.
    """

    parts: bool
    system: bool
    first: bool
    thoughtless: bool
    opening: str


class ChatTemplate:
    """Lays out conversations as a template of transformers would.

    `adaptations` tell in words what is done for it. `between` is what it writes from a question to
    its answer, `behind` what it writes behind an answer. `markers` is all that it writes around
    what is said.

    Raises:
        TemplateError: it cannot be used.

    """

    def __init__(self, text: str, variables: Variables, *, note: str = "") -> None:
        self._text = text
        self._variables = {**_VARIABLES, **variables}
        self._layouts: dict[tuple[bool, str, bool], _Layout | TemplateError] = {}
        self._made = date.today()
        self._thoughts: dict[bool, str] = {}
        first = [
            (parts, system + ("au" * turns)[-turns:], True)
            for parts in (False, True)
            for system in ("", "s")
            for turns in range(1, _TURNS_AT_ONCE)
        ]
        self._ask([*first, *((parts, "ua", False) for parts in (False, True))])
        self.manners = self._find_manners()
        talk = self._read("uau", asks=True)
        self.between, after = _behind(talk, 0), _behind(talk, 1)
        alone = self._layouts[self.manners.parts, "ua", False]
        last = "" if isinstance(alone, TemplateError) else _behind(alone, 1)
        self.behind = tuple(dict.fromkeys(each for each in (last, after) if each.strip()))
        self.markers = tuple(self._written_around())
        self.lead = self._lead()
        self.adaptations = tuple(filter(None, (note, *self._adapted())))

    def lay_out(self, messages: Sequence[Message]) -> list[TemplatePart]:
        """Return the prompt for an answer to `messages`, the last of which is a user's.

        Raises:
            TemplateError: it loses or refuses some of it.

        """
        said = self._as_wanted(messages)
        layout = self._read("".join(role[0] for role, _ in said), asks=True)
        pieces = [
            TemplatePart(each, own=True)
            if isinstance(each, str)
            else TemplatePart(each.filled(said[each.place][1]), own=False)
            for each in layout
        ]
        return [*pieces, TemplatePart(self.manners.opening, own=True)]

    def _as_wanted(self, messages: Sequence[Message]) -> list[tuple[str, str]]:
        """Bring a conversation into the form that the template takes: roles and contents."""
        system = "\n\n".join(each.content for each in messages if each.role == "system")
        said: list[tuple[str, str]] = []
        for role, content in ((m.role, m.content) for m in messages if m.role != "system"):
            if role == "assistant" and self.manners.thoughtless:
                content = content.rpartition("</think>")[2].lstrip()
            if said and said[-1][0] == role:
                content = f"{said.pop()[1]}\n\n{content}"
            said.append((role, content))
        if system and self.manners.system:
            front = [("system", system)]
        elif system and said[0][0] == "user":
            front, said = [], [("user", f"{system}\n\n{said[0][1]}"), *said[1:]]
        else:
            front = [("user", system)] if system else []
        opened = self.manners.first or said[0][0] == "user" or (front and front[-1][0] == "user")
        return [*front, *([] if opened else [("user", PLACEHOLDER)]), *said]

    def _read(self, roles: str, *, asks: bool) -> _Layout:
        key = (self.manners.parts, roles, asks)
        if self._made != date.today() and "strftime_now" in self._text:
            self._layouts.clear()
            self._made = date.today()
        if key not in self._layouts:
            # A conversation grows: what comes next is asked with it.
            longer = ("au" * turns for turns in range(_TURNS_AT_ONCE // 2))
            self._ask([key, *((key[0], roles + each, asks) for each in longer if each)])
        layout = self._layouts[key]
        if isinstance(layout, TemplateError):
            raise layout
        return layout

    def _ask(self, keys: Sequence[tuple[bool, str, bool]]) -> None:
        """Let the template write; its thoughts about thoughts are kept with the first questions."""
        conversations = [
            _conversation(parts, roles, list(map(_STAND_IN.format, range(len(roles)))), asks=asks)
            for parts, roles, asks in keys
        ]
        said = [_STAND_IN.format(0), _THOUGHT + _STAND_IN.format(1), _STAND_IN.format(2)]
        thinking = [_conversation(parts, "uau", said, asks=True) for parts in (False, True)]
        if self._thoughts:
            thinking = []
        written = render(self._text, self._variables, [*conversations, *thinking])
        for key, text in zip(keys, written, strict=False):
            self._layouts[key] = text if isinstance(text, TemplateError) else _layout(key[1], text)
        for parts, text in zip((False, True), written[len(keys) :], strict=False):
            self._thoughts[parts] = text if isinstance(text, str) else ""

    def _find_manners(self) -> TemplateTraits:
        faults = {}
        for parts in (False, True):
            faults[parts] = self._fault(parts, "u", "uau")
            if faults[parts] is None:
                break
        fault = faults[parts]
        if fault is not None:
            raise faults[False] or fault
        system = self._fault(parts, "su", "suau") is None
        first = self._fault(parts, "au", *(["sau"] if system else [])) is None
        thought = self._thoughts[parts]
        return TemplateTraits(
            parts=parts,
            system=system,
            first=first,
            thoughtless="\ue002" not in thought and "\ue0001\ue001" in thought,
            opening=self._opening(parts),
        )

    def _fault(self, parts: bool, *shapes: str) -> TemplateError | None:
        found = (self._layouts[parts, roles, True] for roles in shapes)
        return next((each for each in found if isinstance(each, TemplateError)), None)

    def _opening(self, parts: bool) -> str:
        """What the template leaves out of the beginning of an answer."""
        asked, answered = self._layouts[parts, "u", True], self._layouts[parts, "uau", True]
        assert not isinstance(asked, TemplateError)  # noqa: S101 - it was tried
        assert not isinstance(answered, TemplateError)  # noqa: S101 - it was tried
        end = _behind(asked, 0)
        if _THINK.search(end):
            return "\n</think>\n\n"
        complete = _behind(answered, 0).rstrip(" ")
        return complete[len(end) :] if complete.startswith(end.rstrip(" ")) else ""

    def _lead(self) -> str:
        """White space between the end of a prompt and the answer to it, in a past turn."""
        end = _behind(self._read("u", asks=True), 0) + self.manners.opening
        rest = self.between.removeprefix(end)
        return rest if rest != self.between and not rest.strip() else ""

    def _written_around(self) -> Iterator[str]:
        system = self._read("suau", asks=True) if self.manners.system else ()
        talk = self._read("uau", asks=True)
        # What comes first may hold a system prompt of the template's own.
        yield from (each for each in (*system, *talk[1:]) if isinstance(each, str))
        yield from self.behind
        yield self.manners.opening
        yield next(iter(str(talk[0]).splitlines()[-1:]), "")

    def _adapted(self) -> Iterator[str]:
        manners = self.manners
        if manners.parts:
            yield "content is given as typed parts"
        if not manners.system:
            yield "the system prompt stands in the first user message"
        if not manners.first:
            yield f"a conversation that SOVL begins starts with the user's {PLACEHOLDER!r}"
        if "</think>" in manners.opening:
            yield "the thought that it begins an answer with is ended at once"
        elif manners.opening:
            yield "an answer is begun as it begins those of the past"
        if manners.thoughtless:
            yield "thoughts of past answers are left out"


@lru_cache(maxsize=64)
def _cached(text: str, variables: tuple[tuple[str, str], ...], note: str) -> ChatTemplate:
    return ChatTemplate(text, dict(variables), note=note)


def chat_template(
    templates: str | Mapping[str, str] | None, variables: Mapping[str, str]
) -> ChatTemplate:
    """Return the template to talk by: the one there is, the default of several, or a dialogue.

    `variables` are special tokens by their names. Where the default is no use another is taken.

    Raises:
        TemplateError: none can be used.

    """
    given = tuple(sorted(variables.items()))
    if not templates:
        note = "it has no chat template: a dialogue of User: and Assistant: is written"
        return _cached(DIALOGUE, given, note)
    if isinstance(templates, str):
        return _cached(templates, given, "")
    faults = []
    for name in sorted(templates, key=lambda each: (each != "default", each)):
        note = "" if name == "default" else f"its chat template {name!r} is used"
        try:
            return _cached(templates[name], given, note)
        except TemplateError as error:
            faults.append(f"{name}: {error}")
    raise TemplateError("; ".join(faults))


def _conversation(parts: bool, roles: str, contents: Sequence[str], *, asks: bool) -> Conversation:
    turns: list[Turn] = [
        {"role": _ROLES[role], "content": [{"type": "text", "text": text}] if parts else text}
        for role, text in zip(roles, contents, strict=True)
    ]
    return {"messages": turns, "add_generation_prompt": asks}


def _layout(roles: str, text: str) -> _Layout | TemplateError:
    """Return text and slots in turns, text first and last, or what was lost."""
    found: list[str | _Placeholder] = []
    end = 0
    for match in _PLACE.finditer(text):
        found.append(text[end : match.start()])
        found.append(_Placeholder(int(match[2]), not match[1], not match[3]))
        end = match.end()
    found.append(text[end:])
    places = [each.place for each in found if isinstance(each, _Placeholder)]
    for place, role in enumerate(roles):
        if places.count(place) < 1 or (role == "s" and places.count(place) > 1):
            what = "writes twice" if place in places else "leaves out"
            return TemplateError(f"it {what} the {_ROLES[role]}'s message")
    talk = [place for place in places if roles[place] != "s"]
    if talk != sorted(talk) or any("\ue000" in each for each in found if isinstance(each, str)):
        return TemplateError("it does not keep the order of what is said")
    return tuple(found)


def _behind(layout: _Layout, place: int) -> str:
    """Return what stands behind the last of a message's slots."""
    slots = [
        index
        for index, each in enumerate(layout)
        if isinstance(each, _Placeholder) and each.place == place
    ]
    return str(layout[slots[-1] + 1])


def template_in(folder: Path) -> ChatTemplate:
    """Return how the model in `folder` is talked with.

    Raises:
        TemplateError: its template cannot be used, or its files cannot be read.

    """
    config: dict[str, Any] = {}
    try:
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= json.loads((folder / name).read_text(encoding="utf-8"))
        named = config.get("chat_template")
        if isinstance(named, list):
            named = {each["name"]: each["template"] for each in named}
        single = folder / "chat_template.jinja"
        if single.is_file():
            named = single.read_text(encoding="utf-8")
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        if more:
            default = {"default": named} if isinstance(named, str) else named or {}
            named = default | {each.stem: each.read_text(encoding="utf-8") for each in more}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TemplateError(f"its files cannot be read ({first_line(error)})") from error
    tokens = {}  # these stand there as text, or as an object with their text
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return chat_template(named, tokens)


def render(
    template: str, variables: Variables, conversations: Sequence[Conversation]
) -> list[str | TemplateError]:
    """Return what `template` writes for each conversation, or why it writes nothing.

    A conversation holds the variables that are its own, `variables` those of all.

    Raises:
        TemplateError: it never ends, or there is no process to be had.

    """
    order = {"template": template, "variables": variables, "conversations": conversations}
    command = [sys.executable, "-P", template_child.__file__]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TemplateError(f"it does not end within {_PATIENCE_S:.0f} s") from None
    except OSError as error:
        raise TemplateError(f"no process can be started for it ({error.strerror})") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        spent = f"it takes over {template_child.CPU_S} s of processor time"
        raise TemplateError(spent if done.returncode < 0 else "".join(said) or "no answer")
    return [
        outcome["text"] if "text" in outcome else TemplateError(outcome["error"])
        for outcome in json.loads(done.stdout)
    ]
