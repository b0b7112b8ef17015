"""What the model sees of a conversation."""

from agents.generator.prompt import with_question
from sovl_daemon.engine.text.message import Message


def test_a_question_of_its_own_belongs_to_the_answer_before_it() -> None:
    said = [Message("user", "Hi!"), Message("assistant", "Hello.")]
    assert with_question(said, "Who are you?") == [
        Message("user", "Hi!"),
        Message("assistant", "Hello.\nWho are you?"),
    ]


def test_a_question_may_begin_a_conversation() -> None:
    system = [Message("system", "Be kind.")]
    assert with_question(system, "Who are you?") == [*system, Message("assistant", "Who are you?")]


def test_without_a_question_nothing_is_added() -> None:
    said = [Message("user", "Hi!"), Message("assistant", "Hello.")]
    assert with_question(said, None) == said
