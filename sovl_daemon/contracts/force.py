"""The argument of commands that the self-diagnosis may hold back."""

from __future__ import annotations

from typing import Any

from pydantic import Field

FORCE: Any = Field(
    default=False, description="Begin even if the self-diagnosis says that it has to wait."
)
"""Their last one: `force: bool = FORCE`."""
