"""What the benchmark of the health loop makes of its runs."""

from dataclasses import replace

from experiments import control
from experiments.control import MINE
from sovl_daemon.laboratory.control.measure import Measures
from sovl_daemon.laboratory.control.policies import BOUND, NONE, RIVAL
from sovl_daemon.laboratory.scores import Interval

PLAIN = Measures(
    ooms=0, flaps=0, moves=0, degraded_s=0, needless_s=0, act_s=float("nan"), questions=0,
    invalid=0, failures=0, wrongly=0, cost_s=0,
)  # fmt: skip


def hours(**figures: float) -> list[Measures]:
    return [replace(PLAIN, **figures)] * 3


WHOLE = {
    NONE: hours(ooms=4, cost_s=1200),
    "threshold": hours(ooms=1, cost_s=900, needless_s=50),
    RIVAL: hours(cost_s=300, needless_s=200),
    "oomd-like": hours(ooms=3, cost_s=950, needless_s=10),
    "HPA-like": hours(cost_s=500, needless_s=800),
    BOUND: hours(cost_s=100),
    MINE: hours(cost_s=200, needless_s=40),
}


def test_goals_are_met_by_what_is_better_and_missed_by_what_is_not() -> None:
    parts = {
        "score": {"noise": WHOLE, "steady": WHOLE},
        "judge": {"noise": {}, "steady": {}},
        "fault": {"noise": {f"nan: {MINE}": hours(invalid=1), f"nan: {RIVAL}": hours(invalid=9)},
                  "steady": {f"nan: {MINE}": hours(), f"nan: {RIVAL}": hours()}},
    }  # fmt: skip
    found = {goal.name: goal.value for goal in control.goals_of(parts)}
    assert found["oom_over_none"] == 0
    assert round(found["regret_minus_hysteresis_ci_high"] or 0, 3) == -0.091
    assert found["needless_over_best_baseline"] == 40 / 50  # oomd-like averts too little
    assert found["invalid_acted_on"] == 3
    assert (found["flaps_per_hour_noise"], found["flaps_steady"]) == (0, 0)


def test_a_baseline_that_lets_it_happen_is_no_protector() -> None:
    assert control.protectors(WHOLE) == ["threshold", RIVAL, "HPA-like"]


def test_rows_say_where_a_baseline_wins() -> None:
    found = WHOLE | {RIVAL: hours(cost_s=150)}
    rows = {row["policy"]: row for row in control.compared("score", "burst", found)}
    assert {name: row["wins"] for name, row in rows.items() if row["wins"]} == {
        "threshold": "no",
        RIVAL: "yes",
        "oomd-like": "no",
        "HPA-like": "no",
    }
    assert rows[RIVAL]["cost_less_ours"] == "-50 (-50 to -50)"
    assert rows[NONE]["regret"] == 1
    assert rows[NONE]["act_s"] is None
    assert control.verdict(Interval(-1, -3, 2)) == "perhaps"
