"""A linear probe: what a direction in the hidden states of a frozen model says of a prompt.

Its file is safetensors; what it belongs to, and how good it is, stands beside it as JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sovl_daemon.durable import replacing
from sovl_daemon.engine.errors import ArtifactError

FORMAT_VERSION = 3
_SUFFIX = ".json"
_CENTRE = "centre."


class ProbeCard(BaseModel):
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
class PooledStates:
    """What was read of a prompt: by line, the sum of its tokens' unit states.

    `sums` is (lines, hidden), `lengths` are in tokens; the first `metrics` lines are metrics, the
    next says that lines of a log follow, and the others are those.
    """

    sums: torch.Tensor
    lengths: Sequence[int]
    metrics: int

    def metric(self) -> torch.Tensor:
        """The mean over the tokens of the metrics, (hidden,)."""
        return self.sums[: self.metrics].sum(0) / sum(self.lengths[: self.metrics])

    def lines(self) -> torch.Tensor:
        """The mean over the tokens of each line of the log, (lines, hidden)."""
        lengths = torch.tensor(self.lengths[self.metrics + 1 :])[:, None]
        return self.sums[self.metrics + 1 :] / lengths


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Says how probable true is, by directions in what was read.

    logit = w[k] . (metrics - c[0]) + bias[k]
            + sum over lines of the log of soft_threshold(w[2] . (line - c[1]), quiet)

    where `metrics` and `line` are means over tokens, and c the centre (2, hidden) of the task: what
    its typical prompts look like. A line that says little says nothing, for its number is drawn
    towards 0 by `quiet`. Where one speaks k is 1, else 0: metrics count for less beside it.
    `weight` is (3, hidden), `bias` (2,), float32; standardisation and calibration are folded into
    all of these. `centres` are by a key of the task; "" is for all others.
    """

    card: ProbeCard
    weight: torch.Tensor
    bias: torch.Tensor
    quiet: float
    centres: dict[str, torch.Tensor]

    def by_line(self, read: PooledStates, task: str = "") -> list[float]:
        """What each line adds to the logit, and last the bias; the sum is the logit."""
        centre = self.centres.get(task, self.centres[""])
        says = soft_threshold((read.lines() - centre[1]) @ self.weight[2], self.quiet)
        k = int(bool(says.any()))
        lengths = torch.tensor(read.lengths[: read.metrics])
        sums = read.sums[: read.metrics] - lengths[:, None] * centre[0]
        metrics = sums @ self.weight[k] / lengths.sum()
        heading = [0.0] * (len(read.lengths) - read.metrics - len(says))  # says that lines follow
        return [*metrics.tolist(), *heading, *says.tolist(), float(self.bias[k])]

    def probability(self, read: PooledStates, task: str = "") -> float:
        """P(true) of what was read."""
        return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, self.logit(read, task)))))

    def logit(self, read: PooledStates, task: str = "") -> float:
        """The logit of P(true)."""
        return sum(self.by_line(read, task))


def task_centre(prompts: Sequence[PooledStates]) -> torch.Tensor:
    """The centre (2, hidden) of typical prompts of a task, each of which quotes a line or more."""
    metrics = torch.stack([each.metric() for each in prompts])
    lines = torch.cat([each.lines() for each in prompts])
    return torch.stack([metrics.mean(0), lines.sum(0) / max(1, len(lines))])


def soft_threshold(says: torch.Tensor, quiet: float | torch.Tensor) -> torch.Tensor:
    """Numbers nearer to 0 by `quiet`, and those that were nearer than that 0."""
    return says.sign() * (says.abs() - quiet).clamp_min(0)


def rms_normalized(hidden: torch.Tensor) -> torch.Tensor:
    """Rows (T, hidden) of root mean square 1."""
    return hidden * hidden.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


def save_probe(probe: Probe, path: Path) -> None:
    """Write the probe to `path` and its card beside it; a crash leaves the former pair.

    The card is written last, and the weights carry its identity, so a pair that does not belong
    together is found out when it is read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"weight": probe.weight.contiguous(), "bias": probe.bias.contiguous()}
    tensors["quiet"] = torch.tensor([probe.quiet])
    tensors |= {f"{_CENTRE}{key}": each.contiguous() for key, each in probe.centres.items()}
    with (
        replacing(path.with_suffix(_SUFFIX), mode=0o644) as card,
        replacing(path, mode=0o644) as weights,
    ):
        weights.write(save(tensors, metadata={"card": _stamp(probe.card)}))
        card.write(f"{probe.card.model_dump_json(indent=2)}\n".encode())
        card.flush()  # while the weights can still be left as they were


def load_probe(path: Path, identity: str = "") -> Probe:
    """Read a probe and its card; with an `identity` only that of this model.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is damaged, or belongs to another model.

    """
    card = _card(path.with_suffix(_SUFFIX))
    if card.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format {card.format_version}, where {FORMAT_VERSION} is read: "
            "run sovl judge fit"
        )
    if identity and card.identity != identity:
        raise ArtifactError(
            f"{path}: the probe was fitted on another model ({card.model}): run sovl judge fit"
        )
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            stamp = (file.metadata() or {}).get("card", "")
        weight, bias = tensors["weight"].float(), tensors["bias"].float()
        quiet = float(tensors["quiet"][0])
        names = [name for name in tensors if name.startswith(_CENTRE)]
        centres = {name.removeprefix(_CENTRE): tensors[name].float() for name in names}
    except (SafetensorError, KeyError, IndexError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged ({error}): run sovl judge fit") from error
    whole = 0 <= quiet < math.inf and "" in centres and weight.ndim == 2
    whole &= all(bool(each.isfinite().all()) for each in (weight, bias, *centres.values()))
    shapes = {(weight.shape[0], *bias.shape), *(tuple(each.shape) for each in centres.values())}
    if not whole or shapes != {(3, 2), (2, weight.shape[1])} or stamp != _stamp(card):
        raise ArtifactError(f"{path}: damaged, or not the pair of its JSON: run sovl judge fit")
    return Probe(card, weight, bias, quiet, centres)


def _card(path: Path) -> ProbeCard:
    try:
        return ProbeCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: cannot be read as a probe's card: run sovl judge fit"
        ) from error


def _stamp(card: ProbeCard) -> str:
    return f"{card.identity} {card.layer} {card.fitted_on} {card.band!r}"
