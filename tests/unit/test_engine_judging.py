"""The judge asks the plain base, and reads what it knows but once."""

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import ArtifactError, OptionError, PromptTooLongError
from sovl_daemon.engine.judging.judging import HiddenStateReader, PromptParts, tokenize_prompt
from sovl_daemon.engine.judging.probe import Probe, ProbeCard, rms_normalized
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from tests.unit.engine_tiny import read, save_tiny

PREFIX = "True or false? What is the "  # of 128 positions
TEXTS = ("lazy dog\n", "quick fox\n")
ENDING = "brown?"
EVIDENCE = 'over:\n- "the"\n- "dog jumps"\n'


@pytest.fixture(params=["llama", "gpt2"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    loaded = await Engine.load(
        save_tiny(tmp_path, request.param), device="cpu", dtype="float32", context_length=128
    )
    yield loaded
    await loaded.close()


def pieces(text: str, evidence: str = "") -> PromptParts:
    return PromptParts(PREFIX, text, evidence, ENDING)


def prompt(engine: Engine, text: str) -> list[int]:
    return engine.tokenizer.encode([Message("user", PREFIX + text + ENDING)], 127)


def probe(layer: int = 1, width: int = 32) -> Probe:
    rng = torch.Generator().manual_seed(0)
    weight, centre = torch.randn(5, width, generator=rng).split([3, 2])
    card = ProbeCard(model="tiny", identity="x", layer=layer, band=0.2)
    bias = torch.tensor([-0.1, 0.1])
    return Probe(card, weight, bias, 0.0, {"": centre, "task": centre + 0.1})


async def test_what_is_kept_changes_no_verdict(engine: Engine) -> None:
    first, second = [await engine.judge(pieces(text)) for text in TEXTS]
    fresh = Engine(engine.model, engine.tokenizer, engine.thread, context_length=128)
    alone = await fresh.judge(pieces(TEXTS[1]))
    assert first.read_tokens == len(prompt(engine, TEXTS[0]))
    assert second.read_tokens < alone.read_tokens == len(prompt(engine, TEXTS[1]))
    assert second.p_true == pytest.approx(alone.p_true, rel=1e-4)
    assert second.p_false == pytest.approx(alone.p_false, rel=1e-4)


async def test_the_probabilities_are_those_of_the_answers_first_tokens(engine: Engine) -> None:
    found = await engine.judge(pieces(TEXTS[0]))
    chances = torch.softmax(read(engine.model, prompt(engine, TEXTS[0])), dim=-1)
    words = {
        True: ("true", "True", "TRUE", " true", " True", " TRUE"),
        False: ("false", "False", "FALSE", " false", " False", " FALSE"),
    }
    ids = {
        answer: {engine.tokenizer.encode_text(word)[0] for word in each}
        for answer, each in words.items()
    }
    both = ids[True] & ids[False]  # says neither
    assert found.by == "words"
    assert found.p_true == pytest.approx(float(chances[sorted(ids[True] - both)].sum()), rel=1e-4)
    assert found.p_false == pytest.approx(float(chances[sorted(ids[False] - both)].sum()), rel=1e-4)
    assert 0 < found.p_true + found.p_false < 1


async def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptTooLongError):
        await engine.judge(PromptParts("x" * 500, ""))


@pytest.mark.parametrize("layer", [1, 2])
async def test_the_states_are_those_of_a_plain_full_pass(engine: Engine, layer: int) -> None:
    laid_out = tokenize_prompt(engine.tokenizer, pieces(TEXTS[1], EVIDENCE), 127)
    reader = HiddenStateReader(engine.model, layer)
    for _ in range(2):  # the second time the prefix is kept
        states, count = reader.states(laid_out)
        whole = engine.model.network(
            input_ids=torch.tensor([laid_out.ids]), output_hidden_states=True
        ).hidden_states
        plain = whole[layer][0, laid_out.start : laid_out.end]
        if layer < 2:  # the last of transformers' is behind the final norm
            assert torch.allclose(states, plain, atol=1e-4)
        assert states.shape == plain.shape
    assert count == laid_out.end - laid_out.start < len(laid_out.ids)


async def test_what_is_kept_changes_no_feature(engine: Engine) -> None:
    texts = [tokenize_prompt(engine.tokenizer, pieces(text, EVIDENCE), 127) for text in TEXTS]
    reader = HiddenStateReader(engine.model, 1)
    kept = [reader.read(each)[0] for each in texts][1]
    fresh = HiddenStateReader(engine.model, 1).read(texts[1])[0]
    assert torch.allclose(kept.metric(), fresh.metric(), atol=1e-5)
    assert torch.allclose(kept.lines(), fresh.lines(), atol=1e-5)
    assert len(kept.lines()) == 2


async def test_a_probe_judges_and_its_lines_sum_up(engine: Engine) -> None:
    await engine.use_probe(probe())
    found, shares = await engine.explain(pieces(TEXTS[0], EVIDENCE), "task")
    logit = math.log(found.p_true / found.p_false)
    assert found == await engine.judge(pieces(TEXTS[0], EVIDENCE), task="task")
    assert (found.by, found.band) == ("probe", 0.2)
    assert sum(share.logit for share in shares) == pytest.approx(logit, abs=1e-4)
    assert [share.text for share in shares[:-1]] == [
        "lazy dog",
        "over:",
        '- "the"',
        '- "dog jumps"',
    ]
    assert shares[1].logit == 0  # what says that lines follow
    alone = await engine.judge(pieces(TEXTS[0], EVIDENCE), "words", "task")
    assert alone.by == "words"


async def test_features_are_means_over_metrics_and_each_line(engine: Engine) -> None:
    laid_out = tokenize_prompt(engine.tokenizer, pieces(TEXTS[0], EVIDENCE), 127)
    reader = HiddenStateReader(engine.model, 1)
    states = rms_normalized(reader.states(laid_out)[0])
    (_, cut), _, first, second = laid_out.lines
    lines = torch.stack([states[begin:end].mean(0) for begin, end in (first, second)])
    found = reader.read(laid_out)[0]
    assert torch.allclose(found.metric(), states[:cut].mean(0), atol=1e-5)
    assert torch.allclose(found.lines(), lines, atol=1e-5)


async def test_a_centre_is_learned_once(engine: Engine) -> None:
    own = probe()
    await engine.use_probe(own)
    await engine.centre("new", [pieces(text, EVIDENCE) for text in TEXTS])
    learned = own.centres["new"]
    await engine.centre("new", [pieces(TEXTS[0])])
    assert own.centres["new"] is learned
    found = [
        HiddenStateReader(engine.model, 1).read(tokenize_prompt(engine.tokenizer, each, 127))[0]
        for each in [pieces(text, EVIDENCE) for text in TEXTS]
    ]
    assert torch.allclose(learned[0], sum(each.metric() for each in found) / 2, atol=1e-5)
    assert torch.allclose(learned[1], sum(each.lines().sum(0) for each in found) / 4, atol=1e-5)


async def test_a_probe_of_another_width_or_depth_is_refused(engine: Engine) -> None:
    with pytest.raises(ArtifactError, match="reads 8 numbers a token"):
        await engine.use_probe(probe(width=8))
    with pytest.raises(OptionError, match="layer 3 is not allowed: give 1 to 2"):
        await engine.use_probe(probe(layer=3))
    with pytest.raises(OptionError, match="there is no probe"):
        await engine.explain(pieces(TEXTS[0]))
    await engine.use_probe(probe())
    with pytest.raises(OptionError, match="holds no metric"):
        await engine.judge(pieces("", EVIDENCE))


async def test_usage_tells_what_is_set_and_held(engine: Engine) -> None:
    await engine.resize_prefix_cache(1 << 20)
    await engine.admit(3)
    engine.tokenizer.stop_ids = frozenset()  # long enough to be seen
    options = SamplingOptions(temperature=0, max_new_tokens=80)
    messages = [Message("user", "What is the capital of France?")]
    held = [await engine.answer_bytes() async for _ in engine.generate(messages, options)]
    assert held[0] > 0
    usage = engine.usage()
    assert (usage.max_concurrent, usage.max_prefix_bytes) == (3, 1 << 20)
    assert (usage.precision, usage.bits) == ("fp16", 32)  # "fp16" stands for as it was loaded
    assert (usage.running, usage.waiting, await engine.answer_bytes()) == (0, 0, 0)
    assert 0 < usage.prefix_bytes <= 1 << 20
    await engine.drop_prefixes()
    assert engine.usage().prefix_bytes == 0


async def test_nobody_admitted_is_refused(engine: Engine) -> None:
    with pytest.raises(OptionError, match="max_concurrent 0: give at least 1"):
        await engine.admit(0)
