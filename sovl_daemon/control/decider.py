"""The loop of one task as a state machine: readings in, proposals and reasons out.

It does nothing itself. Whoever drives it samples, asks the judge, performs what is proposed, and
tells it what came of that; so the daemon and the simulator drive the very same code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sovl_daemon.control.decision import Decision, Does, Step
from sovl_daemon.control.executor import Outcome
from sovl_daemon.control.guard import Guard
from sovl_daemon.control.ladder import Ladder
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import JudgePrompt, describe, render
from sovl_daemon.control.ruling import Ruling
from sovl_daemon.control.task import Rung, Task
from sovl_daemon.control.verdict import LATE, JudgeQuestion, Opinion, Verdict, verdict

_HARD_AHEAD_S = 10.0  # a hard limit chooses an action that still suffices this much later
_JUDGED_AHEAD_S = 30.0  # and a verdict one that suffices for so long
_RENEW_AT = 0.5  # of the time to live
_MAX_BLIND = 2.0  # times to live


_HOLD = Step("hold")


class Decider:
    """The loop of one task.

    Call `sense` with each round of readings. For a step that asks, put the question to the judge
    and hand its opinion to `answered`, or None if it failed. For a step that acts or relaxes,
    perform it and hand the outcome to `performed`; until then it proposes nothing else.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        still_s = {each.name: each.still_s for each in task.metrics}
        self.guard = Guard(task.limits, task.pace, still_s)
        self.ladder = Ladder(task.ladder)
        self._limits = {limit.metric: limit for limit in task.limits}
        self._question: JudgeQuestion | None = None
        self._asked = Ruling("hold", "calm")
        self._readings: Mapping[str, Reading] = {}
        self._unavailable: Mapping[str, str] = {}
        self._proposed: Step | None = None
        self._forced = False
        self._before: Mapping[str, Reading] = {}
        self._relieving = ""
        self._blind_s = math.inf
        self._last: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether an action is in flight."""
        return self._proposed is not None

    @property
    def readings(self) -> Mapping[str, Reading]:
        """The last round of readings."""
        return self._readings

    @property
    def doubtful(self) -> bool:
        """Whether some metric was last beyond the threshold of its grey zone."""
        return any(
            (reading := self._readings.get(limit.metric)) is not None
            and not reading.fault
            and limit.is_grey(reading.value)
            for limit in self.task.limits
        )

    def prompt(self, log_lines: Sequence[str]) -> JudgePrompt:
        """What the judge would be asked now."""
        return render(self.task, self._readings, log_lines)

    def sense(
        self,
        now_s: float,
        readings: Mapping[str, Reading],
        *,
        log_lines: Sequence[str] = (),
        unavailable: Mapping[str, str] | None = None,
    ) -> Step:
        """Take one round of readings and say what to do.

        `unavailable` are actions that may not be done now, with the reason, such as a quarantine.
        """
        self._readings, self._unavailable = readings, unavailable or {}
        self._note_relief()
        ruling = self.guard.rule(now_s, readings, self.ladder.relief())
        if self._proposed is not None:
            return _HOLD
        if ruling.kind == "act":
            self._question = None  # a hard limit does not wait for a judge
            return self._climb(now_s, ruling.words(), self._excess(ruling), forced=True)
        if self._question is not None:
            return self._wait(now_s, self._question)
        if ruling.kind == "grey":
            return self._ask(now_s, ruling, log_lines)
        if ruling.kind == "relax":
            rung = self.ladder.top()
            if rung is None:
                return _HOLD
            self._forced = False
            return self._propose(now_s, "relax", rung, ruling.words(), None)
        if ruling[1:3] == self._last:
            return _HOLD
        return self._hold(now_s, ruling)

    def answered(
        self,
        now_s: float,
        question: JudgeQuestion,
        opinion: Opinion | None,
        why: str = "the judge failed",
    ) -> Step:
        """Take the judge's opinion on a question; one that comes too late changes nothing.

        `why` says why there is none.
        """
        if question is not self._question:
            return _HOLD
        self._question = None
        if now_s - question.asked_s > self.task.deadline_s:
            found = LATE
        elif opinion is None:
            found = Verdict("abstain", 0.0, why)
        else:
            actions = [rung.action for rung in self.task.ladder]
            found = verdict(opinion, self.task.abstain, actions)
        if found.answer == "true":
            why = f"the judge says true ({found.confidence:.2f})"
            return self._climb(now_s, why, self._threat(self._asked), verdict_=found)
        reason = found.reason or f"{found.confidence:.2f}"
        return self._say(now_s, "hold", f"the judge says {found.answer} ({reason})", verdict_=found)

    def performed(self, now_s: float, outcome: Outcome) -> Decision:
        """Take what came of a proposal and say it in words."""
        proposed, self._proposed = self._proposed, None
        if proposed is None or proposed.does not in ("act", "relax"):
            raise ValueError(f"{outcome.action} was performed, but not proposed")
        if proposed.does == "act":
            return self._acted(now_s, outcome)
        self.guard.moved(now_s, "relax")
        if outcome.result == "reverted":
            self.ladder.failed(now_s, outcome.action)  # not the very next one to be done again
            self.ladder.gone(outcome.action)
            return self._decided(now_s, "done", outcome.reason, outcome.action)
        why = f"it was {outcome.result}: {outcome.reason}"
        return self._decided(now_s, "failed", why, outcome.action)

    def restored(self, now_s: float, actions: Sequence[str]) -> None:
        """Take over what is in force after a start, oldest first."""
        for action in actions:
            if action in self.ladder:
                self.ladder.done(now_s, action)

    def gone(self, action: str) -> None:
        """Learn that an action is no longer in force: it expired, or its process was replaced."""
        self.ladder.gone(action)

    def taken_back(self, now_s: float, action: str) -> None:
        """Learn that an action was taken back, but not by us: by the user, or because it expired.

        As after a relaxation of our own, the opposite waits for its dwell, and the same action is
        not the very next one to be done.
        """
        if action in self.ladder.in_force:
            self.guard.moved(now_s, "relax")
            self.ladder.failed(now_s, action)
            self.ladder.gone(action)

    def renewals(self, now_s: float, expiring: Mapping[str, tuple[float, float]]) -> list[str]:
        """Actions whose time to live should be renewed now.

        `expiring` gives, for those in force, when they expire and their whole time to live. Half
        of it over, a setting is renewed as long as some metric is soundly read and not low. Where
        none can be read that justifies it, nothing is known: it is held for two more times to
        live, then it expires.
        """
        needed = any(self._is_needed(reading) for reading in self._readings.values())
        blind = not needed and self._is_blind()
        self._blind_s = min(self._blind_s, now_s) if blind else math.inf
        due = (
            action
            for action, (expires_s, whole_s) in expiring.items()
            if expires_s - now_s <= _RENEW_AT * whole_s
            and (needed or 0 <= now_s - self._blind_s < _MAX_BLIND * whole_s)
        )
        return [action for action in due if action in self.ladder.in_force]

    def unread(self) -> None:
        """Learn that no readings come any more: what they said before is not believed."""
        self._readings = {}

    # What is proposed

    def _climb(
        self,
        now_s: float,
        why: str,
        needed: Mapping[str, float] | None = None,
        *,
        forced: bool = False,
        verdict_: Verdict | None = None,
    ) -> Step:
        recommended = verdict_.recommended if verdict_ else ""
        rung = self.ladder.climb(now_s, self._unavailable, needed=needed, recommended=recommended)
        if rung is None:
            cause = ("stuck", *sorted(self._unavailable))
            if cause == self._last:
                return _HOLD  # that nothing can be done is said once, not with every sample
            own = [(name, why) for name, why in self._unavailable.items() if name in self.ladder]
            reasons = [f"{name} is {reason}" for name, reason in own]
            stuck = "; ".join(["every action is in force or was just tried", *reasons])
            step = self._say(now_s, "hold", f"{why}, but {stuck}", verdict_=verdict_)
            self._last = cause
            return step
        self._forced = forced
        return self._propose(now_s, "act", rung, why, verdict_)

    def _propose(
        self, now_s: float, does: Does, rung: Rung, why: str, verdict_: Verdict | None
    ) -> Step:
        step = self._say(now_s, does, why, action=rung.action, verdict_=verdict_)
        self._proposed, self._before = step, self._readings
        return step

    def _ask(self, now_s: float, ruling: Ruling, log_lines: Sequence[str]) -> Step:
        sound = {name: each for name, each in self._readings.items() if not each.fault}
        question = JudgeQuestion(self.task, sound, render(self.task, sound, log_lines), now_s)
        self._question, self._asked = question, ruling
        self.guard.asked(now_s, ruling)
        return self._say(now_s, "ask", ruling.words())._replace(question=question)

    def _wait(self, now_s: float, question: JudgeQuestion) -> Step:
        if now_s - question.asked_s <= self.task.deadline_s:
            return _HOLD
        self._question = None
        return self._say(now_s, "hold", LATE.reason, verdict_=LATE)

    def _excess(self, ruling: Ruling) -> dict[str, float]:
        """By how much a metric beyond its hard limit is to fall.

        So much that it stays clear of its fatal value while an action shows its effect; without
        one, that it comes back to its grey zone.
        """
        limit = self._limits[ruling.metric]
        goal = limit.grey if limit.grey is not None else limit.low
        return self._beyond(ruling, goal if limit.fatal is None else limit.clear, _HARD_AHEAD_S)

    def _threat(self, ruling: Ruling) -> dict[str, float]:
        """By how much a metric in the grey zone is to fall: so that it stays out of its limit."""
        limit = self._limits[ruling.metric]
        goal = limit.hard if limit.fatal is None else limit.clear
        return self._beyond(ruling, goal, _JUDGED_AHEAD_S)

    def _beyond(self, ruling: Ruling, goal: float | None, ahead_s: float) -> dict[str, float]:
        """By how much a metric at its present trend will be beyond a goal; empty if it will not."""
        reading = self._readings.get(ruling.metric)
        if goal is None or reading is None or reading.fault:
            return {}
        sign = self._limits[ruling.metric].sign
        per_s = max(ruling.per_s, sign * reading.per_min / 60.0)
        amount = sign * (reading.value - goal) + ahead_s * per_s
        return {ruling.metric: amount} if amount > 0 else {}

    def _is_needed(self, reading: Reading) -> bool:
        limit = self._limits.get(reading.name)
        if limit is None or limit.low is None or reading.fault:
            return False
        return (reading.value > limit.low) is limit.high_is_bad

    def _is_blind(self) -> bool:
        """Whether a metric that may justify a setting cannot be read."""
        read = (self._readings.get(name) for name, limit in self._limits.items()
                if limit.low is not None)  # fmt: skip
        found = [reading for reading in read if reading is not None]
        return not found or any(reading.fault for reading in found)

    # What came of it

    def _acted(self, now_s: float, outcome: Outcome) -> Decision:
        if outcome.result != "committed":
            self.ladder.failed(now_s, outcome.action)
            if outcome.result == "reverted":
                self.guard.moved(now_s, "act", self._forced)
            why = f"it was {outcome.result}: {outcome.reason}"
            return self._decided(now_s, "failed", why, outcome.action)
        self.ladder.done(now_s, outcome.action)
        self._relieving = outcome.action  # the next round of readings shows by how much
        self.guard.moved(now_s, "act", self._forced)
        why = f"the effect was measured: {outcome.freed:.4g}"
        return self._decided(now_s, "done", why, outcome.action)

    def _note_relief(self) -> None:
        """What an action did to metrics is seen in the first round of readings after it."""
        if not self._relieving:
            return
        action, self._relieving = self._relieving, ""
        pairs = (
            (self._before.get(name), self._readings.get(name), limit.sign)
            for name, limit in self._limits.items()
        )
        falls = {
            now.name: sign * (before.value - now.value)
            for before, now, sign in pairs
            if before is not None and now is not None and not (before.fault or now.fault)
        }
        self.ladder.relieved(action, falls)

    # What is said

    def _hold(self, now_s: float, ruling: Ruling) -> Step:
        step = self._say(now_s, "hold", ruling.words())
        self._last = ruling[1:3]
        return step

    def _say(
        self,
        now_s: float,
        does: Does,
        why: str,
        *,
        action: str = "",
        verdict_: Verdict | None = None,
    ) -> Step:
        self._last = ()
        decision = self._decided(now_s, does, why, action, verdict_)
        return Step(does, action, decision=decision)

    def _decided(
        self,
        now_s: float,
        does: Does,
        why: str,
        action: str = "",
        verdict_: Verdict | None = None,
    ) -> Decision:
        return Decision(now_s, self.task.name, does, why, action, self._in_words(), verdict_)

    def _in_words(self) -> dict[str, str]:
        pairs = ((each, self._readings.get(each.name)) for each in self.task.metrics)
        return {
            each.label: f"unknown: {found.fault}" if found.fault else describe(each, found)
            for each, found in pairs
            if found is not None
        }
