"""What commands answer that turn several knobs at once."""

from __future__ import annotations

from pydantic import Field

from bus.commands import Reply


class KnobsTurned(Reply):
    """How the knobs are set now; the other fields are those of the request, one by one."""

    text: str = Field(description="how they are set now, in words")
