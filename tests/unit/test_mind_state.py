import functools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.mind.curiosity import CuriosityPressure, QuestionQueue
from sovl_daemon.mind.dreams import Dream, DreamMemory
from sovl_daemon.mind.history import History
from sovl_daemon.mind.lifecycle import life_weight
from sovl_daemon.mind.state import VERSION, Mind
from sovl_daemon.mind.temperament import Temperament

KNOBS = ControlsConfig()
TRAINING = TrainingConfig()
CAPACITY = 1000.0

shares = st.floats(0, 1)
scores = st.floats(-1, 1)
counts = st.integers(0, 2**63)


def histories(values: st.SearchStrategy[float]) -> st.SearchStrategy[History]:
    return st.builds(History, st.lists(values, max_size=9).map(tuple), st.integers(1, 9))


queues = st.lists(st.text(max_size=5), max_size=9).map(
    lambda questions: functools.reduce(QuestionQueue.add, questions, QuestionQueue())
)
memories = st.lists(st.builds(Dream[str], st.text(max_size=5), shares), max_size=5).map(
    lambda dreams: DreamMemory(tuple(dreams))
)
minds = st.builds(
    Mind,
    exposure=counts,
    learned_weight=shares,
    confidences=histories(shares),
    temperament=st.builds(Temperament, scores, histories(scores)),
    pressure=st.builds(CuriosityPressure, shares),
    questions=queues,
    dream_memory=memories,
    dreamt_at=scores,
    fresh_answers=counts,
    dreams=counts,
    nights=counts,
    has_woken=st.booleans(),
    asleep=st.booleans(),
)


def answer(mind: Mind, confidence: float = 0.6, unseen: bool = True, **knobs: Any) -> Mind:
    return mind.answered(
        confidence,
        unseen=unseen,
        capacity=CAPACITY,
        knobs=ControlsConfig(**knobs),
        training=TRAINING,
    )


def sleep(mind: Mind, question: str = "") -> Mind:
    return mind.fell_asleep().slept(question, capacity=CAPACITY, training=TRAINING)


# Answers


def test_an_answer_touches_all_that_lives_by_day() -> None:
    after = answer(Mind())
    assert after.exposure == 2
    assert after.confidences.values == (0.6,)
    assert after.temperament.score == pytest.approx(0.075)
    assert after.pressure.value == pytest.approx(0.1 * 0.075 + 0.05 * 0.4)
    assert after.fresh_answers == 1
    assert (after.nights, after.dreams, after.influence(KNOBS)) == (0, 0, 0)


def test_a_prompt_it_knows_gives_no_exposure() -> None:
    assert answer(Mind(exposure=5), unseen=False).exposure == 5


def test_an_eager_mind_takes_in_more() -> None:
    eager = Mind(temperament=Temperament(0.6))
    assert answer(eager).exposure == 3
    assert answer(eager, enable_temperament=False).exposure == 2


def test_without_a_temperament_it_has_none_and_keeps_none() -> None:
    mind = Mind(temperament=Temperament(0.4, History((0.4,))))
    after = answer(mind, enable_temperament=False)
    assert after.temperament == mind.temperament
    assert after.score(ControlsConfig(enable_temperament=False)) == 0
    assert after.score(KNOBS) == 0.4
    assert after.pressure.value == pytest.approx(0.05 * 0.4)


def test_confidence_that_is_not_tracked_is_not_known() -> None:
    untracked = ControlsConfig(enable_confidence_tracking=False)
    mind = answer(Mind(confidences=History((0.9,))), 0.1, enable_confidence_tracking=False)
    assert mind.confidences.values == (0.9,)
    assert mind.confidence(untracked) is None
    assert mind.confidence(KNOBS) == 0.9
    assert mind.temperament.score == pytest.approx(0.05)


def test_the_history_has_the_length_that_is_set() -> None:
    mind = Mind()
    for _ in range(9):
        mind = answer(mind, confidence_history_maxlen=7)
    assert len(mind.confidences) == 7


def test_age_is_that_before_the_answer() -> None:
    newborn, old = answer(Mind(), 0.5), answer(Mind(exposure=1000), 0.5)
    assert newborn.temperament.score == pytest.approx(0.05)
    assert old.temperament.score == pytest.approx(-0.05)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan])
def test_an_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence .* is not allowed: give 0 to 1"):
        answer(Mind(), confidence)


@given(mind=minds, confidence=shares, unseen=st.booleans(), eager=st.integers(0, 9))
def test_an_answer_never_takes_exposure(
    mind: Mind, confidence: float, unseen: bool, eager: int
) -> None:
    after = mind.answered(
        confidence,
        unseen=unseen,
        capacity=CAPACITY,
        knobs=KNOBS,
        training=TrainingConfig(exposure_gain_eager=eager),
    )
    gained = after.exposure - mind.exposure
    assert gained == (eager if mind.temperament.score > 0.5 else 2) * unseen


# Dreams


SWINGING = History((0.1, 0.9, 0.1, 0.9, 0.9))


def test_one_answer_starts_one_dream() -> None:
    mind = Mind(confidences=SWINGING, fresh_answers=1)
    assert mind.dream_reason(KNOBS) == "swing"
    dreamt = mind.dreamt("a", [], KNOBS)
    assert dreamt.dream_reason(KNOBS) is None
    assert answer(dreamt, 0.1).dream_reason(KNOBS) == "swing"


def test_a_dream_leaves_a_memory_and_questions() -> None:
    mind = Mind(temperament=Temperament(0.3)).dreamt("a", ["why?", "Why?", "how?"], KNOBS)
    mind = mind.dreamt("b", ["why?"], KNOBS)
    assert [dream.content for dream in mind.dream_memory.dreams] == ["a", "b"]
    assert mind.questions.questions == ("why?", "how?")
    assert (mind.dreams, mind.dreamt_at) == (2, 0.3)


def test_what_is_off_starts_no_dream() -> None:
    swinging = Mind(confidences=SWINGING, fresh_answers=1)
    assert swinging.dream_reason(ControlsConfig(enable_confidence_tracking=False)) is None
    shifted = Mind(confidences=History((0.6,) * 5), temperament=Temperament(0.4), fresh_answers=1)
    assert shifted.dream_reason(KNOBS) == "shift"
    assert shifted.dream_reason(ControlsConfig(enable_temperament=False)) is None


# Nights


def test_a_newborn_has_no_influence_until_its_first_night() -> None:
    mind = answer(Mind())
    assert mind.influence(KNOBS) == 0
    slept = sleep(mind, "why?")
    assert slept.influence(KNOBS) == life_weight(2 / CAPACITY, TRAINING) > 0.07
    assert (slept.nights, slept.asleep, slept.questions.questions) == (1, False, ("why?",))


def test_the_day_leaves_the_influence_to_the_night() -> None:
    mind = sleep(answer(Mind()))
    assert answer(mind).influence(KNOBS) == mind.influence(KNOBS)
    assert sleep(answer(mind)).influence(KNOBS) > mind.influence(KNOBS)


def test_without_weighting_the_users_weights_hold_as_they_are() -> None:
    free = ControlsConfig(enable_lifecycle_weighting=False)
    assert [mind.influence(free) for mind in (Mind(), sleep(Mind(exposure=500)))] == [1, 1]


def test_a_night_that_fails_teaches_nothing() -> None:
    mind = Mind(exposure=500, has_woken=True)
    assert mind.fell_asleep().woke() == mind


# Waking and asking


def test_it_begins_as_the_knobs_say() -> None:
    assert Mind.born(KNOBS) == Mind()
    begun = Mind.born(ControlsConfig(has_woken=True, is_sleeping=True))
    assert (begun.has_woken, begun.asleep) == (True, True)


def test_waking_is_remembered() -> None:
    assert Mind(asleep=True).woke() == Mind(has_woken=True)


def test_curiosity_builds_up_erupts_and_asks() -> None:
    mind = Mind().waited(40)
    assert mind.pressure.value == pytest.approx(0.8)
    mind = mind.erupted("why?")
    assert mind.pressure.value == pytest.approx(0.5)
    question, mind = mind.asked()
    assert question == "why?"
    assert mind.asked() == (None, mind)


def test_an_eruption_without_a_question_is_none_the_less_a_relief() -> None:
    assert Mind(pressure=CuriosityPressure(0.8)).erupted("").questions == QuestionQueue()


@given(mind=minds)
def test_what_happens_makes_a_new_mind(mind: Mind) -> None:
    before = mind.to_json()
    answer(mind).dreamt("a", ["b"], KNOBS)
    sleep(mind, "c").woke().waited(3).erupted("d").asked()
    assert mind.to_json() == before


# On paper


@given(mind=minds)
def test_what_is_written_is_read_again(mind: Mind) -> None:
    text = json.dumps(mind.to_json(), allow_nan=False)
    assert Mind.from_json(mind.to_json()) == mind
    assert Mind.from_json(json.loads(text)) == mind


@given(mind=minds, data=st.data())
def test_no_field_can_be_missing(mind: Mind, data: st.DataObject) -> None:
    document = mind.to_json()
    del document[data.draw(st.sampled_from(sorted(document)))]
    with pytest.raises(ValueError, match=r"missing|version None is not known"):
        Mind.from_json(document)


@given(
    field=st.sampled_from(sorted(Mind().to_json())),
    value=st.none() | st.text(max_size=3) | st.just([]) | st.just(-2) | st.just(math.nan),
)
def test_nonsense_is_a_value_error_of_one_line(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^mind.*{field}") as refused:
        Mind.from_json(Mind().to_json() | {field: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "mind: NoneType is not allowed: give an object"),
        ([], "mind: list is not allowed"),
        ({}, "mind: version None is not known, only 1"),
        ({"version": VERSION + 1}, "mind: version 2 is not known, only 1: update SOVL"),
        ({"version": True}, "mind: version True is not known"),
        ({"soul": 1}, "mind.soul: Unexpected keyword argument"),
        ({"exposure": "3"}, "mind.exposure: Input should be a valid integer"),
        ({"exposure": -3}, "mind: exposure -3 is not allowed: give 0 or more"),
        ({"nights": 1.5}, "mind.nights: Input should be a valid integer"),
        ({"asleep": 1}, "mind.asleep: Input should be a valid boolean"),
        ({"learned_weight": 2}, "mind: learned_weight 2.0 is not allowed: give 0 to 1"),
        ({"dreamt_at": -2}, "mind: dreamt_at -2.0 is not allowed: give -1 to 1"),
        ({"pressure": {}}, "mind.pressure.value: missing"),
        ({"pressure": {"value": 3}}, "mind.pressure: pressure 3.0 is not allowed"),
        (
            {"confidences": {"values": [0.5, 2.0], "maxlen": 5}},
            "mind: confidences 2.0 is not allowed",
        ),
        (
            {"confidences": {"values": [0.1, 0.2, 0.3], "maxlen": 2}},
            "mind.confidences.values: [0.1, 0.2, 0.3] is not what was written",
        ),
        (
            {"dream_memory": {"dreams": [{"content": "a"}]}},
            "mind.dream_memory.dreams.0.weight: missing",
        ),
        (
            {"questions": {"questions": ["a", "A"], "maxlen": 10}},
            "mind.questions: give at most 10 questions",
        ),
        ({"questions": {1}}, "mind: not plain JSON"),
    ],
)
def test_what_is_refused(document: Any, message: str) -> None:
    if isinstance(document, dict) and "version" not in document and document:
        document = Mind().to_json() | document
    with pytest.raises(ValueError) as refused:
        Mind.from_json(document)
    assert str(refused.value).startswith(message)
