import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.mind.curiosity import (
    CuriosityPressure,
    OpenQuestion,
    QuestionQueue,
    curiosity,
    question_temperature,
    worth_asking,
)

shares = st.floats(0, 1)
scores = st.floats(-1, 1)


# The score


@pytest.mark.parametrize(
    ("confidences", "similarities", "expected"),
    [
        ([1.0], [1.0], 0),
        ([0.0], [0.0], 1),
        ([], [], 1),
        ([0.2, 0.6], [], 0.58),
        ([0.6, 0.2], [0.1, 0.5, -0.3], 0.43),
        ([0.5], [-1.0, -0.2], 0.65),
    ],
)
def test_curiosity_by_hand(
    confidences: list[float], similarities: list[float], expected: float
) -> None:
    assert curiosity(confidences, similarities) == pytest.approx(expected)


@given(confidences=st.lists(shares), similarities=st.lists(scores), more=shares)
def test_knowing_more_never_makes_it_more_curious(
    confidences: list[float], similarities: list[float], more: float
) -> None:
    found = curiosity(confidences, similarities)
    assert 0 <= found <= 1
    assert curiosity([*confidences, more], similarities) <= found
    assert curiosity(confidences, [*similarities, more]) <= found


def test_it_takes_more_to_ask_unprompted() -> None:
    asks = [
        (score, worth_asking(score, unprompted=True), worth_asking(score, unprompted=False))
        for score in (0.8, 0.85, 0.9, 0.91)
    ]
    assert asks == [
        (0.8, False, False), (0.85, False, True), (0.9, False, True), (0.91, True, True)
    ]  # fmt: skip


@pytest.mark.parametrize(("temperament", "expected"), [(0, 1.1), (1, 1.5), (-1, 0.7), (-0.5, 0.9)])
def test_temperature_of_a_question(temperament: float, expected: float) -> None:
    assert question_temperature(temperament) == pytest.approx(expected)


@given(temperament=scores)
def test_the_temperature_is_in_range(temperament: float) -> None:
    assert 0.7 <= question_temperature(temperament) <= 1.7


# The pressure


@pytest.mark.parametrize(
    ("temperament", "confidence", "expected"),
    [(0, 1, 0.4), (1, 1, 0.5), (0, 0, 0.45), (-1, 0.5, 0.325)],
)
def test_an_answer_moves_the_pressure(
    temperament: float, confidence: float, expected: float
) -> None:
    assert CuriosityPressure(0.4).answered(temperament, confidence).value == pytest.approx(expected)


def test_silence_moves_the_pressure() -> None:
    assert CuriosityPressure(0.1).waited(10).value == pytest.approx(0.3)
    assert CuriosityPressure(0.1).waited(1000).value == 1


@given(total=st.floats(0, 60), looks=st.integers(1, 50))
def test_it_does_not_matter_how_often_one_looks(total: float, looks: int) -> None:
    pressure = CuriosityPressure()
    for _ in range(looks):
        pressure = pressure.waited(total / looks)
    assert pressure.value == pytest.approx(CuriosityPressure().waited(total).value)


@given(value=shares, temperament=scores, confidence=shares, seconds=st.floats(0, 1e9))
def test_the_pressure_stays_in_range(
    value: float, temperament: float, confidence: float, seconds: float
) -> None:
    pressure = CuriosityPressure(value)
    for after in (
        pressure.answered(temperament, confidence), pressure.waited(seconds), pressure.relieved()
    ):  # fmt: skip
        assert 0 <= after.value <= 1


def test_relief() -> None:
    assert CuriosityPressure(0.8).relieved().value == pytest.approx(0.5)
    assert CuriosityPressure(0.1).relieved().value == 0


def test_it_erupts_three_times_in_ten() -> None:
    rng = random.Random(1)
    erupted = sum(CuriosityPressure(0.71).erupts(rng, silence_s=20) for _ in range(4000))
    assert erupted / 4000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("value", "silence_s", "since_eruption_s"),
    [(0.7, 99, math.inf), (0.8, 19.9, math.inf), (0.8, 20, 59.9)],
)
def test_what_holds_it_back(value: float, silence_s: float, since_eruption_s: float) -> None:
    rng = random.Random(1)
    before = rng.getstate()
    for _ in range(100):
        assert not CuriosityPressure(value).erupts(
            rng, silence_s=silence_s, since_eruption_s=since_eruption_s
        )
    assert rng.getstate() == before


def test_after_a_minute_it_may_erupt_again() -> None:
    rng = random.Random(1)
    found = {
        CuriosityPressure(0.8).erupts(rng, silence_s=20, since_eruption_s=60) for _ in range(50)
    }
    assert found == {True, False}


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_pressure_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"pressure .* is not allowed: give 0 to 1"):
        CuriosityPressure(value)


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="give 0 or more"):
        CuriosityPressure().waited(-1)


# The questions


@pytest.mark.parametrize(
    ("asked_in", "said_in", "said_at", "answers"),
    [
        (None, "a", 5.1, True),
        (None, "a", 5.0, True),
        (None, "a", 4.9, False),  # it was being answered when the question came
        (None, "a", 605.0, True),
        (None, "a", 605.1, False),  # by then it is about something else
        ("a", "a", 5.1, True),
        ("a", "b", 5.1, False),
    ],
)
def test_what_is_said_next_where_it_asked_answers(
    asked_in: str | None, said_in: str, said_at: float, answers: bool
) -> None:
    question = OpenQuestion("why?", 5.0, asked_in)
    assert question.answered_by(said_in, said_at) is answers


def test_questions_are_asked_in_their_order() -> None:
    queue = QuestionQueue().add("why?").add("how?")
    first, queue = queue.take()
    second, queue = queue.take()
    assert (first, second, queue.take()) == ("why?", "how?", (None, QuestionQueue()))


@pytest.mark.parametrize("again", ["what is rain?", "What is  RAIN? ", "", "  \n"])
def test_repeated_and_blank_questions_change_nothing(again: str) -> None:
    queue = QuestionQueue(("What is rain?",))
    assert queue.add(again) == queue


def test_a_question_may_return_once_it_was_asked() -> None:
    _, queue = QuestionQueue(("why?",)).take()
    assert queue.add("why?").questions == ("why?",)


def test_a_full_queue_forgets_the_oldest() -> None:
    queue = QuestionQueue(maxlen=2).add("a").add("b").add("c")
    assert queue.questions == ("b", "c")


@given(questions=st.lists(st.text(max_size=4)), maxlen=st.integers(1, 5))
def test_no_question_can_break_the_queue(questions: list[str], maxlen: int) -> None:
    queue = QuestionQueue(maxlen=maxlen)
    for question in questions:
        queue = queue.add(question)
    assert len(queue) <= maxlen
    assert QuestionQueue(queue.questions, maxlen) == queue
    assert set(queue.questions) <= set(questions)


@pytest.mark.parametrize("questions", [("a", "A"), ("a", "b", "c"), (" ",)])
def test_an_impossible_queue_is_refused(questions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="give at most 2 questions"):
        QuestionQueue(questions, 2)


def test_there_is_room_for_one_at_least() -> None:
    with pytest.raises(ValueError, match="maxlen 0 is not allowed"):
        QuestionQueue(maxlen=0)
