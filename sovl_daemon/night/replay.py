"""What must not be forgotten, dreamt up by the base itself (Huang et al. 2024).

The base writes what a user might ask, answers it, and writes on from nothing in particular. A
night that learns to say the same as before about all this forgets little. Most of all it must not
answer every question of a learned form with what it has just learned, so many dreams begin as the
lessons' questions do.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sovl_daemon.engine.learning.sample import Ids, Sample
from sovl_daemon.engine.text.message import Message

# Given prompts and a number of tokens, how a model goes on: sampled, each up to its stop token.
Writer = Callable[[Sequence[Ids], int], Sequence[Sequence[int]]]

_QUESTION_TOKENS = 20
_TEXT_TOKENS = 40
_SHORTEST = 4
_LONG = 1 << 20
_OPENINGS = ("The", "In", "A", "When", "It", "This", "We", "There", "As", "For", "I", "He")


class Layout(Protocol):
    """What dreaming needs of a tokenizer: engine.chat.ChatTokenizer has it."""

    stop_ids: frozenset[int]

    def encode(self, messages: Sequence[Message], limit: int) -> list[int]:
        """Return a prompt's token ids."""

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text alone."""

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer and of what ends its turn."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""


def dream_chats(
    write: Writer, layout: Layout, starts: Sequence[str], *, tokens: int
) -> list[Sample]:
    """Return exchanges that the base makes up, one for each start of a user's message.

    An empty start leaves the whole message to the base; `tokens` bounds the answers.
    """
    opening = _opening(layout)
    begun = [(*opening, *layout.encode_text(start)) for start in starts]
    ends = write(begun, _QUESTION_TOKENS)
    asked = [start + layout.decode(end) for start, end in zip(starts, ends, strict=True)]
    lines = [text.strip().partition("\n")[0] for text in asked]
    prompts = [prompt_ids(layout, line) for line in lines if line]
    return _kept(prompts, write(prompts, tokens))


def dream_texts(
    write: Writer, layout: Layout, count: int, *, tokens: int, seed: int
) -> list[Sample]:
    """Return pieces of running text that the base makes up, cut in two at random places."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    starts = [tuple(layout.encode_text(_OPENINGS[i % len(_OPENINGS)])) for i in range(count)]
    texts = [(*a, *b) for a, b in zip(starts, write(starts, _TEXT_TOKENS), strict=True)]
    long = [text for text in texts if len(text) > 2 * _SHORTEST]
    cuts = [rng.randint(_SHORTEST, len(text) - _SHORTEST) for text in long]
    prompts = [text[:cut] for text, cut in zip(long, cuts, strict=True)]
    rests = [text[cut : cut + tokens] for text, cut in zip(long, cuts, strict=True)]
    return _kept(prompts, rests)


def starts_of(questions: Sequence[tuple[str, str]], limit: int) -> list[str]:
    """Return the commonest ways in which questions begin before what they are about, in order.

    `questions` come with what each is about; the empty start is none.
    """
    starts = (question.partition(about)[0].rstrip() for question, about in questions if about)
    return sorted(start for start, _ in Counter(filter(None, starts)).most_common(limit))


def prompt_ids(layout: Layout, text: str) -> Ids:
    """Return the prompt of a conversation that a message begins."""
    return tuple(layout.encode([Message("user", text)], _LONG))


def _kept(prompts: Sequence[Ids], answers: Sequence[Sequence[int]]) -> list[Sample]:
    pairs: Iterator[tuple[Ids, Ids]] = (
        (prompt, tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True)
    )
    return [Sample(prompt, answer, teacher=prompt) for prompt, answer in pairs if answer]


def _opening(layout: Layout) -> Ids:
    """What a prompt begins with, up to the user's words."""
    one, other = prompt_ids(layout, "a"), prompt_ids(layout, "b")
    count = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[:count]
