"""The scaffold: a trainable model that reads what the base reads, for its hidden states.

Its weights are frozen; low-rank adapters learn. A Llama-family scaffold runs through the lean
forward pass; one that is the same model as the base even shares the base's matrices, in whichever
precision they are, so that only the adapters take memory. Every other runs through transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForCausalLM

from sovl_daemon.engine.errors import OptionError
from sovl_daemon.engine.fusion.lora import (
    ADAPTER,
    LoraOptions,
    add_lora,
    choose_targets,
    in_last_blocks,
    lora_layers,
)
from sovl_daemon.engine.model.kv_cache import Cache, NetworkCache, Span
from sovl_daemon.engine.model.llama import Block, FusedLinear, Llama
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.text.chat import ChatTokenizer, load_tokenizer
from sovl_daemon.engine.text.token_map import TokenMap, identical

if TYPE_CHECKING:  # `lora` is the one that imports peft, with its complaints silenced
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionOptions:
    """How scaffold and cross-attention are made; the same `seed` gives the same start."""

    lora: LoraOptions
    heads: int = 4
    head_size: int = 32
    seed: int = 42

    def shape(self) -> dict[str, int]:
        """Return what the attentions need."""
        return {"rank": self.heads * self.head_size, "heads": self.heads, "seed": self.seed}


class Scaffold(Protocol):
    """What fusion needs of a scaffold; `note` tells what was decided for the user.

    `max_context` is the number of positions it knows, None if it has no such limit. The adapters
    were drawn from `seed`.
    """

    adapters: "PeftModel"
    seed: int
    width: int
    max_context: int | None
    note: str

    def new_cache(self) -> Cache:
        """Return an empty cache for one conversation."""

    def read(self, ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Read `ids` after what `cache` holds; return their hidden states (T, width)."""


def load_scaffold(
    path: Path, options: FusionOptions, base: LoadedModel, chat: ChatTokenizer
) -> tuple[Scaffold, TokenMap | None]:
    """Load the scaffold in the folder `path`, and what translates for it if it needs that.

    A base that runs through the lean pass is its own scaffold where `path` is its folder.

    Raises:
        ModelLoadError: the folder holds no such model, or one that cannot be loaded.
        OptionError: the adapters do not fit on it.

    """
    if base.lean is not None and base.path is not None and path.samefile(base.path):
        return make_scaffold(base, options.lora, seed=options.seed), None
    dtype = str(base.precision.dtype).removeprefix("torch.")
    model = load_model(path, device=str(base.device), dtype=dtype, threads=base.threads.fixed)
    theirs = load_tokenizer(path)
    tokens = None if identical(chat.tokenizer, theirs) else TokenMap(chat.tokenizer, theirs)
    return make_scaffold(model, options.lora, seed=options.seed), tokens


def make_scaffold(model: LoadedModel, options: LoraOptions, *, seed: int) -> Scaffold:
    """Make a scaffold of a model, which may be the base itself: it is left as it is then.

    Raises:
        OptionError: the model has no layers that adapters fit on.

    """
    targets = choose_targets(model.network, options.targets)
    names = in_last_blocks(model.network, targets.names, options.blocks)
    options = replace(options, targets=names)
    if model.lean is None:
        return NetworkScaffold(model, options, targets.note, seed=seed)
    return LeanScaffold(model, model.lean, options, targets.note, seed=seed)


class NetworkScaffold:
    """A scaffold that runs through transformers and peft; it takes the network over."""

    def __init__(self, model: LoadedModel, options: LoraOptions, note: str, *, seed: int) -> None:
        self.note = note
        self.seed = seed
        self.max_context = model.max_context
        self.adapters = add_lora(model.network, options, device=model.device, seed=seed)
        self.width = int(model.network.get_input_embeddings().weight.shape[1])
        self._network = model.network
        self._device = model.device

    def new_cache(self) -> NetworkCache:
        """Return an empty cache for one conversation."""
        return NetworkCache(self._network.config)

    def read(self, ids: Sequence[int], cache: NetworkCache) -> torch.Tensor:
        """Read `ids` after what `cache` holds; return their hidden states (T, width)."""
        cache.settle()
        output = self._network.base_model(
            input_ids=torch.tensor([ids], device=self._device),
            past_key_values=cache.dynamic,
            use_cache=True,
        )
        cache.advance(len(ids))
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden


class LeanScaffold:
    """A scaffold that runs through a lean forward pass, whose matrices it shares.

    The adapters are peft's, on a twin of the network without weights of its own, so that the
    network and the names of its weights stay as they are. `lean` is that pass, its blocks adapted.
    """

    def __init__(
        self, model: LoadedModel, lean: Llama, options: LoraOptions, note: str, *, seed: int
    ) -> None:
        self.note = note
        self.seed = seed
        self.max_context = model.max_context
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(model.network.config)
        self.adapters = add_lora(twin, options, device=model.device, seed=seed)
        self.width = len(lean.norm.weight)
        layers = lora_layers(self.adapters)
        blocks = [_adapted(block, layers) for block in lean.blocks]
        unused = set(layers) - {name for block in lean.blocks for name in _names(block)}
        if unused:
            raise OptionError(
                f"lora_target_modules: no adapter fits on {min(unused)}: name layers of the blocks"
            )
        self.lean = lean.with_blocks(blocks)

    def new_cache(self) -> Cache:
        """Return an empty cache for one conversation."""
        return self.lean.new_cache()

    def read(self, ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Read `ids` after what `cache` holds; return their hidden states (T, width)."""
        x, _ = self.lean.read([Span(ids, cache)])
        return self.lean.norm(x)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLinear:
    """A matrix of the base, as it is at the moment, and the adapters beside it.

    `adapters` are peft's layers with the columns of the output that are theirs.
    """

    linear: FusedLinear
    adapters: tuple[tuple[slice, Any], ...]

    @property
    def matrix(self) -> "AdaptedLinear":
        """Return what multiplies."""
        return self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weights.T and what the adapters add, (N, in) -> (N, out)."""
        y = self.linear.matrix(x)
        for columns, layer in self.adapters:
            if not layer.disable_adapters:
                down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
                inner = layer.lora_dropout[ADAPTER](x.to(down.weight.dtype))
                y[:, columns] += (up(down(inner)) * layer.scaling[ADAPTER]).to(x.dtype)
        return y


def _adapted(block: Block, layers: dict[str, "LoraLayer"]) -> Block:
    """The block with adapters beside those of its matrices that have any; the rest is shared."""

    def beside(linear: FusedLinear) -> Any:
        adapters, start = [], 0
        for name, module in zip(_layers_of(linear), linear.modules, strict=True):
            columns = slice(start, start + module.out_features)
            start = columns.stop
            if name in layers:
                adapters.append((columns, layers[name]))
        return AdaptedLinear(linear, tuple(adapters)) if adapters else linear

    return replace(
        block,
        qkv=beside(block.qkv),
        out=beside(block.out),
        gate_up=beside(block.gate_up),
        down=beside(block.down),
    )


def _names(block: Block) -> list[str]:
    return [name for linear in block.linears() for name in _layers_of(linear)]


def _layers_of(linear: FusedLinear) -> list[str]:
    return [name.removesuffix(".weight") for name in linear.names]
