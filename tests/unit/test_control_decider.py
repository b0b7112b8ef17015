"""The loop proposes one thing at a time and says why, and why not."""

from typing import get_args

import pytest

from sovl_daemon.control.decider import Decider
from sovl_daemon.control.decision import Decision, Does, Step
from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.control.diagnosis import context_use, diagnose, room_for
from sovl_daemon.control.executor import Outcome
from sovl_daemon.control.guard import Limit
from sovl_daemon.control.ladder import Ladder
from sovl_daemon.control.task import Rung
from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.control.verdict import Opinion, Verdict
from tests.control import MEMORY, readings, task


def feed(decider: Decider, value: float, start_s: float, seconds: float) -> list[Step]:
    steps = int(seconds * 2) + 1
    return [decider.sense(start_s + n / 2, readings(value)) for n in range(steps)]


def last(steps: list[Step]) -> Step:
    """The last step that does something."""
    return [step for step in steps if step.does != "hold"][-1]


def asked(decider: Decider, start_s: float = 0.0, value: float = 80) -> Step:
    step = last(feed(decider, value, start_s, 2))
    assert step.does == "ask"
    return step


def do(decider: Decider, step: Step, now_s: float, result: str = "committed") -> Decision:
    return decider.performed(now_s, Outcome(step.action, result, "because", 5.0))  # type: ignore[arg-type]


def test_a_hard_limit_acts_without_a_judge_and_goes_as_far_as_needed() -> None:
    step = last(feed(Decider(task()), 95, 0, 1))
    assert (step.does, step.action) == ("act", "quantize")  # 20 points are to fall
    assert step.decision is not None
    assert step.decision.words() == (
        "memory: does quantize, because memory.percent at 95 is beyond its hard limit"
    )
    assert step.decision.metrics == {"Memory usage": "95 % (critical, steady)"}


def test_the_strongest_left_is_done_when_none_suffices() -> None:
    decider = Decider(task())
    decider.restored(0, ["quantize"])
    assert last(feed(decider, 99, 0, 1)).action == "shrink"


def test_true_does_the_cheapest() -> None:
    decider = Decider(task())
    question = asked(decider).question
    assert question is not None
    step = decider.answered(2.3, question, Opinion(0.9, 0.05))
    assert (step.does, step.action) == ("act", "clear")
    assert step.decision is not None
    assert "the judge says true (0.95)" in step.decision.words()


def test_a_threat_that_is_seen_coming_is_met_in_time() -> None:
    decider = Decider(task())
    for n in range(5):
        step = decider.sense(n / 2, readings(80, per_min=30))
    assert step.question is not None
    assert decider.answered(2.3, step.question, Opinion(1, 0)).action == "shrink"  # soon 95


def test_a_recommendation_is_followed_where_it_can_be() -> None:
    decider = Decider(task())
    question = asked(decider).question
    assert question is not None
    assert decider.answered(2.3, question, Opinion(1, 0, "shrink")).action == "shrink"


@pytest.mark.parametrize(
    ("opinion", "why"),
    [
        (Opinion(0.1, 0.9), "the judge says false (0.90)"),
        (Opinion(0.5, 0.5), "the judge says abstain (undecided at 0.50)"),
        (Opinion(0.1, 0.1), "the judge says abstain (true and false have only 0.20"),
        (Opinion(7, 7), "are no probabilities"),
        (None, "the judge says abstain (the judge failed)"),
    ],
)
def test_anything_but_true_changes_nothing(opinion: Opinion | None, why: str) -> None:
    decider = Decider(task())
    question = asked(decider).question
    assert question is not None
    step = decider.answered(2.3, question, opinion)
    assert step.does == "hold"
    assert step.decision is not None
    assert why in step.decision.why
    assert not decider.busy


def test_a_late_verdict_changes_nothing() -> None:
    decider = Decider(task())
    step = asked(decider)
    assert step.question is not None
    late = feed(decider, 80, 2.5, 3)
    assert next(s.decision.why for s in late if s.decision) == "no verdict in time"
    assert decider.answered(6, step.question, Opinion(1, 0)) == Step("hold")


def test_a_verdict_past_its_deadline_is_late_even_if_nothing_was_sampled_since() -> None:
    decider = Decider(task())
    step = asked(decider)
    assert step.question is not None
    found = decider.answered(9, step.question, Opinion(1, 0))
    assert found.does == "hold"
    assert found.decision is not None
    assert "no verdict in time" in found.decision.why


def test_a_hard_limit_does_not_wait_for_the_judge() -> None:
    decider = Decider(task())
    question = asked(decider).question
    assert question is not None
    assert last(feed(decider, 96, 2.5, 1)).does == "act"
    assert decider.answered(3.6, question, Opinion(1, 0)).does == "hold"


def test_one_action_is_in_flight() -> None:
    decider = Decider(task())
    step = last(feed(decider, 95, 0, 0.5))
    assert {s.does for s in feed(decider, 95, 1, 30)} == {"hold"}
    do(decider, step, 31)
    assert last(feed(decider, 95, 31, 2)).does == "act"


def test_it_relaxes_the_last_first_and_keeps_the_dwell() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink", "quantize"])
    decider.guard.moved(0, "act")
    assert {s.does for s in feed(decider, 50, 0, 59)} == {"hold"}
    step = last(feed(decider, 50, 60, 1))
    assert (step.does, step.action) == ("relax", "quantize")
    assert do(decider, step, 61, "reverted").does == "done"
    assert decider.ladder.in_force == ["shrink"]
    assert last(feed(decider, 50, 62, 15)).action == "shrink"


def test_what_cannot_be_undone_stays_known() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink"])
    step = last(feed(decider, 50, 100, 11))
    assert do(decider, step, 112, "abandoned").does == "failed"
    assert decider.ladder.in_force == ["shrink"]


def test_a_failed_action_gives_way_to_the_next() -> None:
    decider = Decider(task())
    step = last(feed(decider, 95, 0, 0.5))
    assert do(decider, step, 1, "reverted").words() == (
        "memory: could not do or undo quantize, because it was reverted: because"
    )
    assert last(feed(decider, 95, 2, 0)).action == "shrink"


def test_quarantined_actions_are_named_when_nothing_is_left() -> None:
    decider = Decider(task())
    unavailable = dict.fromkeys(("clear", "shrink", "quantize"), "in quarantine")
    decider.sense(0, readings(95), unavailable=unavailable)
    step = decider.sense(0.5, readings(95), unavailable=unavailable)
    assert step.decision is not None
    assert "every action is in force or was just tried; clear is in quarantine" in step.decision.why


def test_it_is_silent_as_long_as_nothing_changes() -> None:
    steps = feed(Decider(task()), 70, 0, 100)
    assert [step.decision is None for step in steps] == [False] + [True] * 200


def test_why_not_is_said() -> None:
    step = Decider(task()).sense(0, readings(70))
    assert step.decision is not None
    assert step.decision.words() == (
        "memory: changes nothing, because memory.percent at 70 is neither high enough to act"
        " nor low enough to relax"
    )
    blind = Decider(task()).sense(0, readings(70, fault="frozen"))
    assert blind.decision is not None
    assert blind.decision.metrics == {"Memory usage": "unknown: frozen"}


def test_a_degraded_setting_is_renewed_only_on_sound_evidence() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink"])
    expiring = {"shrink": (100.0, 60.0), "quantize": (1.0, 60.0)}
    decider.sense(0, readings(70))
    assert decider.renewals(60, expiring) == []
    assert decider.renewals(71, expiring) == ["shrink"]
    decider.sense(71, readings(60))
    assert decider.renewals(71, expiring) == []


def test_what_cannot_be_judged_is_held_for_a_while_and_not_for_ever() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink"])
    now_s, expires_s = 0.0, 60.0
    for _ in range(600):
        now_s += 1
        step = decider.sense(now_s, readings(70, fault="stale"))
        assert step.does == "hold"  # nothing is relaxed blindly
        if decider.renewals(now_s, {"shrink": (expires_s, 60.0)}):
            expires_s = now_s + 60
    assert 120 <= expires_s <= 181  # two more times to live, then it expires
    decider.sense(now_s, readings(70))
    assert decider.renewals(now_s, {"shrink": (now_s, 60.0)}) == ["shrink"]
    decider.sense(now_s + 1, readings(70, fault="stale"))
    assert decider.renewals(now_s + 1, {"shrink": (now_s, 60.0)}) == ["shrink"]  # counted anew


def test_without_any_readings_nothing_is_believed_that_was_read() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink"])
    decider.sense(0, readings(60))
    assert decider.renewals(1, {"shrink": (1.0, 60.0)}) == []
    decider.unread()
    assert decider.renewals(1, {"shrink": (1.0, 60.0)}) == ["shrink"]


def test_what_others_took_back_is_not_done_at_once_again() -> None:
    decider = Decider(task())
    decider.restored(0, ["shrink"])
    feed(decider, 80, 0, 1)
    decider.taken_back(1, "shrink")
    assert not decider.ladder.in_force
    steps = feed(decider, 80, 1.5, 58)
    assert {step.does for step in steps} == {"hold"}
    assert any(step.decision and "the opposite one" in step.decision.why for step in steps)
    assert last(feed(decider, 80, 60, 5)).does == "ask"


def test_a_hard_limit_passes_over_what_was_just_taken_back() -> None:
    decider = Decider(task())
    decider.restored(0, ["quantize"])
    feed(decider, 70, 0, 1)
    decider.taken_back(1, "quantize")
    assert last(feed(decider, 95, 1.5, 2)).action == "shrink"


def test_what_an_action_took_off_a_metric_is_noted_and_is_asked_of_it_before_it_goes_back() -> None:
    limit = Limit(metric=MEMORY, hard=92, grey=75, low=65, spare=4, fatal=99, hard_s=0.5, low_s=10)
    decider = Decider(task(limits=(limit,)))
    step = last(feed(decider, 95, 0, 1))
    assert (step.does, step.action) == ("act", "clear")  # the cheapest, for nothing rises
    do(decider, step, 1)
    step = last(feed(decider, 95, 1.5, 11))
    assert step.action == "shrink"
    do(decider, step, 12)
    steps = feed(decider, 78, 12.5, 100)
    assert "relax" not in {each.does for each in steps}  # 95 again, though 5 were expected
    step = last(feed(decider, 70, 113, 11))
    assert step.decision is not None
    assert step.decision.words() == (
        "memory: takes shrink back, because memory.percent at 70 would stay clear of its hard limit"
        " without it"
    )


def test_an_outcome_that_nobody_proposed_is_refused() -> None:
    with pytest.raises(ValueError, match="not proposed"):
        Decider(task()).performed(0, Outcome("shrink", "committed"))


# The ladder


def test_what_leaves_nothing_is_done_again_only_after_a_while() -> None:
    ladder = Ladder(task().ladder)
    assert ladder.climb(0) == ladder.rung("clear")
    ladder.done(0, "clear")
    assert ladder.in_force == []
    assert ladder.climb(59) == ladder.rung("shrink")
    assert ladder.climb(60) == ladder.rung("clear")


def test_need_is_met_by_the_cheapest_that_suffices() -> None:
    ladder = Ladder(task().ladder)
    picks = {need: ladder.climb(0, needed={MEMORY: need}) for need in (1.0, 4.0, 6.0, 60.0)}
    names = [rung.action for rung in picks.values() if isinstance(rung, Rung)]
    assert names == ["clear", "shrink", "quantize", "quantize"]
    assert ladder.climb(0, ["clear", "shrink", "quantize"]) is None


# The log of decisions, and the diagnosis


def test_decisions_are_kept_and_counted() -> None:
    log = DecisionLog(":memory:", keep=3, wall=lambda: 86_400.0)
    kinds: tuple[Does, ...] = get_args(Does)
    for does in kinds:
        verdict = Verdict("true", 0.9) if does == "act" else None
        log.add(Decision(0, "memory", does, "why", "shrink", {"Memory": "87 %"}, verdict))
    assert [each.does for each in log.recent()] == list(reversed(kinds[-3:]))
    assert log.recent(1)[0].metrics == {"Memory": "87 %"}
    assert log.recent(task="other") == []
    log.add(Decision(0, "memory", "act", "why", verdict=Verdict("true", 0.9)))
    (tally,) = log.tallies(86_400.0)
    assert log.tallies(86_401.0) == []
    assert (tally.day, tally.task, tally.acts, tally.true) == ("1970-01-02", "memory", 1, 1)
    assert log.recent(1)[0].confidence == 0.9


@pytest.mark.parametrize(
    ("value", "health"), [(50, "fit"), (75, "strained"), (92, "unfit"), (99, "unfit")]
)
def test_diagnosis(value: float, health: str) -> None:
    found = diagnose([task()], readings(value))
    assert found.health == health
    assert found.allows_heavy_work is (health != "unfit")
    assert bool(found.anomalies()) is (health != "fit")
    assert bool(found.objections()) is (health == "unfit")


def test_a_limit_may_hold_no_work() -> None:
    limits = tuple(limit.model_copy(update={"holds_work": False}) for limit in task().limits)
    for reading in (readings(99), readings(0, fault="stale")):
        found = diagnose([task(limits=limits)], reading)
        assert (found.health, found.objections()) == ("strained", [])
        assert found.allows_heavy_work


def test_a_busy_processor_holds_no_work() -> None:
    (limit,) = load_tasks()["cpu"].limits
    assert not limit.holds_work
    assert all(each.holds_work for each in load_tasks()["memory"].limits)


def test_what_cannot_be_read_stops_heavy_work() -> None:
    found = diagnose([task()], readings(0, fault="stale"))
    assert found.objections() == ["Memory usage cannot be read: stale"]
    assert not found.allows_heavy_work
    nothing = diagnose([task()], {})
    assert not nothing.allows_heavy_work
    assert nothing.objections() == ["nothing was measured yet"]


def test_heavy_work_needs_room() -> None:
    low = diagnose([task()], readings(50), [room_for(1e8, 2e8), context_use(50)])
    assert low.objections() == ["Memory available is 100 MB, and heavy work needs 200 MB"]
    assert not low.allows_heavy_work
    assert diagnose([task()], readings(50), [room_for(3e8, 2e8)]).health == "fit"
    assert diagnose([task()], readings(50), [room_for(None, 2e8)]).health == "unknown"


def test_a_full_context_is_an_anomaly_and_no_objection() -> None:
    found = diagnose([task()], readings(50), [context_use(99)])
    assert (found.health, found.objections()) == ("strained", [])
    assert found.anomalies() == ["Context in use is 99 %: older turns are left out"]


def test_what_this_machine_lacks_is_no_objection() -> None:
    assert diagnose(load_tasks().values(), readings(50)).allows_heavy_work


def test_that_nothing_can_be_done_is_said_once() -> None:
    decider = Decider(task())
    none = dict.fromkeys(("clear", "shrink", "quantize"), "paused")
    said = [decider.sense(now_s / 2, readings(95), unavailable=none).decision for now_s in range(9)]
    stuck = [each.why for each in said if each and "but every action" in each.why]
    assert len(stuck) == 1
    assert "shrink is paused" in stuck[0]
    # Once one is free again it is done.
    assert decider.sense(5.0, readings(95)).does == "act"
