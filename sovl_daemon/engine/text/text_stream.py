"""From token ids to text while they arrive."""

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """Turns ids into text as a whole."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; bytes that are no character become U+FFFD."""


class TextStream:
    """An incremental detokenizer: the pieces it returns join to the decoded whole.

    A token may be a part of a character, and its text may depend on the one before it. So each
    piece is the difference between two decoded windows that start at the same token (the way of
    vLLM and text-generation-inference), and text that ends inside a character is held back.
    One exception: tokenizers with byte fallback decode a run of bytes with an invalid one in it
    to U+FFFD throughout, where the stream has given out the valid characters before it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        self._known = 0
        self._known_text = ""

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is certain now, which may be empty."""
        self._window.append(token_id)
        text = self._decoder.decode(self._window)
        if len(text) <= len(self._known_text) or text.endswith(_REPLACEMENT):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """Return what was held back; half a character becomes U+FFFD."""
        return self._advance(self._decoder.decode(self._window))

    def _advance(self, text: str) -> str:
        piece = text[len(self._known_text) :]
        self._window = self._window[self._known :]
        self._known = len(self._window)
        self._known_text = self._decoder.decode(self._window)
        return piece


class AnswerText:
    """The text of an answer up to, and without, the first of some stop texts.

    `decoder` turns the tokens into text. Text that may be the start of a stop text is held back.
    Give `strip_start` to drop white space before the first word.
    """

    def __init__(
        self, decoder: Decoder, *, stop_texts: tuple[str, ...] = (), strip_start: bool = False
    ) -> None:
        self.stopped = False
        self._stream = TextStream(decoder)
        self._stop_texts = stop_texts
        self._stripping = strip_start
        self._held = ""

    def push(self, token_id: int) -> str:
        """Add a token; return new text. `stopped` tells that a stop text was met."""
        text = self._take(self._stream.push(token_id))
        keep = len(text)
        if not self.stopped:  # the longest end that a stop text may begin with is held back
            for stop in self._stop_texts:
                lengths = range(min(len(text), len(stop) - 1), 0, -1)
                held = next((size for size in lengths if text.endswith(stop[:size])), 0)
                keep = min(keep, len(text) - held)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """Return what was held back and is no stop text."""
        return self._take(self._stream.finish())

    def _take(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        self._held = ""
        if self._stripping:
            text = text.lstrip()
            self._stripping = not text
        ends = [end for stop in self._stop_texts if (end := text.find(stop)) >= 0]
        self.stopped = bool(ends)
        return text[: min(ends)] if ends else text
