"""What curiosity tells of itself; nobody asks it."""

from __future__ import annotations

from pydantic import Field

from bus.commands import AgentStats


class CuriosityStats(AgentStats):
    """Whether a question of its own waits for an answer."""

    waits_for_an_answer: bool = Field(description="whether it has asked and nobody has spoken yet")
