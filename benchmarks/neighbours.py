"""What busy neighbours cost, with one thread, with two and with as many as it finds itself.

Each number format and each kind of CPU has a process of its own, for both are settled when torch is
loaded. All run on two cores, whatever the machine has, and so do the busy programs.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import Bench, Goal, median, ratio
from sovl_daemon import openmp

CORES = 2
BUSY = (0, 1, 2)
FIXED, AUTO = (1, 2), 0  # as host.threads has it
ROUNDS, SLOT_S, SETTLE_S = 5, 1.0, 6.0
QUICK_ROUNDS, QUICK_SLOT_S, QUICK_SETTLE_S = 3, 0.4, 4.0
GOOD_ENOUGH = 0.9  # of the best
# Until its parent is gone, however that ended.
FULL_SPEED = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"
# As oneDNN and torch are told what the CPU has.
CPUS: dict[str, dict[str, str]] = {
    "own": {},
    "AVX512 without BF16": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
DTYPES = ("auto", "bfloat16", "float32")
PROMPT, ANSWER = 128, 64  # tokens
WORKS = {
    "fp16": "decoding",
    "int4": "decoding",
    "prompt": "reading",
    "verdict": "judging",
    "training": "training",
}


# In a process of its own


class Machine:
    """A model and what it may be asked to do, a step at a time."""

    def __init__(self, dtype: str) -> None:
        from benchmarks.default_model import default_model
        from benchmarks.ours import steered
        from sovl_daemon.engine.model.model import load_model

        random.seed(0)
        self.model = load_model(default_model(), device="cpu", dtype=dtype, threads=AUTO)
        self.model.warm_up()
        steered(self.model)
        self._cache = self.model.new_cache()

    def prepare(self, work: str) -> Callable[[], object]:
        """Return what takes one step of it."""
        from benchmarks.ours import hold

        precision: Any = "int4" if work == "int4" else self.model.plain
        hold(self.model, precision, fused=work == "training")
        step: Callable[[], object] = getattr(self, f"_{WORKS[work]}")()
        for _ in range(3):
            step()
        return step

    def _decoding(self) -> Callable[[], object]:
        from sovl_daemon.engine.model.kv_cache import Span

        def step() -> None:
            if not 30 <= self._cache.length <= 300:
                self._cache.truncate(0)
                self.model.forward([Span(_ids(30), self._cache)])
            self.model.forward([Span([5], self._cache)])

        return step

    def _reading(self) -> Callable[[], object]:
        from sovl_daemon.engine.model.kv_cache import Span

        return lambda: self.model.forward([Span(_ids(PROMPT), self.model.new_cache())])

    def _judging(self) -> Callable[[], object]:
        from sovl_daemon.engine.judging.judging import HiddenStateReader, TokenizedPrompt

        reader, prefix = HiddenStateReader(self.model, round(0.6 * self.model.layers)), _ids(200)

        def step() -> None:
            reader.read(TokenizedPrompt([*prefix, *_ids(60)], 200, 260, [(0, 30), (30, 60)], 1))

        return step

    def _training(self) -> Callable[[], object]:
        from sovl_daemon.engine.fusion.fusion import Fusion
        from sovl_daemon.engine.learning.learner import Learner, LearnerOptions
        from sovl_daemon.engine.learning.sample import Sample

        assert isinstance(self.model.fusion, Fusion)
        common = tuple(_ids(30))
        batch = [Sample(common + tuple(_ids(25)), tuple(_ids(25))) for _ in range(2)]
        learner = Learner(self.model, self.model.fusion, LearnerOptions(), common=common)
        return lambda: learner.step(batch)


def _ids(count: int) -> list[int]:
    return [random.randrange(100, 40_000) for _ in range(count)]


def rate(step: Callable[[], object], seconds: float) -> float:
    """Steps a second."""
    began, steps = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        step()
        steps += 1
    return steps / took


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that never wait, at normal priority, on the same cores."""
    programs = [subprocess.Popen([sys.executable, "-c", FULL_SPEED]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def beside(machine: Machine, work: str, quick: bool) -> dict[str, Any]:
    """Rates by company and number of threads, and which number it had when after each change."""
    step, threads = machine.prepare(work), machine.model.threads
    rounds, slot = (QUICK_ROUNDS, QUICK_SLOT_S) if quick else (ROUNDS, SLOT_S)
    found: dict[str, Any] = {"rates": {}, "changes": []}
    for count in (*BUSY, 0):  # at last all of them leave
        with busy(count):
            found["changes"].append([count, settling(machine, work, step, quick)])
            if str(count) in found["rates"]:
                continue
            rates: dict[str, list[float]] = {str(each): [] for each in (*FIXED, AUTO)}
            for _ in range(rounds):  # in turn, so that a slow spell hits all
                for each in (*FIXED, AUTO):
                    threads.fixed = each
                    rates[str(each)].append(rate(step, slot))
            found["rates"][str(count)] = rates
    return found


def settling(
    machine: Machine, work: str, step: Callable[[], object], quick: bool
) -> list[list[float]]:
    """Seconds since the company changed, and the number of threads that was the usual one then."""
    machine.model.threads.fixed = AUTO
    began, seen = time.perf_counter(), []
    while (at := time.perf_counter() - began) < (QUICK_SETTLE_S if quick else SETTLE_S):
        step()
        seen.append([at, machine.model.threads.now()[WORKS[work]]])
    return seen


def formats(quick: bool) -> dict[str, Any]:
    """Rates of reading, writing and training in the chosen format and in those tried by hand."""
    machines = {dtype: Machine(dtype) for dtype in DTYPES}
    chosen = str(machines["auto"].model.precision.dtype).removeprefix("torch.")
    works = ("fp16", "prompt", "training")
    rates: dict[str, dict[str, list[float]]] = {w: {d: [] for d in DTYPES} for w in works}
    for work in works:
        steps = {dtype: machine.prepare(work) for dtype, machine in machines.items()}
        for machine in machines.values():
            machine.model.threads.fixed = 1
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            for dtype, step in steps.items():
                rates[work][dtype].append(rate(step, QUICK_SLOT_S if quick else SLOT_S))
    return {"chosen": chosen, "rates": rates}


def measured(kind: str, quick: bool) -> dict[str, Any]:
    if kind == "formats":
        return formats(quick)
    machine = Machine("auto")
    return {work: beside(machine, work, quick) for work in WORKS}


# From outside


def in_process(cpu: str, kind: str, quick: bool) -> dict[str, Any]:
    """Measure on two cores and what `cpu` stands for."""
    environment = os.environ | CPUS[cpu]
    environment |= openmp.variables(CORES, environment)
    command = [sys.executable, "-W", "ignore", "-m", __name__, kind, str(int(quick))]
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass
class Report:
    rows: list[dict[str, object]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def neighbours(self, cpu: str, found: dict[str, Any]) -> None:
        for work, each in found.items():
            good = {}
            for count, rates in each["rates"].items():
                best = max(FIXED, key=lambda number: median(rates[str(number)]))
                share = ratio(rates[str(AUTO)], rates[str(best)])
                least = GOOD_ENOUGH * median(rates[str(best)])
                good[count] = [one for one in FIXED if median(rates[str(one)]) >= least]
                name = f"auto_over_best_fixed: {cpu}, {work}, {count} busy"
                self.goals.append(Goal(name, share, ">=", GOOD_ENOUGH))
                self.rows.append(self._row(cpu, f"{work}, {count} busy", rates) | {"share": share})
            slowest = max(settled_s(seen, good[str(count)]) for count, seen in each["changes"][1:])
            self.goals.append(Goal(f"settled_s: {cpu}, {work}", slowest, "<=", 3))

    def formats(self, cpu: str, found: dict[str, Any]) -> None:
        rates = found["rates"]
        answers = {
            dtype: [
                1 / (1 / prompt + ANSWER / token)
                for prompt, token in zip(rates["prompt"][dtype], rates["fp16"][dtype], strict=True)
            ]
            for dtype in DTYPES
        }
        for work, each in {**rates, "answer": answers}.items():
            best = max(DTYPES[1:], key=lambda dtype: median(each[dtype]))
            share = ratio(each["auto"], each[best])
            measured = f"{work}: {found['chosen']} chosen, {best} fastest"
            self.rows.append(
                {"cpu": cpu, "measured": measured, "one": None, "two": None}
                | {"auto": median(each["auto"]), "best": median(each[best]), "share": share}
            )
            if work in ("answer", "training"):
                name = f"chosen_over_best_format: {cpu}, {work}"
                self.goals.append(Goal(name, share, ">=", GOOD_ENOUGH))

    def _row(self, cpu: str, name: str, rates: dict[str, list[float]]) -> dict[str, object]:
        one, two, auto = (median(rates[str(number)]) for number in (*FIXED, AUTO))
        return {"cpu": cpu, "measured": name, "one": one, "two": two} | {
            "auto": auto,
            "best": max(one, two),
        }


def settled_s(seen: list[list[float]], good: list[int]) -> float:
    """When the last number that is clearly worse than the best was given up, in seconds."""
    return max((after for after, count in seen if count not in good), default=0.0)


def run(quick: bool) -> Bench:
    report = Report()
    for cpu in CPUS:
        print(f"{cpu}: formats, then neighbours ...", file=sys.stderr)
        report.formats(cpu, in_process(cpu, "formats", quick))
        report.neighbours(cpu, in_process(cpu, "beside", quick))
    worst = min(goal.value or 0 for goal in report.goals if "over" in goal.name)
    late = max(goal.value or 0 for goal in report.goals if "settled" in goal.name)
    missed = [f"{goal.name} is {goal.value:.3g}" for goal in report.goals if not goal.met]
    note = (
        f"Steps a second (fp16, int4: a token of one conversation; prompt: {PROMPT} tokens; "
        "verdict: 60 behind 200 that are kept; training: a micro-batch of 2) on "
        f"{CORES} cores beside so many programs that never wait, none of them niced; medians of "
        "rounds in turn, shares paired by round with the better fixed number. settled_s: after a "
        "program came, a second one came, or both left, until the last number was given up that "
        "is clearly worse than the best; a change is looked at for some seconds. Formats: on one "
        f"thread; an answer is a prompt and {ANSWER} tokens. Worst share {worst:.2f}, slowest "
        f"change {late:.1f} s. Missed: {'; '.join(missed) or 'nothing'}."
    )
    return Bench("neighbours", report.rows, report.goals, note)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], sys.argv[2] == "1")))
