from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.text.text_stream import AnswerText, TextStream
from tests.unit.engine_tiny import byte_fallback_tokenizer, byte_level_tokenizer


@cache
def tokenizer(kind: str) -> ChatTokenizer:
    made = byte_level_tokenizer() if kind == "bytes" else byte_fallback_tokenizer()
    return ChatTokenizer(made)


@cache
def size(kind: str) -> int:
    return len(byte_level_tokenizer() if kind == "bytes" else byte_fallback_tokenizer())


def streamed(kind: str, ids: Sequence[int]) -> list[str]:
    stream = TextStream(tokenizer(kind))
    return [*(stream.push(id_) for id_ in ids), stream.finish()]


KINDS = st.sampled_from(["bytes", "fallback"])
LETTERS = "hello wテ日本語🦊👩\N{ZERO WIDTH JOINER}👧é \n"
TEXTS = st.text(st.one_of(st.sampled_from(LETTERS), st.characters(codec="utf-8")))


@given(kind=KINDS, text=TEXTS)
@settings(max_examples=400)
def test_pieces_join_to_the_whole_text(kind: str, text: str) -> None:
    chat = tokenizer(kind)
    ids = chat.encode_text(text)
    pieces = streamed(kind, ids)
    assert "".join(pieces) == chat.decode(ids)
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(kind=KINDS, data=st.data())
@settings(max_examples=400)
def test_pieces_join_to_the_whole_for_any_tokens(kind: str, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, size(kind) - 1), max_size=40))
    joined, whole = "".join(streamed(kind, ids)), tokenizer(kind).decode(ids)
    # Byte fallback takes back valid characters when an invalid byte follows; a stream cannot.
    damaged = kind == "fallback" and "\N{REPLACEMENT CHARACTER}" in whole
    assert joined == whole or (damaged and "\N{REPLACEMENT CHARACTER}" in joined)


def test_half_a_character_is_held_until_it_is_whole() -> None:
    ids = tokenizer("bytes").encode_text("語👍")
    pieces = streamed("bytes", ids)
    assert len(ids) > 2
    assert [piece for piece in pieces if piece] == ["語", "👍"]


def test_an_answer_cut_inside_a_character_shows_it() -> None:
    ids = tokenizer("bytes").encode_text("👍")[:-1]
    assert streamed("bytes", ids)[-1] == "\N{REPLACEMENT CHARACTER}"


class Letters:
    """Every token is one character."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def answered(text: str, *, stop: str = "\nUser:", strip: bool = False) -> tuple[list[str], bool]:
    answer = AnswerText(Letters(), stop_texts=(stop,) if stop else (), strip_start=strip)
    pieces = []
    for letter in text:
        pieces.append(answer.push(ord(letter)))
        if answer.stopped:
            break
    return [*pieces, answer.finish()], answer.stopped


def test_an_answer_ends_before_the_stop_text() -> None:
    pieces, stopped = answered("yes\nUser: and?")
    assert ("".join(pieces), stopped) == ("yes", True)


@given(text=st.text("\nUser: x", max_size=30))
@settings(max_examples=300)
def test_nothing_is_lost_without_a_stop_text(text: str) -> None:
    pieces, stopped = answered(text)
    assert "".join(pieces) == text.partition("\nUser:")[0]
    assert stopped == ("\nUser:" in text)


def test_only_a_possible_stop_text_is_held_back() -> None:
    assert answered("a\nUb")[0] == ["a", "", "", "\nUb", ""]


@pytest.mark.parametrize(("strip", "expected"), [(True, "a b"), (False, " \n a b")])
def test_space_before_the_first_word(strip: bool, expected: str) -> None:
    assert "".join(answered(" \n a b", strip=strip)[0]) == expected
