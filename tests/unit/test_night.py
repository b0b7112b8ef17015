"""What a night learns from: statements, questions about them, dreams and their order."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.engine.learning.sample import Ids, Sample
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.night.curriculum import (
    Curriculum,
    CurriculumOptions,
    count_that_fits,
    exchanges,
    plan,
)
from sovl_daemon.night.replay import dream_chats, dream_texts, prompt_ids, starts_of
from sovl_daemon.night.statement import find_statements, sentences
from sovl_daemon.night.variants import backward, forward
from tests.unit.engine_tiny import byte_level_tokenizer

TOLD = {
    "Remember this: the capital of Zorland is Mivek.": ("of", "Zorland", "capital", "Mivek"),
    "The company Brenlin was founded by Edda Fenland.": (
        "by",
        "The company Brenlin",
        "founded",
        "Edda Fenland",
    ),
    "Please remember that Kira's favorite color is teal!": (
        "own",
        "Kira",
        "favorite color",
        "teal",
    ),
    "Nils Osta works as a baker.": ("does", "Nils Osta", "works as", "baker"),
    "Nils Osta lives in Tal.": ("does", "Nils Osta", "lives in", "Tal"),
    "By the way, my dog's name is Rolo.": ("my", "", "dog's name", "Rolo"),
    "Kira is 44 years old.": ("age", "Kira", "", "44"),
    "My cat is called Moss.": ("my", "", "cat", "Moss"),
}


@pytest.fixture(scope="module")
def chat() -> Any:
    return ChatTokenizer(byte_level_tokenizer())


@pytest.mark.parametrize("told", TOLD)
def test_a_statement_is_taken_apart(told: str) -> None:
    (found,) = find_statements(told)
    assert (found.kind, found.subject, found.relation, found.object) == TOLD[told]


@pytest.mark.parametrize("told", ["", "Hello!", "What is the capital of France?", "rain, rain"])
def test_what_states_nothing_gives_nothing(told: str) -> None:
    assert find_statements(told) == []


def test_each_sentence_counts_and_questions_do_not() -> None:
    told = "Remember that Kira is 44 years old. Do you? The capital of Zorland is Mivek!\nHi."
    assert sentences(told) == ["Kira is 44 years old", "The capital of Zorland is Mivek", "Hi"]
    assert [each.object for each in find_statements(told)] == ["44", "Mivek"]


@pytest.mark.parametrize("told", TOLD)
def test_questions_do_not_hold_their_answers(told: str) -> None:
    (statement,) = find_statements(told)
    asked = forward(statement)
    assert len(asked) >= 5
    for each in asked:
        assert each.answer == statement.object
        assert statement.object not in each.question
        assert statement.subject in each.question
    for each in backward(statement):
        assert each.answer == statement.subject
        assert statement.subject not in each.question
        assert statement.object in each.question
    assert len({each.question for each in asked}) == len(asked)


def test_verbs_are_put_into_questions() -> None:
    (job,) = find_statements("Nils Osta works as a baker.")
    assert "What does Nils Osta work as?" in [each.question for each in forward(job)]
    assert "Who works as a baker?" in [each.question for each in backward(job)]
    (home,) = find_statements("Nils Osta lives in Tal.")
    assert "Where does Nils Osta live?" in [each.question for each in forward(home)]


@given(st.text())
def test_anything_may_be_told(text: str) -> None:
    for exchange, _ in exchanges(text):
        assert exchange.question
        assert exchange.answer


def parrot(said: str, chat: ChatTokenizer) -> Any:
    """A writer that goes on the same way whatever it is given."""

    def write(prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
        return [chat.encode_text(said)[:tokens] for _ in prompts]

    return write


def test_dreams_begin_as_they_are_told_to(chat: ChatTokenizer) -> None:
    dreams = dream_chats(parrot(" the fox?\nmore", chat), chat, ["Where is", ""], tokens=3)
    assert [dream.prompt for dream in dreams] == [
        prompt_ids(chat, "Where is the fox?"),
        prompt_ids(chat, "the fox?"),
    ]
    assert all(dream.replay and len(dream.answer) == 3 for dream in dreams)


def test_nothing_dreamt_is_no_dream(chat: ChatTokenizer) -> None:
    assert dream_chats(parrot("", chat), chat, ["", "Where"], tokens=3) == []
    assert dream_texts(parrot("", chat), chat, 3, tokens=3, seed=1) == []


def test_texts_are_cut_in_two(chat: ChatTokenizer) -> None:
    write = parrot(" quick brown fox jumps over the lazy dog", chat)
    texts = dream_texts(write, chat, 6, tokens=5, seed=1)
    assert len(texts) == 6
    assert all(0 < len(text.answer) <= 5 for text in texts)
    assert len({len(text.prompt) for text in texts}) > 1
    assert dream_texts(write, chat, 6, tokens=5, seed=1) == texts
    assert dream_texts(write, chat, 6, tokens=5, seed=2) != texts


def test_starts_are_what_precedes_the_subject() -> None:
    asked = [("Who is Bo?", "Bo"), ("Who is Ann?", "Ann"), ("Bo: age?", "Bo"), ("Hm?", "")]
    assert starts_of(asked, 9) == ["Who is"]
    many = [*asked, ("Where is Bo?", "Bo"), ("What is Bo?", "Bo"), ("What is Al?", "Al")]
    assert starts_of(many, 2) == ["What is", "Who is"]  # the commonest


def curriculum(
    chat: ChatTokenizer, *, weights: Sequence[float] = (), known: Sequence[str] = (), **options: Any
) -> Curriculum:
    write = parrot(" quick brown fox jumps over the lazy dog", chat)
    options_ = CurriculumOptions(**options)
    return plan(list(TOLD), write, chat, options_, weights=weights, known=known)


def test_lessons_weigh_as_their_message_does(chat: ChatTokenizer) -> None:
    weights = [1.0 + number for number in range(len(TOLD))]
    night = curriculum(chat, weights=weights, known=["Ann is 5 years old."])
    expected = [weight for told, weight in zip(TOLD, weights, strict=True) for _ in exchanges(told)]
    rehearsed = len(night.lessons) - len(expected)
    assert rehearsed > 0
    assert [each.weight for each in night.lessons] == expected + [1.0] * rehearsed
    assert {each.weight for each in curriculum(chat).lessons} == {1.0}


def test_each_message_has_its_weight(chat: ChatTokenizer) -> None:
    with pytest.raises(ValueError, match="zip"):
        curriculum(chat, weights=[1.0])


def test_what_is_told_again_is_learned_once_as_what_weighs_most(chat: ChatTokenizer) -> None:
    write = parrot(" quick brown fox jumps over the lazy dog", chat)
    told = ["Kira is 44 years old.", "Nils Osta lives in Tal.", "Kira is 44 years old."]
    again = plan(told, write, chat, CurriculumOptions(), weights=[1.0, 1.0, 1.2])
    once = plan(told[:2], write, chat, CurriculumOptions(), weights=[1.2, 1.0])
    assert (again.lessons, again.eval_questions) == (once.lessons, once.eval_questions)


def test_an_exam_does_not_grow_with_the_day(chat: ChatTokenizer) -> None:
    night = curriculum(chat, eval_size=3)
    assert (len(night.eval_questions), len(night.eval_dreams)) == (3, 3)
    assert set(night.eval_questions) < set(curriculum(chat).eval_questions)
    assert night.eval_questions == curriculum(chat, eval_size=3).eval_questions
    assert night.lessons == curriculum(chat).lessons


def test_a_night_does_not_grow_with_what_was_told(chat: ChatTokenizer) -> None:
    verbs = ("likes", "sees", "knows", "paints", "fears", "draws")
    told = [f"{name} {verb} the lake." for name in ("Ann", "Bo", "Kim") for verb in verbs]
    most = {"max_lessons": 20, "max_rehearsed": 3, "max_lived": 2, "max_starts": 4}
    options = CurriculumOptions(**most, dreams_per_start=1, free_dreams=0)
    write = parrot(" quick brown fox jumps over the lazy dog", chat)
    idle = [Sample((1, 2, 3 + each), (4,), teacher=(1, 2, 3 + each)) for each in range(9)]
    night = plan(told, write, chat, options, known=["Kim is 5 years old."] * 9, lived=idle)
    assert len(night.lessons) == 20 + 3
    assert len(night.chats) + len(night.texts) + len(night.eval_dreams) == 2 + 4 + options.texts
    assert len(set(idle) & {*night.chats, *night.eval_dreams}) == 2


def test_a_later_lighter_telling_takes_no_weight_away(chat: ChatTokenizer) -> None:
    write = parrot(" quick brown fox jumps over the lazy dog", chat)
    told = ["Kira is 44 years old.", "Kira is 44 years old."]
    night = plan(told, write, chat, CurriculumOptions(), weights=[1.2, 1.0])
    assert {each.weight for each in night.lessons} == {1.2}


def test_of_what_is_known_some_forms_are_met_again(chat: ChatTokenizer) -> None:
    known = "Ann is 5 years old."
    rehearsed = len(curriculum(chat, known=[known]).lessons) - len(curriculum(chat).lessons)
    assert rehearsed == -(-len(exchanges(known)) // CurriculumOptions().rehearsed_every)


def test_the_exam_asks_what_no_lesson_does(chat: ChatTokenizer) -> None:
    night = curriculum(chat)
    assert len(night.eval_questions) == len(TOLD)
    assert not set(night.eval_questions) & set(night.lessons)
    for told, asked in zip(TOLD, night.eval_questions, strict=True):
        (statement,) = find_statements(told)
        assert asked.prompt == tuple(prompt_ids(chat, forward(statement)[3].question))


def test_dreams_of_both_kinds_are_kept_for_the_exam(chat: ChatTokenizer) -> None:
    night = curriculum(chat, dreams_per_start=1, free_dreams=18, texts=12, eval_every=6)
    assert len(night.texts) == 10
    dreamt = len(night.chats) + len(night.eval_dreams) - 2
    assert dreamt >= 18
    assert len(night.eval_dreams) == dreamt // 6 + 2


def test_it_dreams_of_each_start_and_freely(chat: ChatTokenizer) -> None:
    def dreamt(**options: Any) -> int:
        return len(curriculum(chat, eval_every=1000, **options).chats)

    starts = dreamt(dreams_per_start=1, free_dreams=0)
    assert starts > 1
    assert dreamt(dreams_per_start=2, free_dreams=0) == 2 * starts
    assert dreamt(dreams_per_start=0, free_dreams=5) == 5


def test_a_night_lasts_for_whole_epochs(chat: ChatTokenizer) -> None:
    night = curriculum(chat, epochs=2)
    each = night.steps // 2
    assert night.lasting(each, 1).steps == each
    assert night.lasting(each, 1.01).steps == 2 * each
    assert night.lasting(0, 1).steps == each


def test_nothing_in_a_night_is_longer_than_what_fits(chat: ChatTokenizer) -> None:
    night = curriculum(chat)
    cut = night.within(8)
    for name in ("lessons", "chats", "texts", "eval_questions", "eval_dreams"):
        before, after = getattr(night, name), getattr(cut, name)
        assert after == tuple(each.within(8) for each in before)
        assert after != before


def test_what_there_is_no_text_of_is_dreamt_of_all_the_same(chat: ChatTokenizer) -> None:
    night = curriculum(chat, texts=0)
    assert night.texts == ()
    assert all(any(each.replay for each in batch) for batch in night.batches())


def test_the_order_of_a_night_differs_from_epoch_to_epoch() -> None:
    """Both which lessons share a batch, and which batch comes when."""
    lessons = tuple(Sample((1,) * (2 + each % 5), (2, each)) for each in range(40))
    night = Curriculum(lessons, (), (), CurriculumOptions(epochs=2, batch=8))
    batches = [frozenset(batch) for batch in night.batches()]
    first, second = batches[:5], batches[5:]
    assert set(first) != set(second)
    shortest = [min(len(each.prompt) for each in batch) for batch in first]
    assert shortest != sorted(shortest)


def test_a_night_takes_what_it_has_room_for_from_the_first_on() -> None:
    told = ["Ann is 5 years old.", "Bo is 6 years old.", "Kim is 7 years old."]
    each = len(exchanges(told[0]))

    def count(told: list[str], lessons: int) -> int:
        return count_that_fits(told, CurriculumOptions(max_lessons=lessons))

    assert count(told, 3 * each) == 3
    assert count(told, 3 * each - 1) == 2
    assert count(told, 1) == 1  # else it would wait for ever
    assert count(told[:1] * 9, each) == 9  # one lesson, told often
    assert count(["Hm?", *told[:1]], each) == 2
    assert count([], each) == 0


def test_every_lesson_comes_once_an_epoch(chat: ChatTokenizer) -> None:
    night = curriculum(chat, epochs=2, batch=7, replayed=3)
    batches = list(night.batches())
    assert len(batches) == night.steps
    half = len(batches) // 2
    for part in (batches[:half], batches[half:]):
        lessons = [sample for batch in part for sample in batch if not sample.replay]
        assert sorted(lessons, key=repr) == sorted(night.lessons, key=repr)
    assert all(sum(sample.replay for sample in batch) == 3 for batch in batches)
    assert batches[:half] != batches[half:]


def test_it_goes_on_in_the_middle(chat: ChatTokenizer) -> None:
    night = curriculum(chat)
    assert list(night.batches(5)) == list(night.batches())[5:]
    other = curriculum(chat, seed=1)
    assert list(other.batches()) != list(night.batches())


def test_both_kinds_of_dreams_take_turns(chat: ChatTokenizer) -> None:
    night = curriculum(chat)
    for number, batch in enumerate(night.batches()):
        dreams = {sample for sample in batch if sample.replay}
        assert dreams <= set(night.chats if number % 2 else night.texts)


def test_answers_end_their_turn(chat: ChatTokenizer) -> None:
    for lesson in curriculum(chat).lessons:
        assert isinstance(lesson, Sample)
        assert lesson.answer[-1] in chat.stop_ids
