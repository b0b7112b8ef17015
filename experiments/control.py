"""Hours of simulated machines: our loop beside what others do, beside chance, and with faults."""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

from benchmarks.common import Bench, Goal, in_new_process
from benchmarks.default_model import default_model
from sovl_daemon.control.prompt import JudgePrompt
from sovl_daemon.control.verdict import Opinion
from sovl_daemon.judge.typical import typical_key
from sovl_daemon.laboratory.control.faults import ActionFault, SensorFault
from sovl_daemon.laboratory.control.fitting import fitted, judge_scores, memory_task
from sovl_daemon.laboratory.control.judges import TimedJudge, outside
from sovl_daemon.laboratory.control.measure import Measures
from sovl_daemon.laboratory.control.policies import (
    BOUND,
    NONE,
    RIVAL,
    Policy,
    baselines,
    broken_judges,
    controls,
    guarded,
    ours,
    qualities,
)
from sovl_daemon.laboratory.control.run import Faults
from sovl_daemon.laboratory.control.scenario import FAMILIES, HELD_OUT, TRAINING
from sovl_daemon.laboratory.control.study import (
    Table,
    difference,
    mean,
    merged,
    regret,
    regret_difference,
    table,
)
from sovl_daemon.laboratory.scores import Interval

SEEDS, FAULT_SEEDS, MODEL_SEEDS = 30, 10, 3
QUICK_SEEDS, QUICK_FAULT_SEEDS, QUICK_MODEL_SEEDS = 3, 1, 1
QUICK_FAMILIES = ("steady", "kv_growth", "burst", "noise", "tide")
PROCESSES = 2
MINE, ALONE = "guard+regression", "guard alone"
LIMIT = 2048  # tokens of a prompt
FIGURES = (
    "ooms", "flaps", "moves", "degraded_s", "needless_s", "act_s", "questions", "invalid",
    "failures", "wrongly", "cost_s"
)  # fmt: skip
_RIVALS = ("threshold", RIVAL, "oomd-like", "HPA-like")

Part = dict[str, Table]  # by family


# One family, in a process of its own


def family_of(job: dict[str, Any]) -> dict[str, Table]:
    """The tables of one family: scores, judges of all qualities, and faults."""
    family, seeds, few = job["family"], range(job["seeds"]), range(job["fault_seeds"])
    model = guarded("guard+model", TimedJudge(outside(ask_model)))
    found: dict[str, Table] = {
        "score": table([*baselines(), *controls(), ours()], [family], seeds)[family],
        "judge": table(qualities(), [family], seeds)[family],
        "model": table([model], [family], range(job["model_seeds"]))[family],
        "fault": {},
    }
    for name, policy, faults in faulty():
        (found["fault"][name],) = table([policy], [family], few, faults)[family].values()
    return found


def faulty() -> Iterator[tuple[str, Policy, Faults]]:
    """Each fault, with our loop and with the rival; then the judges that are broken."""
    rival = next(each for each in baselines() if each.name == RIVAL)
    for policy in (ours(), rival):
        yield f"none: {policy.name}", policy, Faults()
        for sensor in ("nan", "frozen", "spiking", "clock"):
            yield f"{sensor}: {policy.name}", policy, Faults(sensor=cast(SensorFault, sensor))
        yield f"lies: {policy.name}", policy, Faults(action=cast(ActionFault, "lies"))
    for policy in broken_judges():
        yield policy.name, policy, Faults()


def ask_model(prompt: JudgePrompt) -> Opinion:
    """The default model with its shipped probe, as in the daemon."""
    from sovl_daemon.engine.judging.judging import PromptParts, tokenize_prompt

    tokenizer, court = model_court()
    laid_out = tokenize_prompt(tokenizer, PromptParts(**prompt.pieces()), LIMIT)
    found = court.judge(laid_out, task=typical_key(memory_task()))
    return Opinion(found.p_true, found.p_false, band=found.band)


@cache
def model_court() -> tuple[Any, Any]:
    from sovl_daemon.engine.judging.judging import JudgeRunner
    from sovl_daemon.engine.model.model import load_model
    from sovl_daemon.engine.text.chat import ChatTokenizer
    from sovl_daemon.judge.shelf import find_probe

    folder = default_model()
    tokenizer = ChatTokenizer.load(folder)
    court = JudgeRunner(load_model(folder, device="cpu", threads=1), tokenizer)
    court.use(find_probe(Path(), folder))  # the shipped one
    return tokenizer, court


# All families, in two processes at a time


def study(families: Sequence[str], **common: int) -> dict[str, Part]:
    """Tables by part and family."""

    def one(family: str) -> dict[str, Table]:
        told = json.loads(in_new_process(__name__, json.dumps(common | {"family": family})))
        return {part: _measured(found) for part, found in told.items()}

    with ThreadPoolExecutor(PROCESSES) as pool:
        found = dict(zip(families, pool.map(one, families), strict=True))
    parts = ("score", "judge", "model", "fault")
    return {part: {family: found[family][part] for family in families} for part in parts}


def _measured(found: Mapping[str, list[dict[str, float]]]) -> Table:
    return {name: [Measures(**each) for each in measures] for name, measures in found.items()}


# Rows


def rows_of(parts: Mapping[str, Part]) -> Iterator[dict[str, object]]:
    scores = parts["score"]
    groups = {family: (family,) for family in scores} | {
        name: group
        for name, known in (("all seen", TRAINING), ("all held out", HELD_OUT), ("all", scores))
        if (group := tuple(family for family in known if family in scores))
    }
    for name, group in groups.items():
        yield from compared("score", name, merged({f: scores[f] for f in group}))
    whole = merged(scores)
    references = {each: whole[each] for each in (NONE, BOUND, MINE)}
    yield from compared("judge", "all", references | merged(parts["judge"]))
    yield from compared("model", "all", beside_model(parts))
    for name, measures in merged(parts["fault"]).items():
        yield row("fault", "all", name, measures)


def beside_model(parts: Mapping[str, Part]) -> Table:
    """The language model's hours, and the same hours of others."""
    found: Part = {}
    for family, theirs in parts["model"].items():
        others = parts["score"][family] | {ALONE: parts["judge"][family][ALONE]}
        (mine,) = theirs.values()
        same = {name: others[name][: len(mine)] for name in (NONE, BOUND, RIVAL, MINE, ALONE)}
        found[family] = same | theirs
    return merged(found)


def compared(part: str, family: str, found: Table) -> Iterator[dict[str, object]]:
    """A row for each policy, with what it costs less ours, in pairs of seeds."""
    for name, measures in found.items():
        apart = difference(measures, found[MINE], "cost_s")
        yield row(
            part,
            family,
            name,
            measures,
            regret=number(regret(found, name).value),
            cost_less_ours=f"{apart.value:.0f} ({apart.low:.0f} to {apart.high:.0f})",
            wins=verdict(apart) if part == "score" and name in _RIVALS else "",
        )


def row(
    part: str, family: str, policy: str, measures: Sequence[Measures], **compared_: object
) -> dict[str, object]:
    figures = {name: number(mean(measures, name).value) for name in FIGURES}
    blank = {"regret": None, "cost_less_ours": ""}
    return (
        {"part": part, "family": family, "policy": policy}
        | figures
        | blank
        | {"wins": ""}
        | (compared_)
    )


def verdict(apart: Interval) -> str:
    """Whether a baseline costs less than our loop: surely, or on these seeds only."""
    if apart.high < 0:
        return "yes"
    return "perhaps" if apart.value < 0 else "no"


def number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


# Goals


def goals_of(parts: Mapping[str, Part]) -> list[Goal]:
    scores = parts["score"]
    whole = merged(scores)
    mine = whole[MINE]
    over = sum(each.ooms for each in mine) / sum(each.ooms for each in whole[NONE])
    needless = [total(whole[name], "needless_s") for name in protectors(whole)]
    faulty_ = merged(parts["fault"]).items()
    guarded = [mine, *(measures for name, measures in faulty_ if RIVAL not in name)]
    invalid = sum(total(measures, "invalid") for measures in guarded)
    return [
        Goal("oom_over_none", over, "<=", 0.1),
        Goal("flaps_per_hour_noise", mean(scores["noise"][MINE], "flaps").value, "<=", 1),
        Goal("flaps_steady", total(scores["steady"][MINE], "flaps"), "<=", 0),
        Goal(
            "regret_minus_hysteresis_ci_high",
            regret_difference(whole, MINE, RIVAL).high,
            "<=",
            0,
        ),
        Goal(
            "needless_over_best_baseline",
            total(mine, "needless_s") / min(needless),
            "<=",
            1,
        ),
        Goal("invalid_acted_on", invalid, "<=", 0),
    ]


def protectors(whole: Table) -> list[str]:
    """Baselines that avert at least half of what running out of memory there would be.

    One that lets most of it happen is hardly ever degraded, and so counts apart.
    """
    most = total(whole[NONE], "ooms") / 2
    return [name for name in _RIVALS if total(whole[name], "ooms") <= most]


def total(measures: Sequence[Measures], figure: str) -> float:
    return math.fsum(getattr(each, figure) for each in measures)


def run(quick: bool) -> Bench:
    families = QUICK_FAMILIES if quick else FAMILIES
    seeds = QUICK_SEEDS if quick else SEEDS
    parts = study(
        families,
        seeds=seeds,
        fault_seeds=QUICK_FAULT_SEEDS if quick else FAULT_SEEDS,
        model_seeds=QUICK_MODEL_SEEDS if quick else MODEL_SEEDS,
    )
    rows = list(rows_of(parts))
    return Bench("control", rows, goals_of(parts), note_of(seeds, rows, merged(parts["score"])))


def note_of(seeds: int, rows: Sequence[dict[str, object]], whole: Table) -> str:
    seen, unseen = (judge_scores(fitted(), group, range(4)) for group in (TRAINING, HELD_OUT))
    won = [f"{r['policy']} in {r['family']}" for r in rows if r["wins"] == "yes"]
    apart = [name for name in _RIVALS if name not in protectors(whole)]
    lazy = [
        f"{total(whole[MINE], 'needless_s') / total(whole[name], 'needless_s'):.2f} of {name}"
        for name in apart
    ]
    return (
        f"{seeds} simulated hours of each family, the same for all policies, fewer with faults "
        "and with the language model; formulas, baselines and limits: docs/decisions.md. The "
        "judge of most rows is the regression that stands in for the "
        f"language model: AUC {seen.auc:.2f} on families that it was fitted on, {unseen.auc:.2f} "
        f"held out. Held out of all tuning: {', '.join(HELD_OUT)}. wins: whether a baseline that "
        "acts costs less than our loop, yes if the 95 % interval of the paired difference is below "
        f"0; it does so in: {'; '.join(won) or 'none'}. needless_over_best_baseline is against "
        "baselines that avert at least half of the times that memory runs out; those that let most "
        f"of them happen count apart: {'; '.join(lazy) or 'none'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=json.loads)
    found = family_of(parser.parse_args().job)
    told = {
        part: {name: [asdict(each) for each in measures] for name, measures in tables.items()}
        for part, tables in found.items()
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
