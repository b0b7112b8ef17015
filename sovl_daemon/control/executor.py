"""Doing an action as a transaction: intent, apply, verify by measurement, commit or revert."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import anyio

from sovl_daemon.control.action import Action, ActionFailed, Effect
from sovl_daemon.control.journal import InFlight, Journal, JournalEntry, Record, State
from sovl_daemon.handle import Handle
from sovl_daemon.own_time import move_on_after

T = TypeVar("T")
Result = Literal["committed", "refused", "quarantined", "reverted", "abandoned", "kept"]

_POLL_S = 0.05
_STEP_S = 120.0  # no single step of an action may take longer; switching weights takes seconds
_OVERTIME = 10.0  # times as long as its effect may take to show, an action may take to be done


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action; `freed` is in the unit of its effect, `id` that of its entry."""

    action: str
    result: Result
    reason: str = ""
    freed: float = 0.0
    id: int = 0


class _Survey(NamedTuple):
    """What is known before an action: its prediction, the setting in force, what is to fall."""

    effect: Effect
    before: str
    measured: float


class Executor:
    """Does one action at a time, and undoes it. Several callers may share it.

    How long a step may take, and its effect to show, is counted in `own_time`: on a busy machine an
    action is late, and no worse for it.
    """

    def __init__(
        self,
        journal: Journal,
        actions: Iterable[Action],
        *,
        wall: Callable[[], float] = time.time,
        own_time: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._actions = {action.name: action for action in actions}
        self._wall = wall
        self._own_time = own_time
        self._lock = anyio.Lock()
        self._disk = Handle(journal)

    async def close(self) -> None:
        """Close the journal after its last user."""
        await self._disk.close()

    async def try_to_write(self) -> None:
        """Try to write to the journal. Raises sqlite3.Error where that cannot be done."""
        await self._write(self._journal.try_to_write)

    async def unavailable(self) -> Mapping[str, str]:
        """Actions in quarantine, each with the reason in words."""
        now_s = self._wall()
        breakers = await self._write(self._journal.quarantined, now_s)
        return {
            name: f"in quarantine for {each.until_s - now_s:.0f} s after {each.failures} failures"
            for name, each in breakers.items()
        }

    async def in_force(self) -> list[JournalEntry]:
        """Committed settings that were not taken back, newest first."""
        return await self._write(self._journal.in_force)

    async def unfinished(self) -> list[JournalEntry]:
        """Actions in flight, and abandoned ones, newest first."""
        return await self._write(self._journal.unfinished)

    async def history(self, limit: int) -> list[JournalEntry]:
        """The last entries of the journal, newest first."""
        return await self._write(self._journal.recent, limit)

    async def records(self, since_s: float) -> list[Record]:
        """How each action did on each day from a moment on, the oldest day first."""
        return await self._write(self._journal.records, since_s)

    async def prune(self, age_s: float) -> None:
        """Delete finished entries that are older."""
        await self._write(self._journal.prune, self._wall() - age_s)

    async def execute(self, name: str, task: str, why: str) -> Outcome:
        """Do an action and tell what came of it.

        It is refused while another one is in flight, in quarantine, or when it refuses itself.
        Verified means that 75 % of the predicted effect was measured in time, and that the action
        finds nothing else wrong; else it is reverted, and twice in a row brings a quarantine.
        Cancelled half-way it stays in flight until `reconcile`.
        """
        action = self._actions.get(name)
        if action is None:
            return Outcome(name, "refused", "no agent provides it")
        if self._lock.locked():
            return Outcome(name, "refused", "another action is in flight")
        async with self._lock:
            unavailable = (await self.unavailable()).get(name)
            if unavailable:
                return Outcome(name, "quarantined", unavailable)
            return await self._execute(action, task, why)

    async def take_back(self, id_: int, reason: str) -> Outcome:
        """Revert a committed setting: what was in force before it is in force again."""
        async with self._lock:
            entry = await self._write(self._journal.entry, id_)
            if entry.state != "committed" or not entry.lasts:
                what = entry.state if entry.lasts else "over: it left nothing to take back"
                return Outcome(entry.action, "refused", f"it is {what}", id=id_)
            return await self._undo(entry, reason)

    async def renew(self, id_: int) -> None:
        """Let a degraded setting stay for another time to live."""
        entry = await self._write(self._journal.entry, id_)
        action = self._actions.get(entry.action)
        if action is not None and action.time_to_live_s is not None:
            expires_s = self._wall() + action.time_to_live_s
            await self._write(self._journal.renew, id_, expires_s)

    async def expire(self) -> list[Outcome]:
        """Revert every setting whose time to live is over."""
        now_s = self._wall()
        if not any(each.has_expired(now_s) for each in await self.in_force()):
            return []  # unlocked: this is looked at each second, and an action must not wait for it
        async with self._lock:
            entries = await self._write(self._journal.in_force)
            expired = {each.id for each in entries if each.has_expired(now_s)}
            # What was set on top of an expired setting goes first: a revert sets what was before.
            covered = [each for each in entries if await self._is_covered(each)]
            for each in reversed(entries):
                below = {other.target for other in covered if other.id in expired}
                expired |= {each.id} if each.before in below else set()
            over = [each for each in entries if each.id in expired]
            return [await self._undo(each, "its time to live is over") for each in over]

    async def reconcile(self) -> list[Outcome]:
        """Make journal and reality agree, after a start or when an agent came back.

        What is in force is probed. What was not committed, and what has expired, is reverted; a
        committed setting that is no longer in force is noted as gone. An action that nobody
        provides any more is abandoned, and looked at again the next time.
        """
        async with self._lock:
            unfinished = await self._write(self._journal.unfinished)
            outcomes = [await self._undo(each, "it was not committed") for each in unfinished]
            kept = await self._write(self._journal.in_force)
            return [*outcomes, *[await self._review(each) for each in kept]]

    async def _is_covered(self, entry: JournalEntry) -> bool:
        """Whether something else was set since on what an entry has set."""
        action = self._actions.get(entry.action)
        try:
            return action is not None and await self._step(action.current()) != entry.target
        except Exception:  # it cannot be told, nor undone: that is what its own undoing will say
            return False

    # One transaction

    async def _execute(self, action: Action, task: str, why: str) -> Outcome:
        found = await self._survey(action)
        if isinstance(found, str):
            return Outcome(action.name, "refused", found)  # nothing was done yet
        effect, now_s = found.effect, self._wall()
        entry = JournalEntry(
            task=task,
            action=action.name,
            target=action.target,
            before=found.before,
            why=why,
            intended_s=now_s,
            deadline_s=now_s + effect.within_s,
            predicted=effect.amount,
            unit=effect.unit,
            measured_before=found.measured,
        )
        try:
            entry = replace(entry, id=await self._write(self._journal.intend, entry))
        except InFlight as error:
            return Outcome(action.name, "refused", str(error))
        problem, freed = await self._apply_and_verify(action, effect, entry)
        if problem:
            return await self._failed(action, entry, problem, freed)
        expires_s = action.time_to_live_s and self._wall() + action.time_to_live_s
        await self._write(self._journal.commit, entry.id, expires_s)
        await self._note_result(action.name, failed=False)
        return Outcome(action.name, "committed", "", freed, entry.id)

    async def _survey(self, action: Action) -> _Survey | str:
        """Ask all that must be known beforehand, at once; or say why it must not be done.

        It is asked at once because each answer may take a turn of a busy model.
        """
        told: dict[str, Any] = {}
        failed: dict[str, str] = {}

        async def ask(what: str, step: Awaitable[Any]) -> None:
            try:
                told[what] = await self._step(step)
            except Exception as error:  # whatever it was, nothing was done yet
                failed[what] = _said(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "refusal", action.refuse())
            tasks.start_soon(ask, "effect", action.predict())
            tasks.start_soon(ask, "before", action.current())
            tasks.start_soon(ask, "measured", action.measure())
        problems = [failed.get("refusal") or told["refusal"], *failed.values()]
        refusal = next(filter(None, problems), None)
        return refusal or _Survey(told["effect"], told["before"], told["measured"])

    async def _apply_and_verify(
        self, action: Action, effect: Effect, entry: JournalEntry
    ) -> tuple[str, float]:
        """Return what went wrong, or nothing, and what was freed.

        It is measured until enough is freed or the effect's time is over.
        """
        before, freed = entry.measured_before, 0.0
        try:
            await self._step(action.apply(), min(_STEP_S, _OVERTIME * effect.within_s))
            await self._write(self._journal.move, entry.id, "applied")
            deadline_s = self._own_time() + effect.within_s
            after = await self._step(action.measure())
            while not effect.is_shown(before, after) and self._own_time() < deadline_s:
                await anyio.sleep(_POLL_S)
                after = await self._step(action.measure())
            freed = before - after
            if not effect.is_shown(before, after):
                return f"freed {effect.words(freed)} of {effect.words()}", freed
            problem = await self._step(action.verify())
        except Exception as error:  # whatever it was, what was half done has to be undone
            return _said(error), freed
        if not problem:
            await self._write(self._journal.verified, entry.id, after)
        return problem or "", freed

    async def _failed(
        self, action: Action, entry: JournalEntry, problem: str, freed: float
    ) -> Outcome:
        await self._note_result(action.name, failed=True)
        outcome = await self._undo(entry, problem)
        return replace(outcome, freed=freed)

    async def _note_result(self, name: str, *, failed: bool) -> None:
        before = await self._write(self._journal.breaker, name)
        after = before.failed(self._wall()) if failed else before.succeeded()
        if after != before:
            await self._write(self._journal.set_breaker, name, after)

    # Undoing

    async def _undo(self, entry: JournalEntry, reason: str) -> Outcome:
        action = self._actions.get(entry.action)
        if action is None:
            return await self._finish(entry, "abandoned", f"no agent provides it; {reason}")
        try:
            if entry.lasts:
                reason = await self._set_back(action, entry, reason)
        except Exception as error:  # it is tried again by the next reconciliation
            problem = f"cannot be undone: {_said(error)}; {reason}"
            return await self._finish(entry, "abandoned", problem)
        return await self._finish(entry, "reverted", reason)

    async def _set_back(self, action: Action, entry: JournalEntry, reason: str) -> str:
        """Set what was in force before, unless it is; return the reason to note."""
        found = await self._step(action.current())
        if found == entry.before and entry.state == "committed":
            return reason
        # Else what was asked for may still be under way, and is called off.
        if entry.state == "committed" and found != entry.target:
            return f"{found} was set meanwhile"  # by somebody else: that is not ours to undo
        if entry.state == "committed" and (why := await self._step(action.stays())):
            return why
        await self._write(self._journal.move, entry.id, "reverting", reason)
        await self._step(action.revert(entry.before))
        found = await self._step(action.current())
        if found != entry.before:
            raise ActionFailed(f"{found} is in force after the revert to {entry.before}")
        return reason

    async def _review(self, entry: JournalEntry) -> Outcome:
        """A committed setting after a start: expired, gone, or kept."""
        if entry.has_expired(self._wall()) or entry.action not in self._actions:
            return await self._undo(entry, "its time to live is over")
        try:
            found = await self._step(self._actions[entry.action].current())
        except Exception as error:  # it cannot be told now; its time to live ends it all the same
            return Outcome(entry.action, "kept", _said(error), id=entry.id)
        reason = "it was no longer in force"
        if found == entry.before:
            try:  # it is called off, lest it comes true later
                await self._step(self._actions[entry.action].revert(entry.before))
            except Exception as error:  # it is tried again by the next reconciliation
                return await self._finish(entry, "abandoned", f"{_said(error)}; {reason}")
        elif found == entry.target:
            return Outcome(entry.action, "kept", id=entry.id)
        return await self._finish(entry, "reverted", reason)

    async def _finish(
        self, entry: JournalEntry, state: Literal["reverted", "abandoned"], reason: str
    ) -> Outcome:
        final: State = state
        await self._write(self._journal.move, entry.id, final, reason)
        return Outcome(entry.action, state, reason, id=entry.id)

    async def _step(self, step: Awaitable[T], limit_s: float = _STEP_S) -> T:
        with move_on_after(limit_s, self._own_time):
            return await step
        raise ActionFailed(f"it was not over after {limit_s:g} s")

    async def _write(self, work: Callable[..., T], *args: Any) -> T:
        """Use the journal, on a thread: a sync to disk may take long on a machine in need."""
        return await self._disk.use(work, *args)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ActionFailed) else f"{type(error).__name__}: {error}"
