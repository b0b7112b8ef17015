"""How much the scaffold's adapters can hold, told from the shapes of its weights alone."""

from collections.abc import Mapping, Sequence

from config.mind import LoraConfig

_JOINED = ("qkv_proj", "query_key_value", "Wqkv", "c_attn")  # where query and value are one matrix
_WEIGHT = ".weight"


def _of_default() -> dict[str, tuple[int, ...]]:
    hidden, narrow, wide = 576, 192, 1536
    parts = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    return {
        f"model.layers.{block}.{name}{_WEIGHT}": shape
        for block in range(30)
        for name, shape in parts.items()
    }


DEFAULT = _of_default()
"""The shapes of the blocks of SmolLM2-135M, for where no scaffold is stored yet."""


def trainable(shapes: Mapping[str, Sequence[int]], lora: LoraConfig, blocks: int) -> int:
    """Return how many parameters of the adapters are trainable; 0 where none would fit.

    `shapes` are those of the scaffold's weights by name; of the modules that `lora` names those in
    the last `blocks` blocks get adapters, in all of them if that is 0.
    """
    matrices = {
        name.removesuffix(_WEIGHT): sum(shape)
        for name, shape in shapes.items()
        if name.endswith(_WEIGHT) and len(shape) == 2
    }
    found = _named(lora.lora_target_modules, matrices) or _named(_JOINED, matrices)
    last = max(map(_block_of, found), default=0)
    return lora.lora_rank * sum(
        matrices[name] for name in found if not blocks or _block_of(name) > last - blocks
    )


def _named(targets: Sequence[str], names: Mapping[str, int]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{each}") for each in targets)]


def _block_of(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)
