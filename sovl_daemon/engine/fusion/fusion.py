"""The scaffold's influence on the base: cross-attention behind chosen blocks.

Composition of two frozen models as in CALM (Bansal et al. 2024): what the layers add goes onto the
base's residual stream. Base and scaffold keep their modules and the names of their weights.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from sovl_daemon.engine.fusion.cross_attention import CrossAttention
from sovl_daemon.engine.fusion.lora import renew_lora
from sovl_daemon.engine.fusion.scaffold import Scaffold
from sovl_daemon.engine.fusion.scaffold_memory import ScaffoldMemory
from sovl_daemon.engine.fusion.steering import Influence, Steering, existing_layers
from sovl_daemon.engine.model.kv_cache import Cache
from sovl_daemon.engine.model.llama import SequenceRows
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.text.token_map import TokenMap


@dataclass(frozen=True, slots=True, eq=False)
class DreamStates:
    """What the scaffold remembers of a dream: hidden states (D, width), and their weight.

    The weight, above 0, multiplies the attention they get; states of a prompt have 1.
    """

    hidden: torch.Tensor
    weight: float


class ScaffoldTokens(NamedTuple):
    """A prompt for the scaffold: token ids, their weights, how many each of the base's became."""

    ids: Sequence[int]
    weights: list[float]
    counts: list[int]


class Fusion:
    """Steers `base` by what `scaffold` remembers of the conversation.

    `tokens` translates where the two have different vocabularies. `attentions` holds the trainable
    layers, float32, by the index of the base's layer; each is made when its layer is first chosen,
    the same for the same seed. Layers that have learned nothing, or weigh nothing, cost nothing:
    the base runs as if there were no fusion, bit for bit. Use it from the tensor thread only.
    """

    def __init__(
        self,
        base: LoadedModel,
        scaffold: Scaffold,
        tokens: TokenMap | None = None,
        *,
        rank: int,
        heads: int,
        seed: int,
    ) -> None:
        self.scaffold = scaffold
        self.tokens = tokens
        self.attentions = nn.ModuleDict()
        self.layers: tuple[int, ...] = ()
        self.influence = Influence()
        self._base = base
        self._shape = {"rank": rank, "heads": heads}
        self._seed = seed
        self._working: dict[int, CrossAttention] = {}
        self._removers: list[Callable[[], object]] = []
        self._generation = 1
        self._adapters_on = True
        self._dreams: tuple[DreamStates, ...] = ()
        base.fusion = self

    @property
    def active(self) -> tuple[int, ...]:
        """The layers that steer the base at the moment."""
        return tuple(self._working)

    @property
    def depth(self) -> int:
        """Number of the base's layers."""
        return self._base.layers

    @property
    def trainable(self) -> int:
        """Number of the adapters' parameters."""
        return sum(
            each.numel() for each in self.scaffold.adapters.parameters() if each.requires_grad
        )

    @property
    def steering(self) -> Steering:
        """What was last chosen."""
        return Steering(self.layers, self.influence, self._adapters_on)

    @property
    def stamp(self) -> int:
        """A number that changes when what conversations remember is out of date; 0 is unsteered."""
        return self._generation if self._working else 0

    def set(self, layers: Sequence[int], influence: Influence) -> None:
        """Choose the layers and how strongly they steer; holds from the next token on.

        Raises:
            OptionError: the base has no such layer, or the weights do not fit; nothing changes.

        """
        chosen = existing_layers(layers, self._base.layers)
        weights = influence.weights_of(chosen)
        self.layers, self.influence = chosen, influence
        self._connect(weights)

    def apply(self, steering: Steering) -> None:
        """Take all that may be chosen at once; errors as of `set`."""
        self.set(steering.layers, steering.influence)
        self.use_adapters(steering.adapters)

    def use_adapters(self, on: bool) -> None:
        """Let the scaffold read with its adapters, or as the plain model it was."""
        if on == self._adapters_on:
            return
        self._adapters_on = on
        if on:
            self.scaffold.adapters.enable_adapter_layers()
        else:
            self.scaffold.adapters.disable_adapter_layers()
        self.refresh()

    def forget(self) -> None:
        """Become new-born: it steers nothing, and learns as if it had never learned."""
        self.attentions = nn.ModuleDict()
        adapters, seed = self.scaffold.adapters, self.scaffold.seed
        renew_lora(adapters, device=self._base.device, seed=seed)
        self.refresh()

    def refresh(self) -> None:
        """Take up new values of the adapters and of `attentions`."""
        self._generation += 1
        self._working.clear()
        self._connect(self.influence.weights_of(self.layers))

    def dream(self, ids: Sequence[int], *, noise: float, seed: int) -> torch.Tensor:
        """Return the scaffold's hidden states (D, width) over `ids`, blurred.

        `noise` is the standard deviation of what is added, as a share of the states' own.
        """
        told = self.fit(self.translate(ids))
        with torch.inference_mode():
            hidden = self.scaffold.read(told.ids, self.scaffold.new_cache())
        generator = torch.Generator().manual_seed(seed)
        blur = torch.randn(hidden.shape, generator=generator).to(hidden)
        return hidden + blur * noise * hidden.std()

    def remember(self, dreams: Sequence[DreamStates]) -> None:
        """Let every conversation look at these dreams too; those that went on begin anew."""
        if dreams or self._dreams:
            self._dreams = tuple(dreams)
            self._generation += 1

    def unload(self) -> None:
        """Leave the base as it was before."""
        self._disconnect()
        self._base.fusion = None

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Read `prompt` with the scaffold as far as it has not; steer from position `since` on.

        Of a prompt that is too long for it, it reads the end.
        """
        if not self._working:
            return
        memory: ScaffoldMemory = cache.memory or self._new_memory()
        told = self.translate(prompt[memory.length :])
        limit = self.scaffold.max_context
        if memory.cut or (limit is not None and memory.tokens_read + len(told.ids) > limit):
            memory, whole = self._new_memory(), self.translate(prompt)
            told = self.fit(whole)
            memory.cut = told is not whole
        cache.memory = memory
        memory.since = since
        if told.counts:
            hidden = self.scaffold.read(told.ids, memory.cache)
            memory.append(hidden, told.weights, told.counts)

    def attention(self, layer: int) -> CrossAttention:
        """Return the trainable attention behind a layer, a fresh one if there was none."""
        name = str(layer)
        if name not in self.attentions:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed + layer)
                made = CrossAttention(self._base.width, self.scaffold.width, **self._shape)
            self.attentions[name] = made.to(self._base.device)
        found: CrossAttention = self.attentions[name]
        return found

    def _connect(self, weights: dict[int, float]) -> None:
        self._disconnect()
        for layer, weight in weights.items():
            trained = self.attention(layer)
            if weight == 0 or trained.fresh:
                self._working.pop(layer, None)
                continue
            working = self._working.get(layer)
            if working is None:  # what answers is frozen, and in the base's number format
                working = deepcopy(trained).to(self._base.precision.dtype)
                working.eval().requires_grad_(False)
            with torch.no_grad():  # the same object, whose keys and values memories hold
                working.output.weight.copy_(trained.output.weight * weight)
            self._working[layer] = working
            self._removers.append(self._base.add_after_block(layer, partial(_steer, working)))
        self._working = {layer: self._working[layer] for layer in weights if layer in self._working}

    def _disconnect(self) -> None:
        while self._removers:
            self._removers.pop()()

    def _new_memory(self) -> ScaffoldMemory:
        base = self._base
        none = torch.empty(0, self.scaffold.width, device=base.device)
        hidden = torch.cat([none, *(dream.hidden.to(none) for dream in self._dreams)])
        weights = [dream.weight for dream in self._dreams for _ in dream.hidden]
        return ScaffoldMemory(
            self.scaffold.new_cache(),
            hidden.to(base.precision.dtype),
            weights=weights,
            dreamt=len(weights),
        )

    def fit(self, told: ScaffoldTokens) -> ScaffoldTokens:
        """Return the end of a prompt that the scaffold has positions for; itself if that is all."""
        excess = len(told.ids) - (self.scaffold.max_context or len(told.ids))
        if excess <= 0:
            return told
        left, counts = excess, []
        for count in told.counts:
            counts.append(max(0, count - left))
            left = max(0, left - count)
        return ScaffoldTokens(told.ids[excess:], told.weights[excess:], counts)

    def translate(self, ids: Sequence[int]) -> ScaffoldTokens:
        """Return the scaffold's tokens for `ids`."""
        if self.tokens is None:
            return ScaffoldTokens(ids, [1.0] * len(ids), [1] * len(ids))
        parts = [self.tokens.expand([id_]) for id_ in ids]
        scaffold_ids = [id_ for part, _ in parts for id_ in part]
        weights = [weight for _, part in parts for weight in part]
        return ScaffoldTokens(scaffold_ids, weights, [len(part) for part, _ in parts])


def _steer(
    attention: CrossAttention, x: torch.Tensor, rows: Sequence[SequenceRows]
) -> torch.Tensor:
    """Add to the hidden states x (N, width) what the conversations' memories give."""
    wheres, memories = [], []
    for each in rows:
        memory: ScaffoldMemory | None = each.cache.memory
        if memory is None or not len(memory.hidden):
            continue
        first = each.where.start + max(0, memory.since - each.start)
        if first < each.where.stop:
            wheres.append(slice(first, each.where.stop))
            memories.append(memory.seen_by(attention))
    if not wheres:
        return x
    added = attention(x, wheres, memories)
    if len(added) == len(x):
        return x + added
    x = x.clone()
    for where, part in zip(wheres, added.split([w.stop - w.start for w in wheres]), strict=True):
        x[where] += part
    return x
