"""How alike texts are: a measure, and one that people would agree with."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.mind.similarity import (
    MAX_CHARACTERS,
    similarities,
    similarity,
)

texts = st.text() | st.text("ab c", max_size=30)


@given(texts, texts)
def test_it_is_symmetric_and_between_0_and_1(one: str, other: str) -> None:
    assert similarity(one, other) == similarity(other, one)
    assert 0 <= similarity(one, other) <= 1


@given(texts)
def test_a_text_is_the_same_as_itself(text: str) -> None:
    assert similarity(text, text) == 1
    assert similarity(text, f"  {text.swapcase().swapcase()}\n") >= 0.0


@given(texts)
def test_a_blank_text_is_like_blank_ones_alone(text: str) -> None:
    assert similarity("", text) == similarity(" \n", text) == float(not text.strip())


@given(texts, st.lists(texts))
def test_each_of_several_is_compared_by_itself(text: str, others: list[str]) -> None:
    assert similarities(text, others) == [similarity(text, other) for other in others]


def test_case_width_and_spacing_do_not_matter() -> None:
    assert similarity("Hello  WORLD", "hello\nworld") == 1
    assert similarity("\N{FULLWIDTH LATIN SMALL LETTER F}ull width", "full width") == 1
    assert similarity("STRASSE", "straße") == 1


@pytest.mark.parametrize(
    ("text", "nearer", "further"),
    [
        ("What is the capital of France?", "Tell me France's capital.", "What is the time?"),
        ("How do I boil an egg?", "boiling eggs, how long?", "How do I tie a knot?"),
        ("dreaming of rivers", "a dream about a river", "thinking of nothing"),
        ("Why is the sky blue?", "blue skies, why?", "Why is the soup cold?"),
        ("今日の天気はどうですか", "明日の天気は", "好きな本は何ですか"),
    ],
)
def test_the_topic_counts_more_than_the_grammar(text: str, nearer: str, further: str) -> None:
    assert similarity(text, nearer) > similarity(text, further)


def test_texts_with_nothing_in_common_are_as_far_apart_as_can_be() -> None:
    assert similarity("cats purr", "dogs bite") == 0


def test_saying_a_word_often_does_not_drown_the_others() -> None:
    once = similarity("the river sleeps", "the river")
    often = similarity("the river sleeps", "the river river river river river")
    assert once > often > once / 2


def test_what_comes_after_the_limit_has_no_say() -> None:
    start = "word " * (MAX_CHARACTERS // 5) + " " * 5
    assert similarity(start + "dogs", start + "cats") == 1
    assert similarity(start[:2000] + "dogs", start[:2000] + "cats") < 1


def test_it_is_the_same_in_every_process() -> None:
    script = (
        "from sovl_daemon.mind.similarity import similarity\n"
        "print(repr(similarity('the moon and the tides', 'tides come from the moon, they say')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
