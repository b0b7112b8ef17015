"""Why it acted, or did not, in words that need no knowledge of the code."""

from datetime import datetime
from pathlib import Path

import pytest

from sovl_daemon.control.decision import Decision
from sovl_daemon.control.decision_log import DecisionLog
from sovl_daemon.control.verdict import Verdict
from sovl_daemon.judge.why import explain
from tests.control import task

READINGS = {"Memory usage": "87 % (high, rising 6 %/min)"}
SAID = Verdict("true", 0.93, recommended="shrink", sure=0.8)


class Wall:
    """A clock that is set by hand."""

    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> DecisionLog:
    return DecisionLog(tmp_path / "decisions.db", wall=wall)


def lived(log: DecisionLog, wall: Wall) -> None:
    grey = "memory.percent at 87 is in the grey zone, so the judge is asked"
    log.add(Decision(0, "memory", "ask", grey, metrics=READINGS))
    wall.now_s += 0.4
    says = "the judge says true (0.93)"
    log.add(Decision(0, "memory", "act", says, "shrink", READINGS, SAID))
    wall.now_s += 1.1
    log.add(Decision(0, "memory", "done", "the effect was measured: 5", "shrink", READINGS))


def test_a_question_with_reading_zones_reason_and_answer(log: DecisionLog, wall: Wall) -> None:
    lived(log, wall)
    asked = log.at(1)
    assert asked is not None
    when = datetime.fromtimestamp(1_000_000).astimezone().isoformat(" ", "seconds")
    assert explain(log, asked, {"memory": task()}) == [
        f"Decision 1 on memory, {when}.",
        "  Memory usage: 87 % (high, rising 6 %/min); acts at once from 92, asks the judge from 75,"
        " may relax up to 65",
        "It asked the judge. Why: memory.percent at 87 is in the grey zone, so the judge is asked.",
        "0.4 s later (decision 2): the judge says true (0.93).",
    ]


def test_an_action_with_verdict_recommendation_and_outcome(log: DecisionLog, wall: Wall) -> None:
    lived(log, wall)
    acted = log.at(2)
    assert acted is not None
    assert explain(log, acted, {})[2:] == [
        "It decided to do shrink. Why: the judge says true (0.93).",
        "The judge said true, an adjustment is needed (93% sure).",
        "It recommended shrink, which is enough with 80%.",
        "1.1 s later (decision 3): the effect was measured: 5.",
    ]


def test_what_held_at_a_moment(log: DecisionLog, wall: Wall) -> None:
    lived(log, wall)
    log.add(Decision(0, "latency", "hold", "every metric is low"))
    at = {each.task: each.id for each in log.until(1_000_000.5)}
    assert at == {"memory": 2}
    assert {each.task: each.id for each in log.until(wall.now_s)} == {"memory": 3, "latency": 4}
    assert [each.id for each in log.until(wall.now_s, "memory")] == [3]
    assert log.until(999_999.0) == []
    assert log.at(5) is None


def test_a_hard_limit_needs_no_judge_and_what_is_not_logged_is_said(
    log: DecisionLog, wall: Wall
) -> None:
    log.add(Decision(0, "memory", "act", "beyond its hard limit", "shrink"))
    wall.now_s += 100
    log.add(Decision(0, "memory", "done", "too late to be its outcome", "shrink"))
    acted = log.at(1)
    assert acted is not None
    assert explain(log, acted, {})[-2:] == [
        "The judge was not needed: a rule without a judge decided.",
        "What came of it is not in the log.",
    ]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict("false", 0.9), "The judge said false, no adjustment is needed (90% sure)."),
        (Verdict("abstain", 0.55), "The judge abstained: it was not sure enough"),
    ],
)
def test_a_judge_that_changed_nothing(log: DecisionLog, verdict: Verdict, words: str) -> None:
    log.add(Decision(0, "memory", "hold", "the judge says so", verdict=verdict))
    held = log.at(1)
    assert held is not None
    assert any(line.startswith(words) for line in explain(log, held, {}))
