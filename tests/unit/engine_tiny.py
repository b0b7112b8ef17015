"""Tiny models and tokenizers, made on the spot, for the engine's tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama_finder import find_llama
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.precision import DtypeChoice
from sovl_daemon.engine.serving.batch import LanguageModel, advance
from sovl_daemon.engine.serving.token_sequence import Token, TokenSequence
from tests import tiny_models

VOCABULARY = 384
SPECIALS = ["<|end|>", "<|turn|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is the capital of France?",
    "日本語のテキストと絵文字 👩‍👩‍👧 🦊 in one line, déjà vu",
]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_network(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random network of two layers; large initial weights make its choices clear-cut."""
    shape = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "eos_token_id": 0}
    if family == "gpt2":
        of_family = {"n_positions": 128, "n_head": 4, "bos_token_id": 0}
        network = tiny_models.gpt2(seed, **(shape | of_family | changes))
    else:
        of_family = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None}
        network = tiny_models.llama(seed, positions=128, **(shape | of_family | changes))
    return network.requires_grad_(False)


def tiny_model(family: str = "llama", *, lean: bool = True) -> LoadedModel:
    """The network as the engine holds it; not `lean`, it answers through transformers alone."""
    choice = DtypeChoice(torch.float32, "test")
    network = tiny_network(family)
    fast = find_llama(network) if lean else None
    return LoadedModel(network, torch.device("cpu"), choice, 128, fast)


def read(model: LoadedModel, ids: Sequence[int], cache: Any = None) -> torch.Tensor:
    """The logits (vocab,) behind `ids`, after what `cache` holds."""
    return model.forward([Span(ids, cache or model.new_cache())])[0]


def tokens(model: LanguageModel, decoding: TokenSequence) -> Iterator[Token]:
    """The tokens of one answer that nothing runs beside."""
    while decoding.finish_reason is None:
        for outcome in advance(model, decoding._caches, [decoding]).values():
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    decoding.close()


def byte_level_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A BPE over bytes, as GPT-2 and most of its successors have it."""
    return _wrap(tiny_models.byte_level_bpe(CORPUS, VOCABULARY, SPECIALS), template)


def byte_fallback_tokenizer() -> Any:
    """A BPE over characters that spells unknown ones in bytes, as Llama 2 has it."""
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehlorwテ"]
    vocabulary = {name: index for index, name in enumerate([*names, "he", "▁he", "lo", "▁w"])}
    merges = [("h", "e"), ("▁", "he"), ("l", "o"), ("▁", "w")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrap(tokenizer, None)


def save_tiny(
    path: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    template: str | None = TEMPLATE,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder and return it."""
    network = tiny_network(family, seed).to(dtype)
    return tiny_models.save(network, path, byte_level_tokenizer(template))


def generated(network: Any, prompt: Sequence[int], count: int, **options: Any) -> list[int]:
    """What transformers' own generate answers."""
    ids = torch.tensor([prompt])
    output = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return [int(id_) for id_ in output[0, len(prompt) :]]


def _wrap(tokenizer: Tokenizer, template: str | None) -> Any:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIALS[0], additional_special_tokens=SPECIALS[1:]
    )
    wrapped.chat_template = template
    return wrapped
