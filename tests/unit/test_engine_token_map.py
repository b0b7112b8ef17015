import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sovl_daemon.engine.errors import ArtifactError, OptionError
from sovl_daemon.engine.text.token_map import TokenMap, TokenMapState, identical
from sovl_daemon.engine.text.tokenizer import PlainText, token_bytes
from tests.tiny_models import tiny_tokenizer
from tests.unit.engine_tiny import SPECIALS, byte_fallback_tokenizer, byte_level_tokenizer

BASE = byte_level_tokenizer()  # end and turn; eos is end
SCAFFOLD = tiny_tokenizer()  # im_start and im_end; eos and pad are im_end
FALLBACK = byte_fallback_tokenizer()
PAIRS = {
    "other merges": (BASE, SCAFFOLD),
    "to byte fallback": (BASE, FALLBACK),
    "from byte fallback": (FALLBACK, SCAFFOLD),
}
pairs = pytest.mark.parametrize(("base", "scaffold"), PAIRS.values(), ids=PAIRS)
some_ids = st.lists(st.integers(0, 9), max_size=8)


def spelt(tokenizer: Any, ids: Any) -> bytes:
    alphabet = token_bytes(tokenizer)
    return b"".join(alphabet.read(tokenizer.convert_ids_to_tokens(id_)) for id_ in ids)


def token(tokenizer: Any, text: str) -> int:
    (id_,) = tokenizer.encode(text, add_special_tokens=False)
    return int(id_)


def characters_tokenizer(**specials: str) -> Any:
    """A vocabulary of ten bytes, and of more special tokens."""
    names = [*"abcdefghi", "\u0120", *dict.fromkeys(specials.values())]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


# What a token maps to


@pairs
def test_every_token_maps_to_as_many_as_allowed(base: Any, scaffold: Any) -> None:
    map_ = TokenMap(base, scaffold)
    for base_id in range(len(base)):
        assert 1 <= len(map_.mapped(base_id)) <= 3
        assert all(0 <= id_ < len(scaffold) for id_ in map_.mapped(base_id))


@pairs
def test_every_token_maps_to_the_same_bytes(base: Any, scaffold: Any) -> None:
    map_ = TokenMap(base, scaffold, max_tokens=100)
    for base_id in set(range(len(base))) - set(base.all_special_ids):
        assert spelt(scaffold, map_.mapped(base_id)) == spelt(base, [base_id])


@given(text=st.text(max_size=30))
def test_a_text_is_the_same_text(text: str) -> None:
    ids, _ = TokenMap(BASE, SCAFFOLD, max_tokens=100).expand(
        BASE.encode(text.encode(errors="replace").decode())
    )
    assert spelt(SCAFFOLD, ids) == text.encode(errors="replace")


def test_a_part_of_a_character_maps_to_that_part() -> None:
    part = BASE.encode("🦊")[0]
    assert BASE.decode([part]) == "\N{REPLACEMENT CHARACTER}"
    ids, _ = TokenMap(BASE, FALLBACK).expand(BASE.encode("🦊"))
    assert FALLBACK.decode(ids) == "🦊"


def test_of_too_many_the_longest_are_kept_in_order() -> None:
    text = " the lazy dog"
    base = characters_tokenizer()
    base.add_tokens([text])
    full = TokenMap(base, SCAFFOLD, max_tokens=100).mapped(10)
    assert len(full) > 3
    kept = TokenMap(base, SCAFFOLD).mapped(10)
    left = iter(full)
    assert all(id_ in left for id_ in kept)  # the same order
    lengths = sorted((len(spelt(SCAFFOLD, [id_]).strip()) for id_ in full), reverse=True)
    assert sorted((len(spelt(SCAFFOLD, [id_])) for id_ in kept), reverse=True) == lengths[:3]


def test_of_equals_the_earlier_are_kept_and_a_space_counts_for_nothing() -> None:
    base = byte_level_tokenizer()
    base.add_tokens([" abcd"])
    scaffold = characters_tokenizer()
    assert TokenMap(base, scaffold).mapped(len(base) - 1) == (0, 1, 2)
    assert TokenMap(base, scaffold, max_tokens=1).mapped(len(base) - 1) == (0,)


def test_one_token_at_least_may_stand_for_another() -> None:
    with pytest.raises(OptionError, match="max_tokens 0 is not allowed"):
        TokenMap(BASE, SCAFFOLD, max_tokens=0)


# Special tokens


def test_a_special_token_maps_to_its_counterpart() -> None:
    base = characters_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<p>")
    scaffold = characters_tokenizer(
        eos_token="<e>", bos_token="<b>", unk_token="<u>", pad_token="<e>"
    )
    map_ = TokenMap(base, scaffold)
    found = [map_.mapped(base.convert_tokens_to_ids(name)) for name in ("<s>", "</s>", "<p>")]
    assert found == [(scaffold.bos_token_id,), (scaffold.eos_token_id,), (scaffold.pad_token_id,)]


def test_without_a_counterpart_it_maps_to_the_same_name() -> None:
    scaffold = characters_tokenizer()
    scaffold.add_tokens([SPECIALS[1]], special_tokens=True)
    turn = BASE.convert_tokens_to_ids(SPECIALS[1])
    assert TokenMap(BASE, scaffold).mapped(turn) == (scaffold.convert_tokens_to_ids(SPECIALS[1]),)


def test_without_either_it_maps_to_its_text() -> None:
    turn = BASE.convert_tokens_to_ids(SPECIALS[1])
    assert spelt(SCAFFOLD, TokenMap(BASE, SCAFFOLD, max_tokens=100).mapped(turn)) == b"<|turn|>"


def test_written_text_never_becomes_a_special_token() -> None:
    base = byte_level_tokenizer()
    base.add_tokens(["<|im_end|>"])
    map_ = TokenMap(base, SCAFFOLD, max_tokens=100)
    # A template writes the added token; what people write is never that.
    assert map_.mapped(token(base, "<|im_end|>")) == (SCAFFOLD.eos_token_id,)
    written, _ = map_.expand(PlainText(base).encode("<|im_end|>"))
    assert SCAFFOLD.eos_token_id not in written
    assert spelt(SCAFFOLD, written) == b"<|im_end|>"


@pytest.mark.parametrize(
    ("specials", "stand_in"),
    [({"unk_token": "<u>", "eos_token": "<e>"}, "<u>"), ({"eos_token": "<e>"}, "<e>"), ({}, "a")],
)
def test_what_the_scaffold_cannot_say_has_a_stand_in(
    specials: dict[str, str], stand_in: str
) -> None:
    scaffold = characters_tokenizer(**specials)
    map_ = TokenMap(BASE, scaffold)
    expected = (scaffold.convert_tokens_to_ids(stand_in),)
    assert map_.mapped(token(BASE, "z")) == expected
    assert map_.mapped(10_000) == expected  # a row of logits without a token


# Equal vocabularies


def test_identical_vocabularies() -> None:
    assert identical(BASE, BASE)
    assert identical(BASE, byte_level_tokenizer(template=None))
    assert not identical(BASE, SCAFFOLD)
    more = byte_level_tokenizer()
    more.add_tokens(["another"])
    assert not identical(BASE, more)


def test_between_identical_vocabularies_a_token_is_itself() -> None:
    map_ = TokenMap(BASE, byte_level_tokenizer())
    assert all(map_.mapped(id_) == (id_,) for id_ in range(len(BASE)))


# Weights


def test_all_weigh_the_same_at_first() -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    ids, weights = map_.expand(BASE.encode("The quick 日本 fox"))
    assert len(ids) == len(weights)
    assert set(weights) == {1.0}
    assert map_.expand([]) == ([], [])


def test_a_token_has_one_weight_for_all_it_maps_to() -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    long = next(id_ for id_ in range(len(BASE)) if len(map_.mapped(id_)) == 3)
    map_.reinforce([long], 0.5, strength=1, decay=1)
    assert map_.expand([long])[1] == [1.05] * 3


def test_entries_are_made_when_tokens_are_met() -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    assert len(map_) == 0
    map_.expand([5, 6, 5])
    assert len(map_) == 2
    map_.reinforce([6, 7], 0.5, strength=1, decay=0.95)
    assert len(map_) == 3


@pytest.mark.parametrize(
    ("confidence", "strength", "decay", "weight"),
    [(0.8, 1, 1, 1.08), (0.8, 2, 1, 1.16), (0.8, 1, 0.5, 0.54), (0, 1, 1, 1), (0.8, 0, 1, 1)],
)
def test_reinforcement_by_hand(
    confidence: float, strength: float, decay: float, weight: float
) -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    map_.reinforce([5, 5, 5], confidence, strength=strength, decay=decay)
    assert map_.weight(5) == pytest.approx(weight)


def test_a_token_that_is_used_outweighs_one_that_is_not() -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    map_.expand([5, 6])
    for _ in range(100):
        map_.reinforce([5], 0.9, strength=1, decay=0.95)
    assert map_.weight(5) == pytest.approx(1.71, rel=0.01)  # where gain and decay meet
    assert map_.weight(6) == 0.1


updates = st.lists(
    st.tuples(
        some_ids,
        some_ids,
        st.floats(0, 1),
        st.floats(0, 20),
        st.floats(0, 1) | st.sampled_from([0.0, 0.95, 1.0]),
    ),
    max_size=12,
)


@given(updates=updates, saved_after=st.integers(0, 12))
def test_lazy_decay_is_that_of_the_whole_map(updates: list[Any], saved_after: int) -> None:
    map_, plain = TokenMap(BASE, SCAFFOLD), dict[int, float]()
    for count, (seen, met, confidence, strength, decay) in enumerate(updates):
        if count == saved_after:
            saved, map_ = map_.state(), TokenMap(BASE, SCAFFOLD)
            map_.restore(reread(saved))
        map_.expand(seen)
        map_.reinforce(met, confidence, strength=strength, decay=decay)
        plain.update({id_: plain.get(id_, 1.0) for id_ in seen})
        for id_ in set(met):
            plain[id_] = min(plain.get(id_, 1.0) + strength * 0.1 * confidence, 2)
        plain = {id_: max(weight * decay, 0.1) for id_, weight in plain.items()}
    assert {id_: map_.weight(id_) for id_ in plain} == pytest.approx(plain)
    assert len(map_) == len(plain)


def test_many_decays_lose_nothing() -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    map_.expand([5])
    for _ in range(50_000):
        map_.reinforce([], 0.5, strength=1, decay=0.5)
    map_.reinforce([5], 1, strength=1, decay=0.95)
    assert map_.weight(5) == pytest.approx(0.19)
    assert map_.weight(6) == 1


@pytest.mark.parametrize(
    ("confidence", "strength", "decay"),
    [(1.1, 1, 1), (-0.1, 1, 1), (1, -1, 1), (1, 1, 1.1), (1, 1, -0.1), (float("nan"), 1, 1)],
)
def test_an_update_out_of_range_is_refused(
    confidence: float, strength: float, decay: float
) -> None:
    map_ = TokenMap(BASE, SCAFFOLD)
    with pytest.raises(OptionError, match="give 0 to 1, 0 or more, and 0 to 1"):
        map_.reinforce([5], confidence, strength=strength, decay=decay)
    assert len(map_) == 0


# The state


def reread(state: TokenMapState) -> TokenMapState:
    return TokenMapState.from_json(json.loads(json.dumps(state.model_dump(mode="json"))))


def learnt() -> TokenMap:
    map_ = TokenMap(BASE, SCAFFOLD)
    map_.reinforce([5, 6], 0.9, strength=1, decay=0.95)
    map_.reinforce([6], 0.9, strength=1, decay=0.95)
    return map_


def test_a_restored_map_goes_on_where_the_saved_one_stood() -> None:
    saved, restored = learnt(), TokenMap(BASE, SCAFFOLD)
    restored.expand([7])
    restored.restore(reread(saved.state()))
    assert restored.state() == saved.state()
    for map_ in (saved, restored):
        map_.reinforce([5], 0.4, strength=1, decay=0.9)
    assert restored.weight(5) == pytest.approx(saved.weight(5))
    assert restored.weight(6) == pytest.approx(saved.weight(6))
    assert restored.weight(7) == 1


def test_a_state_goes_on_with_another_scaffold() -> None:
    other = TokenMap(BASE, FALLBACK)
    other.restore(learnt().state())
    assert other.weight(6) == learnt().weight(6)
    assert all(0 <= id_ < len(FALLBACK) for id_ in other.expand([5, 6])[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"weights": {"5": 2.5}}, "weights.5: Input should be less than or equal to 2"),
        ({"weights": {"5": 0.01}}, "weights.5: Input should be greater than or equal to 0.1"),
        ({"weights": {"5": float("nan")}}, "weights.5: Input should be"),
        ({"weights": {"5": "heavy"}}, "weights.5: Input should be a valid number"),
        ({"weights": {"-5": 1.0}}, "weights.-5.*: Input should be greater than or equal to 0"),
        ({"weights": {"fox": 1.0}}, "weights.fox.*: Input should be a valid integer"),
        ({"weights": [1.0]}, "weights: Input should be a valid dictionary"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"vocabulary": "another"}, "learnt with another base vocabulary"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(
    change: dict[str, Any], complaint: str
) -> None:
    map_ = learnt()
    with pytest.raises(ArtifactError, match=rf"^state of the token map.*{complaint}[^\n]*$"):
        map_.restore(TokenMapState.from_json({**map_.state().model_dump(mode="json"), **change}))
    assert map_.state() == learnt().state()


@pytest.mark.parametrize("state", [{}, [], None])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ArtifactError, match="state of the token map"):
        TokenMapState.from_json(state)


# A real vocabulary


@pytest.mark.model
def test_the_default_models_vocabulary(default_model: Path) -> None:
    real = AutoTokenizer.from_pretrained(default_model)
    text = "The year 2016, déjà vu: 🦊 said\n\n    return 日本"
    ids = real.encode(text)
    assert spelt(SCAFFOLD, TokenMap(real, SCAFFOLD, max_tokens=100).expand(ids)[0]) == text.encode()
    map_ = TokenMap(SCAFFOLD, real)
    scaffold_ids, weights = map_.expand(SCAFFOLD.encode(text + "<|im_end|>"))
    assert real.decode(scaffold_ids) == text + "<|im_end|>"
    assert len(weights) == len(scaffold_ids)
