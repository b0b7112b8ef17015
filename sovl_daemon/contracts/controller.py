"""What the controller is asked: what it did and would do, and to take it back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.contracts.judge import WeighedPrompt
from sovl_daemon.control.decision_log import DailyTally
from sovl_daemon.control.executor import Outcome
from sovl_daemon.control.journal import JournalEntry, Record
from sovl_daemon.control.recommendation import Recommendation
from sovl_daemon.control.verdict import Answer


class ActionsShown(Reply):
    """What is in force, or was done, or came of taking it back: by what was asked."""

    in_force: list[JournalEntry] = Field(
        default=[],
        description="after `list`, `pause` and `resume`: the settings that are degraded now, as "
        "entries of the journal, the newest first",
    )
    recommended: dict[str, Recommendation] = Field(
        default={}, description="what the judge would do now, by task, where it is asked"
    )
    unavailable: dict[str, str] = Field(
        default={}, description="why an action cannot be done now, by its name"
    )
    paused: bool = Field(default=False, description="whether nothing new is done until `resume`")
    shadow: bool = Field(default=False, description="whether it only says what it would do")
    enabled: bool = Field(default=False, description="whether it decides at all")
    actions: list[JournalEntry] = Field(
        default=[], description="after `history`: entries of the journal, the newest first"
    )
    reverted: list[Outcome] = Field(default=[], description="after `revert`: what came of it")


class ManageActions(Request[ActionsShown], command="actions"):
    """What to do with the actions."""

    what: Literal["list", "history", "revert", "pause", "resume"] = Field(
        default="list",
        description="list shows what is in force, history what was done; revert takes back; pause "
        "lets nothing new be done until resume.",
    )
    id: int | None = Field(
        default=None, ge=1, description="Number of the action to revert; all when left out."
    )
    limit: int = Field(default=20, ge=1, le=1000, description="Entries of the history.")


class LoopPerformance(Reply):
    """How well the loop has done."""

    decided: list[DailyTally] = Field(
        description="a row for each day and task, the oldest first; in shadow mode too"
    )
    done: list[Record] = Field(
        description="a row for each day and action that was really done, the oldest day first"
    )


class ShowPerformance(Request[LoopPerformance], command="performance"):
    """How far back to look."""

    days: int = Field(default=7, ge=1, le=90, description="How many days (UTC), today's included.")


class ExplainedVerdict(WeighedPrompt):
    """What the judge says now, and why."""

    answer: Answer = Field(description="`true`, `false` or `abstain`")
    confidence: float = Field(description="that of the answer, 0 to 1")
    reason: str = Field(description="why it abstains")
    recommended: str = Field(description="the action it would take")
    sure: float = Field(description="how surely that is enough, 0 to 1")
    prompt: str = Field(description="all that was read")
    advice: str = Field(description="why it would take that action")


class ExplainVerdict(Request[ExplainedVerdict], command="explain"):
    """Which task the judge is asked about."""

    task: str = Field(description="Name of the task, for example memory.")


class ControllerStats(AgentStats):
    """What is in force, by task."""

    in_force: dict[str, list[str]] = Field(description="the actions of each task that has any")
