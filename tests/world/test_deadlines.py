"""What somebody asked for ends when it is done, not when a default says so."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from bus.errors import DEADLINE
from bus.messages import Result
from sovl_daemon.client import ClientError, CommandError
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests import tiny_models
from tests.integration.bus_router import switching
from tests.packages import install
from tests.world import situation
from tests.world.test_signs_of_life import FRAIL, heard, manager


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages"), "sovl-frail")


@pytest.fixture
def daemon(runtime: Path, packages: Path) -> Iterator[Daemon]:
    yield Daemon(runtime, packages=packages, **FRAIL)


@situation("own", "A night that was asked for lasts as long as it takes on a slow machine.")
@pytest.mark.long
def test_a_night_is_not_ended_by_a_default(
    runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = tiny_models.settings(tmp_path_factory.mktemp("models"))
    with running(runtime, **tiny | {"bus.command_deadline_s": 0.1}) as daemon:
        daemon.logged("scaffold.ready")
        with daemon.client() as client:
            for step in client.stream("generate", prompt="My dog is called Bramble."):
                assert step
            assert client.ask("gestate", force=True)["woke"] == "rested"


@situation("own", "What is long by nature has no deadline unless one is given.")
async def test_what_is_long_has_no_deadline(runtime: Path) -> None:
    async with switching(runtime, deadline_s=0.2) as switch:
        agent, client = await switch.agent("legs"), switch.client()
        await client.ask("sleep")
        command = await agent.taken()
        await anyio.sleep(0.6)
        await agent.result(command)
        assert isinstance(await client.final(command), Result)
        given = await client.ask("sleep", deadline_s=0.2)
        assert (await client.error(given)).code == DEADLINE


@situation(
    "ollama/ollama#5081",
    "A long answer of a slow model is given to its end as long as words come.",
)
async def test_a_long_answer_is_given_to_its_end(runtime: Path) -> None:
    async with switching(runtime, deadline_s=0.8) as switch:
        agent, client = await switch.agent(), switch.client()
        command = await client.ask()
        await agent.taken()
        for _ in range(10):
            await anyio.sleep(0.2)
            await agent.progress(command, text="word")
        await agent.result(command)
        assert isinstance(await client.final(command), Result)


@situation("own", "Any other command that makes no step ends, and says what to do about it.")
async def test_others_keep_a_deadline(runtime: Path) -> None:
    async with switching(runtime, deadline_s=0.2) as switch:
        await switch.agent()
        client = switch.client()
        error = await client.error(await client.ask())
        assert error.code == DEADLINE
        assert "nothing came for 0.2 s" in error.message
        assert "deadline of its own" in error.message


@situation(
    "Osmantic/ODS#1028",
    "A first start on a slow line is not ended while the download goes on.",
)
def test_a_download_that_goes_on_is_no_late_start(daemon: Daemon) -> None:
    (daemon.root / "state").mkdir()
    (daemon.root / "state" / "frail").write_text("crawl")
    daemon.settings = {**FRAIL, "supervision.start_timeout_s": 1}
    with manager(daemon, watchdog_s=30) as listener:
        try:
            daemon.start()
            words = ""
            for _ in until():
                words += heard(listener)
                if "READY=1" in words:
                    break
            daemon.wait()
            names = {each["event"] for each in daemon.events()}
            assert "child.silent" not in names
            assert "EXTEND_TIMEOUT_USEC=30000000" in words
        finally:
            assert daemon.stop() == 0


@situation(
    "jellyfin/jellyfin-packaging#104",
    "A stop waits for what is being written down, whatever the budget of a stop is.",
)
def test_a_stop_waits_for_what_is_being_written(daemon: Daemon) -> None:
    daemon.settings = {
        **FRAIL,
        "supervision.drain_s": 0,
        "supervision.stop_s": 0.2,
        "supervision.close_s": 1,
    }
    daemon.start().wait()
    began = threading.Event()

    def write() -> None:
        steps: list[dict[str, Any]] = []
        try:
            with daemon.client() as client:
                for step in client.stream("write"):
                    steps.append(step)
                    began.set()
        except (ClientError, CommandError):
            assert steps

    writing = threading.Thread(target=write)
    writing.start()
    assert began.wait(PATIENCE_S)
    assert daemon.stop() == 0
    writing.join(PATIENCE_S)
    assert (daemon.root / "state" / "written").exists()
