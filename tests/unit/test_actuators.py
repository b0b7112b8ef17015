"""Actuators, on a daemon whose bus is a function: what they set, refuse and take back."""

import os
from pathlib import Path
from typing import Any

import pytest

from agents.actuator import Actuator, Means
from agents.control.actuators import ACTUATORS, ActionError, actuators, find_actuators
from bus.commands import Done, Request
from bus.errors import CommandError
from sovl_daemon.contracts.generator import EngineUsage, ReadUsage, Reclaim
from sovl_daemon.contracts.gestation import HoldNights, NightHold
from sovl_daemon.contracts.hub import ConfigSaved, ConfigSet, SavedSetting, SettingsChanged
from sovl_daemon.contracts.judge import AskJudge
from sovl_daemon.contracts.trainer import EaseFactors, EaseTraining, TrainingEase
from sovl_daemon.control.action import ActionFailed
from sovl_daemon.control.executor import Executor
from sovl_daemon.control.journal import Journal, JournalEntry
from sovl_daemon.control.task_file import load_tasks

MB = 1 << 20
CORES = len(os.sched_getaffinity(0))
KEYS = {
    "generation.max_concurrent": ("max_concurrent", int),
    "generation.prefix_cache_mb": ("max_prefix_bytes", lambda text: int(text) * MB),
    "core_config.quantization": ("precision", str),
    "host.offload_weights": ("offloaded", lambda text: text == "true"),
    "host.cores": ("cores", int),
}
NEEDED = "controls_config.sleep_log_min"


class Daemon:
    """Answers commands as the agents do, with this process' parent as its model host."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {
            "precision": "fp16",
            "offloaded": False,
            "bits": 16,
            "switchable": True,
            "card_bytes": 0,
            "cores": 0,
            "parameters": 100 * MB,
            "max_concurrent": 8,
            "running": 0,
            "waiting": 0,
            "threads": {},
            "max_prefix_bytes": 64 * MB,
            "prefix_bytes": 40 * MB,
            "pid": os.getppid(),
            "free": 0,
        }
        self.entries, self.entries_needed = 5, 10
        self.held, self.asleep = False, True
        self.broken = self.deaf = False
        self.late: list[str] = []
        self.refused: dict[str, str] = {}
        self.ease, self.rows = {"rate": 1.0, "batch": 1.0}, 4
        self.saved: list[str] = []
        self.file: dict[str, Any] = {"generation.max_concurrent": 8}
        self.told: list[Request[Any]] = []

    async def ask(self, request: Any) -> Any:
        if self.broken:
            raise CommandError("agent_lost", "the generator was lost")
        self.told.append(request)
        match request:
            case ReadUsage():
                return EngineUsage(**self.usage)
            case EaseTraining():
                self.ease |= request.wire()
                ease = EaseFactors(**self.ease)
                return TrainingEase(ease=ease, eased=ease if self.asleep else None, rows=self.rows)
            case HoldNights():
                if request.hold is not None:
                    self.held, self.asleep = request.hold, self.asleep and not request.hold
                return NightHold(
                    held=self.held,
                    busy=self.asleep,
                    asleep=False,
                    entries=self.entries,
                    entries_needed=self.entries_needed,
                )
        return Done()

    async def control(self, request: Any) -> Any:
        if isinstance(request, ConfigSaved):
            return SavedSetting(value=self.file.get(request.key))
        assert isinstance(request, ConfigSet)
        assert request.key is not None
        self.saved += [request.key] if request.save else []
        if not self.deaf and request.key == NEEDED:
            self.entries_needed = int(request.value or "")
        elif not self.deaf:
            name, convert = KEYS[request.key]
            self.usage[name] = convert(request.value)
        return SettingsChanged(late=self.late, refused=self.refused)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def by_name(daemon: Daemon) -> dict[str, Any]:
    means = Means(daemon.ask, daemon.control, lambda: 60.0)
    return {each.name: each for each in actuators(means)}


LASTING = sorted(each.name for each in ACTUATORS if each.target)


@pytest.mark.parametrize("name", LASTING)
async def test_what_is_set_goes_back_and_is_never_saved(
    daemon: Daemon, by_name: dict[str, Any], name: str
) -> None:
    actuator: Actuator = by_name[name]
    before = await actuator.current()
    assert before != actuator.target
    for _ in range(2):  # twice is once
        await actuator.apply()
        assert await actuator.current() == actuator.target
    await actuator.revert(before)
    assert await actuator.current() == before
    assert daemon.saved == []
    assert actuator.time_to_live_s == 60.0


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("quantize_int8", "core_config.quantization", "int8"),
        ("limit_admission", "generation.max_concurrent", 2),
    ],
)
async def test_what_the_user_saved_meanwhile_stays(
    daemon: Daemon, by_name: dict[str, Any], tmp_path: Path, name: str, key: str, value: object
) -> None:
    before = await by_name[name].current()
    assert await by_name[name].stays() is None
    entry = JournalEntry("memory", name, by_name[name].target, before, "why", 0, 5, 1, "bytes", 1)
    await by_name[name].apply()
    daemon.file[key] = value
    assert await by_name[name].stays() == f"{key} was saved as {value} meanwhile"
    journal = Journal(tmp_path / "journal.db")
    executor = Executor(journal, [by_name[name]])
    id_ = journal.intend(entry)
    for state in ("applied", "committed"):
        journal.move(id_, state)
    outcome = await executor.take_back(id_, "every metric is low")
    assert (outcome.result, outcome.reason) == ("reverted", f"{key} was saved as {value} meanwhile")
    assert await by_name[name].current() == by_name[name].target
    assert await executor.in_force() == []


async def test_each_predicts_what_can_be_gained(by_name: dict[str, Any]) -> None:
    effects = {name: await each.predict() for name, each in by_name.items()}
    assert {name: (effect.amount, effect.unit) for name, effect in effects.items()} == {
        "clear_caches": (20 * MB, "bytes"),
        "limit_admission": (6, "conversations"),
        "shrink_context": (16 * MB, "bytes"),
        "quantize_int8": (75 * MB, "bytes"),
        "offload_weights": (150 * MB, "bytes"),
        "fewer_cores": (CORES - CORES // 2, "cores"),
        "later_nights": (0.05, "of a night's need"),
        "pause_training": (1, "trainings"),
        "lower_learning_rate": (0.5, "of the rate"),
        "smaller_batches": (0.5, "of a micro-batch"),
    }
    for each in by_name.values():
        assert await each.refuse() is None


async def test_each_refuses_where_nothing_would_be_gained(
    daemon: Daemon, by_name: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.usage |= {"precision": "int8", "bits": 8, "max_concurrent": 2, "prefix_bytes": MB}
    daemon.usage |= {"parameters": MB}
    daemon.entries_needed = 20
    daemon.asleep = False
    monkeypatch.setattr("agents.actuator.cores_of", lambda pid: 1)
    refusals = {name: await each.refuse() for name, each in by_name.items()}
    assert refusals == {
        "clear_caches": "only 512 KiB would be freed",
        "limit_admission": "no more than 2 conversations are answered at a time",
        "shrink_context": "only 0 KiB would be freed",
        "quantize_int8": "the weights are held in int8 already",
        "offload_weights": "only 768 KiB would be freed",
        "fewer_cores": "it runs on no more than 1 cores",
        "later_nights": "a night waits for 20 interactions already",
        "pause_training": "nothing trains",
        "lower_learning_rate": "nothing trains",
        "smaller_batches": "nothing trains",
    }


async def test_what_is_offloaded_takes_nothing(daemon: Daemon, by_name: dict[str, Any]) -> None:
    daemon.usage |= {"offloaded": True, "bits": 0}
    assert "stay in their file" in await by_name["quantize_int8"].refuse()
    assert "stay in their file" in await by_name["offload_weights"].refuse()


async def test_a_model_that_can_be_held_in_one_way_alone(
    daemon: Daemon, by_name: dict[str, Any]
) -> None:
    daemon.usage["switchable"] = False
    for name in ("quantize_int8", "offload_weights"):
        assert "in one way alone" in await by_name[name].refuse()


async def test_the_hub_keeps_its_cores(daemon: Daemon, by_name: dict[str, Any]) -> None:
    daemon.usage["pid"] = os.getpid()
    assert await by_name["fewer_cores"].refuse() == "the model has no process of its own"


async def test_no_night_comes_later_than_never(daemon: Daemon, by_name: dict[str, Any]) -> None:
    daemon.entries = 0
    assert "nothing was lived through" in await by_name["later_nights"].refuse()


@pytest.mark.parametrize(("rows", "less"), [(1, None), (2, 1 / 2), (3, 1 / 3), (21, 10 / 21)])
async def test_whole_rows_alone_are_computed_later(
    daemon: Daemon, by_name: dict[str, Any], rows: int, less: float | None
) -> None:
    daemon.rows = rows
    smaller = by_name["smaller_batches"]
    if less is None:
        assert await smaller.refuse() == "a micro-batch of 1 rows cannot be halved"
    else:
        assert await smaller.refuse() is None
        assert (await smaller.predict()).amount == pytest.approx(less)


async def test_what_whole_batches_took_is_given_back(
    daemon: Daemon, by_name: dict[str, Any]
) -> None:
    assert await by_name["smaller_batches"].verify() is None
    assert daemon.told[-1] == Reclaim(prefixes=False)


async def test_a_gentler_rate_and_smaller_batches_are_two_settings(
    daemon: Daemon, by_name: dict[str, Any]
) -> None:
    rate, batch = by_name["lower_learning_rate"], by_name["smaller_batches"]
    await rate.apply()
    assert (await rate.measure(), await batch.measure()) == (0.5, 1.0)
    await batch.apply()
    await rate.revert("1")
    assert (await rate.current(), await batch.current()) == ("1", "0.5")
    assert (await rate.measure(), await batch.measure()) == (1.0, 0.5)


def test_whatever_a_shipped_ladder_names_there_is() -> None:
    named = {rung.action for task in load_tasks().values() for rung in task.ladder}
    assert named <= find_actuators().keys()


async def test_a_small_model_is_not_quantized(daemon: Daemon, by_name: dict[str, Any]) -> None:
    daemon.usage["parameters"] = MB
    assert await by_name["quantize_int8"].refuse() == "only 768 KiB would be freed"


async def test_quantized_it_must_still_judge(daemon: Daemon, by_name: dict[str, Any]) -> None:
    assert await by_name["quantize_int8"].verify() is None
    assert isinstance(daemon.told[-1], AskJudge)
    daemon.broken = True
    assert await by_name["quantize_int8"].verify() == "judge: the generator was lost"


async def test_clearing_tells_the_generator_and_leaves_nothing(
    daemon: Daemon, by_name: dict[str, Any]
) -> None:
    clear = by_name["clear_caches"]
    await clear.apply()
    assert daemon.told[-1] == Reclaim(prefixes=True)
    assert (clear.target, clear.time_to_live_s, await clear.current()) == ("", None, "")


@pytest.mark.parametrize("name", sorted(each.name for each in ACTUATORS))
async def test_a_lost_agent_is_a_failed_action(
    daemon: Daemon, by_name: dict[str, Any], name: str
) -> None:
    daemon.broken = True
    with pytest.raises(ActionFailed, match="the generator was lost"):
        await by_name[name].measure()


@pytest.mark.parametrize(
    ("late", "refused", "says"),
    [
        ([], {}, ""),
        (["generator"], {}, ": it has not followed in time"),
        ([], {"generator": "not 2", "trainer": "not I"}, ": not 2"),
        (["trainer"], {"trainer": "not I"}, ""),
    ],
)
async def test_a_setting_that_does_not_come_is_a_failed_action(
    daemon: Daemon, by_name: dict[str, Any], late: list[str], refused: dict[str, str], says: str
) -> None:
    daemon.deaf, daemon.late, daemon.refused = True, late, refused
    with pytest.raises(ActionFailed, match=rf"^generation.max_concurrent is 8{says}$"):
        await by_name["limit_admission"].apply()


async def test_one_that_frees_nothing_is_found_out_reverted_and_quarantined(
    daemon: Daemon, by_name: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache says that it shrank, but the kernel sees no less memory in use."""
    shrink = by_name["shrink_context"]
    monkeypatch.setattr(Actuator, "within_s", 0.1)
    journal = Journal(tmp_path / "actions.db")
    executor = Executor(journal, [shrink])
    outcomes = [await executor.execute("shrink_context", "memory", "a test") for _ in range(3)]
    assert [each.result for each in outcomes] == ["reverted", "reverted", "quarantined"]
    assert daemon.usage["max_prefix_bytes"] == 64 * MB
    journal.close()


# What third parties offer


class DropLogs(Actuator):
    """Tells an agent to forget its log, and reads back whether it has."""

    name = "drop_logs"
    agent = "archive"
    target = "dropped"


class Point:
    """An entry point, as installed packages have them."""

    def __init__(self, name: str, kind: object) -> None:
        self.name, self.value, self._kind = name, f"somebody:{name}", kind

    def load(self) -> object:
        if isinstance(self._kind, Exception):
            raise self._kind
        return self._kind


def test_a_third_partys_action_is_found_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agents.control.actuators.entry_points", lambda group: [Point("drop_logs", DropLogs)]
    )
    found = find_actuators()
    assert found["drop_logs"] is DropLogs
    assert list(found)[:-1] == [each.name for each in ACTUATORS]


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("drop_logs", ImportError("no such module"), "cannot load somebody:drop_logs: no such"),
        ("drop_logs", dict, "somebody:drop_logs is no subclass of agents.actuator.Actuator"),
        ("drop_all", DropLogs, "somebody:drop_all calls itself 'drop_logs', not 'drop_all'"),
        ("quantize_int8", DropLogs, "somebody:quantize_int8: there is another quantize_int8"),
    ],
)
def test_one_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: object, says: str
) -> None:
    monkeypatch.setattr("agents.control.actuators.entry_points", lambda group: [Point(name, kind)])
    with pytest.raises(ActionError, match=r"^sovl\.actions: ") as refused:
        find_actuators()
    assert says in str(refused.value)


async def test_one_that_predicts_nothing_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    means = Means(daemon.ask, daemon.control, lambda: 60.0)
    executor = Executor(Journal(tmp_path / "actions.db"), [DropLogs(means)])
    outcome = await executor.execute("drop_logs", "disk", "why")
    assert outcome.result == "refused"
    assert outcome.reason == "drop_logs does not say what it would gain"
