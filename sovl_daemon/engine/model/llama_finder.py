"""Finding the parts of a Llama-family model in a network of transformers.

By structure, not by name: what has these parts and no others, and gives the same logits, is one
(Llama, Mistral, SmolLM2 and many more). Everything else stays with transformers' own forward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch

from sovl_daemon.engine.model.attention import AttentionHeads, RotaryTable
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.llama import Block, FusedLinear, Llama, RmsNorm
from sovl_daemon.engine.model.precision import Precision, unquantised

_BODY = {"embed_tokens", "layers", "norm", "rotary_emb"}
_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
# These change with the length of the text, so a table of positions cannot hold them.
_MOVING_ROTARY = ("dynamic", "longrope")

_TRIAL_TOKENS = 12
# The relative error of one part: the rounding of 16 bits gives under 0.02, another formula more.
_SAME = 0.05


def find_llama(network: Any) -> Llama | None:
    """Return the lean forward pass of a causal LM, None if it is not of this family.

    The lean pass takes over the weights; those of `network` become views of them, even where the
    lean pass is then found to be wrong.
    """
    with torch.no_grad():
        if not all(_conditions(network)):
            return None
        lean = build_llama(network, unquantised(network.lm_head.weight.dtype))
        return lean if _agree(network, lean) else None


def _agree(network: Any, lean: Llama) -> bool:
    """Compare a short text part by part, each fed with the network's, so that errors don't add."""
    ids = range(_TRIAL_TOKENS)
    output = network(
        input_ids=torch.tensor([list(ids)], device=network.lm_head.weight.device),
        use_cache=False,
        output_hidden_states=True,
    )
    states = [state[0] for state in output.hidden_states]  # the last is behind the norm
    step = lean.step([Span(ids, lean.new_cache())])
    after = [block(x, step) for block, x in zip(lean.blocks, states, strict=False)]
    ours = [lean.embed(ids), *after[:-1], lean.norm(after[-1]), lean.head.matrix(states[-1])]
    theirs = [*states, output.logits[0]]
    return all(_close(x, y) for x, y in zip(ours, theirs, strict=True))


def _close(x: torch.Tensor, y: torch.Tensor) -> bool:
    return float((x.float() - y.float()).norm()) <= _SAME * float(y.float().norm())


def _conditions(network: Any) -> Iterator[bool]:
    """Yield what must hold, so ordered that each may rely on those before."""
    yield _children(network) == {"model", "lm_head"}
    yield _children(network.model) == _BODY
    yield _is_linear(network.lm_head)
    yield all(_is_block(block) for block in network.model.layers)
    config = network.config
    yield getattr(config, "sliding_window", None) is None
    yield getattr(config, "hidden_act", None) in ("silu", "swish")
    rotary, attention = network.model.rotary_emb, network.model.layers[0].self_attn
    yield rotary.rope_type not in _MOVING_ROTARY
    yield 2 * len(rotary.inv_freq) == attention.head_dim
    yield config.vocab_size >= _TRIAL_TOKENS


def _is_block(block: Any) -> bool:
    return (
        _children(block) == _BLOCK
        and _children(block.self_attn) == _ATTENTION
        and _children(block.mlp) - {"act_fn"} == _MLP
        and all(_is_linear(getattr(block.self_attn, name)) for name in _ATTENTION)
        and all(_is_linear(getattr(block.mlp, name)) for name in _MLP)
        and hasattr(block.input_layernorm, "variance_epsilon")
        and hasattr(block.post_attention_layernorm, "variance_epsilon")
    )


def _children(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_linear(module: Any) -> bool:
    return type(module) is torch.nn.Linear and module.bias is None


def build_llama(network: Any, precision: Precision) -> Llama:
    """Return the lean forward pass of a network that has its parts, whose weights it takes over."""
    body, head = network.model, network.lm_head
    tied = head.weight is body.embed_tokens.weight
    attention = body.layers[0].self_attn
    size = int(attention.head_dim)
    queries, keys = len(attention.q_proj.weight) // size, len(attention.k_proj.weight) // size
    heads = AttentionHeads(queries, keys, size, float(attention.scaling))
    blocks = [_block(index, heads, block, precision) for index, block in enumerate(body.layers)]
    head_name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    also = [body.embed_tokens] if tied else []
    return Llama(
        body.embed_tokens,
        blocks,
        _norm(body.norm),
        FusedLinear.adopt([head_name], [head], precision, also, few_rows=True),
        RotaryTable(body.rotary_emb, heads.queries + heads.keys, heads.keys, body.norm.weight),
        getattr(network.config, "max_position_embeddings", None),
    )


def _block(index: int, heads: AttentionHeads, block: Any, precision: Precision) -> Block:
    def linear(part: str, *names: str) -> FusedLinear:
        where = f"model.layers.{index}.{part}"
        modules = [getattr(getattr(block, part), name) for name in names]
        return FusedLinear.adopt([f"{where}.{name}.weight" for name in names], modules, precision)

    return Block(
        index=index,
        heads=heads,
        before_attention=_norm(block.input_layernorm),
        qkv=linear("self_attn", "q_proj", "k_proj", "v_proj"),
        out=linear("self_attn", "o_proj"),
        before_mlp=_norm(block.post_attention_layernorm),
        gate_up=linear("mlp", "gate_proj", "up_proj"),
        down=linear("mlp", "down_proj"),
    )


def _norm(norm: Any) -> RmsNorm:
    return RmsNorm(norm.weight.data, norm.variance_epsilon)
