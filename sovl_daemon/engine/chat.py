"""From messages to token ids and from token ids to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sovl_daemon.engine.errors import ModelLoadError, OptionError, PromptTooLongError, first_line
from sovl_daemon.engine.message import Message
from sovl_daemon.engine.text_stream import AnswerText

# A base model has never seen a chat template; a written dialogue it has.
_PLAIN_NAMES = {"user": "User:", "assistant": "Assistant:"}
_PLAIN_STOP_TEXTS = ("\nUser:", "\nAssistant:")


class ChatTokenizer:
    """A tokenizer with the layout of a conversation.

    `tokenizer` is one of transformers. Where it has no chat template, messages are laid out as a
    written dialogue, and the answer stops where the next turn begins. `stop_ids` end an answer:
    those given, the tokenizer's own, and the one its template closes a turn with.
    """

    def __init__(self, tokenizer: Any, *, stop_ids: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._plain = not tokenizer.chat_template
        self._specials = {
            id_: token.content
            for id_, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        own = [tokenizer.eos_token_id, None if self._plain else self._end_of_turn()]
        self.stop_ids = stop_ids | {id_ for id_ in own if id_ is not None}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return self._tokenizer

    @classmethod
    def load(cls, path: Path, *, stop_ids: frozenset[int] = frozenset()) -> "ChatTokenizer":
        """Load the tokenizer in the folder `path`; nothing is downloaded.

        Raises:
            ModelLoadError: there is none, or it cannot be read.

        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise ModelLoadError(
                f"cannot load the tokenizer in {path} ({first_line(error)}): pull the model again"
            ) from error
        return cls(tokenizer, stop_ids=stop_ids)

    def encode(self, messages: Sequence[Message], limit: int) -> list[int]:
        """Return the prompt's token ids, at most `limit`, ready for the assistant's answer.

        When they are too many, the oldest turns are dropped, whole, up to a user's message;
        system messages and all from the last user message on are kept.

        Raises:
            OptionError: there is no user message.
            PromptTooLongError: what must be kept exceeds the limit.

        """
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

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of `text` alone, however many."""
        # Not verbose: what is too long for the model is expected here, and shortened by others.
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer and of what ends its turn, to follow a prompt."""
        end = self._end_of_turn() if not self._plain else None
        end = self._tokenizer.eos_token_id if end is None else end
        ids = self.encode_text(f" {text}" if self._plain else self._defuse(text))
        return ids if end is None else [*ids, end]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens."""
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def answer_text(self) -> AnswerText:
        """Return a fresh stream for the text of one answer."""
        stop_texts = _PLAIN_STOP_TEXTS if self._plain else ()
        return AnswerText(self, stop_texts=stop_texts, strip_start=self._plain)

    def _layout(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": each.role, "content": self._defuse(each.content)} for each in messages]
        if self._plain:
            return list(self._tokenizer.encode(_dialogue(turns), verbose=False))
        return self.encode_text(self._render(turns, add_generation_prompt=True))

    def _render(self, turns: list[dict[str, str]], **options: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, **options)
        except Exception as error:  # A template may raise anything of jinja's or of its own.
            raise OptionError(
                f"the model's chat template refuses these messages: {first_line(error)}"
            ) from error
        return str(text)

    def _defuse(self, content: str) -> str:
        """Break up special tokens in what people write, or a message could end its own turn."""
        for special in self._specials.values():
            content = content.replace(special, f"{special[:1]} {special[1:]}")
        return content

    def _end_of_turn(self) -> int | None:
        """Return the special token that the template puts after an answer, if it does."""
        turns = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "answer"},
        ]
        after = self._render(turns).rpartition("answer")[2].strip()
        ids = self.encode_text(after)
        return ids[0] if ids and ids[0] in self._specials else None


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


def _dialogue(turns: list[dict[str, str]]) -> str:
    system = [turn["content"] + "\n" for turn in turns if turn["role"] == "system"]
    lines = [
        f"{_PLAIN_NAMES[turn['role']]} {turn['content']}"
        for turn in turns
        if turn["role"] != "system"
    ]
    return "\n".join([*system, *lines, _PLAIN_NAMES["assistant"]])
