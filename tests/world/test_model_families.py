"""Models of families that nobody tried here: each works, or is refused in a line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import ModelLoadError
from sovl_daemon.engine.fusion.lora import choose_targets
from sovl_daemon.engine.model.model import position_limit
from sovl_daemon.models import ConversionError, ModelStore
from tests import tiny_models
from tests.world import situation
from tests.world.test_learning_bounds import FULL, _answered, fused, learned, loaded, sample

WIDTH, VOCABULARY = tiny_models.WIDTH, tiny_models.VOCABULARY
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_COMMON = _TOKENS | {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
_GEMMA = _COMMON | {"head_dim": 16, "num_key_value_heads": 1}
_OLD = _TOKENS | {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64}


def made(name: str, **values: Any) -> Any:
    """A causal language model of a family, with random weights large enough to differ."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**values)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for each in network.parameters():
            each.mul_(3)
    return network


def seeing(name: str, vision: Any, **values: Any) -> Any:
    """A model of text and images, which knows but four places in an image."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    eyes = vision(**sizes, num_attention_heads=2, image_size=16, patch_size=8)
    config = getattr(transformers, f"{name}Config")(vision_config=eyes.to_dict(), **values)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


def gemma_that_sees() -> Any:
    text = transformers.Gemma3TextConfig(**_GEMMA).to_dict()
    return seeing(
        "Gemma3", transformers.SiglipVisionConfig, text_config=text, mm_tokens_per_image=4
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "logits that are bounded": lambda: made("Gemma2", **_GEMMA, final_logit_softcapping=1.0),
    "logits that are divided": lambda: made("Granite", **_COMMON, logits_scaling=8.0),
    "logits that are multiplied": lambda: made("Cohere", **_COMMON, logit_scale=0.1),
    "tokens narrower than states": lambda: made(
        "OPT", **_COMMON, word_embed_proj_dim=16, ffn_dim=64
    ),
    "one matrix of query, key and value": lambda: made("Phi3", **_COMMON),
    "places in an image": gemma_that_sees,
    "positions behind the padding": lambda: made(
        "Roberta", **_COMMON | {"max_position_embeddings": 66}, is_decoder=True
    ),
}


@situation("own", "A model of any family learns of the very logits that it answers with.")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_learns_of_is_what_it_answers_with(family: str) -> None:
    base = loaded(FAMILIES[family](), lean=False)
    assert base.max_context == 64
    fusion = fused(base)
    fusion.set([0, 1], FULL)
    samples = [sample(60, 4), sample(500, 5), sample(9, 4)]
    learner = learned(fusion, samples)
    fitting = [each.within(64) for each in samples]
    assert learner.evaluate(samples).loss == pytest.approx(
        _answered(fusion, fitting, chunk=512), rel=1e-3
    )


@situation("own", "A Phi-3 as scaffold gets adapters where it has its attention, and says so.")
def test_adapters_of_a_family_without_usual_ones() -> None:
    found = choose_targets(FAMILIES["one matrix of query, key and value"](), ("q_proj", "v_proj"))
    assert found.names == ("qkv_proj",)
    assert "qkv_proj get the adapters" in found.note


RECURRENT: dict[str, Callable[[], Any]] = {
    "RWKV": lambda: made("Rwkv", **_TOKENS, hidden_size=WIDTH, num_hidden_layers=2),
    "GPT of 2018": lambda: made("OpenAIGPT", **_OLD),
    "Mamba": lambda: made("Mamba", **_TOKENS, hidden_size=WIDTH, num_hidden_layers=2),
}


@situation("own", "A model that keeps nothing for the next token is refused, and never forgets.")
@pytest.mark.parametrize("family", RECURRENT)
async def test_a_model_without_keys_and_values(family: str, tmp_path: Path) -> None:
    folder = tiny_models.save(RECURRENT[family](), tmp_path / "mind")
    with pytest.raises(ModelLoadError, match="cannot decode with a key-value cache") as caught:
        await Engine.load(folder, device="cpu", dtype="float32")
    assert len(str(caught.value).splitlines()) == 1


@situation("own", "A model that sees has as many positions as its text has, not its images.")
def test_positions_of_a_model_that_sees() -> None:
    assert position_limit(gemma_that_sees()) == 64


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@situation("own", "A model of text and images that cannot be run without them says so in a line.")
def test_a_model_that_sees_is_refused(store: ModelStore, tmp_path: Path) -> None:
    text = transformers.LlamaConfig(**_COMMON).to_dict()
    llava = seeing("Llava", transformers.CLIPVisionConfig, text_config=text)
    folder = tiny_models.save(llava, tmp_path / "llava")
    with pytest.raises(ConversionError, match=r"sees or hears, too: choose one of text alone$"):
        store.pull(str(folder))


@situation("own", "A token for padding that has no embedding does no harm, and is not kept.")
@pytest.mark.parametrize("role", ["pad_token", "eos_token", "extra_special_tokens"])
def test_one_token_more_than_embeddings(role: str, store: ModelStore, tmp_path: Path) -> None:
    tokenizer = tiny_models.tiny_tokenizer()
    known = len(tokenizer)
    config = tiny_models.llama().config
    config.vocab_size = known
    folder = tiny_models.save(transformers.LlamaForCausalLM(config), tmp_path / "tuned")
    new = "[NEW]" if role.startswith(("pad", "eos")) else ["[NEW]", "[MORE]"]
    tokenizer.add_special_tokens({role: new})
    tokenizer.save_pretrained(folder)
    stored = store.path(store.pull(str(folder)).name)
    kept = transformers.AutoTokenizer.from_pretrained(stored)
    assert len(kept) == known
    assert max(kept.encode("Well, [NEW] and [MORE].")) < known
    assert "[NEW]" not in (stored / "tokenizer_config.json").read_text()


@situation("own", "A tokenizer in a form that is not read says which file to put beside it.")
def test_a_tokenizer_of_sentencepiece_alone(store: ModelStore, tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.llama(), tmp_path / "old")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(ConversionError, match=r"put the tokenizer\.json of its family beside"):
        store.pull(str(folder))
