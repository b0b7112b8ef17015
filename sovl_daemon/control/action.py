"""What an action is: something that frees a predicted amount, and can always be undone.

This is the seam for agents: whoever owns weights, caches or a queue provides the actions on them.
The names in the ladders of tasks are the names of actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

ENOUGH = 0.75
"""The share of the predicted effect that must be measured."""

WITHIN_S = 5.0
"""How long the effect may take to show."""

_MANY_BYTES = 1_000_000


class ActionFailed(Exception):
    """An action could not be done, or undone; the message says why."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an action predicts: that what it measures falls by `amount` within `within_s`.

    `amount` is in the unit of the action's own measure, usually bytes; above 0.

    Raises:
        ValueError: nothing is predicted; such an action could not be verified.

    """

    amount: float
    unit: str = "bytes"
    within_s: float = WITHIN_S

    def __post_init__(self) -> None:
        if not (self.amount > 0 and math.isfinite(self.amount) and self.within_s > 0):
            raise ValueError(
                f"a predicted effect of {self.amount} {self.unit} within {self.within_s} s"
                " is not allowed: give more than 0"
            )

    def words(self, amount: float | None = None) -> str:
        """Say an amount in its unit, by default the predicted one: many bytes are said in MB."""
        value = self.amount if amount is None else amount
        if self.unit == "bytes" and self.amount >= _MANY_BYTES:
            return f"{value / 1e6:.1f} MB"
        return f"{value:g} {self.unit}"

    def is_shown(self, before: float, after: float) -> bool:
        """Whether enough of the predicted amount is there."""
        return before - after >= ENOUGH * self.amount


class Action(Protocol):
    """One reversible action.

    Set-style: `apply` sets `target`, and doing it twice is doing it once; never a toggle. What is
    in force is asked of the thing itself by `current`, never remembered, so that a new process can
    find out what the last one left.
    """

    @property
    def name(self) -> str:
        """The name by which tasks know it."""
        ...

    @property
    def target(self) -> str:
        """The setting that it brings about, for example `int8`; empty if it leaves none."""
        ...

    @property
    def time_to_live_s(self) -> float | None:
        """How long its setting stays without being renewed; None if it leaves none."""
        ...

    async def refuse(self) -> str | None:
        """Say why it must not be done now, or None.

        It must refuse unless what an undo needs is there: memory for the larger weights, the
        pristine copy on disk, the right to set a priority back.
        """
        ...

    async def predict(self) -> Effect:
        """Predict the effect from the present state."""
        ...

    async def current(self) -> str:
        """Probe the setting that is really in force."""
        ...

    async def measure(self) -> float:
        """Measure what is to fall, by other means than the action's own word."""
        ...

    async def apply(self) -> None:
        """Set the target. Raises ActionFailed."""
        ...

    async def verify(self) -> str | None:
        """Say what else is wrong after it was applied, or None: finite logits, a bounded drift."""
        ...

    async def stays(self) -> str | None:
        """Say why its setting is to stay although it goes back, or None.

        Such as that the user saved the very same setting meanwhile: then it is the user's.
        """
        ...

    async def revert(self, before: str) -> None:
        """Set what was in force before, from the pristine source. Raises ActionFailed."""
        ...
