"""Asking the scribe for more interactions than one message has room for."""

from __future__ import annotations

from collections.abc import Sequence

from agents.base import Agent
from sovl_daemon.contracts.scribe import Recall, Unlearned
from sovl_daemon.memory.interactions import Interaction


async def recalled(agent: Agent, ids: Sequence[int]) -> list[Interaction]:
    """The interactions of these ids, oldest first; ids that none has are left out."""
    found: list[Interaction] = []
    rest = list(ids)
    while rest:
        page = await agent.ask(Recall(ids=rest))
        found += page.interactions
        rest = page.rest
    return found


async def unlearned(agent: Agent, limit: int, max_characters: int) -> list[Interaction]:
    """The first interactions that no night has learned: `limit` of them, and of so much text.

    One at least, if there is one.
    """
    found: list[Interaction] = []
    characters, after = 0, 0
    while len(found) < limit:
        page = await agent.ask(Unlearned(limit=limit - len(found), after=after))
        for each in page.interactions:
            characters += len(each.prompt) + len(each.response)
            if found and characters > max_characters:
                return found
            found.append(each)
        if not page.interactions:
            break
        after = found[-1].id
    return found
