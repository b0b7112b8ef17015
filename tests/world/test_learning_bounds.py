"""Learning, dreaming and remembering end where the model's positions and layers end."""

import json
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from agents.training.session import TrainingSession
from config import Settings, with_value
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import ModelLoadError, OptionError
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import LoraOptions
from sovl_daemon.engine.fusion.scaffold import FusionOptions, make_scaffold
from sovl_daemon.engine.fusion.steering import (
    Influence,
    existing_layers,
    layers_of_third,
    spread_layers,
)
from sovl_daemon.engine.learning.learner import Learner, LearnerOptions
from sovl_daemon.engine.learning.sample import Sample
from sovl_daemon.engine.learning.text_sampling import sample_texts
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama_finder import find_llama
from sovl_daemon.engine.model.model import LoadedModel, position_limit
from sovl_daemon.engine.model.precision import DtypeChoice
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.text.token_map import TokenMap
from sovl_daemon.memory.interactions import Interaction
from sovl_daemon.night.curriculum import CurriculumOptions
from tests import templates, tiny_models
from tests.world import situation

POSITIONS = 64
FULL = Influence(cap=1.0)
LONG = "The village of Mivek lies behind the long hills of Zorland, where Kira was born. " * 9
OPTIONS = FusionOptions(lora=LoraOptions(rank=2, alpha=4), heads=2, head_size=4)


def loaded(network: Any, *, lean: bool = True) -> LoadedModel:
    fast = find_llama(network.requires_grad_(False)) if lean else None
    choice = DtypeChoice(torch.float32, "test")
    return LoadedModel(network, torch.device("cpu"), choice, position_limit(network), fast)


def layered(layers: int, *, tied: bool = False, lean: bool = True) -> LoadedModel:
    config = tiny_models.llama(tied=tied).config
    config.num_hidden_layers, config.layer_types = layers, None
    torch.manual_seed(0)
    return loaded(tiny_models.LlamaForCausalLM(config).eval(), lean=lean)


def fused(base: LoadedModel, scaffold: LoadedModel | None = None, *, blocks: int = 0) -> Fusion:
    made = make_scaffold(scaffold or base, LoraOptions(rank=2, alpha=4, blocks=blocks), seed=0)
    return Fusion(base, made, rank=8, heads=2, seed=0)


def learned(fusion: Fusion, samples: list[Sample], *, common: tuple[int, ...] = ()) -> Learner:
    learner = Learner(fusion._base, fusion, LearnerOptions(warmup=1), common=common)
    for _ in range(2):
        assert learner.step(samples).loss >= 0
    learner.evaluate(samples)
    learner.commit()
    return learner


def sample(prompt: int, answer: int, *, teacher: bool = False) -> Sample:
    ids = tuple(range(10, 250)) * 4
    return Sample(ids[:prompt], ids[5 : 5 + answer], teacher=ids[:prompt] if teacher else None)


@asynccontextmanager
async def engine_of(base: Path, scaffold: Path | None = None) -> Any:
    engine = await Engine.load(base, device="cpu", dtype="float32")
    try:
        await engine.fuse(scaffold or base, OPTIONS)
        yield engine
    finally:
        await engine.close()


def session(engine: Engine, **values: str) -> TrainingSession:
    settings = with_value(Settings(), "core_config.cross_attn_layers", "[0, 1]")
    for key, value in values.items():
        settings = with_value(settings, key.replace("__", "."), value)
    return TrainingSession(engine, settings, stage=0.0)


@situation(
    "huggingface/transformers#6559",
    "Training on a text that is longer than the model's positions learns from a part of it.",
)
@pytest.mark.parametrize("family", [tiny_models.gpt2, tiny_models.llama])
@pytest.mark.parametrize("lengths", [(500, 3), (3, 500), (64, 64), (63, 2), (1, 64), (64, 1)])
def test_a_sample_longer_than_the_positions(
    family: Callable[[], Any], lengths: tuple[int, int]
) -> None:
    fusion = fused(loaded(family()))
    fusion.set([0, 1], FULL)
    learned(fusion, [sample(*lengths), sample(5, 3), sample(*lengths, teacher=True)])


@situation("own", "A night about long talk with a model of 64 positions ends, and was learned.")
async def test_a_night_with_few_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(CurriculumOptions, epochs=1, free_dreams=4, texts=8, dreams_per_start=1)
    monkeypatch.setattr("agents.training.session.CurriculumOptions", few)
    async with engine_of(tiny_models.save(tiny_models.gpt2(), tmp_path / "base")) as engine:
        entries = [
            Interaction("c", "a", "Kira is 44 years old.", LONG, 3, None),
            Interaction("c", "a", LONG, LONG, 3, None, question="Who are you?"),
        ]
        at_night = session(engine)
        curriculum = await at_night.plan_night(entries, entries[:1])
        learner = await at_night.learner(curriculum, night=True)
        assert len([each async for each in at_night.steps(learner, curriculum, limit=4)]) == 4
        await at_night.evaluate(learner, curriculum)


@situation(
    "bentrevett/pytorch-seq2seq#89",
    "Pairs of a file that are too long for the model are cut, whatever max_seq_length says.",
)
async def test_pairs_with_few_positions(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"{n} {LONG}", "response": f"{n} {LONG}"} for n in range(6)]
    file.write_text("\n".join(map(json.dumps, pairs)))
    async with engine_of(tiny_models.save(tiny_models.gpt2(), tmp_path / "base")) as engine:
        by_day = session(engine, training_config__max_seq_length="4096")
        dataset = await by_day.dataset(file, epochs=1, skip_bad=False, dry=False)
        learner = await by_day.learner(dataset.curriculum, night=False)
        async for report in by_day.steps(learner, dataset.curriculum):
            assert report.tokens > 0


@situation("own", "A scaffold with fewer positions reads the end of what the base is told.")
@pytest.mark.parametrize("family", [tiny_models.gpt2, tiny_models.llama])
def test_a_scaffold_with_fewer_positions(family: Callable[[], Any]) -> None:
    fusion = fused(loaded(tiny_models.llama(positions=512)), loaded(family(seed=1)))
    fusion.set([0, 1], FULL)
    samples = [sample(200, 4), sample(64, 4), sample(65, 4), sample(5, 3)]
    learner = learned(fusion, samples, common=samples[0].prompt[:3])
    fusion.dream(samples[0].prompt, noise=0.1, seed=1)
    found = learner.evaluate(samples).loss
    # What it learns of is what it answers with, read in one go or in turns.
    assert found == pytest.approx(_answered(fusion, samples, chunk=512), rel=1e-4)
    assert found == pytest.approx(_answered(fusion, samples, chunk=30), rel=1e-4)


def _answered(fusion: Fusion, samples: list[Sample], chunk: int) -> float:
    model, losses = fusion._base, []
    for each in samples:
        cache, last = model.new_cache(), len(each.prompt) - 1
        for at in range(0, len(each.prompt), chunk):
            model.listen(each.prompt[: at + chunk], cache, since=last)
            logits = model.forward([Span(each.prompt[at : at + chunk], cache)])
        for id_ in each.answer:
            losses.append(-float(logits[0].log_softmax(-1)[id_]))
            logits = model.forward([Span([id_], cache)])
    return sum(losses) / len(losses)


@situation("own", "A scaffold that spells words in more tokens than it has positions is no end.")
async def test_another_vocabulary_with_fewer_positions(tmp_path: Path) -> None:
    base = tiny_models.save(tiny_models.llama(positions=512), tmp_path / "base")
    scaffold = tiny_models.save(tiny_models.gpt2(), tmp_path / "scaffold")
    templates.tokenizer(None).save_pretrained(scaffold)
    async with engine_of(base, scaffold) as engine:
        assert engine.fusion.tokens is not None
        engine.fusion.set([0, 1], FULL)
        learned(engine.fusion, [sample(200, 5), sample(4, 3)])
        said = [Message("user", LONG[:300])]
        async for _ in engine.generate(said, SamplingOptions(max_new_tokens=4, seed=1)):
            pass
        assert await engine.dream(LONG, noise=0.1, seed=1) is not None
        await engine.examine([0, 1])


@situation("own", "The base writes its dreams no further than it has positions.")
@pytest.mark.parametrize("length", [1, 60, 63, 64, 300])
def test_dreams_with_few_positions(length: int) -> None:
    model = loaded(tiny_models.gpt2())
    steps = sample_texts(model, [sample(length, 1).prompt] * 2, 40, stop_ids=frozenset(), seed=1)
    (texts,) = [each for each in steps if each is not None]
    assert all(1 <= len(text) <= 40 for text in texts)


def _ends(layers: int) -> Iterator[list[int]]:
    yield from ([0], [layers - 1], list(range(layers)), [0, 0, layers - 1])


@situation("own", "Any choice of layers learns: the first alone, the last alone, all, one twice.")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize(
    ("count", "chosen"), [(count, each) for count in (1, 2, 3) for each in _ends(count)]
)
def test_the_ends_of_a_list_of_layers(
    count: int, chosen: list[int], lean: bool, tied: bool
) -> None:
    fusion = fused(layered(count, tied=tied, lean=lean))
    fusion.set(chosen, FULL)
    samples = [sample(20, 3), sample(9, 4), sample(12, 2, teacher=True)]
    learned(fusion, samples, common=samples[0].prompt[:6])
    assert fusion.active == tuple(sorted(set(chosen)))


@situation("own", "A layer that is not there is refused in one line, with those that are.")
@pytest.mark.parametrize("asked", [[-1], [2], [0, 99]])
def test_layers_that_are_not_there(asked: list[int]) -> None:
    with pytest.raises(OptionError, match=r"cannot be fused: the base has layers 0 to 1$"):
        fused(layered(2)).set(asked, FULL)


@situation("own", "No layers at all is said before anything is learned.")
def test_no_layers() -> None:
    fusion = fused(layered(2))
    fusion.set([], FULL)
    with pytest.raises(OptionError, match="nothing steers the base: choose layers"):
        learned(fusion, [sample(4, 2)])


@situation("own", "Models of one, two and three layers have layers to choose from in every mode.")
@pytest.mark.parametrize("layers", range(1, 8))
def test_few_layers(layers: int) -> None:
    for chosen in (
        spread_layers(layers),
        *(layers_of_third(mode, layers) for mode in ("early", "balanced", "late")),
    ):
        assert chosen
        assert existing_layers(chosen, layers) == chosen


@situation("own", "No block, one, all or more than there are may be adapted.")
@pytest.mark.parametrize("blocks", [0, 1, 2, 99])
@pytest.mark.parametrize("lean", [False, True])
def test_adapted_blocks(blocks: int, lean: bool) -> None:
    fusion = fused(layered(2, lean=lean), blocks=blocks)
    fusion.set([1], FULL)
    learned(fusion, [sample(20, 3), sample(5, 3)], common=(10, 11))


@situation("own", "The number of positions is known by whichever name a family gives it.")
def test_names_of_the_positions() -> None:
    size = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2}
    neo = GPTNeoConfig(
        **size,
        num_layers=1,
        num_heads=2,
        max_position_embeddings=40,
        attention_types=[[["global"], 1]],
    )
    opt = OPTConfig(
        **size, num_hidden_layers=1, ffn_dim=8, max_position_embeddings=48, word_embed_proj_dim=8
    )
    mpt = MptConfig(d_model=8, n_heads=2, n_layers=1, vocab_size=50, max_seq_len=56)
    bloom = BloomConfig(vocab_size=50, hidden_size=8, n_layer=1, n_head=2)
    found = [
        position_limit(each)
        for each in (
            GPTNeoForCausalLM(neo),
            OPTForCausalLM(opt),
            MptForCausalLM(mpt),
            BloomForCausalLM(bloom),
            tiny_models.gpt2(),
            tiny_models.llama(),
        )
    ]
    assert found == [40, 48, 56, None, POSITIONS, POSITIONS]


@situation("own", "A model with next to no positions is refused at load, in one line.")
async def test_next_to_no_positions(tmp_path: Path) -> None:
    tiny_models.save(tiny_models.llama(positions=8), tmp_path / "small")
    with pytest.raises(ModelLoadError, match="knows 8 positions, too few to talk"):
        await Engine.load(tmp_path / "small", device="cpu")
    least = tiny_models.save(tiny_models.llama(positions=16), tmp_path / "least")
    async with engine_of(least) as engine:
        assert engine.context_length == 16


@situation("own", "Rows of a vocabulary that no token has are no words, and no end.")
def test_a_padded_vocabulary() -> None:
    from sovl_daemon.engine.text.chat import ChatTokenizer

    chat = ChatTokenizer(tiny_models.tiny_tokenizer())
    unused = tiny_models.VOCABULARY + 50
    assert chat.decode([unused]) == ""
    assert TokenMap(chat.tokenizer, templates.tokenizer(None)).mapped(unused)


def test_a_cut_leaves_the_end_of_the_prompt_and_the_beginning_of_the_answer() -> None:
    whole = sample(10, 6, teacher=True)
    assert whole.within(16) is not None
    assert whole.within(16) == whole
    cut = whole.within(8)
    assert (cut.prompt, cut.answer) == (whole.prompt[-4:], whole.answer[:4])
    assert cut.replay
    assert replace(whole, teacher=None).within(12).answer == whole.answer[:6]
    assert (len(whole.within(1).prompt), len(whole.within(1).answer)) == (1, 1)
