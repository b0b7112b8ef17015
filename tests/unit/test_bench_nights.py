"""What the benchmarks of learning count: facts, answers, and what is left of earlier nights."""

import pytest

from experiments.learn_exam import bare
from experiments.learn_facts import invent, invent_nights
from experiments.nights import backward_transfer, rows_of


def test_backward_transfer_is_the_mean_change_since_each_night() -> None:
    matrix = [[1.0], [0.8, 0.9], [0.7, 1.0, 0.5]]
    assert backward_transfer(matrix) == pytest.approx((-0.3 + 0.1) / 2)


def test_nights_have_facts_of_their_own() -> None:
    nights = invent_nights(5, 10)
    subjects = [fact.subjects[0] for facts in nights for fact in facts]
    assert [len(facts) for facts in nights] == [10] * 5
    assert len(set(subjects)) == 50
    assert nights[0] == invent(10, 0)
    assert invent_nights(5, 10) == nights


def test_rows_leave_room_for_nights_to_come() -> None:
    figures = dict.fromkeys(
        ("ppl_increase", "exam_recall", "exam_drift", "kept", "lessons", "steps"), 0.0
    ) | {"planning_s": 1.0, "night_s": 2.0}
    first, second = rows_of([{"known": [1.0], **figures}, {"known": [0.5, 0.75], **figures}])
    assert (first["facts_of_1"], first["facts_of_2"]) == (1.0, None)
    assert (second["facts_of_1"], second["facts_of_2"]) == (0.5, 0.75)
    assert list(first) == list(second)


def test_answers_are_compared_without_articles_points_and_capitals() -> None:
    assert bare("The Apple-strudel.") == bare("applestrudel")
    assert bare("Mivek") != bare("Mivekta")
