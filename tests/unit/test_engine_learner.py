"""The learner on tiny models: GPT-2 and Llama bases beside scaffolds of either family."""

import dataclasses
from typing import Any

import pytest
import torch

from sovl_daemon.engine.fusion import Fusion
from sovl_daemon.engine.learner import Learner, LearnerOptions
from sovl_daemon.engine.sample import Sample, common_prefix
from sovl_daemon.engine.span import Span
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
