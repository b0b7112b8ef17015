"""What gestation is asked: to sleep, to wake, to be tuned, and to hold nights back."""

from __future__ import annotations

from pydantic import BaseModel, Field

from bus.commands import AgentStats, Reply, Request
from sovl_daemon.contracts.force import FORCE
from sovl_daemon.contracts.knobs import KnobsTurned
from sovl_daemon.contracts.trainer import NightLearned
from sovl_daemon.mind.sleep import WakeReason


class SleepKnobs(BaseModel):
    """When it sleeps and for how long, in the order of the manual."""

    conf: float | None = Field(default=None, description="sleep_conf_threshold.")
    time: float | None = Field(default=None, description="sleep_time_factor.")
    log: int | None = Field(default=None, description="sleep_log_min.")


class TunedSleep(SleepKnobs, KnobsTurned):
    """When it sleeps and for how long now."""


class TuneSleep(SleepKnobs, Request[TunedSleep], command="sleep"):
    """When it sleeps and for how long, in the order of the manual; what is left out stays."""


class NightReport(NightLearned):
    """What came of a night, and why it ended."""

    woke: WakeReason = Field(description="why it woke: `rested`, `called` or `failed`")


class Gestate(Request[NightReport], command="gestate"):
    """Whether to begin in any case."""

    force: bool = FORCE


class Woken(Reply):
    """What came of waking it."""

    text: str = Field(description="the same in words")
    was_asleep: bool = Field(description="whether there was anything to wake")


class Wake(Request[Woken], command="wake"):
    """That it wakes up."""


class NightHold(Reply):
    """Whether nights are held back, whether something is learned now, and how near a night is."""

    held: bool
    busy: bool
    asleep: bool
    entries: int
    entries_needed: int


class HoldNights(Request[NightHold], command="hold_nights"):
    """Whether nights are held back; answered when what was learned has stopped for it."""

    hold: bool | None = Field(default=None, description="Shown when left out.")


class GestationStats(AgentStats):
    """What there is to learn, how tired it is, and whether nights are held back."""

    entries: int = Field(description="interactions that no night has learned")
    entries_needed: int = Field(description="how many a night waits for")
    tiredness: float = Field(description="0 to 1")
    held: bool = Field(description="whether nights are held back")
