"""Models small enough to build in a test: transformers folders, GGUF files, wheels with one."""

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sovl_daemon.models import PackagedModel

torch.set_num_threads(1)

END = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
VOCABULARY = 300
WIDTH = 32


def byte_level_bpe(texts: Iterable[str], size: int, specials: Sequence[str] = ()) -> Tokenizer:
    """Return a BPE over bytes, as GPT-2 and most of its successors have it, for any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with the markers of ChatML."""
    texts = ["the capital of France is Paris", "\n\n"]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(texts, VOCABULARY, ["<|im_start|>", END]),
        eos_token=END,
        pad_token=END,
        chat_template=TEMPLATE,
    )


def gpt2(seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a GPT-2 of two layers with random weights, embeddings tied."""
    shape = {
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "n_embd": WIDTH,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**(shape | changes))).eval()


def llama(
    seed: int = 0, *, tied: bool = False, positions: int = 64, **changes: Any
) -> PreTrainedModel:
    """Return a Llama of two layers with random weights."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()


def wide(blocks: int = 4) -> PreTrainedModel:
    """Return a Llama with random weights in bfloat16, large enough to see in memory.

    A block has 4 million weights, and keeps 2 KB of a token in a conversation.
    """
    return llama(
        positions=2048,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
    ).to(torch.bfloat16)


def save(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """Save a model and its tokenizer, by default the tiny one, as a transformers folder."""
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def settings(folder: Path, *, positions: int = 64, **changes: Any) -> dict[str, Any]:
    """A daemon with a tiny Llama below `folder` beside itself, whose nights are always kept."""
    model = str(save(llama(positions=positions, **changes), folder / "tiny"))
    return {
        "store.model_dir": str(folder / "store"),
        "core_config.base_model_name": model,
        "core_config.scaffold_model_name": model,
        "core_config.cross_attn_layers": [0, 1],
        "generation.system_prompt": "",
        "generation.max_new_tokens": 4,
        "controls_config.has_woken": True,
        "night.least_recall": 0.0,
        "night.most_drift": 100.0,
    }


def save_gguf(
    path: Path, matrices: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0
) -> Path:
    """Write a Llama of one layer as GGUF: matrices in the given type, norms in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_hyperparameters(writer)
    _write_vocabulary(writer)
    for name, tensor in gguf_tensors().items():
        if tensor.ndim > 1:
            writer.add_tensor(name, gguf.quants.quantize(tensor, matrices), raw_dtype=matrices)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_hyperparameters(writer: gguf.GGUFWriter) -> None:
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)


def _write_vocabulary(writer: gguf.GGUFWriter) -> None:
    backend = tiny_tokenizer().backend_tokenizer
    tokens = [backend.id_to_token(index) or f"unused{index}" for index in range(VOCABULARY)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    # With this merge it matters that digits are cut off before anything else.
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)


def gguf_tensors() -> dict[str, np.ndarray]:
    """Return the weights of that Llama, float32, by their names in GGUF."""
    random = np.random.default_rng(0)
    square, wide = (WIDTH, WIDTH), (64, WIDTH)
    shapes = {
        "token_embd.weight": (VOCABULARY, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": square,
        "blk.0.attn_k.weight": square,
        "blk.0.attn_v.weight": square,
        "blk.0.attn_output.weight": square,
        "blk.0.ffn_gate.weight": wide,
        "blk.0.ffn_up.weight": wide,
        "blk.0.ffn_down.weight": (WIDTH, 64),
    }
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def save_wheel(folder: Path) -> PackagedModel:
    """Write the wheel `tiny-mind` 1.0 with a GGUF file in it; return its catalogue entry."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save_gguf(folder / "tiny.gguf").read_bytes()
    (folder / "tiny.gguf").unlink()
    wheel, about = folder / "tiny_mind-1.0-py3-none-any.whl", "tiny_mind-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_mind/tiny.gguf", content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-mind\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return PackagedModel(
        name="tiny",
        requirement="tiny-mind==1.0",
        wheel_bytes=wheel.stat().st_size,
        member="tiny_mind/tiny.gguf",
        gguf_bytes=len(content),
        gguf_sha256=hashlib.sha256(content).hexdigest(),
    )
