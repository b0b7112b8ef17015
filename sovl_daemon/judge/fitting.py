"""A probe for a model: read the lessons, fit, score, keep. Loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sovl_daemon.control.simulator.scores import scores
from sovl_daemon.engine.chat import ChatTokenizer
from sovl_daemon.engine.judging import Reader, asked
from sovl_daemon.engine.model import LoadedModel, load_model
from sovl_daemon.engine.probe import Card, Probe, save_probe
from sovl_daemon.judge.cases import Case
from sovl_daemon.judge.fit import Line, band, fit
from sovl_daemon.judge.lessons import Group, exam, lessons
from sovl_daemon.judge.shelf import identity
from sovl_daemon.models.progress import Progress, ProgressCallback

ERROR = 0.1
"""How often a verdict may be wrong, of those that are no abstentions, in each held-out family."""

DEPTH = 0.5
"""Share of the layers that are read: beyond the middle, states turn to the next word."""


class Study:
    """Reads simulated questions with a model, on the caller's thread."""

    def __init__(self, folder: Path, *, device: str = "auto", threads: int = 1) -> None:
        """Load the model in `folder`. Raises EngineError: it cannot be loaded."""
        self.folder = folder
        self.model: LoadedModel = load_model(folder, device=device, threads=threads)
        self.tokenizer = ChatTokenizer.load(folder)
        self._limit = self.model.max_context or 1 << 20

    def layer(self) -> int:
        """The layer that is read if none is named."""
        return max(1, round(DEPTH * self.model.layers))

    def features(
        self, cases: Sequence[Case], layer: int, stage: str, report: ProgressCallback
    ) -> torch.Tensor:
        """The features (N, hidden) of questions at a layer.

        Raises:
            PromptTooLongError: a question does not fit into the model's context.

        """
        reader = Reader(self.model, layer)
        rows = []
        for number, case in enumerate(cases):
            report(Progress(stage, number, len(cases), "questions"))
            p = case.prompt
            prompt = asked(self.tokenizer, p.prefix, p.metrics, p.question, self._limit)
            rows.append(reader.features(prompt).cpu())
        report(Progress(stage, len(cases), len(cases), "questions"))
        return torch.stack(rows)


def fit_probe(
    study: Study, report: ProgressCallback, *, layer: int | None = None, share: float = 1.0
) -> Probe:
    """Fit a probe on simulated questions and score it on others.

    `share` of all questions are read, for a first look.

    Raises:
        EngineError: the model cannot read them.

    """
    layer = layer or study.layer()
    cases = lessons(share)
    features = study.features(cases, layer, "reading lessons", report)
    line = fit(features, [case.truth for case in cases], [case.task.name for case in cases])
    asked_of = exam(share)
    chances = {
        group: torch.sigmoid(line.logits(study.features(found, layer, f"exam: {group}", report)))
        for group, found in asked_of.items()
    }
    width = _width(asked_of["held-out families"], chances["held-out families"].tolist())
    scored = {
        group: score(chances[group].tolist(), [case.truth for case in found], width)
        for group, found in asked_of.items()
    }
    card = Card(
        model=study.folder.name,
        identity=identity(study.folder),
        layer=layer,
        band=round(width, 4),
        scores={group: {k: round(v, 4) for k, v in each.items()} for group, each in scored.items()},
        fitted_on=len(cases),
    )
    return _probe(card, line)


def keep(probe: Probe, path: Path) -> None:
    """Put a probe where the daemon finds it, whole or not at all."""
    save_probe(probe, path)


def examine(study: Study, probe: Probe, report: ProgressCallback, share: float = 1.0) -> Mapping[
    Group, Mapping[str, float]
]:
    """Score a probe on the questions of the exam, with the weights as they are held now."""
    found: dict[Group, Mapping[str, float]] = {}
    for group, cases in exam(share).items():
        features = study.features(cases, probe.card.layer, f"exam: {group}", report)
        chances = torch.sigmoid(features @ probe.weight + probe.bias).tolist()
        found[group] = score(chances, [case.truth for case in cases], probe.card.band)
    return found


def score(chances: Sequence[float], truths: Sequence[bool], width: float) -> dict[str, float]:
    """AUC, Brier, ECE, the share it abstains from, and how often it errs in the others.

    A figure that needs both truths is not a number where there is only one.
    """
    found = scores(chances, truths)
    clear = [(p, t) for p, t in zip(chances, truths, strict=True) if abs(p - 0.5) > width]
    wrong = sum((p > 0.5) != truth for p, truth in clear)
    return {
        "auc": found.auc,
        "ece": found.ece,
        "brier": found.brier,
        "abstention": 1.0 - len(clear) / len(chances),
        "error": wrong / len(clear) if clear else 0.0,
        "questions": float(len(chances)),
    }


def _width(cases: Sequence[Case], chances: Sequence[float]) -> float:
    groups: dict[str, tuple[list[float], list[bool]]] = {}
    for case, chance in zip(cases, chances, strict=True):
        found = groups.setdefault(case.family, ([], []))
        found[0].append(chance)
        found[1].append(case.truth)
    return band([p for p, _ in groups.values()], [y for _, y in groups.values()], ERROR)


def _probe(card: Card, line: Line) -> Probe:
    return Probe(card, line.weight.float(), line.bias)
