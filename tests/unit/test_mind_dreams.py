import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.controls import ControlsConfig
from sovl_daemon.mind.dreams import (
    Dream,
    DreamMemory,
    DreamReason,
    choice_weights,
    choose,
    dream_reason,
    noise,
)
from sovl_daemon.mind.history import History
from sovl_daemon.mind.temperament import Temperament

STEADY = (0.6,) * 5
SWINGING = (0.1, 0.9, 0.1, 0.9, 0.9)
cosines = st.lists(st.floats(-1, 1), min_size=1, max_size=30)
any_knobs = st.builds(
    ControlsConfig,
    dream_prompt_weight=st.floats(0, 1),
    dream_memory_weight=st.floats(0, 0.5),
    dream_memory_maxlen=st.integers(5, 20),
    dream_memory_decay=st.floats(0, 1),
    dream_prune_threshold=st.floats(0, 1),
    dream_noise_scale=st.floats(0.01, 0.1),
    dream_novelty_boost=st.floats(0, 0.05),
    temp_melancholy_noise=st.floats(0, 0.05),
    enable_prompt_driven_dreams=st.booleans(),
)


def knobs(**values: Any) -> ControlsConfig:
    return ControlsConfig(**values)


def why(
    confidences: tuple[float, ...] = STEADY,
    score: float = 0.0,
    scores: tuple[float, ...] = (),
    dreamt_at: float = 0.0,
    **values: Any,
) -> DreamReason | None:
    temperament = Temperament(score, History(scores))
    return dream_reason(History(confidences), temperament, dreamt_at, knobs(**values))


# What starts a dream


def test_a_steady_mind_does_not_dream() -> None:
    assert why() is None


def test_confidence_that_swings_starts_one() -> None:
    assert why(SWINGING) == "swing"
    assert why(SWINGING, dream_swing_var=0.2) is None


def test_a_temperament_that_moved_starts_one_either_way() -> None:
    assert why(score=0.09) is None
    assert why(score=0.11) == "shift"
    assert why(score=-0.11) == "shift"
    assert why(score=0.61, dreamt_at=0.6) is None
    assert why(score=0.11, dream_lifecycle_delta=0.15) is None


def test_a_temperament_that_drifts_starts_one_where_it_may() -> None:
    drifting = (-0.4, -0.1, 0.0, 0.0, 0.05)
    assert why(scores=drifting) == "drift"
    assert why(scores=drifting, dream_temperament_on=False) is None
    assert why(scores=(-0.4, -0.2, -0.1, -0.05, 0.0)) is None


@pytest.mark.parametrize("confidences", [(), SWINGING[:4]])
def test_it_takes_five_confidences(confidences: tuple[float, ...]) -> None:
    assert why(confidences, score=1.0, scores=(-1.0, 1.0)) is None


def test_it_may_be_forbidden() -> None:
    assert why(SWINGING, score=1.0, enable_dreaming=False) is None


# What it is about


@pytest.mark.parametrize(
    ("similarities", "weight", "expected"),
    [
        ([0.0, 0.0], 0.0, [1 / 3, 2 / 3]),
        ([1.0, 0.0], 1.0, [1, 0]),
        ([1.0, 0.0], 0.5, [0.6, 0.4]),
        ([-1.0, 0.5], 1.0, [0, 1]),
        ([-1.0, 0.0], 1.0, [0.5, 0.5]),
    ],
)
def test_choice_by_hand(similarities: list[float], weight: float, expected: list[float]) -> None:
    assert choice_weights(similarities, knobs(dream_prompt_weight=weight)) == pytest.approx(
        expected
    )


@given(similarities=cosines, knobs=any_knobs)
def test_choice_weights_are_a_distribution(
    similarities: list[float], knobs: ControlsConfig
) -> None:
    weights = choice_weights(similarities, knobs)
    assert len(weights) == len(similarities)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)


@given(similarities=cosines, knobs=any_knobs)
def test_what_is_more_alike_is_likelier(similarities: list[float], knobs: ControlsConfig) -> None:
    alike = [*similarities[:-1], 1.0]
    assert choice_weights(alike, knobs)[-1] >= choice_weights(similarities, knobs)[-1] - 1e-12


@given(similarities=cosines)
def test_dreams_that_no_prompt_drives_follow_recency_alone(similarities: list[float]) -> None:
    weights = choice_weights(similarities, knobs(enable_prompt_driven_dreams=False))
    assert weights == choice_weights([0.0] * len(similarities), knobs(dream_prompt_weight=0.0))
    assert list(weights) == sorted(weights)


def test_the_choice_follows_the_weights() -> None:
    rng = random.Random(3)
    found = Counter(choose((0.1, 0.0, 0.9), rng) for _ in range(2000))
    assert found[1] == 0
    assert found[0] / 2000 == pytest.approx(0.1, abs=0.03)


def test_there_must_be_something_to_dream_of() -> None:
    assert choice_weights([], knobs()) == ()
    with pytest.raises(ValueError, match="no interactions to dream of"):
        choose((), random.Random(0))


# How loud it is


@pytest.mark.parametrize(
    ("score", "unseen", "expected"),
    [(0.0, False, 0.05), (-0.6, False, 0.07), (0.0, True, 0.08), (-0.6, True, 0.1)],
)
def test_noise_by_hand(score: float, unseen: bool, expected: float) -> None:
    assert noise(score, unseen, knobs()) == pytest.approx(expected)


@given(score=st.floats(-1, 1), unseen=st.booleans(), knobs=any_knobs)
def test_noise_is_bounded(score: float, unseen: bool, knobs: ControlsConfig) -> None:
    assert knobs.dream_noise_scale <= noise(score, unseen, knobs) <= 0.1


# What stays of it


def remembered(count: int, **values: Any) -> DreamMemory[int]:
    memory: DreamMemory[int] = DreamMemory()
    for content in range(count):
        memory = memory.add(content, knobs(**values))
    return memory


def test_old_dreams_fade() -> None:
    memory = remembered(3, dream_memory_decay=0.5)
    assert memory.dreams == (Dream(0, 0.25), Dream(1, 0.5), Dream(2, 1.0))


def test_faint_dreams_are_forgotten() -> None:
    memory = remembered(9, dream_memory_decay=0.5, dream_prune_threshold=0.2)
    assert [dream.content for dream in memory.dreams] == [6, 7, 8]


def test_a_dream_at_the_threshold_stays() -> None:
    assert len(remembered(2, dream_memory_decay=0.5, dream_prune_threshold=0.5)) == 2


def test_only_so_many_are_remembered() -> None:
    memory = remembered(30, dream_memory_maxlen=7)
    assert [dream.content for dream in memory.dreams] == list(range(23, 30))


def test_a_memory_that_became_too_large_shrinks_with_the_next_dream() -> None:
    assert len(remembered(10).add(10, knobs(dream_memory_maxlen=5))) == 5


@given(count=st.integers(0, 25), knobs=any_knobs)
def test_memory_keeps_its_order_and_bounds(count: int, knobs: ControlsConfig) -> None:
    memory: DreamMemory[int] = DreamMemory()
    for content in range(count):
        memory = memory.add(content, knobs)
        assert memory.dreams[-1] == Dream(content, 1.0)
    weights = [dream.weight for dream in memory.dreams]
    assert weights == sorted(weights)
    assert len(memory) <= knobs.dream_memory_maxlen
    assert all(weight >= knobs.dream_prune_threshold for weight in weights[:-1])


def test_blending_by_hand() -> None:
    memory = remembered(2, dream_memory_decay=0.5)
    assert memory.blending(knobs(dream_memory_weight=0.3)) == pytest.approx([0.1, 0.2])


@given(count=st.integers(0, 25), knobs=any_knobs)
def test_dreams_blend_in_by_their_weight_alone(count: int, knobs: ControlsConfig) -> None:
    blending = remembered(count).blending(knobs)
    assert len(blending) == min(count, 10)
    assert sum(blending) == pytest.approx(knobs.dream_memory_weight if count else 0)


def test_what_has_no_weight_at_all_blends_into_nothing() -> None:
    assert DreamMemory((Dream("a", 0.0),)).blending(knobs()) == (0.0,)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"dream weight .* is not allowed: give 0 to 1"):
        Dream("a", weight)


def test_its_content_may_be_named_when_it_is_made() -> None:
    memory = DreamMemory[str]().add("a", knobs())
    assert memory == DreamMemory((Dream[str]("a"),))
