"""The learner on tiny models: GPT-2 and Llama bases beside scaffolds of either family."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sovl_daemon.engine.errors import NonFiniteLossError, OptionError
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import LoraOptions, lora_layers
from sovl_daemon.engine.fusion.scaffold import make_scaffold
from sovl_daemon.engine.fusion.steering import Influence
from sovl_daemon.engine.learning.candidate import learned_tensors
from sovl_daemon.engine.learning.learner import Learner, LearnerOptions, rate_factor
from sovl_daemon.engine.learning.sample import Sample, ThrottleFactors, common_prefix
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import load_model
from sovl_daemon.engine.model.precision import Precision
from tests.unit.engine_tiny import save_tiny, tiny_model
from tests.unit.test_engine_fusion import FULL, PAIRS, pair, taught

SAMPLES = [
    Sample((5, 7, 300, 2, 9), (41, 8, 0)),
    Sample((5, 7, 11, 2), (17, 0)),
    Sample((5, 7, 300, 2, 9, 77, 12), (99, 98, 97, 96, 0)),
    Sample((5, 7, 13), (55, 0)),
]
REPLAYS = [dataclasses.replace(sample, teacher=sample.prompt) for sample in SAMPLES]
OPTIONS = LearnerOptions(learning_rate=2e-2, warmup=1)


def learner(fusion: Fusion, **options: Any) -> Learner:
    fusion.set([0, 1], FULL)
    common = common_prefix(SAMPLES)
    assert common == (5, 7)
    return Learner(fusion._base, fusion, dataclasses.replace(OPTIONS, **options), common=common)


def answered(fusion: Fusion, sample: Sample) -> torch.Tensor:
    """The logits of an answer's tokens as the decode loop gets them, (A, vocab)."""
    model, cache = fusion._base, fusion._base.new_cache()
    model.listen(sample.prompt, cache, since=len(sample.prompt) - 1)
    found = [model.forward([Span(sample.prompt, cache)])[0]]
    found += [model.forward([Span([id_], cache)])[0] for id_ in sample.answer[:-1]]
    return torch.stack(found)


def loss_of(fusion: Fusion, samples: list[Sample]) -> float:
    found = torch.cat([answered(fusion, sample) for sample in samples])
    targets = torch.tensor([id_ for sample in samples for id_ in sample.answer])
    return float(torch.nn.functional.cross_entropy(found, targets))


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def fusion(request: pytest.FixtureRequest) -> Fusion:
    return pair(*request.param)


def test_the_loss_is_that_of_answering(fusion: Fusion) -> None:
    fused = taught(fusion)
    with torch.no_grad():
        for name, each in fused.scaffold.adapters.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(each, std=0.3)
    fused.refresh()
    found = learner(fused).evaluate(SAMPLES)
    assert found.loss == pytest.approx(loss_of(fused, SAMPLES), rel=1e-4)
    assert found.tokens == 12


def test_a_teacher_with_the_same_prompt_and_nothing_learned_diverges_by_nothing(
    fusion: Fusion,
) -> None:
    found = learner(fusion).evaluate(REPLAYS)
    assert found.loss == 0
    assert found.divergence == pytest.approx(0, abs=1e-6)


def test_a_teacher_with_another_prompt_diverges(fusion: Fusion) -> None:
    taught_ = [dataclasses.replace(sample, teacher=(9, 9, 9)) for sample in SAMPLES]
    assert learner(fusion).evaluate(taught_).divergence > 0.1


def test_it_learns_and_answers_after_commit_alone(fusion: Fusion) -> None:
    before = {name: each.clone() for name, each in fusion._base.network.state_dict().items()}
    untaught = loss_of(fusion, SAMPLES)
    learning = learner(fusion)
    losses = [learning.step(SAMPLES).loss for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    assert loss_of(fusion, SAMPLES) == untaught  # the candidate does not answer yet
    learning.commit()
    assert loss_of(fusion, SAMPLES) == pytest.approx(learning.evaluate(SAMPLES).loss, rel=1e-3)
    after = fusion._base.network.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in before.items())


def test_it_recalls(fusion: Fusion) -> None:
    wide = Fusion(fusion._base, fusion.scaffold, fusion.tokens, rank=32, heads=4, seed=3)
    learning = learner(wide, learning_rate=1e-2, updates=200, clip=10.0)
    for _ in range(200):
        learning.step(SAMPLES)
    learning.commit()
    for sample in SAMPLES:
        assert tuple(answered(wide, sample).argmax(-1).tolist()) == sample.answer


def test_gradients_reach_the_candidate_alone(fusion: Fusion) -> None:
    learning = learner(fusion, accumulation=3)
    learning.step(SAMPLES)
    # Fresh output projections hide what is before them from the gradient: the second step sees all.
    learning._update()
    learning.step(SAMPLES + REPLAYS)
    assert all(p.grad is not None for p in learning._parameters)
    names = {name.partition(".")[0] for name, _ in learning.candidate.named_parameters()}
    assert names == {"attention", "adapter"}
    answering = [*fusion._base.network.parameters(), *fusion.attentions.parameters()]
    answering += list(fusion.scaffold.adapters.parameters())
    assert all(each.grad is None for each in answering)


def gradients(learning: Learner) -> dict[str, torch.Tensor]:
    named = learning.candidate.named_parameters()
    return {name: each.grad.clone() for name, each in named if each.grad is not None}


@pytest.mark.parametrize("share", [0.5, 0.3, 0.01])
def test_the_gradient_of_parts_is_that_of_the_whole(fusion: Fusion, share: float) -> None:
    """Rows of different lengths and weights, more in one half than in the other, half an update."""
    for layer in lora_layers(taught(fusion).scaffold.adapters).values():
        layer.lora_dropout["default"] = torch.nn.Dropout(0.0)  # else parts draw anew
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    fusion.refresh()
    heavy = dataclasses.replace(SAMPLES[2], weight=3.0)
    batch = [*SAMPLES, heavy, *REPLAYS[:3], dataclasses.replace(SAMPLES[1], teacher=(9, 9))]
    found = []
    for ease in (ThrottleFactors(), ThrottleFactors(batch=share)):
        learning = learner(fusion, accumulation=3)
        learning.step(SAMPLES[:1])
        learning.throttle = ease
        report = learning.step(batch)
        assert learning.throttled.batch == math.ceil(len(batch) * ease.batch) / len(batch)
        found.append((gradients(learning), report))
    (whole, one), (parts, other) = found
    assert whole.keys() == parts.keys()
    assert any(each.abs().max() > 1e-3 for name, each in whole.items() if "lora_A" in name)
    for name, each in whole.items():
        assert torch.allclose(parts[name], each, atol=1e-6, rtol=1e-3), name
    assert other.loss == pytest.approx(one.loss, rel=1e-4)
    assert other.divergence == pytest.approx(one.divergence, rel=1e-3)
    assert other.tokens == one.tokens


def test_what_cannot_be_parted_is_computed_whole() -> None:
    learning = learner(pair())
    learning.throttle = ThrottleFactors(batch=0.5)
    learning.step(SAMPLES[:1])
    assert (learning.throttled.batch, learning.rows) == (1.0, 1)
    learning.step(SAMPLES[:3])
    assert (learning.throttled.batch, learning.rows) == (2 / 3, 3)


def test_a_part_that_fails_leaves_the_gradients_as_they_were() -> None:
    learning = learner(pair(), accumulation=9)
    learning.step(SAMPLES)
    learning.throttle = ThrottleFactors(batch=0.5)
    before, state = gradients(learning), learning._random
    compute, parts = learning._losses, []

    def second_is_no_number(samples: Any, masses: Any, *, dropout: bool) -> Any:
        parts.append(samples)
        loss, divergence = compute(samples, masses, dropout=dropout)
        return loss * (float("nan") if len(parts) == 2 else 1), divergence

    learning._losses = second_is_no_number  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError):
        learning.step(SAMPLES)
    assert len(parts) == 2
    assert all(torch.equal(each, before[name]) for name, each in gradients(learning).items())
    assert torch.equal(learning._random, state)


def test_accumulated_steps_are_one_update() -> None:
    learning = learner(pair(), accumulation=2)
    learning.step(SAMPLES[:2])
    assert learning.updates == 0
    learning.step(SAMPLES[2:])
    assert learning.updates == 1


def test_resumed_it_goes_on_as_if_nothing_had_happened() -> None:
    """With dropout and half an update pending."""
    options = LoraOptions(rank=2, alpha=4, dropout=0.3)

    def fresh() -> Learner:
        model = tiny_model()
        fusion = Fusion(model, make_scaffold(model, options, seed=1), rank=8, heads=2, seed=3)
        return learner(fusion, accumulation=2)

    batches = [SAMPLES[:2] + REPLAYS[:1], SAMPLES[2:], SAMPLES[1:3], SAMPLES]
    whole, first, second = fresh(), fresh(), fresh()
    for batch in batches:
        whole.step(batch)
    for batch in batches[:3]:
        first.step(batch)
    second.load(first.state())
    second.step(batches[3])
    for name, each in second.candidate.state().items():
        # On some CPUs sums depend on where in memory a tensor lies; a lost seed is 2e-3 away.
        torch.testing.assert_close(each, whole.candidate.state()[name], rtol=0, atol=1e-5)
    other = learner(pair(), seed=43)
    assert not torch.equal(other._random, whole._random)


def test_what_forgot_learns_as_one_that_is_new_born(fusion: Fusion) -> None:
    def taught_adapters() -> dict[str, torch.Tensor]:
        learning = learner(fusion)
        for _ in range(3):
            learning.step(SAMPLES)
        learning.commit()
        return learned_tensors(fusion)

    first = taught_adapters()
    fusion.forget()
    assert fusion.active == ()
    again = taught_adapters()
    assert all(torch.equal(each, again[name]) for name, each in first.items())


def test_the_state_of_other_layers_is_refused() -> None:
    learning = learner(pair())
    fusion = pair()
    fusion.set([1], FULL)
    other = Learner(fusion._base, fusion, OPTIONS)
    with pytest.raises(OptionError, match="other layers, ranks or models"):
        other.load(learning.state())


def test_nothing_steers() -> None:
    fusion = pair()
    for influence in (FULL, Influence(weight=0)):
        fusion.set([0] if influence.weight == 0 else [], influence)
        with pytest.raises(OptionError, match="nothing steers"):
            Learner(fusion._base, fusion, OPTIONS)


def test_dropout_is_for_learning_only(fusion: Fusion) -> None:
    for layer in lora_layers(taught(fusion).scaffold.adapters).values():
        layer.lora_dropout["default"] = torch.nn.Dropout(0.5).eval()
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.5)
    fusion.refresh()
    learning = learner(fusion, learning_rate=0.0)
    evaluated = [learning.evaluate(SAMPLES).loss for _ in range(2)]
    assert evaluated[0] == evaluated[1]
    assert len({learning.step(SAMPLES).loss for _ in range(2)}) == 2
    assert loss_of(fusion, SAMPLES) == pytest.approx(evaluated[0], rel=1e-4)


def test_what_is_kept_changes_nothing() -> None:
    """Kept and made anew, with a common beginning and without: the same."""

    def losses(kept_mb: int, *, common: bool) -> list[float]:
        fusion = taught(pair())
        fusion.set([0, 1], FULL)
        options = dataclasses.replace(OPTIONS, kept_mb=kept_mb, learning_rate=1e-3)
        begin = common_prefix(SAMPLES) if common else ()
        made = Learner(fusion._base, fusion, options, common=begin)
        reports = [made.step(SAMPLES + REPLAYS) for _ in range(3)]
        assert (made._cache.nbytes > 0) == (kept_mb > 0)
        return [each for report in reports for each in (report.loss, report.divergence)]

    kept = losses(8, common=True)
    assert losses(0, common=True) == pytest.approx(kept, rel=1e-3)
    assert losses(8, common=False) == pytest.approx(kept, rel=1e-3)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_base_learns_as_the_whole_one(tmp_path: Path, precision: Precision) -> None:
    path = save_tiny(tmp_path)

    def learned(chosen: Precision) -> dict[str, torch.Tensor]:
        model = load_model(path, device="cpu", dtype="float32")
        switch = model.switch(chosen)
        while switch is not None and switch.step():
            pass
        scaffold = make_scaffold(model, LoraOptions(rank=2, alpha=4), seed=1)
        learning = learner(Fusion(model, scaffold, rank=8, heads=2, seed=3))
        for _ in range(3):
            learning.step(SAMPLES + REPLAYS)
        return learning.candidate.state()

    whole, small = learned("fp32"), learned(precision)
    for name, each in small.items():
        torch.testing.assert_close(each, whole[name], atol=1e-4, rtol=1e-3)


def test_the_rate_rises_and_falls() -> None:
    options = LearnerOptions(warmup=4, updates=10)
    assert [rate_factor(i, options) for i in (0, 1, 3)] == pytest.approx([0.25, 0.45, 0.7])
    assert rate_factor(10, options) == 0
    assert rate_factor(999, LearnerOptions(warmup=4)) == 1


def test_weights_count() -> None:
    learning = learner(pair())
    alone = learning.evaluate(SAMPLES[:1]).loss
    heavy = [dataclasses.replace(SAMPLES[0], weight=1e6), SAMPLES[1]]
    assert learning.evaluate(heavy).loss == pytest.approx(alone, rel=1e-3)
