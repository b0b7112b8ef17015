"""A tokenizer's layout of prompts, with the system message that answers have before them."""

from collections.abc import Sequence

from sovl_daemon.engine.text.message import Message
from sovl_daemon.night.replay import Layout


class SystemLayout:
    """`layout` with `system` before every conversation; nothing more if that is empty."""

    def __init__(self, layout: Layout, system: str) -> None:
        self.stop_ids = layout.stop_ids
        self._layout = layout
        self._before = [Message("system", system)] if system else []

    def encode(self, messages: Sequence[Message], limit: int) -> list[int]:
        """Return a prompt's token ids."""
        return self._layout.encode([*self._before, *messages], limit)

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text alone."""
        return self._layout.encode_text(text)

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer and of what ends its turn."""
        return self._layout.encode_answer(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._layout.decode(ids)
