"""What was decided and why, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sovl_daemon.control.verdict import JudgeQuestion, Verdict

Does = Literal["hold", "ask", "act", "relax", "done", "failed"]


class Decision(NamedTuple):
    """What was decided and why, for the log and the user. `time_s` is on the monotonic clock.

    `metrics` are the sound readings in words, by label; `verdict` is the judge's, if it was asked.
    """

    time_s: float
    task: str
    does: Does
    why: str
    action: str = ""
    metrics: Mapping[str, str] = {}
    verdict: Verdict | None = None

    def words(self) -> str:
        """One sentence: what, and why or why not."""
        what = {
            "hold": "changes nothing",
            "ask": "asks the judge",
            "act": f"does {self.action}",
            "relax": f"takes {self.action} back",
            "done": f"has done or undone {self.action}",
            "failed": f"could not do or undo {self.action}",
        }[self.does]
        return f"{self.task}: {what}, because {self.why}"


class Step(NamedTuple):
    """What to do now. `decision` is None where nothing changed since the last one."""

    does: Does
    action: str = ""
    question: JudgeQuestion | None = None
    decision: Decision | None = None
