"""Whatever a judge says, what leaves it is true, false or an abstention."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.control.verdict import Opinion, verdict


@pytest.mark.parametrize(
    ("p_true", "p_false", "answer"),
    [
        (0.9, 0.1, "true"),
        (0.1, 0.9, "false"),
        (0.5, 0.1, "true"),
        (0.55, 0.45, "abstain"),
        (0.45, 0.55, "abstain"),
        (0.3, 0.19, "abstain"),  # below half together: it wanted to say something else
        (0.0, 0.0, "abstain"),
        (math.nan, 0.5, "abstain"),
        (0.9, 0.8, "abstain"),
        (-0.1, 1.0, "abstain"),
        (math.inf, 0.0, "abstain"),
    ],
)
def test_probabilities(p_true: float, p_false: float, answer: str) -> None:
    found = verdict(Opinion(p_true, p_false))
    assert found.answer == answer
    assert bool(found.reason) is (answer == "abstain")


def test_the_confidence_is_that_of_the_answer() -> None:
    assert verdict(Opinion(0.6, 0.2)).confidence == pytest.approx(0.75)
    assert verdict(Opinion(0.2, 0.6)).confidence == pytest.approx(0.75)


@given(st.floats(), st.floats(), st.floats(0, 0.49))
def test_nothing_else_leaves_it(p_true: float, p_false: float, abstain: float) -> None:
    found = verdict(Opinion(p_true, p_false), abstain)
    assert found.answer in ("true", "false", "abstain")
    assert 0 <= found.confidence <= 1
    if found.answer != "abstain":
        assert p_true + p_false >= 0.5
        assert found.confidence > 0.5 + abstain - 1e-9


def test_only_a_known_action_is_recommended() -> None:
    assert verdict(Opinion(0.9, 0.1, "shrink"), actions=["shrink"]).recommended == "shrink"
    assert verdict(Opinion(0.9, 0.1, "rm -rf"), actions=["shrink"]).recommended == ""
    assert verdict(Opinion(0.1, 0.9, "shrink"), actions=["shrink"]).recommended == ""


@pytest.mark.parametrize("name", load_tasks())
def test_a_shipped_task_acts_from_nine_tenths_on(name: str) -> None:
    abstain = load_tasks()[name].abstain
    assert verdict(Opinion(0.89, 0.11), abstain).answer == "abstain"
    assert verdict(Opinion(0.91, 0.09), abstain).answer == "true"
