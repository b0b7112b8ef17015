"""The controller: decides by hard rules and the judge what to do, does it, and takes it back."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agents.actuator import Means
from agents.base import Agent, Job
from agents.control.actuators import ActionError, actuators, find_actuators
from agents.control.evidence import troubles
from agents.control.health import readings_of, tasks_of
from bus.commands import command
from bus.envelope import Envelope
from bus.errors import BAD_ARGUMENT, CommandError, FatalError
from bus.topics import (
    ACTION,
    AGENT,
    DECISION,
    METRICS,
    AgentState,
    ControlAction,
    ControlDecision,
    MetricsSample,
)
from config import Settings
from sovl_daemon.conditions import in_words
from sovl_daemon.contracts.controller import (
    ActionsShown,
    ControllerStats,
    ExplainedVerdict,
    ExplainVerdict,
    LoopPerformance,
    ManageActions,
    ShowPerformance,
)
from sovl_daemon.contracts.judge import AskJudge, WeighPrompt
from sovl_daemon.control.decider import Decider
from sovl_daemon.control.decision import Decision, Step
from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.control.executor import Executor, Outcome
from sovl_daemon.control.journal import Journal, JournalEntry
from sovl_daemon.control.recommendation import Recommendation, recommend
from sovl_daemon.control.verdict import JudgeQuestion, Opinion, verdict
from sovl_daemon.database import UnusableDatabase
from sovl_daemon.handle import Handle
from sovl_daemon.opened import opened_database
from sovl_daemon.own_time import OwnTime

JOURNAL = "actions.db"
DECISIONS = "decisions.db"
_TICK_S = 1.0
_FRESH_S = 3.0  # a sample comes each second at least
_LOOK_AGAIN_S = 60.0  # at what could not be undone
_DAY_S = 86_400.0
_SHADOWED = "shadow mode: nothing was done"


class Controller(Agent):
    """Runs the loop of each task on what the health monitor publishes."""

    name: ClassVar[str] = "controller"
    topics: ClassVar[tuple[str, ...]] = (METRICS, f"{AGENT}.")

    async def start(self) -> None:
        """Open journal and decision log, and get ready to decide."""
        self._files = AsyncExitStack()
        self._pids = {self.name: os.getpid()}
        own_time = OwnTime(lambda: set(self._pids.values()))
        means = Means(
            self.ask, self.control, lambda: self.settings.control.time_to_live_s, own_time
        )
        try:
            self._agent_of = {each.name: each.agent for each in find_actuators().values()}
            actions = actuators(means)
            journal: Journal = await self._opened(partial(Journal, self.paths.state_dir / JOURNAL))
            self._executor = Executor(journal, actions, own_time=own_time)
            self._files.push_async_callback(self._executor.close)
            file = self.paths.state_dir / DECISIONS
            self._decisions: DecisionLog = await self._opened(partial(DecisionLog, file))
            self._disk = Handle(self._decisions)
            self._files.push_async_callback(self._disk.close)
        except (ActionError, UnusableDatabase) as error:
            raise FatalError(str(error)) from None
        files = (self.paths.state_dir / name for name in (JOURNAL, DECISIONS))
        self.opened = [each for file in files for each in opened_database(file)]
        self._resting: dict[str, float] = {}
        self._tasks = tasks_of(self.settings, self.paths)
        self._begin_anew()
        self._states: dict[str, str] = {}
        self._paused = False
        self._look_again_s, self._sampled_s = math.inf, -math.inf
        self._troubles: Sequence[str] = ()
        self._quarantine: Mapping[str, str] = {}
        self._work: TaskGroup | None = None

    async def stop(self) -> None:
        """Close the files."""
        await self._files.aclose()

    async def _opened(self, make: Callable[[], Any]) -> Any:
        return await self.hindrance.outlast(partial(anyio.to_thread.run_sync, make))

    async def try_to_write(self) -> None:
        """Try to write to both files."""
        await self._executor.try_to_write()
        await self._disk.use(self._decisions.try_to_write)

    async def run(self) -> None:
        """Keep journal and reality in agreement, and settings no longer than they are needed."""
        async with anyio.create_task_group() as self._work:
            while True:
                try:
                    await self._keep()
                except Exception as error:
                    await self.hindrance.meet(error)
                    self._agrees = False
                self._troubles = await anyio.to_thread.run_sync(troubles, self.paths.log_file)
                await anyio.sleep(_TICK_S)

    async def on_event(self, event: Envelope) -> None:
        """Decide on new metrics; learn which agents can be asked."""
        match event.payload:
            case MetricsSample() as sample if self._work and self.settings.control.enabled:
                if time.monotonic() - sample.time_s < _FRESH_S:  # a retained one may be old
                    self._sampled_s = sample.time_s
                    await self._sense(sample, self._work)
            case AgentState() as state:
                came_back = state.state == "ready" and self._states.get(state.agent) != "ready"
                self._states[state.agent], self._pids[state.agent] = state.state, state.pid
                if came_back and state.agent in self._agent_of.values():
                    self._agrees = False

    async def on_settings(self, before: Settings) -> None:
        """What was only said in shadow mode was not done, and the reverse."""
        if before.control.shadow != self.settings.control.shadow:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Remember nothing but what the journal knows."""
        self._deciders = {name: Decider(task) for name, task in self._tasks.items()}
        self._agrees = False

    @command(ManageActions)
    async def actions(self, request: ManageActions, job: Job) -> ActionsShown:
        """Show what was done to stay within the machine's means, or take it back."""
        match request.what:
            case "history":
                return ActionsShown(actions=await self._executor.history(request.limit))
            case "revert":
                return ActionsShown(reverted=await self._revert(request.id))
            case "pause" | "resume":
                self._paused = request.what == "pause"
        return await self._shown()

    @command(ShowPerformance)
    async def performance(self, request: ShowPerformance, job: Job) -> LoopPerformance:
        """Show how well it has done: what was decided on each day, and what each action freed."""
        since_s = _DAY_S * (time.time() // _DAY_S + 1 - request.days)
        return LoopPerformance(
            decided=await self._disk.use(self._decisions.tallies, since_s),
            done=await self._executor.records(since_s),
        )

    @command(ExplainVerdict)
    async def explain(self, request: ExplainVerdict, job: Job) -> ExplainedVerdict:
        """Ask the judge about a task now, and show which lines of its prompt moved the verdict."""
        decider = self._deciders.get(request.task)
        if decider is None:
            known = ", ".join(sorted(self._deciders))
            raise CommandError(BAD_ARGUMENT, f"task: {request.task} is unknown; there are: {known}")
        prompt = decider.prompt(self._troubles)
        if not prompt.metrics:
            raise CommandError(
                BAD_ARGUMENT, f"task: no metric of {request.task} is soundly read now"
            )
        found = await self.ask(WeighPrompt(**prompt.pieces()))
        advice = self._advice(decider)
        opinion = Opinion(found.p_true, found.p_false, advice.action, advice.sure, found.band)
        rungs = [rung.action for rung in decider.task.ladder]
        said = verdict(opinion, decider.task.abstain, rungs)
        return ExplainedVerdict(
            **dict(found), **said._asdict(), prompt=prompt.text, advice=advice.why
        )

    def stats(self) -> ControllerStats:
        """What is in force, by task."""
        held = {name: each.ladder.in_force for name, each in self._deciders.items()}
        return ControllerStats(in_force={name: list(each) for name, each in held.items() if each})

    # Deciding

    async def _sense(self, sample: MetricsSample, work: TaskGroup) -> None:
        untold = []
        for name, readings in readings_of(sample).items():
            if (decider := self._deciders.get(name)) is not None:
                unavailable = self._unavailable()  # of what the task before has just begun too
                step = decider.sense(
                    sample.time_s, readings, log_lines=self._troubles, unavailable=unavailable
                )
                untold.append(self._begin(decider, step, work))
        for decision in untold:  # told last: what is urgent does not wait for a disk
            await self._tell(decision)

    def _begin(self, decider: Decider, step: Step, work: TaskGroup) -> Decision | None:
        """Begin what a step proposes; return the decision that is to be told yet."""
        if step.does in ("act", "relax"):
            work.start_soon(self._perform, decider, step)
            return None  # told while it is done
        if step.question is not None:
            work.start_soon(self._ask_judge, decider, step.question, work)
        return step.decision

    async def _ask_judge(self, decider: Decider, question: JudgeQuestion, work: TaskGroup) -> None:
        opinion, why = None, "there is no judge: control.judge is off"
        if self.settings.control.judge:
            opinion, why = await self._opinion(question, decider)
        step = decider.answered(time.monotonic(), question, opinion, why)
        await self._tell(self._begin(decider, step, work))

    async def _opinion(
        self, question: JudgeQuestion, decider: Decider
    ) -> tuple[Opinion | None, str]:
        try:
            with anyio.fail_after(question.task.deadline_s):
                found = await self.ask(AskJudge(**question.prompt.pieces()))
        except CommandError as error:
            return None, f"the judge failed: {error.message}"
        except TimeoutError:
            return None, "no verdict in time"
        advice = self._advice(decider)
        sure = advice.sure
        return Opinion(found.p_true, found.p_false, advice.action, sure, found.band), ""

    def _advice(self, decider: Decider) -> Recommendation:
        """What the judge would do, of what can be done now."""
        taken = {*decider.ladder.in_force, *self._unavailable()}
        return recommend(decider.task, decider.readings, taken)

    def _unavailable(self) -> dict[str, str]:
        """Actions that may not be done now, with the reason."""
        rungs = [rung.action for each in self._deciders.values() for rung in each.task.ladder]
        return dict(self._quarantine) | {
            action: why for action in rungs if (why := self._obstacle(action))
        }

    def _obstacle(self, action: str) -> str:
        if action not in self._agent_of:
            return "not provided by any agent"
        if self._paused:
            return "paused by the user"
        if self._states.get(self._agent_of[action]) != "ready":
            return f"out of reach: the {self._agent_of[action]} is not ready"
        if any(each.busy for each in self._deciders.values()):
            return "waiting: another action is in flight"
        left_s = self._resting.get(action, -math.inf) - time.monotonic()
        if left_s > 0:
            return f"taken back by the user; it rests for {left_s:.0f} s"
        return "" if self._agrees else "not yet compared with the journal"

    # Doing

    async def _perform(self, decider: Decider, step: Step) -> None:
        async with anyio.create_task_group() as telling:
            telling.start_soon(self._tell, step.decision)
            outcome = await self._outcome(decider, step)
        decision = decider.performed(time.monotonic(), outcome)
        await self._told(outcome)
        await self._tell(decision)

    async def _outcome(self, decider: Decider, step: Step) -> Outcome:
        why = step.decision.why if step.decision else ""
        if self.settings.control.shadow:
            does = step.does == "act"
            return Outcome(step.action, "committed" if does else "reverted", _SHADOWED)
        try:
            if step.does == "act":
                return await self._executor.execute(step.action, decider.task.name, why)
            return await self._take_back(step.action, why)
        except Exception as error:
            await self.hindrance.meet(error)
            self._agrees = False  # how far it came shows when the journal can be written again
            return Outcome(step.action, "refused", in_words(error))

    async def _take_back(self, action: str, why: str) -> Outcome:
        entries = await self._executor.in_force()
        found = next((each.id for each in entries if each.action == action), None)
        if found is None:
            return Outcome(action, "reverted", "it was no longer in force")
        return await self._executor.take_back(found, why)

    async def _revert(self, id_: int | None) -> list[Outcome]:
        entries = await self._executor.in_force()
        chosen = [each for each in entries if id_ in (None, each.id)]
        if id_ is not None and not chosen:
            held = ", ".join(str(each.id) for each in entries) or "none"
            raise CommandError(BAD_ARGUMENT, f"id: {id_} is not in force; in force: {held}")
        rested_s = time.monotonic() + self.settings.control.time_to_live_s
        self._resting |= dict.fromkeys((each.action for each in chosen), rested_s)
        return [await self._undo(each, "the user asked for it") for each in chosen]

    async def _undo(self, entry: JournalEntry, why: str) -> Outcome:
        outcome = await self._executor.take_back(entry.id, why)
        await self._gone(outcome)
        return outcome

    async def _shown(self) -> ActionsShown:
        control = self.settings.control
        return ActionsShown(
            in_force=await self._executor.in_force(),
            recommended={
                name: advice
                for name, each in self._deciders.items()
                if (advice := self._advice(each)).action and each.doubtful
            },
            unavailable=self._unavailable(),
            paused=self._paused,
            shadow=control.shadow,
            enabled=control.enabled,
        )

    # Keeping

    async def _keep(self) -> None:
        if not self._agrees or time.monotonic() >= self._look_again_s:
            await self._reconcile()
        if not self._agrees:
            return
        control = self.settings.control
        if control.shadow or not control.enabled:
            for entry in await self._executor.in_force():
                await self._undo(entry, "the controller may not act any more")
        else:
            await self._renew()
        for outcome in await self._executor.expire():
            await self._gone(outcome)
        self._quarantine = await self._executor.unavailable()

    async def _reconcile(self) -> None:
        """Make journal and reality agree, once those can be asked who know what is in force."""
        entries = [*await self._executor.unfinished(), *await self._executor.in_force()]
        needed = {self._agent_of[each.action] for each in entries if each.action in self._agent_of}
        if any(self._states.get(agent) != "ready" for agent in needed):
            return
        self._agrees = True  # an agent that comes back meanwhile says no again
        self._look_again_s = math.inf
        tasks = {each.action: each.task for each in entries}
        for outcome in await self._executor.reconcile():
            if outcome.result == "kept":
                decider = self._deciders.get(tasks[outcome.action])
                if decider is not None and outcome.action not in decider.ladder.in_force:
                    decider.restored(time.monotonic(), [outcome.action])
            elif outcome.result == "abandoned":
                self._look_again_s = time.monotonic() + _LOOK_AGAIN_S
            await self._gone(outcome)
        await self._executor.prune(self.settings.control.history_days * _DAY_S)

    async def _renew(self) -> None:
        """Keep what is still needed; without a health monitor nothing is known to be low either."""
        wall_s, now_s = time.time(), time.monotonic()
        if now_s - self._sampled_s >= _FRESH_S:
            for decider in self._deciders.values():
                decider.unread()
        whole_s = self.settings.control.time_to_live_s
        entries = {each.action: each for each in await self._executor.in_force()}
        expiring = {
            name: (each.expires_s - wall_s + now_s, whole_s)
            for name, each in entries.items()
            if each.expires_s is not None
        }
        for decider in self._deciders.values():
            own = {n: e for n, e in expiring.items() if entries[n].task == decider.task.name}
            for action in decider.renewals(now_s, own):
                await self._executor.renew(entries[action].id)

    async def _gone(self, outcome: Outcome) -> None:
        """Tell what came of it, and that it is no longer in force if so."""
        if outcome.result == "reverted":
            for decider in self._deciders.values():
                decider.taken_back(time.monotonic(), outcome.action)
        if outcome.result != "kept":
            await self._told(outcome)

    # Telling

    async def _tell(self, decision: Decision | None) -> None:
        if decision is None:  # nothing changed, or it is told elsewhere
            return
        said, shadow = decision.verdict, self.settings.control.shadow
        payload = ControlDecision(
            task=decision.task,
            does=decision.does,
            why=decision.why,
            action=decision.action,
            metrics=dict(decision.metrics),
            answer=said.answer if said else None,
            confidence=said.confidence if said else None,
            recommended=said.recommended if said else "",
            sure=said.sure if said and said.recommended else None,
            shadow=shadow,
        )
        await self.publish(DECISION, payload)
        says, task = decision.words(), decision.task
        if decision.does in ("hold", "ask"):
            self.log.debug("control.decided", task=task, says=says, shadow=shadow)
        else:
            self.log.info("control.decided", task=task, says=says, shadow=shadow)
        async with self.hindrance.met():
            await self._disk.use(self._decisions.add, decision)

    async def _told(self, outcome: Outcome) -> None:
        shadow = outcome.reason == _SHADOWED
        await self.publish(ACTION, ControlAction(**asdict(outcome), shadow=shadow))
        self.log.info(
            "control.acted",
            action=outcome.action,
            result=outcome.result,
            reason=outcome.reason,
            freed=round(outcome.freed, 3),
            number=outcome.id,
            shadow=shadow,
        )
