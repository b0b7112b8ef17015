"""A night: facts told by day are asked for in a new process; what was known must stay known.

Against plain LoRA on the base with the same lessons, dreams, steps and seeds, and against the base
with all facts in its context.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
from safetensors.torch import load_file, save_file

from benchmarks.common import Bench, Goal, in_new_process, median
from benchmarks.newborn import born
from config import Settings
from experiments.learn_exam import PREFIX, exact_match, in_context, neutral_turns, windows
from experiments.learn_facts import Fact, invent
from experiments.learn_methods import LORA_RATE, NOTHING, Lora, Pair, sleep

QUICK_STEPS = 6
KINDS = {"fusion": Pair, "lora": Lora}


async def night(method: str, facts: Sequence[Fact], place: Path, steps: int | None) -> None:
    """Learn what was told, and leave what was learned in `place`."""
    settings = Settings()
    async with born(settings) as engine:
        pupil = KINDS[method](engine, settings, len(facts))
        slept = await sleep(pupil, [fact.told for fact in facts], steps=steps)
    save_file(slept.state, place / f"{method}.safetensors")
    (place / f"{method}.json").write_text(json.dumps(slept.figures))


async def exam(method: str, facts: Sequence[Fact], place: Path) -> dict[str, float]:
    """Ask a model that never saw the conversation, loaded from what the night left."""
    settings = Settings()
    async with born(settings) as engine:
        if method == "context":
            return {"same_em": await in_context(engine, settings, facts)}
        pupil = KINDS[method](engine, settings, len(facts))
        text, turns = windows(engine), await neutral_turns(engine, settings)
        await pupil.begin(NOTHING)
        before = await pupil.loss(text)
        await pupil.load(load_file(place / f"{method}.safetensors"))
        figures = {
            "ppl_increase": math.exp(await pupil.loss(text) - before) - 1,
            "neutral_kl": await pupil.drift(turns),
        }
        await pupil.commit()
        wanted = {
            "same_em": [(fact.same, fact.objects) for fact in facts],
            "paraphrase_em": [(q, fact.objects) for fact in facts for q in fact.paraphrases],
            "reversed_em": [(q, fact.subjects) for fact in facts for q in fact.reversed],
        }
        for name, asked in wanted.items():
            figures[name] = await exact_match(engine, settings, asked)
        return figures


def one_seed(facts: int, seed: int, steps: int | None) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    common = ["--facts", str(facts), "--seed", str(seed)]
    short = [] if steps is None else ["--steps", str(steps)]
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        for method in (*KINDS, "context"):
            row: dict[str, object] = {"method": method, "facts": facts, "seed": seed}
            options = ["--method", method, "--place", place, *common]
            if method != "context":
                in_new_process(__name__, "night", *options, *short)
                row |= json.loads((Path(place) / f"{method}.json").read_text())
            row |= json.loads(in_new_process(__name__, "exam", *options))
            rows.append(row)
    return rows


FIGURES = ("same_em", "paraphrase_em", "reversed_em", "ppl_increase", "neutral_kl")
NIGHT = ("exam_recall", "exam_drift", "kept", "night_s", "planning_s", "steps", "tokens")
COLUMNS = ("method", "facts", "seed", *FIGURES, *NIGHT)


def goals_of(rows: Sequence[dict[str, object]]) -> list[Goal]:
    def of(method: str, figure: str) -> list[float]:
        return [float(r[figure]) for r in rows if r["method"] == method]  # type: ignore[arg-type]

    def over(figure: str) -> float:
        pairs = zip(of("fusion", figure), of("lora", figure), strict=True)
        return median([ours - theirs for ours, theirs in pairs])

    return [
        Goal("same_em", median(of("fusion", "same_em")), ">=", 0.95),
        Goal("paraphrase_em", median(of("fusion", "paraphrase_em")), ">=", 0.85),
        Goal("reversed_em", median(of("fusion", "reversed_em")), ">=", 0.5),
        Goal("ppl_increase", median(of("fusion", "ppl_increase")), "<=", 0.01),
        Goal("paraphrase_minus_lora", over("paraphrase_em"), ">=", 0),
        Goal("ppl_increase_minus_lora", over("ppl_increase"), "<=", 0),
    ]


def run(quick: bool, facts: int = 20, seeds: int = 3) -> Bench:
    count, steps = (4, QUICK_STEPS) if quick else (facts, None)
    rows = [row for seed in range(1 if quick else seeds) for row in one_seed(count, seed, steps)]
    lora = Settings().lora_config
    note = (
        f"{count} facts, each told once; asked in a new process without context. The night is the "
        "daemon's own, with the shipped settings, of a mind that has heard nothing else; seed is "
        "that of the facts. kept: whether the night passes its exam (night.least_recall, "
        "night.most_drift); it is asked in any case. Paraphrases and reversed questions are the "
        f"bench's own. Perplexity: of Python's manual, from the {PREFIX}th token of a piece on, "
        f"steered by what is before. lora: r {lora.lora_rank} on {lora.lora_target_modules} of all "
        f"layers of the base, rate {LORA_RATE}. context: all facts stand before the question."
    )
    shown = [{column: row.get(column) for column in COLUMNS} for row in rows]
    return Bench("learn", shown, goals_of(rows), note)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("night", "exam"))
    parser.add_argument("--method", required=True, choices=(*KINDS, "context"))
    parser.add_argument("--place", required=True, type=Path)
    parser.add_argument("--facts", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    facts = invent(options.facts, options.seed)
    if options.phase == "night":
        anyio.run(night, options.method, facts, options.place, options.steps)
    else:
        print(json.dumps(anyio.run(exam, options.method, facts, options.place)))


if __name__ == "__main__":
    main()
