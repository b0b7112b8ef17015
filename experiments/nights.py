"""Five nights of one life, each about new facts: what of the earlier ones is still known?"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import anyio
from safetensors.torch import load_file, save_file

from benchmarks.common import Bench, Goal, in_new_process
from benchmarks.newborn import born
from config import Settings, with_value
from experiments.learn_exam import exact_match, windows
from experiments.learn_facts import Fact, invent_nights
from experiments.learn_methods import NOTHING, Pair, sleep
from experiments.nights_plot import save_plot

NIGHTS, FACTS = 5, 10
QUICK_NIGHTS, QUICK_FACTS, QUICK_STEPS = 2, 3, 6
JOB, STATE, FIGURES = "job.json", "state.safetensors", "figures.json"
Matrix = list[list[float]]


def settings_for(job: dict[str, Any]) -> Settings:
    """The shipped ones; so few steps that no exam is passed are kept all the same."""
    settings = Settings()
    if job["steps"] is not None:
        settings = with_value(settings, "night.least_recall", "0")
        settings = with_value(settings, "night.most_drift", "100")
    return settings


async def night(place: Path) -> None:
    """Learn what was told since the last night that was kept, after what that left in `place`."""
    job = json.loads((place / JOB).read_text())
    settings, state = settings_for(job), place / STATE
    learned = load_file(state) if state.exists() else None
    async with born(settings) as engine:
        pupil = Pair(engine, settings, job["prompts"])
        told, known = job["told"], job["known"]
        slept = await sleep(pupil, told, known=known, learned=learned, steps=job["steps"])
    if slept.problem is None:
        save_file(slept.state, state)
    (place / FIGURES).write_text(json.dumps(slept.figures))


async def exam(place: Path) -> dict[str, Any]:
    """Ask, without context, about all nights so far."""
    job = json.loads((place / JOB).read_text())
    settings = settings_for(job)
    nights = invent_nights(job["nights"], job["facts"])[: job["night"]]
    async with born(settings) as engine:
        pupil = Pair(engine, settings, job["prompts"])
        text = windows(engine)
        await pupil.begin(NOTHING)
        before = after = await pupil.loss(text)
        if (place / STATE).exists():
            await pupil.load(load_file(place / STATE))
            await pupil.commit()
            after = await pupil.loss(text)
        known = [await exact_match(engine, settings, questions(facts)) for facts in nights]
    return {"known": known, "ppl_increase": math.exp(after - before) - 1}


def questions(facts: Sequence[Fact]) -> list[tuple[str, Sequence[str]]]:
    return [(fact.same, fact.objects) for fact in facts]


def live(nights: Sequence[Sequence[Fact]], steps: int | None, place: Path) -> list[dict[str, Any]]:
    """What each night and the morning after it gave; what a night does not keep is told again."""
    told: list[str] = []
    known: list[str] = []
    found = []
    for number, facts in enumerate(nights, 1):
        told += [fact.told for fact in facts]
        job = {
            "night": number,
            "nights": len(nights),
            "facts": len(facts),
            "prompts": len(known) + len(told),
            "told": told,
            "known": known,
            "steps": steps,
        }
        (place / JOB).write_text(json.dumps(job))
        in_new_process(__name__, "night", "--place", str(place))
        slept = json.loads((place / FIGURES).read_text())
        morning = json.loads(in_new_process(__name__, "exam", "--place", str(place)))
        found.append(slept | morning)
        if slept["kept"]:
            known, told = known + told, []
    return found


def backward_transfer(matrix: Matrix) -> float:
    """Mean of R[T][j] - R[j][j] over the nights j before the last, T (Lopez-Paz, Ranzato 2017)."""
    last = matrix[-1]
    return mean([last[night] - matrix[night][night] for night in range(len(matrix) - 1)])


SHOWN = (
    "ppl_increase", "exam_recall", "exam_drift", "kept", "lessons", "steps", "planning_s", "night_s"
)  # fmt: skip


def rows_of(found: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    rows = []
    for number, each in enumerate(found, 1):
        known = [*each["known"], *[None] * (len(found) - number)]
        row: dict[str, object] = {"after_night": number}
        row |= {f"facts_of_{night}": share for night, share in enumerate(known, 1)}
        rows.append(row | {name: each[name] for name in SHOWN})
    return rows


def run(quick: bool, plot: Path | None = None) -> Bench:
    count, size, steps = (NIGHTS, FACTS, None)
    if quick:
        count, size, steps = (QUICK_NIGHTS, QUICK_FACTS, QUICK_STEPS)
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        found = live(invent_nights(count, size), steps, Path(place))
    matrix: Matrix = [each["known"] for each in found]
    if plot is not None:
        save_plot(matrix, plot)
    fresh = mean([row[-1] for row in matrix])
    last = mean(matrix[-1])
    note = (
        f"{count} nights of {size} facts; facts_of_j: share of plain questions about the facts of "
        "night j that are answered exactly, without context, in a new process after the night. "
        "Nights and their exams are the daemon's own, with the shipped settings, and rehearse what "
        "earlier nights kept; what a night does not keep (kept) is told again for the next. "
        "backward_transfer: mean over the earlier nights of what is known of them at the end less "
        "what was known right after each (Lopez-Paz and Ranzato 2017); right after its night "
        f"{fresh:.2f} of what was told is known, of all at the end {last:.2f}. ppl_increase: of "
        "Python's manual, against the base."
    )
    goals = [Goal("backward_transfer", backward_transfer(matrix), ">=", -0.05)]
    return Bench("nights", rows_of(found), goals, note)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("night", "exam"))
    parser.add_argument("--place", required=True, type=Path)
    options = parser.parse_args()
    if options.phase == "night":
        anyio.run(night, options.place)
    else:
        print(json.dumps(anyio.run(exam, options.place)))


if __name__ == "__main__":
    main()
