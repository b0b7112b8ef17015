import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sovl_daemon.engine.errors import NonFiniteLogitsError, OptionError
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.model.perplexity import PerplexityEstimate, perplexity
from tests.unit.engine_tiny import VOCABULARY, save_tiny, tiny_model

IDS = random.Random(0).choices(range(VOCABULARY), k=300)
LEAN, GPT2 = tiny_model(), tiny_model("gpt2")


def read(model: LoadedModel, ids: list[int] = IDS, **options: Any) -> PerplexityEstimate:
    *_, last = perplexity(model, ids, **options)
    return last


def by_definition(model: LoadedModel, ids: list[int], window: int) -> float:
    """From the logits that transformers gives for each window as a whole."""
    losses = []
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        logits = model.network(input_ids=torch.tensor([part])).logits[0].double()
        logs = logits.log_softmax(-1)
        losses += [-float(logs[at, next_]) for at, next_ in enumerate(part[1:])]
    return math.exp(math.fsum(losses) / len(losses))


@pytest.mark.parametrize("model", [LEAN, GPT2, tiny_model(lean=False)], ids=["lean", "gpt2", "hf"])
@given(count=st.integers(2, 140), window=st.integers(2, 64))
@settings(max_examples=25)
def test_it_is_what_the_definition_says(model: LoadedModel, count: int, window: int) -> None:
    found = read(model, IDS[:count], window=window)
    assert found.perplexity == pytest.approx(by_definition(model, IDS[:count], window), rel=1e-4)


@pytest.mark.parametrize("model", [LEAN, GPT2], ids=["lean", "gpt2"])
def test_logits_a_few_rows_at_a_time_make_no_difference(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sovl_daemon.engine.model.perplexity._ROWS", 10)
    found = read(model, window=64)
    assert found.perplexity == pytest.approx(by_definition(model, IDS, 64), rel=1e-4)


@given(count=st.integers(2, 300), window=st.integers(2, 128))
@settings(max_examples=30)
def test_progress_is_told_after_each_window(count: int, window: int) -> None:
    readings = list(perplexity(LEAN, IDS[:count], window=window))
    parts = [IDS[:count][start : start + window] for start in range(0, count, window)]
    sizes = [len(part) for part in parts if len(part) > 1]
    assert [each.done for each in readings] == [*range(1, len(sizes) + 1)]
    assert {each.total for each in readings} == {len(sizes)}
    assert [each.tokens for each in readings] == [sum(sizes[:n]) for n in range(1, len(sizes) + 1)]


def test_what_is_read_so_far_is_what_a_shorter_text_would_be() -> None:
    first, second, *_ = perplexity(LEAN, IDS, window=50)
    assert first.perplexity == read(LEAN, IDS[:50], window=50).perplexity
    assert second.perplexity == read(LEAN, IDS[:100], window=50).perplexity


def test_a_window_is_no_longer_than_the_models_context() -> None:
    assert read(GPT2).total == 3  # 300 tokens, 128 positions
    assert read(GPT2).perplexity == read(GPT2, window=128).perplexity


def test_a_text_that_the_model_wrote_is_foretold_better() -> None:
    written = [7]
    cache = LEAN.new_cache()
    while len(written) < 60:
        written.append(int(LEAN.forward([Span(written[-1:], cache)]).argmax()))
    assert read(LEAN, written).perplexity < read(LEAN, IDS[:60]).perplexity / 5


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_too_short_is_refused(count: int) -> None:
    with pytest.raises(OptionError, match=f"^{count} tokens .* have no perplexity: give 2"):
        read(LEAN, IDS[:count])


def test_a_window_too_short_is_refused() -> None:
    with pytest.raises(OptionError, match="in windows of 1 have no perplexity"):
        read(LEAN, window=1)


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = tiny_model(lean=False)
    model.network.lm_head.weight.fill_(math.nan)
    with pytest.raises(NonFiniteLogitsError, match="weights are damaged"):
        read(model)


def test_logits_beyond_all_measure_are_refused() -> None:
    model = tiny_model(lean=False)
    model.network.lm_head.weight.mul_(1e6)
    with pytest.raises(NonFiniteLogitsError, match="no measure"):
        read(model)


def test_no_gradient_and_no_inference_mode_is_left_behind() -> None:
    for _ in perplexity(LEAN, IDS, window=50):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_steers_the_model_leaves_the_text_alone(family: str) -> None:
    model = tiny_model(family)
    plain = read(model)

    def steer(x: torch.Tensor, rows: Any) -> torch.Tensor:
        # Not the same in each dimension, which a norm would take away again.
        push = torch.linspace(0, 1, x.shape[-1])
        return x + push * sum(each.cache.memory or 0 for each in rows)

    model.add_after_block(0, steer)
    cache = model.new_cache()
    cache.memory = 10.0
    model.forward([Span(IDS[:20], cache)])
    assert read(model) == plain


def held(model: LoadedModel, precision: Any) -> tuple[float, int]:
    switch = model.switch(precision)
    assert switch is not None
    while switch.step():
        pass
    return read(model).perplexity, model.weight_bytes


def test_each_precision_is_measured_as_it_is_held(tmp_path: Path) -> None:
    model = load_model(save_tiny(tmp_path), device="cpu", dtype="bfloat16")
    plain, plain_bytes = read(model).perplexity, model.weight_bytes
    assert plain_bytes == 2 * model.parameters
    int8, int8_bytes = held(model, "int8")
    int4, int4_bytes = held(model, "int4")
    assert plain_bytes > int8_bytes > int4_bytes
    assert len({plain, int8, int4}) == 3
    assert int8 == pytest.approx(plain, rel=0.1)
    assert held(model, "fp16") == (plain, plain_bytes)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_that_are_not_quantised_take_what_their_format_takes(family: str) -> None:
    model = tiny_model(family)
    assert model.weight_bytes == 4 * model.parameters
