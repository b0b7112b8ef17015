"""Commands that turn several knobs at once, in the order of the manuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.base import Agent
from bus.commands import ReplyT, Request
from config import get_value


@dataclass(frozen=True)
class Knobs:
    """What a request's fields set: keys by field, and by which label the manual shows them.

    `keys` are in one `section` of the configuration; a label that is left out is the field.
    """

    title: str
    section: str
    keys: Mapping[str, str]
    labels: Mapping[str, str]

    async def turn(self, agent: Agent, request: Request[ReplyT]) -> ReplyT:
        """Set those that are given, and return all. Raises CommandError; then none is set."""
        given = request.model_dump(exclude_none=True, include=set(self.keys))
        await agent.configure({self._key(word): value for word, value in given.items()})
        values = {word: get_value(agent.settings, self._key(word)) for word in self.keys}
        told = ", ".join(f"{self.labels.get(w, w)}={value}" for w, value in values.items())
        return request.read({"text": f"{self.title}: {told}", **values})

    def _key(self, word: str) -> str:
        return f"{self.section}.{self.keys[word]}"
