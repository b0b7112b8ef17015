"""The judge: how well it ranks and is calibrated, on what, and what it costs.

The shipped probe is scored on simulated questions that it was not fitted on. Beside it stand the
words true and false asked for without anything fitted, and a logistic regression and gradient
boosting on the numbers of the same questions, which they were given as many of to learn from.
"""

import random
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch

from benchmarks.boosting import boosted
from benchmarks.common import Bench, Goal, percentile
from benchmarks.default_model import default_model
from benchmarks.ours import ENOUGH, decoding
from config import Settings
from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.engine.judging.judging import (
    JudgeRunner,
    PromptParts,
    TokenizedPrompt,
    TruthProbabilities,
    tokenize_prompt,
)
from sovl_daemon.engine.judging.probe import Probe
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.scheduler import Scheduler
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread
from sovl_daemon.judge.shelf import find_probe
from sovl_daemon.laboratory.control.policies import live, ours
from sovl_daemon.laboratory.control.regression import features, fit
from sovl_daemon.laboratory.control.run import Run
from sovl_daemon.laboratory.control.scenario import TRAINING, draw
from sovl_daemon.laboratory.judge.cases import Case
from sovl_daemon.laboratory.judge.fitting import Study, chances, score
from sovl_daemon.laboratory.judge.lessons import exam, lessons
from sovl_daemon.models.progress import ignore_progress
from sovl_daemon.testing import running

GROUPS = ("in-domain", "held-out families", "log lines", "unseen log lines")
KNOWN = "all of known tasks"
SHIPPED_TASKS = tuple(load_tasks())
WORDS_EACH = 40  # questions of a group that are put into words: each is a pass through all layers
LIMIT = 2048
VERDICTS = 60
PROMPT = list(range(100, 130))


def quality(study: Study, probe: Probe, share: float) -> list[dict[str, object]]:
    """A row for each group of questions and way of asking."""
    rows = []
    court = JudgeRunner(study.model, study.tokenizer)
    known_cases: list[Case] = []
    known: list[float] = []
    taught = [case for case in lessons(share) if case.evidence == "numbers"]
    for group, cases in exam(share).items():
        prompts = [case.prompt for case in cases]
        read = study.read(prompts, probe.card.layer, group, ignore_progress)
        answers = chances(probe, cases, read)
        rows.append(row(group, "probe", cases, answers, probe.card.band))
        if group in GROUPS:
            known_cases, known = [*known_cases, *cases], [*known, *answers]
        some = sample(cases, WORDS_EACH)
        said = [court.judge(laid_out(study.tokenizer, case), "words") for case in some]
        shares = [each.p_true / (each.p_true + each.p_false) for each in said]
        rows.append(row(group, "true or false, zero-shot", some, shares, 0.1))
        for name, way in (("regression", regression), ("gradient boosting", boosting)):
            found = way(taught, cases)
            rows.append(row(group, name, cases, found, 0.1) if found else blank(group, name))
    return [*rows, row(KNOWN, "probe", known_cases, known, probe.card.band)]


def sample(cases: Sequence[Case], count: int) -> Sequence[Case]:
    rng = random.Random(0)
    while True:  # scores need both truths
        some = rng.sample(cases, min(count, len(cases)))
        if len({case.truth for case in some}) == 2:
            return some


def row(
    group: str, way: str, cases: Sequence[Case], answers: Sequence[float], width: float
) -> dict[str, object]:
    found = score(cases, answers, width)
    asked_of = found.pop("questions")
    return {"questions": group, "way": way, **found, "asked": asked_of}


def blank(group: str, way: str) -> dict[str, object]:
    figures = ("auc", "auc_pooled", "ece", "brier", "abstention", "error", "asked")
    return {"questions": group, "way": way, **dict.fromkeys(figures)}


def laid_out(tokenizer: ChatTokenizer, case: Case) -> TokenizedPrompt:
    return tokenize_prompt(tokenizer, PromptParts(**case.prompt.pieces()), LIMIT)


def regression(taught: Sequence[Case], cases: Sequence[Case]) -> list[float]:
    """One for each task; none for a task that none was fitted on."""
    models = {
        name: fit([features(c.task, c.readings) for c in own], [c.truth for c in own])
        for name, own in by_task(taught).items()
    }
    if any(case.task.name not in models for case in cases):
        return []
    return [models[c.task.name].probability(features(c.task, c.readings)) for c in cases]


def boosting(taught: Sequence[Case], cases: Sequence[Case]) -> list[float]:
    """Gradient boosting, likewise."""
    known, asked_of = by_task(taught), by_task(cases)
    if not asked_of.keys() <= known.keys():
        return []
    found = boosted(
        {
            name: (numbers(known[name]), [case.truth for case in known[name]], numbers(own))
            for name, own in asked_of.items()
        }
    )
    left = {name: iter(chances) for name, chances in found.items()}
    return [next(left[case.task.name]) for case in cases]


def numbers(cases: Sequence[Case]) -> list[list[float | None]]:
    return [features(case.task, case.readings) for case in cases]


def by_task(cases: Sequence[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.task.name, []).append(case)
    return found


class Ear:
    """Hears that something is over."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def result(self, value: object) -> None:
        pass

    def end(self, error: BaseException | None) -> None:
        self.ended.set()


class Host:
    """The model on its thread, as the daemon has it."""

    def __init__(self, study: Study, probe: Probe, cases: Sequence[Case]) -> None:
        self.thread = TensorThread()
        self._court = JudgeRunner(study.model, study.tokenizer)
        self._court.use(probe)
        self._prompts = [laid_out(study.tokenizer, case) for case in cases]
        self._caches = PrefixCache(study.model, ENOUGH)
        self._answering = Scheduler(study.model, self._caches, self.thread, 8)
        for number in range(len(cases)):  # their prefixes are kept
            self._verdict_ms(number)

    def verdicts(self, count: int) -> list[float]:
        """Milliseconds to each verdict, at moments that no step knows of."""
        found = []
        for number in range(count):
            time.sleep(random.uniform(0.05, 0.15))
            found.append(self._verdict_ms(number))
        return found

    def _verdict_ms(self, number: int) -> float:
        """On the tensor thread alone, as in the daemon: two teams are in each other's way."""
        ear, prompt = Ear(), self._prompts[number % len(self._prompts)]
        began = time.perf_counter()
        self.thread.submit(self._judged(prompt), ear, Priority.JUDGE)
        ear.ended.wait()
        return 1000 * (time.perf_counter() - began)

    def _judged(self, prompt: TokenizedPrompt) -> Iterator[TruthProbabilities]:
        yield self._court.judge(prompt)

    def busy(self, count: int) -> list[float]:
        """The same while it generates."""
        over = threading.Event()

        def talk() -> None:
            while not over.is_set():
                ear = Ear()
                answer = decoding(self._caches, PROMPT, 64)
                self._answering.start(answer, ear, Priority.CONVERSATION)
                ear.ended.wait()

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            return self.verdicts(count)
        finally:
            over.set()
            talker.join()


def cpu_s(host: Host, count: int) -> float:
    """Seconds of a core that a verdict takes."""
    before = _cpu_s()
    host.verdicts(count)
    return (_cpu_s() - before) / count


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def questions_an_hour(seeds: Sequence[int]) -> float:
    """How often the guard asks in a simulated hour, over all ordinary families."""
    runs: list[Run] = [live(draw(family, seed), ours()) for family in TRAINING for seed in seeds]
    return sum(run.questions for run in runs) / len(runs)


def hub_growth_mb(seconds: float) -> float:
    """How much larger the hub is with the loop than without it, a while after the start."""
    return hub_mb(seconds, "generator") - hub_mb(seconds, "generator", "controller")


def hub_mb(seconds: float, *without: str) -> float:
    idle = ("dreamer", "trainer", "curiosity", "gestation", "judge")
    with (
        tempfile.TemporaryDirectory(prefix="sovl") as place,
        running(Path(place), **{"agents.disabled": [*idle, *without]}) as daemon,
    ):
        time.sleep(seconds)
        return psutil.Process(daemon.process.pid).memory_info().rss / 1e6


def goals_of(
    rows: Sequence[dict[str, object]],
    idle: list[float],
    busy: list[float],
    percent: float,
    growth: float,
) -> list[Goal]:
    def of(group: str, figure: str, way: str = "probe") -> float:
        return next(
            float(each[figure])  # type: ignore[arg-type]
            for each in rows
            if (each["questions"], each["way"]) == (group, way)
        )

    return [
        Goal(
            "auc_in_domain_minus_regression",
            of("in-domain", "auc") - of("in-domain", "auc", "regression"),
            ">=",
            -0.01,
        ),
        Goal("auc_log_evidence", of("unseen log lines", "auc"), ">=", 0.97),
        Goal("auc_unseen_task", of("unseen task", "auc"), ">=", 0.9),
        Goal("ece", of(KNOWN, "ece"), "<=", 0.05),
        Goal("judge_p95_ms_idle", percentile(idle, 0.95), "<=", 100),
        Goal("judge_p95_ms_busy", percentile(busy, 0.95), "<=", 250),
        Goal("judge_cpu_percent", percent, "<=", 1),
        Goal("hub_growth_mb", growth, "<=", 15),
    ]


def run(quick: bool) -> Bench:
    model, share = default_model(), 0.15 if quick else 1.0
    torch.manual_seed(0)
    study = Study(model, device="cpu", threads=Settings().host.threads)
    with tempfile.TemporaryDirectory() as nowhere:  # the shipped probe, not the user's own
        probe = find_probe(Path(nowhere), model)
    if probe is None:
        raise SystemExit("no probe is shipped for the default model")
    rows = quality(study, probe, share)
    count = VERDICTS // (4 if quick else 1)
    cases = [case for case in exam(0.1)["in-domain"] if case.task.name in SHIPPED_TASKS]
    host = Host(study, probe, cases)
    idle = host.verdicts(count)
    each_s = cpu_s(host, count)
    busy = host.busy(count)
    host.thread.stop()
    an_hour = questions_an_hour(range(1 if quick else 4))
    percent = 100 * an_hour * each_s / 3600
    growth = hub_growth_mb(2.0 if quick else 10.0)
    note = (
        f"The shipped probe of layer {probe.card.layer} of {study.model.layers}, "
        f"as many threads as take least time, weights in {study.model.plain}. A verdict costs "
        f"{1000 * each_s:.0f} ms of a core; the default rate is how often the guard asks, "
        f"{an_hour:.0f} times an hour in simulated hours of the families {', '.join(TRAINING)} "
        f"under the shipped memory task: both give judge_cpu_percent. auc is the mean over tasks, "
        f"ece of {', '.join(GROUPS)} together. abstention and error (of the rest): outside the "
        f"probe's band of {probe.card.band:g}, of the others' 0.1. Zero-shot is scored by true's "
        f"share of true and false; both together have so little that the daemon would abstain. "
        f"Regression and boosting are fitted on the numbers of each task, so there is none for an "
        f"unseen one."
    )
    return Bench("judge", rows, goals_of(rows, idle, busy, percent, growth), note)
