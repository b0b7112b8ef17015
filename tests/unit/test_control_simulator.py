"""The simulated plant is a plant: seeded, and what is wrong in it is found out by the loop."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from sovl_daemon.control.decider import Decider
from sovl_daemon.control.decision import Step
from sovl_daemon.control.metric import Reading
from sovl_daemon.control.prompt import JudgePrompt, render
from sovl_daemon.control.task import Task
from sovl_daemon.control.verdict import JudgeQuestion, Opinion
from sovl_daemon.laboratory.control.baselines import Baseline, Hysteresis, Threshold
from sovl_daemon.laboratory.control.faults import SensorFault, SensorReadings, Sensors
from sovl_daemon.laboratory.control.fitting import fit_judge, memory_task
from sovl_daemon.laboratory.control.judges import (
    TimedJudge,
    blurred,
    constant,
    garbage,
    mistaken,
    outside,
    perfect,
)
from sovl_daemon.laboratory.control.measure import coming_peaks, measure
from sovl_daemon.laboratory.control.oracle import Oracle
from sovl_daemon.laboratory.control.plant import CAPACITY, DOWN_S, Plant
from sovl_daemon.laboratory.control.policies import Policy, guarded, live, policies
from sovl_daemon.laboratory.control.recorder import Recorder
from sovl_daemon.laboratory.control.run import Faults, Run, demand
from sovl_daemon.laboratory.control.scenario import FAMILIES, Disturbance, Scenario, draw
from sovl_daemon.laboratory.control.study import merged, regret, regret_difference, table

NONE = Policy("none", lambda task, plant: Baseline(task))


def plain(*events: Disturbance, base: float = 40, cache: float = 0) -> Scenario:
    return Scenario("plain", 0, base, 20, cache, 30, 0.0, tuple(events))


# The plant


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_draws_the_same_hour(family: str) -> None:
    assert draw(family, 3) == draw(family, 3)
    assert draw(family, 3) != draw(family, 4)
    times = [event.time_s for event in draw(family, 3).events]
    assert times == sorted(times)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="no such family; there are: steady"):
        draw("sunny", 1)


def test_conversations_grow_and_go() -> None:
    plant = Plant(plain(Disturbance(10, "arrive", 1, 0.1), Disturbance(110, "leave", 1)))
    plant.advance(60)
    assert plant.kv() == pytest.approx(5)
    assert plant.used() == pytest.approx(65)
    plant.advance(111)
    assert plant.kv() == pytest.approx(0)


def test_running_out_is_found_between_two_looks() -> None:
    spike = (Disturbance(10, "slope", amount=50), Disturbance(11, "slope", amount=-50))
    plant = Plant(plain(*spike, Disturbance(11.5, "drop", amount=50)))
    plant.advance(200)
    assert plant.ooms == [11]
    assert plant.used() == pytest.approx(60)


def test_a_killed_host_is_down_for_a_while_and_forgets() -> None:
    plant = Plant(plain(Disturbance(0, "leak", amount=1)))
    plant.land("quantize_int8", True, 1.0)
    plant.advance(60)
    assert len(plant.ooms) == 1
    assert plant.settings == set()
    assert plant.used() == 40
    plant.advance(plant.ooms[0] + DOWN_S)
    assert plant.used() == 60


def test_effects_are_delayed_and_undone() -> None:
    plant = Plant(plain(Disturbance(0, "arrive", 1, 0.1), cache=10))
    plant.advance(100)
    before = plant.used()
    plant.land("quantize_int8", True, 2.0)
    plant.advance(101)
    assert plant.used() == pytest.approx(before + 0.1, abs=0.2)
    plant.advance(102)
    assert plant.weights() == 10
    plant.land("quantize_int8", False, 0.0)
    plant.land("limit_admission", True, 0.0)
    plant.land("clear_caches", True, 0.0)
    plant.land("shrink_context", True, 0.0)
    plant.advance(102)
    assert plant.weights() == 20
    assert plant.cached() < 1.1
    assert plant.kv() == pytest.approx(5.1)
    plant.advance(400)
    assert plant.cached() > 9


def test_limited_admission_lets_nobody_in() -> None:
    plant = Plant(plain(Disturbance(10, "arrive", 1, 0.1), Disturbance(20, "leave", 1)))
    plant.land("limit_admission", True, 0.0)
    plant.advance(50)
    assert plant.kv() == 0


def test_a_copy_has_the_same_future_and_does_not_disturb_it() -> None:
    plant = Plant(draw("kv_growth", 0))
    plant.advance(500)
    copy = plant.copy()
    copy.land("quantize_int8", True, 0.0)
    copy.advance(3600)
    twin = plant.copy()
    twin.advance(3600)
    plant.advance(3600)
    assert (twin.used(), twin.ooms) == (plant.used(), plant.ooms)
    assert plant.settings == set()


def test_demand_has_no_end() -> None:
    assert max(demand(draw("kv_growth", 0))) > CAPACITY


# Runs


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_are_deterministic_and_the_guard_is_no_worse_than_nobody(family: str) -> None:
    scenario, guard = draw(family, 1), guarded("guard alone")
    first, second = live(scenario, guard), live(scenario, guard)
    assert first == second
    assert len(first.ooms) <= len(live(scenario, NONE).ooms)


def test_the_oracle_is_a_bound() -> None:
    for family in ("kv_growth", "tide"):
        scenario = draw(family, 2)
        wanted = demand(scenario)
        best = measure(live(scenario, Policy("hindsight", Oracle)), wanted)
        for policy in (NONE, Policy("hysteresis", lambda task, plant: Hysteresis(task))):
            assert best.cost_s <= measure(live(scenario, policy), wanted).cost_s


def test_the_guard_hardly_flaps_where_a_threshold_does() -> None:
    scenario = draw("kv_growth", 0)
    wanted = demand(scenario)
    naive = measure(live(scenario, Policy("threshold", lambda t, p: Threshold(t))), wanted)
    ours_ = measure(live(scenario, guarded("guard", TimedJudge(constant(1.0)))), wanted)
    assert naive.flaps > 50
    assert ours_.flaps <= 10


def test_no_judge_however_broken_is_worse_than_its_absence_in_ooms() -> None:
    for family in ("kv_growth", "tide"):
        scenario = draw(family, 0)
        alone = live(scenario, guarded("guard alone"))
        for judge in (
            TimedJudge(constant(0.0)),
            TimedJudge(constant(1.0), (10.0, 30.0)),
            TimedJudge(garbage(random.Random(1))),
        ):
            run = live(scenario, guarded("broken", judge))
            assert run.trues == 0
            assert len(run.ooms) <= len(alone.ooms)


@pytest.mark.parametrize("fault", ["nan", "frozen", "spiking", "clock"])
def test_sensor_faults_do_not_move_a_calm_machine(fault: str) -> None:
    scenario = draw("steady", 5)
    run = live(scenario, guarded("g", TimedJudge(constant(1.0))), Faults(sensor=fault))  # type: ignore[arg-type]
    assert run.moves == []


SHOWS: dict[SensorFault, Callable[[SensorReadings, float, float], bool]] = {
    "nan": lambda sample, last, now_s: math.isnan(sample.memory),
    "frozen": lambda sample, last, now_s: sample.memory == last,
    "spiking": lambda sample, last, now_s: sample.memory > 95,
    "clock": lambda sample, last, now_s: sample.taken_s < now_s,
}


@pytest.mark.parametrize("fault", SHOWS)
def test_each_sensor_fault_shows_now_and_then(fault: SensorFault) -> None:
    sensors = Sensors(Plant(plain()), 0.1, random.Random(1), fault)
    found, last = 0, 0.0
    for second in range(3600):
        sample = sensors.read(float(second))
        found += SHOWS[fault](sample, last, float(second))
        last = sample.memory
    assert 0 < found < 1800


def test_an_action_that_lies_is_found_out_and_put_in_quarantine() -> None:
    scenario = draw("burst", 4)
    honest = live(scenario, guarded("g"))
    lied = live(scenario, guarded("g"), Faults(action="lies"))
    assert honest.failures == honest.false_failures
    assert 2 <= lied.failures - lied.false_failures <= 12  # in an hour, for the backoff doubles
    assert "quantize_int8" not in lied.seconds


# Measures


def test_coming_peaks() -> None:
    values = [random.Random(1).random() for _ in range(200)]
    assert coming_peaks(values, 7) == [max(values[i : i + 8]) for i in range(200)]


def test_measures_of_a_made_up_run() -> None:
    run = Run(
        ooms=[50.0],
        moves=[(10, 1), (20, -1), (300, 1)],
        degraded=[(10, 5.0), (100, 5.0)],
        seconds={"quantize_int8": 10.0},
        waits=[2.0, math.inf],
        questions=3,
    )
    wanted = [95.0 if 80 <= second <= 90 else 50.0 for second in range(3601)]
    found = measure(run, wanted)
    assert (found.ooms, found.flaps, found.moves, found.degraded_s) == (1, 1, 3, 10)
    assert found.needless_s == 10  # at 10 s the peak is further than a minute, at 100 s over
    assert found.act_s == 31
    assert found.cost_s == pytest.approx(300 + 6 + 3)


def test_regret_is_zero_for_the_bound_and_one_for_nothing() -> None:
    some = [NONE, Policy("hindsight", Oracle), guarded("guard alone")]
    found = merged(table(some, ("tide",), range(4)))
    assert regret(found, "none").value == 1
    assert regret(found, "hindsight").value == 0
    assert regret(found, "guard alone").value > 0


def test_a_fitted_judge_is_asked_and_answers() -> None:
    judge = fit_judge(("kv_growth", "cache_lag"))
    run = live(draw("tide", 0), guarded("regression", TimedJudge(judge.opine)))
    assert 0 < run.trues < run.questions


# Judges


def test_the_perfect_judge_sees_what_comes_and_what_suffices() -> None:
    plant = Plant(plain(Disturbance(50, "slope", amount=1), Disturbance(90, "slope", amount=-1)))
    task = memory_task()
    question = JudgeQuestion(task, {}, render(task, {}), 0.0)
    plant.advance(20)
    assert perfect(plant, 110)(question).p_true == 0  # 100 is all that it comes to
    plant.advance(60)
    assert perfect(plant, 92)(question) == Opinion(1.0, 0.0, "quantize_int8")
    assert perfect(plant, 99)(question) == Opinion(1.0, 0.0, "quantize_int8")
    assert plant.settings == set()


def test_a_judge_may_be_wrong_or_unsure() -> None:
    question = JudgeQuestion(memory_task(), {}, render(memory_task(), {}), 0.0)
    wrong = mistaken(constant(1.0), random.Random(1), 0.25)
    found = [wrong(question).p_true for _ in range(4000)]
    assert sum(found) / 4000 == pytest.approx(0.75, abs=0.03)
    noisy = blurred(constant(0.9), random.Random(1), 2.0)
    odds = [math.log(p / (1 - p)) for p in (noisy(question).p_true for _ in range(4000))]
    assert sum(odds) / 4000 == pytest.approx(math.log(9), abs=0.1)


def test_a_judge_from_outside_reads_the_prompt_alone_and_once() -> None:
    asked = []

    def model(prompt: JudgePrompt) -> Opinion:
        asked.append(prompt.text)
        return Opinion(0.9, 0.05) if "critical" in prompt.metrics else Opinion(0.05, 0.9)

    run = live(draw("kv_growth", 1), guarded("outside", TimedJudge(outside(model))))
    assert 0 < run.trues < run.questions
    assert len(asked) == len(set(asked)) <= run.questions
    assert all(text.endswith("Respond only with true or false.\n") for text in asked)


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.name)
def test_every_policy_lives_through_an_hour_and_repeats_it(policy: Policy) -> None:
    scenario = draw("burst", 2)
    assert live(scenario, policy) == live(scenario, policy)


# What is begun on what is not so


def test_what_is_begun_on_a_broken_reading_is_counted() -> None:
    class Credulous(Threshold):
        def wants(self, now_s: float, readings: Mapping[str, Reading]) -> int:
            blind = readings["memory.percent"].fault
            return 1 if blind or super().wants(now_s, readings) > 0 else 0

    policy = Policy("credulous", lambda task, plant: Credulous(task))
    faults: SensorFault
    for faults in ("nan", "clock", "spiking"):
        assert live(draw("steady", 1), policy, Faults(sensor=faults)).invalid > 0
    assert live(draw("steady", 1), policy).invalid == 0


@pytest.mark.parametrize("family", ["burst", "noise", "tide"])
@pytest.mark.parametrize("fault", ["nan", "spiking", "clock"])
def test_the_guard_begins_nothing_on_a_broken_reading(family: str, fault: SensorFault) -> None:
    judge = TimedJudge(constant(1.0))
    for seed in (5, 6):
        assert live(draw(family, seed), guarded("g", judge), Faults(sensor=fault)).invalid == 0


def test_an_answer_that_is_none_is_counted_where_it_is_acted_upon() -> None:
    class Credulous(Decider):
        def answered(self, now_s: float, question: JudgeQuestion, opinion: Opinion | None) -> Step:
            return super().answered(now_s, question, Opinion(1.0, 0.0))

    policy = Policy(
        "credulous",
        lambda task, plant: Credulous(task),
        lambda plant: TimedJudge(garbage(random.Random(1))),
    )
    run = live(draw("kv_growth", 1), policy)
    assert run.invalid == run.trues > 0


# Noise, and looking on


def test_noise_hardly_moves_the_guard_and_moves_a_threshold_much() -> None:
    scenario = draw("noise", 0)
    wanted = demand(scenario)
    assert max(wanted) < 92
    calm = measure(live(scenario, guarded("guard")), wanted)
    naive = measure(live(scenario, Policy("t", lambda task, plant: Threshold(task))), wanted)
    assert calm.flaps <= 1
    assert naive.flaps > 50


def test_a_witness_changes_nothing_and_sees_all() -> None:
    scenario, policy = draw("kv_growth", 1), guarded("guard", TimedJudge(constant(1.0)))
    recorders = []

    def watched(task: Task, plant: Plant) -> Recorder:
        recorders.append(Recorder(policy.make(task, plant), plant))
        return recorders[-1]

    run = live(scenario, replace(policy, make=watched))
    assert run == live(scenario, policy)
    (recorder,) = recorders
    assert len(recorder.moments) == run.samples
    kinds = Counter(each.kind for each in recorder.happenings)
    assert kinds["asks"] == run.questions
    assert kinds["true"] == run.trues
    done = [each for each in recorder.happenings if each.kind == "done"]
    assert sum(each.action != "clear_caches" for each in done) == len(run.moves)
    assert all(each.why for each in recorder.happenings)


def test_regrets_are_compared_in_pairs() -> None:
    found = merged(table([NONE, Policy("hindsight", Oracle), guarded("g")], ("tide",), [1, 2]))
    apart = regret_difference(found, "g", "none")
    assert apart.value == pytest.approx(regret(found, "g").value - 1)
    assert apart.low <= apart.value <= apart.high
