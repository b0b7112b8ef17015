"""Who is late because the machine is busy lives; who hangs does not."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from bus.errors import AGENT_LOST
from sovl_daemon.client import CommandError, DaemonSlow
from sovl_daemon.client.target import Target
from sovl_daemon.testing import WITHOUT_MODEL, Daemon, running, until
from tests.busy import busy, starved
from tests.packages import install
from tests.world import situation

FACTS = 20
FRAIL = {
    **WITHOUT_MODEL,
    "supervision.heartbeat_s": 0.2,
    "supervision.dead_after_s": 1.0,
    "supervision.backoff_initial_s": 0.05,
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages"), "sovl-frail")


@pytest.fixture
def daemon(runtime: Path, packages: Path) -> Iterator[Daemon]:
    with running(runtime, packages=packages, **FRAIL) as daemon:
        yield daemon


def status(daemon: Daemon) -> dict[str, Any]:
    with daemon.client() as client:
        return client.control("status")


def restarts(daemon: Daemon) -> dict[str, int]:
    found = status(daemon)["children"].items()
    return {name: each["restarts"] for name, each in found if each["restarts"]}


def silence(daemon: Daemon, agent: str, seconds: float) -> float:
    """Watch for so long, and return the longest silence of an agent by the clock on the wall."""
    longest = 0.0
    for _ in until(seconds, pause=0.1):
        longest = max(longest, status(daemon)["agents"][agent]["silent_s"])
    return longest


@contextmanager
def manager(daemon: Daemon, watchdog_s: float) -> Iterator[socket.socket]:
    """Systemd's end of the socket."""
    address = str(daemon.root / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(0.05)
        daemon.environment |= {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": f"{watchdog_s * 1e6:.0f}",
        }
        yield listener


def heard(listener: socket.socket) -> str:
    words = []
    try:
        while True:
            words.append(listener.recv(4096).decode())
    except TimeoutError:
        return "\n".join(words)


@situation(
    "systemd/systemd#13843",
    "A service that is late because the machine is overloaded is not killed, which makes it worse.",
)
@pytest.mark.long  # how soon it starves is up to the scheduler
def test_a_starved_process_is_left_alone(runtime: Path, packages: Path) -> None:
    daemon = Daemon(runtime, packages=packages, **FRAIL)
    with manager(daemon, watchdog_s=1.0) as listener:
        try:
            daemon.start().wait()
            with daemon.client() as client, ThreadPoolExecutor() as pool:
                with starved(daemon.worker("frail").pid):
                    toil = pool.submit(client.ask, "toil")
                    heard(listener)
                    assert silence(daemon, "frail", 20) > 1
                    patted = heard(listener).count("WATCHDOG=1")
                assert toil.result(60) == {}
            assert restarts(daemon) == {}
            assert daemon.logged("child.starved")["child"] == "frail"
            assert patted >= 3
        finally:
            assert daemon.stop() == 0


@situation(
    "own",
    "A process that hangs is found beside busy programs, too, and who asked it is told what to do.",
)
@pytest.mark.parametrize("how", ["block", "spin"])
def test_one_that_hangs_is_found_beside_busy_programs(daemon: Daemon, how: str) -> None:
    with busy(2), daemon.client() as client, pytest.raises(CommandError) as error:
        client.ask(how)
    assert error.value.code == AGENT_LOST
    assert "no sign of life for 1 s" in error.value.message
    assert "is being started anew; ask again" in error.value.message


@situation("own", "Who has stopped already is not taken for dead while its neighbour needs longer.")
def test_one_stops_before_the_other(daemon: Daemon) -> None:
    (daemon.root / "state" / "tidy").touch()
    assert daemon.stop() == 0
    wrong = {"child.silent", "child.ended_badly"}
    assert [each for each in daemon.events() if each["event"] in wrong] == []


@situation("own", "Who hangs while it saves, after it was told to stop, is ended all the same.")
def test_one_hangs_at_its_end(runtime: Path, packages: Path) -> None:
    daemon = Daemon(runtime, packages=packages, **FRAIL | {"supervision.drain_s": 0}).start().wait()
    worker = daemon.worker("frail")
    with daemon.client() as client, ThreadPoolExecutor() as pool:
        writing = pool.submit(client.ask, "write")
        time.sleep(1)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.logged("hub.stop_requested")
        time.sleep(0.3)
        worker.send_signal(signal.SIGSTOP)
        assert daemon.stop() == 0
        assert writing.exception(60) is not None
    assert daemon.logged("child.silent")["silent_agent"] == "frail"


@situation("own", "A process that somebody has stopped, and not the machine, counts as hung.")
def test_one_that_was_stopped_is_found(daemon: Daemon) -> None:
    daemon.worker("frail").send_signal(signal.SIGSTOP)
    assert daemon.logged("child.restarting")["why"] == "frail gave no sign of life for 1 s"
    daemon.wait()


@situation(
    "systemd/systemd#20284",
    "After a sleep of the whole machine in which the clock went on nobody counts as hung.",
)
def test_everybody_was_asleep(daemon: Daemon) -> None:
    hub = psutil.Process(daemon.process.pid)
    everybody = [hub, *hub.children()]
    for each in everybody:
        each.suspend()
    time.sleep(3)
    for each in everybody:
        each.resume()
    time.sleep(1)
    assert restarts(daemon) == {}
    assert status(daemon)["state"] == "ready"


@situation(
    "own",
    "A daemon that gets no core is waited for, and not called slow; one that was stopped is.",
)
async def test_a_client_waits_for_a_starved_daemon(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = psutil.Process(daemon.process.pid)
    assert set(daemon.target._server_pid()) == {hub.pid}
    hub.suspend()
    try:
        with pytest.raises(DaemonSlow):
            async with daemon.async_client():
                pass
        monkeypatch.setattr(Target, "own_time", lambda self: lambda: 0.0)  # as if it were starved
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_resume_later, hub)
            async with daemon.async_client() as client:
                assert (await client.control("ping"))["pid"] == hub.pid
    finally:
        hub.resume()


async def _resume_later(process: psutil.Process) -> None:
    await anyio.sleep(1.5)
    process.resume()


@situation("own", "A night beside two busy programs ends, if late, and nobody is restarted.")
@pytest.mark.long
@pytest.mark.model
@pytest.mark.usefixtures("default_model")
def test_a_night_beside_two_busy_programs(runtime: Path) -> None:
    from experiments.learn_facts import invent

    began = time.monotonic()
    with running(runtime) as daemon, daemon.client() as client:
        for fact in invent(FACTS, 0):
            client.ask("generate", prompt=fact.told, max_tokens=8)
        told_s = time.monotonic() - began
        with busy(2):
            night = client.ask("gestate", force=True)
        print(f"told {told_s:.0f} s, night {time.monotonic() - began - told_s:.0f} s: {night}")
        late = [each for each in daemon.events() if each["event"] == "child.starved"]
        print(f"late {len(late)} times")
        assert (night["woke"], night["learned"]) == ("rested", FACTS)
        assert restarts(daemon) == {}
