"""Fitting a linear probe: logistic regression on standardised features, calibrated on the way.

The strength of its L2 penalty is the one that ranks best on tasks left out of the fit, one after
another. The logits are calibrated (Platt 1999) on questions left out of it, once by fifths of all
and once by tasks: what is fitted too closely is believed less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sovl_daemon.control.simulator.scores import scores

PENALTIES = (0.3, 0.5, 1.0)
_ROUNDS = 60
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A fitted direction: logit = x . weight + bias, of features (N, F) as they are."""

    weight: torch.Tensor
    bias: float

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """The logits (N,) of features (N, F)."""
        return features @ self.weight + self.bias


def fit(features: torch.Tensor, truths: Sequence[bool], tasks: Sequence[str]) -> Line:
    """Fit and calibrate on features (N, F) with their truths; `tasks` names the task of each.

    Raises:
        ValueError: there are not both truths, or not as many as features.

    """
    if len(set(truths)) < 2 or not len(features) == len(truths) == len(tasks):
        raise ValueError("a probe needs questions of both truths, with one truth and task each")
    y = torch.tensor(truths, dtype=torch.float32)
    penalty = _best_penalty(features, y, tasks)
    left_out = [_left_out(features, y, each, penalty) for each in (_fifths(len(y)), tasks)]
    scale, shift = _platt(torch.cat(left_out), torch.cat([y, y]))
    whole = _fitted(features, y, penalty)
    return Line(whole.weight * scale, whole.bias * scale + shift)


def _best_penalty(features: torch.Tensor, y: torch.Tensor, tasks: Sequence[str]) -> float:
    """The penalty with the best mean AUC on each task when it was left out."""
    names = sorted(set(tasks))
    if len(names) < 2:
        return PENALTIES[len(PENALTIES) // 2]
    found = {penalty: _left_out_auc(features, y, tasks, names, penalty) for penalty in PENALTIES}
    return max(found, key=lambda penalty: found[penalty])


def _left_out_auc(
    features: torch.Tensor,
    y: torch.Tensor,
    tasks: Sequence[str],
    names: Sequence[str],
    penalty: float,
) -> float:
    logits = _left_out(features, y, tasks, penalty)
    total = 0.0
    for name in names:
        own = torch.tensor([task == name for task in tasks])
        chances = torch.sigmoid(logits[own]).tolist()
        total += scores(chances, [bool(truth) for truth in y[own]]).auc
    return total / len(names)


def _left_out(
    features: torch.Tensor, y: torch.Tensor, parts: Sequence[object], penalty: float
) -> torch.Tensor:
    """The logit of each question from a fit without the part that it belongs to."""
    logits = torch.empty(len(y))
    for part in set(parts):
        outside = torch.tensor([each == part for each in parts])
        line = _fitted(features[~outside], y[~outside], penalty)
        logits[outside] = line.logits(features[outside])
    return logits


def _fifths(count: int) -> list[int]:
    """A part for each question, by chance."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return [int(place) % _FOLDS for place in order]


def _fitted(features: torch.Tensor, y: torch.Tensor, penalty: float) -> Line:
    """Minimise the mean log-loss + penalty / 2 * |w|^2 on standardised features."""
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / deviation
    w = torch.zeros(x.shape[1] + 1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [w], max_iter=_ROUNDS, history_size=10, line_search_fn="strong_wolfe"
    )
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = loss_of(x @ w[:-1] + w[-1], y) + penalty / 2 * w[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    weight = w.detach()[:-1] / deviation
    return Line(weight, float(w.detach()[-1] - weight @ mean))


def _platt(logits: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Scale and shift under which logits are probabilities."""
    line = _fitted(logits[:, None], y, 1e-6)
    return float(line.weight[0]), line.bias


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
