"""Tiny models and tokenizers, made on the spot, for the engine's tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sovl_daemon.engine.batch import advance
from sovl_daemon.engine.decode import Decoding, Token
from sovl_daemon.engine.language_model import LanguageModel
from sovl_daemon.engine.llama_finder import find_llama
from sovl_daemon.engine.model import LoadedModel
from sovl_daemon.engine.precision import DtypeChoice
from sovl_daemon.engine.span import Span

torch.set_num_threads(1)

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


def tiny_network(family: str, seed: int = 0) -> Any:
    """A random network of two layers; large initial weights make its choices clear-cut."""
    torch.manual_seed(seed)
    if family == "gpt2":
        network: Any = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=128,
                n_embd=32,
                n_layer=2,
                n_head=4,
                initializer_range=0.3,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    else:
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.3,
                bos_token_id=None,
                eos_token_id=0,
            )
        )
    return network.eval().requires_grad_(False)


def tiny_model(family: str = "llama", *, lean: bool = True) -> LoadedModel:
    """The network as the engine holds it; not `lean`, it answers through transformers alone."""
    choice = DtypeChoice(torch.float32, "test")
    network = tiny_network(family)
    fast = find_llama(network) if lean else None
    return LoadedModel(network, torch.device("cpu"), choice, 128, fast)


def read(model: LoadedModel, ids: Sequence[int], cache: Any = None) -> torch.Tensor:
    """The logits (vocab,) behind `ids`, after what `cache` holds."""
    return model.forward([Span(ids, cache or model.new_cache())])[0]


def tokens(model: LanguageModel, decoding: Decoding) -> Iterator[Token]:
    """The tokens of one answer that nothing runs beside."""
    while decoding.finish_reason is None:
        for outcome in advance(model, decoding._caches, [decoding]).values():
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    decoding.close()


def byte_level_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A BPE over bytes, as GPT-2 and most of its successors have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrap(tokenizer, template)


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
    tiny_network(family, seed).to(dtype).save_pretrained(path)
    byte_level_tokenizer(template).save_pretrained(path)
    return path


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
