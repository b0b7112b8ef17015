"""A linear probe: what a direction in the hidden states of a frozen model says of a prompt.

Its file is safetensors; what it belongs to, and how good it is, stands beside it as JSON.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sovl_daemon.engine.errors import StateError

FORMAT_VERSION = 1
_SUFFIX = ".json"


class Card(BaseModel):
    """What is known of a probe besides its weights.

    Attributes:
        format_version: Of this file.
        model: Name of the model that it was fitted on, for people.
        identity: Hash of the model's weights: another model's hidden states mean something else.
        layer: How many blocks are read.
        band: Half the width of the band around 0.5 in which it abstains.
        scores: What it reached on questions it was not fitted on, by their kind.
        fitted_on: How many questions it was fitted on.

    """

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    model: str
    identity: str
    layer: int
    band: float
    scores: dict[str, dict[str, float]] = {}
    fitted_on: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Says how probable true is: sigmoid(bias + mean over tokens of weight . unit(hidden)).

    `weight` is (hidden,) in float32; standardisation and calibration are folded into both. The
    mean is of the tokens that differ from one prompt of a task to the next, each with a hidden
    state of root mean square 1, so that no single token outweighs all others.
    """

    card: Card
    weight: torch.Tensor
    bias: float

    def by_token(self, hidden: torch.Tensor) -> torch.Tensor:
        """What each token of (T, hidden) adds to the logit; with the bias they are the logit."""
        return unit(hidden) @ self.weight.to(hidden.device) / len(hidden)

    def probability(self, hidden: torch.Tensor) -> float:
        """P(true) of a prompt whose own tokens have these hidden states (T, hidden)."""
        return float(torch.sigmoid(self.by_token(hidden).sum() + self.bias))


def unit(hidden: torch.Tensor) -> torch.Tensor:
    """Rows (T, hidden) of root mean square 1."""
    return hidden * hidden.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


def save_probe(probe: Probe, path: Path) -> None:
    """Write the probe to `path` and its card beside it; a crash leaves the former pair.

    The card is written last, and the weights carry its identity, so a pair that does not belong
    together is found out when it is read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as scratch:
        weights, card = Path(scratch) / "weights", Path(scratch) / "card"
        tensors = {"weight": probe.weight.contiguous(), "bias": torch.tensor([probe.bias])}
        save_file(tensors, weights, metadata={"card": _stamp(probe.card)})
        card.write_text(probe.card.model_dump_json(indent=2) + "\n")
        for each in (weights, card):
            each.chmod(0o644)
            with each.open("rb") as file:
                os.fsync(file.fileno())
        weights.replace(path)
        card.replace(path.with_suffix(_SUFFIX))


def load_probe(path: Path, identity: str = "") -> Probe:
    """Read a probe and its card; with an `identity` only that of this model.

    Raises:
        FileNotFoundError: there is none.
        StateError: it is damaged, or belongs to another model.

    """
    card = _card(path.with_suffix(_SUFFIX))
    if identity and card.identity != identity:
        raise StateError(
            f"{path}: the probe was fitted on another model ({card.model}): run sovl judge fit"
        )
    try:
        tensors: dict[str, Any] = load_file(path)
        weight, bias = tensors["weight"].float(), float(tensors["bias"][0])
    except (SafetensorError, KeyError, IndexError, ValueError) as error:
        raise StateError(f"{path}: damaged ({error}): run sovl judge fit") from error
    sound = weight.ndim == 1 and bool(weight.isfinite().all()) and bias - bias == 0
    if not sound or _stamp_of(path) != _stamp(card):
        raise StateError(f"{path}: damaged, or not the pair of its JSON: run sovl judge fit")
    return Probe(card, weight, bias)


def _card(path: Path) -> Card:
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StateError(f"{path}: cannot be read as a probe's card: run sovl judge fit") from error


def _stamp(card: Card) -> str:
    return f"{card.identity} {card.layer} {card.fitted_on} {card.band!r}"


def _stamp_of(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("card", ""))
