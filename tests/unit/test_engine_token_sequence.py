import pytest
import torch

from sovl_daemon.engine.errors import NonFiniteLogitsError, OptionError
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.sampling import Choice
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence
from tests.unit.engine_tiny import VOCABULARY, generated, tiny_model, tokens

GREEDY = SamplingOptions(temperature=0, max_new_tokens=24)
PROMPTS = [[5], [7, 8, 9], list(range(10, 50)), list(range(300, 200, -1))]


def decoding(
    prompt: list[int],
    options: SamplingOptions = GREEDY,
    *,
    family: str = "llama",
    chunk: int = 128,
    stop: frozenset[int] = frozenset(),
    context: int = 128,
) -> TokenSequence:
    return TokenSequence(
        PrefixCache(tiny_model(family)),
        prompt,
        options,
        stop_ids=stop,
        context_length=context,
        prefill_chunk=chunk,
    )


def model_of(running: TokenSequence) -> LoadedModel:
    model = running._caches._model
    assert isinstance(model, LoadedModel)
    return model


def finished(running: TokenSequence) -> list[Token]:
    return list(tokens(model_of(running), running))


def ids(running: TokenSequence) -> list[int]:
    return [token.id for token in finished(running)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("chunk", [1, 7, 128])
@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_is_transformers_generate(family: str, chunk: int, prompt: list[int]) -> None:
    expected = generated(tiny_model(family).network, prompt, 24, eos_token_id=None)
    assert ids(decoding(prompt, family=family, chunk=chunk)) == expected


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_repetition_penalty_is_transformers_generate(family: str) -> None:
    options = SamplingOptions(temperature=0, max_new_tokens=24, repetition_penalty=1.7)
    expected = generated(
        tiny_model(family).network, [7, 8], 24, eos_token_id=None, repetition_penalty=1.7
    )
    assert ids(decoding([7, 8], options, family=family)) == expected


def test_a_prompt_is_read_in_chunks_before_the_first_token() -> None:
    running = decoding(list(range(1, 11)), chunk=4)
    lengths = []
    for _ in range(4):
        span = running.next_span()
        lengths.append(len(span.ids))
        model_of(running).forward([span])
        if running.is_read:
            running.push(Choice(7, 1.0))
    assert lengths == [4, 4, 2, 1]
    assert (running.ids[-1], running.is_prefilling) == (7, False)


def test_a_stop_token_ends_the_answer() -> None:
    plain = ids(decoding([5]))
    stop = plain[6]
    answer = finished(decoding([5], stop=frozenset({stop})))
    assert [token.id for token in answer] == plain[: plain.index(stop) + 1]
    assert answer[-1].finish_reason == "stop"
    assert {token.finish_reason for token in answer[:-1]} == {None}


@pytest.mark.parametrize(("context", "expected"), [(128, 24), (10, 7)])
def test_length_is_bounded_by_options_and_context(context: int, expected: int) -> None:
    answer = finished(decoding([1, 2, 3], context=context))
    assert (len(answer), answer[-1].finish_reason) == (expected, "length")


def test_probability_is_the_models_own() -> None:
    token = finished(decoding([1, 2, 3]))[0]
    logits = tiny_model().network(torch.tensor([[1, 2, 3]])).logits[0, -1]
    assert token.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)


def test_a_seed_is_reproducible() -> None:
    options = [SamplingOptions(temperature=2, top_p=1, seed=s, max_new_tokens=20) for s in (1, 2)]
    first, again = ([ids(decoding([4, 5], option)) for option in options] for _ in range(2))
    assert first == again
    assert first[0] != first[1]


def test_closing_cancels_and_frees_the_cache() -> None:
    running = decoding([1, 2, 3])
    running.next_span()
    assert running._cache is not None
    running.close()
    assert (running._cache, running.finish_reason) == (None, "cancelled")


def test_the_cache_is_freed_at_the_end() -> None:
    running = decoding([1, 2, 3])
    finished(running)
    assert (running._cache, running.finish_reason) == (None, "length")


@pytest.mark.parametrize("prompt", [[], list(range(128))])
def test_a_prompt_that_leaves_no_room_is_refused(prompt: list[int]) -> None:
    with pytest.raises(OptionError, match="from 1 to 127"):
        decoding(prompt)


def test_a_damaged_model_is_an_error_not_an_answer() -> None:
    running = decoding([1, 2, 3])
    model_of(running).network.lm_head.weight[VOCABULARY // 2] = float("nan")
    with pytest.raises(NonFiniteLogitsError, match="try dtype float32"):
        finished(running)
