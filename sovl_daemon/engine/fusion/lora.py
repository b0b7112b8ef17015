"""Low-rank adapters (Hu et al. 2021) by peft, the part of the scaffold that learns."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sovl_daemon.engine.errors import OptionError

# At import bitsandbytes, which peft loads, complains of a kernel it would like to download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from peft.utils.constants import (  # noqa: E402
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS,
)

ADAPTER = "default"

# What families call the one matrix of query, key and value, where peft names nothing usual.
_JOINED = ("qkv_proj", "query_key_value", "Wqkv", "c_attn")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """Which layers get an adapter, and how much it can hold.

    What an adapter adds is multiplied by `alpha` / `rank`; `dropout` is the share of its inputs
    that training leaves out; `targets` are names of layers, or ends of their dotted paths; of them
    those in the last `blocks` blocks of the network get adapters, in all of them if that is 0.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """The layers that get adapters; `note` says so if they are others than those asked for."""

    names: tuple[str, ...]
    note: str = ""


def choose_targets(network: Any, asked: Sequence[str]) -> LoraTargets:
    """Return those of `asked` that `network` has, else what is usual for its architecture.

    Raises:
        OptionError: it has none of them, and nothing usual is known.

    """
    names = [name for name, module in network.named_modules() if _adaptable(module)]
    missing = [name for name in asked if not _found(name, names)]
    if not missing:
        return LoraTargets(tuple(asked))
    family = network.config.model_type
    usual = [name for name in USUAL_TARGETS.get(family, _JOINED) if _found(name, names)]
    chosen = [name for name in asked if name not in missing] or usual
    lacking = f"a {family} scaffold has no {' or '.join(missing)}"
    if not chosen:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise OptionError(f"lora_target_modules: {lacking}; it has {known}")
    return LoraTargets(tuple(chosen), f"{lacking}: {' and '.join(chosen)} get the adapters")


def add_lora(network: Any, options: LoraOptions, *, device: torch.device, seed: int) -> PeftModel:
    """Put fresh adapters, which change nothing yet, on the layers `options.targets` of `network`.

    They are float32 and lie on `device`, even where the network's own weights are on no device
    (torch's "meta"). The same seed gives the same adapters, on every device.

    Raises:
        OptionError: the network has no such layers.

    """
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        # A Conv1D, such as GPT-2 has, holds its weights the other way round.
        fan_in_fan_out=network.config.model_type == "gpt2",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(network, config)
        except ValueError as error:
            raise OptionError(f"lora_target_modules: {error}") from error
    renew_lora(adapted, device=device, seed=seed)
    adapted.eval()
    return adapted


def renew_lora(adapted: PeftModel, *, device: torch.device, seed: int) -> None:
    """Make the adapters those that `add_lora` makes of this seed; they forget what they learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in lora_layers(adapted).values():
            parts = (layer.lora_A, layer.lora_B)
            for part in parts:
                part.to_empty(device="cpu")
            layer.reset_lora_parameters(ADAPTER, True)
            for part in parts:
                part.to(device)


def lora_layers(adapted: PeftModel) -> dict[str, LoraLayer]:
    """Return the layers with adapters by their name in the network."""
    network = adapted.get_base_model()
    return {name: each for name, each in network.named_modules() if isinstance(each, LoraLayer)}


def in_last_blocks(network: Any, targets: Sequence[str], blocks: int) -> tuple[str, ...]:
    """Return the full names of the layers that `targets` means, of the last `blocks` blocks.

    What lies below them needs no gradient, and is read once a night. Without blocks, `targets`.
    """
    if not blocks:
        return tuple(targets)
    names = [name for name, module in network.named_modules() if _adaptable(module)]
    found = {
        name: _block_of(name) for name in names if any(_found(each, [name]) for each in targets)
    }
    last = max(found.values(), default=0)
    return tuple(name for name, block in found.items() if block > last - blocks)


def _block_of(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _adaptable(module: Any) -> bool:
    # By name as well: Conv1D is transformers' own linear layer, of GPT-2 and its kin.
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _found(name: str, names: Sequence[str]) -> bool:
    return any(each == name or each.endswith("." + name) for each in names)
