"""Fitting a probe: logistic regressions on standardised features, calibrated on the way.

Two parts, one after the other: what the metrics say is fitted on the questions that numbers
decide, then what lines of the log add is fitted given that, so that neither learns from the
other's noise. How much each counts is calibrated on questions left out of the fit, with their
telling lines, a fifth at a time: what is fitted too closely is believed less. Metrics count for
less where a line speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sovl_daemon.engine.judging.probe import soft_threshold

METRICS_PENALTY, LINES_PENALTY = 0.1, 0.3
"""Strengths of the L2 penalties: those that ranked best on tasks and on lines left out."""

QUIET = 0.7
"""What a line says is shrunk by so many standard deviations of what lines say."""

_NO_PENALTY = 1e-6
_ROUNDS = 60
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Questions as they were read, less what is typical of their tasks.

    Attributes:
        metrics: Means over the metrics, (N, hidden).
        lines: Means of all lines of logs, (L, hidden).
        owners: The question that each line belongs to, (L,).
        truths: 1 for true, else 0, (N,).
        by_numbers: Whether numbers decide, and not a line, (N,).
        groups: Questions of the same group are left out together.

    """

    metrics: torch.Tensor
    lines: torch.Tensor
    owners: torch.Tensor
    truths: torch.Tensor
    by_numbers: torch.Tensor
    groups: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The fitted directions, (3, hidden) and (2,); see `Probe` for how they make a logit."""

    weight: torch.Tensor
    bias: torch.Tensor
    quiet: float


class _Parts(NamedTuple):
    """Directions (hidden,) and the bias of the metrics', before they are weighed."""

    metrics: torch.Tensor
    bias: float
    lines: torch.Tensor
    quiet: float

    def features(self, lessons: Lessons) -> torch.Tensor:
        """What is weighed, (N, 4).

        What metrics say where no line speaks, and where one does; what lines say; and 1 where none.
        """
        says = soft_threshold(lessons.lines @ self.lines, self.quiet)
        calm = (_summed(says.abs(), lessons) == 0).float()
        metrics = lessons.metrics @ self.metrics + self.bias
        return torch.stack([metrics * calm, metrics * (1 - calm), _summed(says, lessons), calm], 1)


def fit(lessons: Lessons) -> Fit:
    """Fit and calibrate.

    Raises:
        ValueError: there are not both truths among the questions that numbers decide.

    """
    if len(set(lessons.truths[lessons.by_numbers].tolist())) < 2:
        raise ValueError("a probe needs questions of both truths that numbers decide")
    weights, shift = _regression(_left_out(lessons), lessons.truths, _NO_PENALTY)
    alone, beside, lines, calm = weights.tolist()
    parts = _fitted(lessons, torch.ones_like(lessons.by_numbers))
    return Fit(
        torch.stack([alone * parts.metrics, beside * parts.metrics, lines * parts.lines]),
        torch.tensor([shift + calm + alone * parts.bias, shift + beside * parts.bias]),
        abs(lines) * parts.quiet,
    )


def _left_out(lessons: Lessons) -> torch.Tensor:
    """The features (N, 4) of each question by a fit without the fifth of the groups it is in."""
    names = sorted(set(lessons.groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    fifths = {name: place % _FOLDS for name, place in zip(names, order, strict=True)}
    own = torch.tensor([fifths[group] for group in lessons.groups])
    features = torch.empty(len(own), 4)
    for fifth in range(_FOLDS):
        outside = own == fifth
        features[outside] = _fitted(lessons, ~outside).features(lessons)[outside]
    return features


def _fitted(lessons: Lessons, kept: torch.Tensor) -> _Parts:
    """Fit on the questions that are kept, (N,)."""
    taught, y = kept & lessons.by_numbers, lessons.truths
    metrics, bias = _regression(lessons.metrics[taught], y[taught], METRICS_PENALTY)
    lines = _lines_given(lessons.metrics @ metrics + bias, lessons, kept)
    says = (lessons.lines @ lines)[kept[lessons.owners]]
    quiet = QUIET * float(says.std()) if len(says) > 1 else 0.0
    return _Parts(metrics, bias, lines, quiet)


def _lines_given(said: torch.Tensor, lessons: Lessons, kept: torch.Tensor) -> torch.Tensor:
    """The direction (hidden,) in which lines add most to what the metrics said, (N,)."""
    deviation = lessons.lines.std(0).nan_to_num().clamp_min(1e-6)
    x = lessons.lines / deviation  # not shifted, so that no line adds nothing
    w = torch.zeros(x.shape[1], requires_grad=True)

    def loss() -> torch.Tensor:
        logits = said + _summed(x @ w, lessons)
        return _log_loss(logits[kept], lessons.truths[kept]) + _penalty(w, LINES_PENALTY)

    return _least(w, loss) / deviation


def _regression(x: torch.Tensor, y: torch.Tensor, penalty: float) -> tuple[torch.Tensor, float]:
    """Weights and bias of least mean log-loss + penalty / 2 * |w|^2, on standardised features."""
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    z = (x - mean) / deviation
    w = torch.zeros(x.shape[1] + 1, requires_grad=True)
    found = _least(w, lambda: _log_loss(z @ w[:-1] + w[-1], y) + _penalty(w[:-1], penalty))
    weight = found[:-1] / deviation
    return weight, float(found[-1] - weight @ mean)


def _least(w: torch.Tensor, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Where a smooth loss of `w` is least."""
    solver = torch.optim.LBFGS(
        [w], max_iter=_ROUNDS, history_size=10, line_search_fn="strong_wolfe"
    )

    def step() -> torch.Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(step)
    return w.detach()


def _log_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y)


def _penalty(w: torch.Tensor, strength: float) -> torch.Tensor:
    return strength / 2 * w.square().sum()


def _summed(of_lines: torch.Tensor, lessons: Lessons) -> torch.Tensor:
    """Numbers of lines (L,) summed up by question, (N,)."""
    return torch.zeros(len(lessons.truths)).index_add(0, lessons.owners, of_lines)


def band(
    chances: Sequence[Sequence[float]], truths: Sequence[Sequence[bool]], error: float
) -> float:
    """Half the width of the band around 0.5 outside which each group errs at most so often.

    Split conformal, group by group: of the n questions of a group, (wrong + 1) / (n + 1) at most
    may be answered wrongly. 0.5 where even that cannot be had.
    """
    return max((_band(p, y, error) for p, y in zip(chances, truths, strict=True)), default=0.0)


def _band(chances: Sequence[float], truths: Sequence[bool], error: float) -> float:
    """The narrowest band of one group: beyond the wrong answers that are too many."""
    wrong = sorted(
        (abs(p - 0.5) for p, truth in zip(chances, truths, strict=True) if (p > 0.5) != truth),
        reverse=True,
    )
    allowed = int(error * (len(chances) + 1)) - 1
    if allowed < 0:
        return 0.5
    return wrong[allowed] if allowed < len(wrong) else 0.0
