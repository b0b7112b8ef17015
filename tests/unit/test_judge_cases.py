"""Simulated questions: repeatable, true, and with their evidence where they say it is."""

import re

import pytest

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import outlook
from sovl_daemon.control.recommendation import recommend
from sovl_daemon.judge.typical import typical_key, typical_prompts
from sovl_daemon.laboratory.judge.cases import UNSEEN_TASKS, draw, fitted_tasks, log_lines, tasks
from sovl_daemon.laboratory.judge.lessons import exam, lessons
from sovl_daemon.laboratory.judge.loads import HELD_OUT
from sovl_daemon.laboratory.judge.simulators import SIMULATORS
from tests.control import readings, task


@pytest.mark.parametrize("name", SIMULATORS)
def test_the_same_arguments_draw_the_same_cases(name: str) -> None:
    first, second = draw(name, "ramp", 6), draw(name, "ramp", 6)
    assert [case.prompt for case in first] == [case.prompt for case in second]
    assert {case.truth for case in first} == {True, False}
    assert all(case.task.name == name for case in first)
    assert [case.prompt for case in draw(name, "ramp", 6, seed=1)] != [
        case.prompt for case in first
    ]


@pytest.mark.parametrize("name", ["memory", "battery", "boiler", "stream"])
def test_where_only_a_line_tells_the_numbers_stand_still(name: str) -> None:
    cases = draw(name, "edge", 8, evidence="lines")
    worse = [re.escape(line).replace(r"\{n\}", r"\d+") for line in log_lines()[name]["worse"]]
    for case in cases:
        assert case.lines
        told = any(re.fullmatch(each, line) for each in worse for line in case.lines)
        assert told is case.truth
        for limit in case.task.limits:
            assert not re.search("seconds|a minute", outlook(case.readings[limit.metric], limit))


def test_lessons_and_exam_share_neither_tasks_nor_families_nor_lines() -> None:
    taught, asked = lessons(0.05), exam(0.05)
    assert not {case.task.name for case in taught} & set(UNSEEN_TASKS)
    assert not {case.family for case in taught} & set(HELD_OUT)
    assert {case.task.name for case in taught} == set(fitted_tasks())
    assert {case.task.name for case in asked["unseen task"]} == set(UNSEEN_TASKS)
    assert {case.family for case in asked["held-out families"]} == set(HELD_OUT)
    known = {case.prompt.text for case in taught}
    assert not any(case.prompt.text in known for cases in asked.values() for case in cases)


def test_no_line_stands_twice() -> None:
    lines = [line for table in log_lines().values() for each in table.values() for line in each]
    assert len(lines) == len(set(lines))


def test_every_fitted_task_has_lines_that_no_probe_is_fitted_on() -> None:
    tables = log_lines()
    assert set(tables) == {"", *SIMULATORS}
    assert set(tables[""]) == {"idle", "new_idle"}
    for name in fitted_tasks():
        assert set(tables[name]) == {"worse", "better", "new_worse", "new_better"}
    for name in UNSEEN_TASKS:  # all its lines are new
        assert set(tables[name]) == {"worse", "better"}


@pytest.mark.parametrize("level", ["warning: ", "error: ", "info: ", ""])
def test_the_level_of_a_line_does_not_tell_where_it_goes(level: str) -> None:
    for says in ("worse", "better", "new_worse", "new_better"):
        for name in fitted_tasks():
            lines = log_lines()[name][says]
            levels = {(re.match(r"(?:warning|error|info): |", line) or [""])[0] for line in lines}
            assert level in levels, (name, says)
    assert any(line.startswith(level) for line in log_lines()[""]["idle"])


@pytest.mark.parametrize("name", UNSEEN_TASKS)
def test_an_unseen_task_goes_either_way_in_numbers_and_in_lines(name: str) -> None:
    for evidence in ("numbers", "lines"):
        assert {case.truth for case in draw(name, "edge", 6, evidence=evidence)} == {True, False}
    lows = [limit.high_is_bad for limit in tasks()[name].limits]
    assert all(lows) is (name != "stream")


def test_typical_prompts_are_of_the_tasks_declaration() -> None:
    for each in tasks().values():
        prompts = typical_prompts(each)
        assert prompts == typical_prompts(each)
        assert all(prompt.metrics.count("\n") == len(each.metrics) for prompt in prompts)
        assert all(prompt.evidence.count("\n") in (2, 3) for prompt in prompts)
    assert len({typical_key(each) for each in tasks().values()}) == len(tasks())


@pytest.mark.parametrize(
    ("value", "per_min", "words"),
    [
        (91.5, 6, "almost at its limit, there in seconds"),
        (90, 6, "almost at its limit, there in twenty seconds"),
        (88.5, 6, "very near its limit, there in half a minute"),
        (86, 6, "very near its limit, there within a minute"),
        (82, 6, "near its limit, there in a minute and a half"),
        (80, 2, "near its limit, there in some minutes"),
        (75, 1, "not far from its limit"),
        (50, 1, "far from its limit"),
        (87, 0, "very near its limit"),
        (87, -3, "very near its limit, moving away from it"),
        (95, 1, "at its limit"),
    ],
)
def test_the_outlook_in_words(value: float, per_min: float, words: str) -> None:
    high = Limit(metric="memory.percent", hard=92, grey=76)
    assert outlook(Reading("memory.percent", value, 0, per_min), high) == words
    low = Limit(metric="free", hard=8, grey=24, high_is_bad=False)
    assert outlook(Reading("free", 100 - value, 0, -per_min), low) == words


def test_without_a_grey_zone_near_is_told_by_what_lies_below() -> None:
    reading = Reading("memory.percent", 70, 0)
    assert outlook(reading, Limit(metric="memory.percent", hard=92)) == "very near its limit"
    assert outlook(reading, Limit(metric="memory.percent", hard=92, low=60)) == "near its limit"
    assert outlook(reading, Limit(metric="memory.percent", low=60)) == ""


def test_the_cheapest_action_that_is_enough_is_recommended() -> None:
    soon = readings(90, per_min=6)  # 96 in a minute: 4 too far
    first = recommend(task(), soon)
    assert (first.action, first.sure > 0.5) == ("shrink", True)
    assert "it lowers memory.percent by 5" in first.why
    assert recommend(task(), soon, ["shrink"]).action == "quantize"
    worse = recommend(task(), readings(90, per_min=40))
    assert worse.action == "quantize"
    assert worse.sure < 0.5
    calm = recommend(task(), readings(80))
    assert (calm.action, calm.sure) == ("clear", 0.5)
    assert recommend(task(), soon, ["clear", "shrink", "quantize"]).action == ""
