"""From messages to token ids and from token ids to text."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sovl_daemon.engine.errors import (
    ModelLoadError,
    OptionError,
    PromptTooLongError,
    TemplateError,
    first_line,
)
from sovl_daemon.engine.text.chat_template import TemplatePart, chat_template
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.text.text_stream import AnswerText
from sovl_daemon.engine.text.tokenizer import PlainText


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of transformers in the folder `path`; nothing is downloaded.

    Raises:
        ModelLoadError: there is none, or it cannot be read.

    """
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(
            f"cannot load the tokenizer in {path} ({first_line(error)}): pull the model again"
        ) from error


_PIECE = 4096  # characters that are made into tokens at a time while only their number is wanted
# Where a text is cut, its tokens are others, if hardly in number: what takes twice as many pieces
# as fit does not fit.
_MARGIN = 2
# Whatever a vocabulary has: one token may stand for an unknown word, or a run of white space.
_LONGEST_UNKNOWN = 64
_MAX_TOKENS_A_CHARACTER = 4  # a byte each


class ChatTokenizer:
    """A tokenizer with the layout of a conversation.

    `tokenizer` is one of transformers. Messages are laid out by its chat template, or as a written
    dialogue; `adaptations` tell what is done for a template that cannot take all that SOVL says.
    What a template writes around messages is its own: no message becomes a token or a mark of it.
    `stop_ids` end an answer: those given, the tokenizer's own, and the one its template closes a
    turn with; where that is plain text, the text ends it.

    Raises:
        TemplateError: the chat template cannot be used.

    """

    def __init__(self, tokenizer: Any, *, stop_ids: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._text = PlainText(tokenizer)
        self._template = chat_template(tokenizer.chat_template, _special_tokens(tokenizer))
        self.adaptations = self._template.adaptations
        self._marks = _pattern(self._text_marks())
        ends = [self._token_at_start(each) for each in self._template.behind]
        self._written = {
            id_
            for each in self._template.markers
            for id_ in self._added_of(self._text.encode_as_written(each))
        }
        self._longest = max(_LONGEST_UNKNOWN, *map(len, tokenizer.get_vocab()))
        self._end = next((each for each in ends if each is not None), tokenizer.eos_token_id)
        own = {tokenizer.eos_token_id, *ends} - {None}
        self.stop_ids: frozenset[int] = stop_ids | own
        self._stop_texts = tuple(self._ends_in_text()) if set(ends) <= {None} else ()
        self._lead = self._kept_lead()
        # Once, and alone: the first call may change what the file says of truncation, and none of
        # the threads that use it later may see that.
        self.encode_text("")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return self._tokenizer

    @classmethod
    def load(cls, path: Path, *, stop_ids: frozenset[int] = frozenset()) -> "ChatTokenizer":
        """Load the tokenizer in the folder `path`; nothing is downloaded.

        Raises:
            ModelLoadError: there is none, or it cannot be read.
            TemplateError: its chat template cannot be used.

        """
        tokenizer = load_tokenizer(path)
        try:
            return cls(tokenizer, stop_ids=stop_ids)
        except TemplateError as error:
            raise TemplateError(
                f"the chat template in {path} cannot be used ({error}): correct it, or choose "
                "another model"
            ) from None

    def encode(self, messages: Sequence[Message], limit: int) -> list[int]:
        """Return the prompt's token ids, at most `limit`, ready for the assistant's answer.

        When they are too many, the oldest turns are dropped, whole, up to a user's message;
        system messages and all from the last user message on are kept.

        Raises:
            OptionError: there is no user message, or the chat template refuses the messages.
            PromptTooLongError: what must be kept exceeds the limit.

        """
        self.check(messages, limit)
        messages = self._within_reach(messages, limit)
        starts = _possible_starts(messages)
        ids = self._layout(messages)
        if len(ids) <= limit:
            return ids
        # More turns never take fewer tokens, so halve the range for the first start that fits.
        low, high = 0, len(starts) - 1
        while low < high:
            middle = (low + high) // 2
            fits = len(self._layout(_since(messages, starts[middle]))) <= limit
            low, high = (low, middle) if fits else (middle + 1, high)
        ids = self._layout(_since(messages, starts[low]))
        if len(ids) > limit:
            raise PromptTooLongError(len(ids), limit)
        return ids

    def check(self, messages: Sequence[Message], limit: int) -> None:
        """Refuse what has more characters than `limit` tokens can stand for, without reading it.

        Raises:
            OptionError: there is no user message.
            PromptTooLongError: what must be kept exceeds the limit.

        """
        kept = _since(messages, _possible_starts(messages)[-1])
        characters = sum(len(each.content) for each in kept)
        if characters > limit * self._longest:
            why = f"{characters} characters, of which a token stands for {self._longest} at most"
            raise PromptTooLongError(characters // self._longest, limit, why)

    def encode_beginning(self, text: str, count: int) -> list[int]:
        """Return the first token ids of `text`, at most so many; the rest is not read."""
        return self.encode_text(text[: count * self._longest])[:count]

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of `text` alone, however many; none of them opens or ends a turn."""
        return self._text.encode(self._unmarked(text))

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer and of what ends its turn, to follow a prompt."""
        ids = self.encode_text(self._lead + text)
        return ids if self._end is None else [*ids, self._end]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens, and without those of the template."""
        return str(
            self._tokenizer.decode(
                [id_ for id_ in ids if id_ not in self._written],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
        )

    def answer_text(self) -> AnswerText:
        """Return a fresh stream for the text of one answer."""
        strip = bool(self._template.lead or self._template.manners.opening)
        return AnswerText(self, stop_texts=self._stop_texts, strip_start=strip)

    def _within_reach(self, messages: Sequence[Message], limit: int) -> Sequence[Message]:
        """Drop the oldest turns that surely do not fit, so that no more is read than may be kept.

        Raises PromptTooLongError as soon as what must be kept surely does not fit.
        """
        if sum(len(each.content) for each in messages) * _MAX_TOKENS_A_CHARACTER <= limit:
            return messages
        last = _possible_starts(messages)[-1]
        room = max_tokens = _MARGIN * limit
        for each in _since(messages, last):
            room -= self._count(each.content, room)
            if room < 0:
                why = "more was not read"
                raise PromptTooLongError((max_tokens - room) // _MARGIN, limit, why)
        for index in range(last - 1, -1, -1):
            if messages[index].role != "system":
                room -= self._count(messages[index].content, room)
                if room < 0:
                    return _since(messages, index + 1)
        return messages

    def _count(self, text: str, max_tokens: int) -> int:
        """Count the tokens of a text, piece by piece, until there are more than `max_tokens`."""
        count = 0
        for at in range(0, len(text), _PIECE):
            count += len(self.encode_text(text[at : at + _PIECE]))
            if count > max_tokens:
                break
        return count

    def _layout(self, messages: Sequence[Message]) -> list[int]:
        try:
            laid_out = self._template.lay_out(messages)
        except TemplateError as error:
            raise OptionError(
                f"the model's chat template refuses these messages: {error}"
            ) from None
        pieces = [
            each if each.own else TemplatePart(self._unmarked(each.text), own=False)
            for each in laid_out
        ]
        ids = self._text.encode_as_written("".join(each.text for each in pieces))
        own = [self._text.encode_as_written(each.text) if each.own else [] for each in pieces]
        # Together is how the model saw conversations in training; apart is what no message can
        # forge, whatever the tokenizer makes of its letters. They differ only where one tries.
        if self._added_of(ids) == self._added_of(list(chain(*own))):
            return ids
        parts = zip(pieces, own, strict=True)
        return list(chain(*(ids or self._text.encode(each.text) for each, ids in parts)))

    def _added_of(self, ids: Sequence[int]) -> list[int]:
        return [id_ for id_ in ids if id_ in self._text.added]

    def _unmarked(self, content: str) -> str:
        """Break up what would pass for a mark of the template's own that is plain text."""
        return self._marks.sub(lambda match: f"{match[0][:-1]} {match[0][-1:]}", content)

    def _text_marks(self) -> Iterator[str]:
        """What is plain text in the template's writing, and no mere word or sign."""
        tokens = _pattern(self._text.added.values())
        for written in self._template.markers:
            for line in "\n".join(tokens.split(written)).splitlines():
                mark = line.strip()
                if re.search(r"[^\W\d_]", mark) and re.search(r"[^\w\s]", mark):
                    yield mark

    def _token_at_start(self, text: str) -> int | None:
        found = [
            (len(token), id_)
            for id_, token in self._text.added.items()
            if text.lstrip().startswith(token)
        ]
        return max(found)[1] if found else None

    def _ends_in_text(self) -> Iterator[str]:
        tokens = _pattern(self._text.added.values())
        for written in (*self._template.behind, self._template.between):
            if text := tokens.split(written)[0].rstrip():
                yield text

    def _kept_lead(self) -> str:
        """White space that an answer begins with, if its tokens tell it from none."""
        if not (lead := self._template.lead):
            return ""
        pieces = self._template.lay_out([Message("user", "Hello.")])
        prompt = "".join(each.text for each in pieces)
        answer = f"{lead}Paris."
        together = self._text.encode_as_written(prompt + answer)
        apart = [*self._text.encode_as_written(prompt), *self._text.encode(answer)]
        return lead if together == apart else ""


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    """Return special tokens by the names that templates know them by."""
    named = tokenizer.special_tokens_map.items()
    tokens = {name: text for name, text in named if isinstance(text, str)}
    if not tokenizer.chat_template and tokenizer.bos_token_id not in tokenizer.encode(""):
        tokens.pop("bos_token", None)  # of a text alone, the tokenizer decides
    return tokens


def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _possible_starts(messages: Sequence[Message]) -> list[int]:
    """Indices from which messages may be kept: all, then from each user message on."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise OptionError("no user message: give at least one message with role user")
    return [0, *users]


def _since(messages: Sequence[Message], start: int) -> list[Message]:
    return [
        message
        for index, message in enumerate(messages)
        if index >= start or message.role == "system"
    ]
