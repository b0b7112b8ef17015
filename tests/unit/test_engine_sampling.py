from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sovl_daemon.engine.errors import NonFiniteLogitsError
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.sampling import (
    Choice,
    TokenSampler,
    candidates,
    choose,
    highest_probabilities,
    penalise,
)

SIZE = 60


def random_logits(seed: int) -> torch.Tensor:
    # Double precision, so that rounding at the edge of the nucleus does not matter.
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(SIZE, generator=generator, dtype=torch.float64)


def chosen(sampler: TokenSampler, logits: torch.Tensor, history: Sequence[int] = ()) -> Choice:
    (choice,) = choose(logits[None], [sampler], [history])
    assert isinstance(choice, Choice)
    return choice


def warped(logits: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    """The distribution that transformers samples from."""
    ids = torch.zeros(1, 0, dtype=torch.long)
    scores = TemperatureLogitsWarper(options.temperature)(ids, logits[None])
    if options.top_k:
        scores = TopKLogitsWarper(options.top_k)(ids, scores)
    if options.top_p < 1:
        scores = TopPLogitsWarper(options.top_p)(ids, scores)
    return scores[0].softmax(0)


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 4),
    top_k=st.integers(0, 2 * SIZE),
    top_p=st.floats(0.01, 1),
)
@settings(max_examples=300)
def test_candidates_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = random_logits(seed)
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p)
    probabilities, ids = (rows[0] for rows in candidates(logits[None], [options]))
    ours = torch.zeros(SIZE, dtype=torch.float64)
    ours[ids] = probabilities / probabilities.sum()
    torch.testing.assert_close(ours, warped(logits, options))


@given(
    seed=st.integers(0, 10_000),
    penalty=st.floats(0.1, 5),
    history=st.lists(st.integers(0, SIZE - 1), max_size=30),
)
@settings(max_examples=200)
def test_penalty_is_that_of_transformers(seed: int, penalty: float, history: list[int]) -> None:
    logits = random_logits(seed)
    ids = torch.tensor([history], dtype=torch.long)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())[0]
    torch.testing.assert_close(penalise(logits, history, penalty), expected)


def test_penalty_leaves_the_models_logits_alone() -> None:
    logits = random_logits(1)
    before = logits.clone()
    penalise(logits, [1, 2, 3], 2.0)
    assert torch.equal(logits, before)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = TokenSampler(SamplingOptions(temperature=1, top_k=0, top_p=1, seed=7))
    draws = torch.tensor([chosen(sampler, logits).id for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(shares, logits.exp(), atol=0.03, rtol=0)


def test_zero_temperature_takes_the_likeliest_and_penalty_still_counts() -> None:
    logits = torch.tensor([1.0, 3.0, 2.9])
    assert chosen(TokenSampler(SamplingOptions(temperature=0)), logits).id == 1
    penalised = SamplingOptions(temperature=0, repetition_penalty=1.5)
    assert chosen(TokenSampler(penalised), logits, [1]).id == 2


def test_a_tiny_temperature_is_greedy() -> None:
    sampler = TokenSampler(SamplingOptions(temperature=1e-45, top_k=0, top_p=1))
    assert {chosen(sampler, random_logits(3)).id for _ in range(20)} == {
        int(random_logits(3).argmax())
    }


def test_the_same_seed_draws_the_same_and_no_seed_differs() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = TokenSampler(SamplingOptions(temperature=5, top_k=0, top_p=1, seed=seed))
        return [chosen(sampler, torch.zeros(1000)).id for _ in range(8)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)


def test_probability_is_that_of_the_plain_distribution() -> None:
    logits = random_logits(9)
    options = SamplingOptions(temperature=3, top_k=2, repetition_penalty=2)
    choice = chosen(TokenSampler(options), logits, list(range(SIZE)))
    assert choice.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_are_an_error_of_their_row(
    bad: float, temperature: float
) -> None:
    rows = torch.zeros(4, 3)
    rows[1, 2] = bad
    rows[2] = -float("inf")
    samplers = [TokenSampler(SamplingOptions(temperature=temperature)) for _ in rows]
    choices = choose(rows, samplers, [[]] * 4)
    assert [isinstance(each, NonFiniteLogitsError) for each in choices] == [0, 1, 1, 0]
    assert "try dtype float32" in str(choices[1])


def test_a_masked_part_of_the_vocabulary_is_allowed() -> None:
    assert highest_probabilities(torch.tensor([[0.0, -float("inf"), 0.0]])) == [pytest.approx(0.5)]


OPTIONS = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([0, 0.5, 2]),
    top_k=st.sampled_from([0, 5, 50]),
    top_p=st.sampled_from([0.5, 1]),
    repetition_penalty=st.sampled_from([1, 1.5]),
    seed=st.integers(0, 100),
)


@given(rows=st.lists(st.tuples(st.integers(0, 10_000), OPTIONS), min_size=1, max_size=8))
@settings(max_examples=100)
def test_rows_are_chosen_as_if_alone(rows: list[tuple[int, SamplingOptions]]) -> None:
    logits = torch.stack([random_logits(seed) for seed, _ in rows]).float()
    histories = [[seed % SIZE, 3] for seed, _ in rows]
    together = choose(logits, [TokenSampler(options) for _, options in rows], histories)
    alone = [
        chosen(TokenSampler(options), row, history)
        for (_, options), row, history in zip(rows, logits, histories, strict=True)
    ]
    assert [each.id for each in together if isinstance(each, Choice)] == [c.id for c in alone]
