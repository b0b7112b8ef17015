"""Whether a base and its scaffold fit together, tried out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sovl_daemon.engine.errors import ModelLoadError, NonFiniteLogitsError, first_line, settled
from sovl_daemon.engine.fusion.fusion import Fusion
from sovl_daemon.engine.fusion.lora import lora_layers
from sovl_daemon.engine.fusion.steering import Influence, Steering
from sovl_daemon.engine.model.kv_cache import Span
from sovl_daemon.engine.model.model import LoadedModel

# So many of the base's tokens, spread evenly, stand for its vocabulary.
_TOKENS = 4096
# What a fresh output projection is filled with for the trial: small beside a hidden state.
_AS_LEARNED = 0.01


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a base and of the scaffold beside it.

    `adapters` counts the layers that have one, `trainable` the parameters that learn; `translated`
    is the share of the base's tokens that the scaffold has tokens for.
    """

    base_layers: int
    base_width: int
    scaffold_width: int
    adapters: int
    trainable: int
    translated: float


def examine(
    base: LoadedModel, fusion: Fusion, layers: Sequence[int], prompt: Sequence[int]
) -> Architecture:
    """Read the token ids `prompt` with `layers` fused, and translate the base's vocabulary.

    What is chosen and learned stays as it was. Use it from the tensor thread only.

    Raises:
        OptionError: the base has no such layer.
        ModelLoadError: the scaffold cannot read what the base reads, or has no words for it.
        NonFiniteLogitsError: the fused model gives no distribution.

    """
    translated = _translated(fusion, int(base.network.get_input_embeddings().weight.shape[0]))
    with _as_if_learned(fusion, layers):
        _read(base, prompt)
    adapters = fusion.scaffold.adapters
    learning = [*adapters.parameters(), *fusion.attentions.parameters()]
    return Architecture(
        base_layers=base.layers,
        base_width=base.width,
        scaffold_width=fusion.scaffold.width,
        adapters=len(lora_layers(adapters)),
        trainable=sum(each.numel() for each in learning if each.requires_grad),
        translated=translated,
    )


@contextmanager
def _as_if_learned(fusion: Fusion, layers: Sequence[int]) -> Iterator[None]:
    """Let `layers` steer inside the block, those too that have learned nothing yet."""
    before = fusion.steering
    fresh = [each for each in map(fusion.attention, layers) if each.fresh]
    for each in fresh:
        torch.nn.init.constant_(each.output.weight, _AS_LEARNED)
    try:
        fusion.apply(Steering(tuple(layers), Influence()))
        yield
    finally:
        for each in fresh:
            torch.nn.init.zeros_(each.output.weight)
        fusion.refresh()
        fusion.apply(before)


def _read(base: LoadedModel, prompt: Sequence[int]) -> None:
    cache = base.new_cache()
    try:
        base.listen(prompt, cache, since=0)
        logits = base.forward([Span(prompt, cache)])
    except Exception as error:  # Whatever does not fit raises whatever it likes.
        raise ModelLoadError(
            f"it cannot read beside the base ({first_line(settled(error))}): choose another"
        ) from error
    if not bool(torch.isfinite(logits).all()):
        raise NonFiniteLogitsError(
            "with it the base's logits are not finite: its weights are damaged or the number "
            "format is too narrow for it; choose another"
        )


def _translated(fusion: Fusion, vocabulary: int) -> float:
    """Return the share of the base's tokens that the scaffold has tokens for."""
    rows = int(fusion.scaffold.adapters.get_input_embeddings().weight.shape[0])
    if fusion.tokens is None:
        _check_known(vocabulary - 1, rows)
        return 1.0
    tokens, ids = fusion.tokens, range(0, vocabulary, max(1, vocabulary // _TOKENS))
    _check_known(max(max(tokens.mapped(id_)) for id_ in ids), rows)
    found = sum(tokens.has_words_for(id_) for id_ in ids)
    if not found:
        raise ModelLoadError("it has no words for any of the base's tokens: choose another")
    return round(found / len(ids), 4)


def _check_known(highest: int, rows: int) -> None:
    if highest >= rows:
        raise ModelLoadError(f"it is to read token {highest}, but knows {rows}: choose another")
