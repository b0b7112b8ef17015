"""A probe for a model: read the lessons, fit, score, keep. Loads torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from sovl_daemon.control.prompt import JudgePrompt
from sovl_daemon.engine.judging.judging import HiddenStateReader, PromptParts, tokenize_prompt
from sovl_daemon.engine.judging.probe import PooledStates, Probe, ProbeCard, save_probe, task_centre
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.judge.shelf import identity
from sovl_daemon.judge.typical import typical_key, typical_prompts
from sovl_daemon.laboratory.judge.cases import Case, tasks
from sovl_daemon.laboratory.judge.fit import Lessons, band, fit
from sovl_daemon.laboratory.judge.lessons import Group, exam, lessons
from sovl_daemon.laboratory.scores import scores
from sovl_daemon.models.progress import ProgressCallback, StageProgress

ERROR = 0.2
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

    def read(
        self, prompts: Sequence[JudgePrompt], layer: int, stage: str, report: ProgressCallback
    ) -> list[PooledStates]:
        """What a probe reads of prompts at a layer.

        Raises:
            PromptTooLongError: a prompt does not fit into the model's context.

        """
        reader, found = HiddenStateReader(self.model, layer), []
        for number, prompt in enumerate(prompts):
            report(StageProgress(stage, number, len(prompts), "questions"))
            laid_out = tokenize_prompt(self.tokenizer, PromptParts(**prompt.pieces()), self._limit)
            found.append(reader.read(laid_out)[0])
        report(StageProgress(stage, len(prompts), len(prompts), "questions"))
        return found

    def centres(self, layer: int, report: ProgressCallback) -> dict[str, torch.Tensor]:
        """The centres of all tasks that are shipped or simulated, and their mean for others."""
        found = {}
        for name, task in tasks().items():
            prompts = typical_prompts(task)
            found[typical_key(task)] = task_centre(
                self.read(prompts, layer, f"task {name}", report)
            )
        return {"": torch.stack(list(found.values())).mean(0), **found}


def fit_probe(
    study: Study, report: ProgressCallback, *, layer: int | None = None, share: float = 1.0
) -> Probe:
    """Fit a probe on simulated questions and score it on others.

    `share` of all questions are read, for a first look.

    Raises:
        EngineError: the model cannot read them.

    """
    layer = layer or study.layer()
    centres, cases = study.centres(layer, report), lessons(share)
    found = study.read([case.prompt for case in cases], layer, "reading lessons", report)
    raw = ProbeCard(model=study.folder.name, identity=identity(study.folder), layer=layer, band=0.0)
    probe = fitted(raw, cases, found, centres)
    questions = exam(share)
    answers = {
        group: chances(probe, asked_of, study.read(_prompts(asked_of), layer, group, report))
        for group, asked_of in questions.items()
    }
    return scored(probe, questions, answers)


def fitted(
    card: ProbeCard,
    cases: Sequence[Case],
    found: Sequence[PooledStates],
    centres: dict[str, torch.Tensor],
) -> Probe:
    """A probe for lessons as they were read."""
    line = fit(lessons_of(cases, found, centres))
    card = card.model_copy(update={"fitted_on": len(cases)})
    return Probe(card, line.weight, line.bias, line.quiet, centres)


def lessons_of(
    cases: Sequence[Case], found: Sequence[PooledStates], centres: dict[str, torch.Tensor]
) -> Lessons:
    """What was read, less what is typical of each task, with its truth."""
    own = [centres[_key(case)] for case in cases]
    lines = [read.lines() - centre[1] for read, centre in zip(found, own, strict=True)]
    return Lessons(
        metrics=torch.stack([r.metric() - c[0] for r, c in zip(found, own, strict=True)]),
        lines=torch.cat(lines),
        owners=torch.tensor([place for place, each in enumerate(lines) for _ in each]),
        truths=torch.tensor([float(case.truth) for case in cases]),
        by_numbers=torch.tensor([case.evidence == "numbers" for case in cases]),
        groups=[case.telling or str(number) for number, case in enumerate(cases)],
    )


def chances(probe: Probe, cases: Sequence[Case], found: Sequence[PooledStates]) -> list[float]:
    """P(true) of each case as it was read."""
    pairs = zip(cases, found, strict=True)
    return [probe.probability(read, _key(case)) for case, read in pairs]


def scored(
    probe: Probe,
    questions: Mapping[Group, Sequence[Case]],
    answers: Mapping[Group, Sequence[float]],
) -> Probe:
    """The probe with its band, which is chosen on held-out families, and its scores."""
    families: dict[str, tuple[list[float], list[bool]]] = {}
    held_out = zip(questions["held-out families"], answers["held-out families"], strict=True)
    for case, p_true in held_out:
        chances, truths = families.setdefault(case.family, ([], []))
        chances.append(p_true)
        truths.append(case.truth)
    width = band([p for p, _ in families.values()], [y for _, y in families.values()], ERROR)
    scores_ = {group: score(questions[group], answers[group], width) for group in questions}
    rounded = {group: {k: round(v, 4) for k, v in each.items()} for group, each in scores_.items()}
    card = probe.card.model_copy(update={"band": round(width, 4), "scores": rounded})
    return replace(probe, card=card)


def keep(probe: Probe, path: Path) -> None:
    """Put a probe where the daemon finds it, whole or not at all."""
    save_probe(probe, path)


def examine(
    study: Study, probe: Probe, report: ProgressCallback, share: float = 1.0
) -> dict[Group, dict[str, float]]:
    """Score a probe on the questions of the exam, with the weights as they are held now."""
    found: dict[Group, dict[str, float]] = {}
    for group, cases in exam(share).items():
        read = study.read(_prompts(cases), probe.card.layer, group, report)
        found[group] = score(cases, chances(probe, cases, read), probe.card.band)
    return found


def score(cases: Sequence[Case], answers: Sequence[float], width: float) -> dict[str, float]:
    """AUC, Brier, ECE, the share it abstains from, and how often it errs in the others.

    `auc` is the mean over tasks, as nobody ranks questions of different tasks against each other;
    `auc_pooled` is of all together.
    """
    truths = [case.truth for case in cases]
    found = scores(answers, truths)
    clear = [(p, t) for p, t in zip(answers, truths, strict=True) if abs(p - 0.5) > width]
    wrong = sum((p > 0.5) != truth for p, truth in clear)
    return {
        "auc": _auc_by_task(cases, answers),
        "auc_pooled": found.auc,
        "ece": found.ece,
        "brier": found.brier,
        "abstention": 1.0 - len(clear) / len(truths),
        "error": wrong / len(clear) if clear else 0.0,
        "questions": float(len(truths)),
    }


def _auc_by_task(cases: Sequence[Case], answers: Sequence[float]) -> float:
    found = []
    for name in {case.task.name for case in cases}:
        own = [(p, c.truth) for p, c in zip(answers, cases, strict=True) if c.task.name == name]
        if len({truth for _, truth in own}) == 2:
            found.append(scores([p for p, _ in own], [truth for _, truth in own]).auc)
    return math.fsum(found) / len(found) if found else math.nan


def _prompts(cases: Sequence[Case]) -> list[JudgePrompt]:
    return [case.prompt for case in cases]


def _key(case: Case) -> str:
    return _keys()[case.task.name]


@cache
def _keys() -> dict[str, str]:
    return {name: typical_key(task) for name, task in tasks().items()}
