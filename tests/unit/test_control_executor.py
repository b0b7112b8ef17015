"""An action is done as a whole, or undone as a whole; on a real file."""

from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from sovl_daemon.control.action import ActionFailed
from sovl_daemon.control.executor import Executor
from sovl_daemon.control.journal import Journal
from sovl_daemon.testing import PATIENCE_S
from tests.control import FileAction, prepare


class World:
    """A folder with a setting, a journal, and a wall clock that can be moved."""

    def __init__(self, folder: Path) -> None:
        prepare(folder)
        self.folder, self.now_s = folder, 1000.0
        self.journal = Journal(folder / "journal.db")
        self.action = FileAction(folder)
        self.provide(self.action)

    def provide(self, *actions: FileAction) -> None:
        """Begin anew with other actions, as after a restart."""
        self.executor = Executor(self.journal, actions, wall=lambda: self.now_s)

    @property
    def setting(self) -> str:
        return (self.folder / "setting").read_text()

    def states(self) -> list[str]:
        return [entry.state for entry in reversed(self.journal.recent())]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_verified_action_is_committed(world: World) -> None:
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert (outcome.result, outcome.freed) == ("committed", 1000)
    assert world.setting == "int8"
    (entry,) = world.journal.in_force()
    assert (entry.before, entry.measured_before, entry.measured_after) == ("float16", 2000, 1000)
    assert entry.expires_s == 1060


async def test_what_is_to_stay_stays_and_is_over_for_us(world: World) -> None:
    (id_,) = [(await world.executor.execute("quantize", "memory", "why")).id]
    world.action.saved = "precision was saved as int8 meanwhile"
    outcome = await world.executor.take_back(id_, "calm")
    assert (outcome.result, outcome.reason) == ("reverted", world.action.saved)
    assert world.setting == "int8"
    assert world.journal.in_force() == []


async def test_an_action_that_lies_is_found_out_and_quarantined(world: World) -> None:
    world.action.lies = True
    for _ in range(2):
        outcome = await world.executor.execute("quantize", "memory", "why")
        assert (outcome.result, outcome.reason) == ("reverted", "freed 0 bytes of 1000 bytes")
        assert world.setting == "float16"
    held = await world.executor.execute("quantize", "memory", "why")
    assert held.result == "quarantined"
    assert "in quarantine for 300 s after 2 failures" in held.reason
    world.now_s += 301
    world.action.lies = False
    assert (await world.executor.execute("quantize", "memory", "why")).result == "committed"
    assert await world.executor.unavailable() == {}


async def test_a_refusal_leaves_no_trace(world: World) -> None:
    world.action.refusal = "there is no pristine copy"
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert (outcome.result, outcome.reason) == ("refused", "there is no pristine copy")
    assert world.states() == []
    assert world.setting == "float16"


async def test_a_refusal_counts_before_what_could_not_be_predicted(world: World) -> None:
    (world.folder / "memory").unlink()
    world.action.refusal = "there is no pristine copy"
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert (outcome.result, outcome.reason) == ("refused", "there is no pristine copy")


async def test_what_is_looked_at_each_second_keeps_no_action_waiting(world: World) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.executor.expire)
        await checkpoint()  # it is under way
        outcome = await world.executor.execute("quantize", "memory", "why")
    assert outcome.result == "committed"


async def test_an_unknown_action_is_refused(world: World) -> None:
    assert (await world.executor.execute("x", "memory", "why")).reason == "no agent provides it"


async def test_what_the_action_itself_finds_wrong_reverts_it(world: World) -> None:
    world.action.wrong = "logits are not finite"
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert (outcome.result, outcome.reason) == ("reverted", "logits are not finite")
    assert world.setting == "float16"


@pytest.mark.parametrize("error", [ActionFailed("no"), RuntimeError("out of memory"), OSError(5)])
async def test_an_error_half_way_is_undone(world: World, error: Exception) -> None:
    async def apply() -> None:
        world.action.setting.write_text("in")
        raise error

    world.action.apply = apply  # type: ignore[method-assign]
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert outcome.result == "reverted"
    assert world.setting == "float16"
    assert world.states() == ["reverted"]


async def test_one_that_does_not_end_is_undone(world: World) -> None:
    """It may take ten times as long as its effect may take to show."""

    async def apply() -> None:
        world.action.setting.write_text("in")
        await anyio.sleep_forever()

    world.action.apply = apply  # type: ignore[method-assign]
    with anyio.fail_after(PATIENCE_S):
        outcome = await world.executor.execute("quantize", "memory", "why")
    limit_s = 10 * (await world.action.predict()).within_s
    assert (outcome.result, outcome.reason) == ("reverted", f"it was not over after {limit_s:g} s")
    assert world.setting == "float16"


async def test_an_error_before_the_intent_is_a_refusal(world: World) -> None:
    (world.folder / "memory").unlink()
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert outcome.result == "refused"
    assert "FileNotFoundError" in outcome.reason
    assert world.states() == []


async def test_what_cannot_be_undone_is_abandoned_and_tried_again(world: World) -> None:
    world.action.lies = True

    async def revert(before: str) -> None:
        raise ActionFailed("the pristine copy is gone")

    whole, world.action.revert = world.action.revert, revert  # type: ignore[method-assign]
    outcome = await world.executor.execute("quantize", "memory", "why")
    assert outcome.result == "abandoned"
    assert "cannot be undone: the pristine copy is gone" in outcome.reason
    world.action.revert = whole  # type: ignore[method-assign]
    assert [each.result for each in await world.executor.reconcile()] == ["reverted"]
    assert world.setting == "float16"


async def test_a_revert_that_lies_is_found_out(world: World) -> None:
    id_ = (await world.executor.execute("quantize", "memory", "why")).id

    async def revert(before: str) -> None:
        world.action.setting.write_text("float15")

    world.action.revert = revert  # type: ignore[method-assign]
    outcome = await world.executor.take_back(id_, "all low")
    assert outcome.result == "abandoned"
    assert "float15 is in force after the revert to float16" in outcome.reason


async def test_one_action_at_a_time(world: World) -> None:
    world.action.lies = True  # takes until its deadline
    outcomes = []

    async def perform() -> None:
        outcomes.append(await world.executor.execute("quantize", "memory", "why"))

    async with anyio.create_task_group() as group:
        group.start_soon(perform)
        group.start_soon(perform)
    assert sorted(each.result for each in outcomes) == ["refused", "reverted"]
    assert world.states() == ["reverted"]


async def test_taking_back(world: World) -> None:
    id_ = (await world.executor.execute("quantize", "memory", "why")).id
    assert (await world.executor.take_back(id_, "all low")).result == "reverted"
    assert world.setting == "float16"
    assert (await world.executor.take_back(id_, "again")).result == "refused"


async def test_what_somebody_else_has_set_since_is_left_alone(world: World) -> None:
    done = await world.executor.execute("quantize", "memory", "why")
    (world.folder / "setting").write_text("int4")
    back = await world.executor.take_back(done.id, "why")
    assert (back.result, back.reason) == ("reverted", "int4 was set meanwhile")
    assert world.setting == "int4"
    assert world.journal.in_force() == []


async def test_what_leaves_nothing_is_not_taken_back(world: World) -> None:
    world.action.target = ""
    done = await world.executor.execute("quantize", "memory", "why")
    back = await world.executor.take_back(done.id, "why")
    assert (back.result, back.reason) == (
        "refused",
        "it is over: it left nothing to take back",
    )


async def test_old_entries_are_deleted_and_what_is_in_force_stays(world: World) -> None:
    first = await world.executor.execute("quantize", "memory", "why")
    await world.executor.take_back(first.id, "why")
    second = await world.executor.execute("quantize", "memory", "why")
    world.now_s += 100
    await world.executor.prune(99)
    assert [entry.id for entry in await world.executor.history(10)] == [second.id]
    assert [entry.id for entry in await world.executor.in_force()] == [second.id]
    assert await world.executor.unfinished() == []


async def test_a_degraded_setting_ends_unless_it_is_renewed(world: World) -> None:
    id_ = (await world.executor.execute("quantize", "memory", "why")).id
    world.now_s += 50
    await world.executor.renew(id_)
    world.now_s += 50
    assert await world.executor.expire() == []
    world.now_s += 11
    assert [each.reason for each in await world.executor.expire()] == ["its time to live is over"]
    assert world.setting == "float16"


async def test_what_was_set_on_top_goes_with_what_expires(world: World) -> None:
    int4 = FileAction(world.folder, "quantize_more", "int4")
    int4.time_to_live_s = 1000.0
    world.provide(world.action, int4)
    await world.executor.execute("quantize", "memory", "why")
    world.action.memory.write_bytes(b"x" * 2000)
    await world.executor.execute("quantize_more", "memory", "why")
    assert world.setting == "int4"
    world.now_s += 61
    names = [each.action for each in await world.executor.expire()]
    assert names == ["quantize_more", "quantize"]
    assert world.setting == "float16"


async def test_what_does_not_lie_on_what_expires_stays_though_the_words_are_the_same(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    prepare(folder)
    other = FileAction(folder, "other", "few")
    other.setting.write_text("int8")
    other.time_to_live_s = 1000.0
    world.provide(world.action, other)
    await world.executor.execute("quantize", "memory", "why")
    await world.executor.execute("other", "memory", "why")
    world.now_s += 61
    assert [each.action for each in await world.executor.expire()] == ["quantize"]
    assert other.setting.read_text() == "few"


async def test_what_comes_true_later_than_it_was_waited_for_is_called_off(world: World) -> None:
    """The old setting is still in force when it is given up, and the new one under way."""
    under_way: list[str] = []

    async def late() -> None:
        under_way.append("int8")
        raise ActionFailed("not int8 after 0 s")

    async def revert(before: str) -> None:
        under_way.clear()

    world.action.apply, world.action.revert = late, revert  # type: ignore[method-assign]
    done = await world.executor.execute("quantize", "memory", "why")
    assert (done.result, world.setting, under_way) == ("reverted", "float16", [])


async def test_a_start_keeps_what_is_in_force_and_notes_what_is_not(world: World) -> None:
    await world.executor.execute("quantize", "memory", "why")
    assert [each.result for each in await world.executor.reconcile()] == ["kept"]
    world.action.setting.write_text("float16")  # the host was replaced meanwhile
    (gone,) = await world.executor.reconcile()
    assert (gone.result, gone.reason) == ("reverted", "it was no longer in force")
    assert await world.executor.reconcile() == []


async def test_an_action_of_nobody_is_abandoned_until_its_agent_is_back(world: World) -> None:
    await world.executor.execute("quantize", "memory", "why")
    world.provide()
    assert [each.result for each in await world.executor.reconcile()] == ["abandoned"]
    assert world.setting == "int8"
    world.provide(world.action)
    assert [each.result for each in await world.executor.reconcile()] == ["reverted"]
    assert world.setting == "float16"
