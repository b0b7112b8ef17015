"""Asking the scribe for more interactions than one message has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.base import Agent


async def recalled(agent: Agent, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The interactions of these ids, oldest first; ids that none has are left out."""
    found: list[dict[str, Any]] = []
    rest = list(ids)
    while rest:
        page = await agent.ask("recall", ids=rest)
        found += page["interactions"]
        rest = page["rest"]
    return found


async def unlearned(agent: Agent, most: int, most_characters: int) -> list[dict[str, Any]]:
    """The first interactions that no night has learned: `most` of them, and of so much text.

    One at least, if there is one.
    """
    found: list[dict[str, Any]] = []
    characters, after = 0, 0
    while len(found) < most:
        page = await agent.ask("unlearned", limit=most - len(found), after=after)
        for each in page["interactions"]:
            characters += len(each["prompt"]) + len(each["response"])
            if found and characters > most_characters:
                return found
            found.append(each)
        if not page["interactions"]:
            break
        after = found[-1]["id"]
    return found
