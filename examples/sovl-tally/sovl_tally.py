"""An agent that counts what it hears, with a part for everything that an agent can do."""

import json
from collections import Counter

import anyio
from pydantic import Field

from agents.base import Agent, Job
from agents.middleware import Middleware
from bus.commands import AgentStats, Reply, Request, command
from bus.envelope import Envelope, Payload
from bus.errors import BAD_ARGUMENT, CommandError, FatalError
from config import Paths, Settings
from sovl_daemon.contracts.scribe import RecentInteractions
from sovl_daemon.memory.interactions import Interaction


class TallyChanged(Payload, kind="tally.changed"):
    """Topic tally.changed, retained: how many events were heard."""

    heard: int


class TallyCounts(Reply):
    """How often each topic was heard."""

    counts: dict[str, int] = Field(description="how often, by topic")
    last: list[Interaction] = Field(description="the last interaction, as a list of one or none")


class TallyStats(AgentStats):
    heard: int


class ShowTally(Request[TallyCounts], command="tally"):
    """What to tell."""

    topic: str | None = Field(default=None, description="Only this topic.")


class SlowCommands(Middleware):
    """Warns of commands that take long."""

    def after_command(
        self, agent: Agent, job: Job, seconds: float, error: CommandError | None
    ) -> None:
        if seconds > 1:
            agent.log.warning("tally.slow_command", command=job.name, s=round(seconds, 3))


class Tally(Agent):
    """Counts events by topic and keeps the counts over restarts."""

    name = "tally"
    topics = ("agent.", "interaction.")

    def __init__(self, settings: Settings, paths: Paths, process: str) -> None:
        super().__init__(settings, paths, process)
        self.middleware = (*self.middleware, SlowCommands())
        self._counts: Counter[str] = Counter()
        self._file = anyio.Path(paths.state_dir / "tally.json")
        self._loaded = False

    async def start(self) -> None:
        if await self._file.exists():
            try:
                self._counts.update(json.loads(await self._file.read_text()))
            except ValueError as error:  # another start would not mend it: do not try again
                raise FatalError(f"{self._file}: {error}; remove it") from None
        self._loaded = True

    async def run(self) -> None:
        while True:
            await anyio.sleep(60)
            await self._save()

    async def stop(self) -> None:
        if self._loaded:  # `stop` comes after a failed start, too
            await self._save()

    async def on_event(self, event: Envelope) -> None:
        self._counts[event.topic] += 1
        await self.publish("tally.changed", TallyChanged(heard=self._counts.total()), retain=True)

    def stats(self) -> TallyStats:
        return TallyStats(heard=self._counts.total())

    @command(ShowTally)
    async def tally(self, request: ShowTally, job: Job) -> TallyCounts:
        """Tell how often each topic was heard."""
        if request.topic is not None and request.topic not in self._counts:
            raise CommandError(BAD_ARGUMENT, f"topic: {request.topic!r} was never heard")
        counts = {t: n for t, n in self._counts.items() if request.topic in (None, t)}
        for topic, count in sorted(counts.items()):
            job.progress(text=f"{topic}: {count}\n")
        past = await self.ask(RecentInteractions(limit=1))  # a command of another agent
        return TallyCounts(counts=counts, last=past.interactions)

    async def _save(self) -> None:
        beside = self._file.with_suffix(".new")
        await beside.write_text(json.dumps(self._counts))
        await beside.replace(self._file)
