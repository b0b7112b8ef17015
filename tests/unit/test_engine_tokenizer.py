from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sovl_daemon.engine.text.tokenizer import (
    ByteLevel,
    MarkedSpace,
    TokenizerAlphabet,
    byte_characters,
    token_bytes,
)
from tests.unit.engine_tiny import byte_fallback_tokenizer, byte_level_tokenizer

BYTE_LEVEL = byte_level_tokenizer()
BYTE_FALLBACK = byte_fallback_tokenizer()


def word_tokenizer() -> Any:
    words = {"[UNK]": 0, "hello": 1, "world": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def spelt(tokenizer: Any, ids: list[int]) -> bytes:
    """The bytes of `ids`, token by token."""
    alphabet = token_bytes(tokenizer)
    return b"".join(alphabet.read(tokenizer.convert_ids_to_tokens(id_)) for id_ in ids)


def test_the_bytes_have_the_characters_that_gpt2_gave_them() -> None:
    assert dict(enumerate(byte_characters())) == bytes_to_unicode()


@pytest.mark.parametrize(
    ("tokenizer", "kind"),
    [(BYTE_LEVEL, ByteLevel), (BYTE_FALLBACK, MarkedSpace), (word_tokenizer(), TokenizerAlphabet)],
    ids=["byte level", "byte fallback", "words"],
)
def test_the_alphabet_is_recognised(tokenizer: Any, kind: type) -> None:
    assert type(token_bytes(tokenizer)) is kind


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["level", "fallback"])
@given(data=st.binary(max_size=20))
def test_any_bytes_go_in_and_come_out(tokenizer: Any, data: bytes) -> None:
    assert spelt(tokenizer, token_bytes(tokenizer).write(data)) == data


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["level", "fallback"])
@given(text=st.text(max_size=20) | st.sampled_from([" he", "  ", "hello ", "\n\n", "日本語 テ"]))
def test_any_text_goes_in_and_comes_out(tokenizer: Any, text: str) -> None:
    data = text.encode(errors="replace")
    assert spelt(tokenizer, token_bytes(tokenizer).write(data)) == data


@given(text=st.text(alphabet="helo wdré 日本", max_size=20))
def test_tokens_of_a_text_spell_it(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    assert spelt(BYTE_LEVEL, ids) == text.encode()


def test_a_space_is_part_of_the_token_and_a_text_need_not_begin_with_one() -> None:
    alphabet = token_bytes(BYTE_FALLBACK)
    tokens = BYTE_FALLBACK.convert_ids_to_tokens(alphabet.write(b"he he"))
    assert tokens == ["he", "▁he"]
    assert alphabet.read("▁he") == b" he"


def test_other_alphabets_go_by_text() -> None:
    tokenizer = word_tokenizer()
    alphabet = token_bytes(tokenizer)
    assert alphabet.write(b"hello world \xff") == [1, 2, 0]
    assert alphabet.read("hello") == b"hello"


def test_bytes_that_a_vocabulary_lacks_have_no_token() -> None:
    model = models.BPE({"a": 0, "▁": 1}, [])
    assert MarkedSpace(model).write(b"\xff") == []
    assert ByteLevel(model).write(b"b") == []
    assert ByteLevel(model).write(b"ba") == [0]
