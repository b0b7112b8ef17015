"""The clients against a real daemon, also one that dies, hangs, or is no daemon at all."""

import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from bus.topics import ConfigChanged
from sovl_daemon.client import (
    AsyncClient,
    Client,
    CommandError,
    DaemonDown,
    DaemonSlow,
    Target,
)
from sovl_daemon.contracts.hub import PauseAgent, Status
from sovl_daemon.contracts.scribe import RecentInteractions
from sovl_daemon.testing import PATIENCE_S, Daemon, until
from tests.conftest import ECHO

LONG = {"text": "x", "times": 1000, "pause_s": 0.05}


def nothing_in_flight(daemon: Daemon) -> bool:
    with daemon.client() as client:
        for _ in until():
            if client.control("status")["in_flight"] == 0:
                return True
    return False


def test_in_a_thread(daemon: Daemon) -> None:
    def work(number: int) -> str:
        with daemon.client() as client:
            return str(client.ask("say", text=str(number), times=2)["text"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [str(number) * 2 for number in range(8)]


def test_a_request_is_answered_by_its_reply(daemon: Daemon) -> None:
    with daemon.client() as client:
        assert client.control(Status()).agents["echo"].state == "ready"
        assert client.ask(RecentInteractions(limit=1)).interactions == []
        with pytest.raises(CommandError, match="no agent 'nobody'"):
            client.control(PauseAgent(agent="nobody"))


def test_one_client_for_many_threads(daemon: Daemon) -> None:
    with daemon.client() as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: client.ask("say", text=str(n))["text"], range(50))
        assert list(answers) == [str(number) for number in range(50)]


def test_a_stream_left_early_is_cancelled(daemon: Daemon) -> None:
    with daemon.client() as client:
        for step in client.stream("say", **LONG):
            assert step == {"text": "x"}
            break
        assert nothing_in_flight(daemon)
        assert client.ask("say", text="still there")["text"] == "still there"


def test_a_client_left_in_mid_call_cancels(daemon: Daemon) -> None:
    with daemon.client() as client:
        next(iter(client.stream("say", **LONG)))
    assert nothing_in_flight(daemon)


def test_errors_have_a_code_and_words(daemon: Daemon) -> None:
    with daemon.client() as client:
        with pytest.raises(CommandError, match="did you mean say") as caught:
            client.ask("sey")
        assert caught.value.code == "bad_command"
        with pytest.raises(CommandError, match="text: is required"):
            list(client.stream("say"))
        with pytest.raises(CommandError, match="did you mean ping"):
            client.control("pong")


async def test_calls_run_side_by_side(daemon: Daemon) -> None:
    answers: list[str] = []

    async def ask(number: int) -> None:
        answer = await client.ask("say", text=str(number), pause_s=0.05 * (5 - number))
        answers.append(answer["text"])

    async with daemon.async_client() as client, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(ask, number)
    assert sorted(answers) == [str(number) for number in range(5)]
    assert answers[-1] == "0"


async def test_a_call_tells_its_agent_and_can_be_cancelled(daemon: Daemon) -> None:
    async with daemon.async_client() as client, client.call("say", LONG) as call:
        async for _ in call:
            assert call.agent == "echo"
            call.cancel()
        with pytest.raises(CommandError) as caught:
            await call.result()
    assert caught.value.code == "cancelled"


async def test_a_call_that_ran_out_of_time_is_cancelled(daemon: Daemon) -> None:
    async with daemon.async_client() as client:
        with anyio.move_on_after(0.2):
            await client.ask("say", **LONG)
        with pytest.raises(CommandError) as caught:
            async with client.call("say", LONG, deadline_s=0.1) as call:
                await call.result()
        assert caught.value.code == "deadline"
        with anyio.fail_after(PATIENCE_S):
            while (await client.control("status"))["in_flight"]:
                await anyio.sleep(0.02)


async def test_events_are_followed(daemon: Daemon) -> None:
    async with daemon.async_client() as client, client.events("echo.") as events:
        await events.welcome(PATIENCE_S)
        await client.ask("say", text="hello")
        with anyio.fail_after(PATIENCE_S):
            event = await anext(aiter(events))
    assert (event.topic, event.source) == ("echo.heard", "echo")
    assert event.payload.model_dump() == {"text": "hello"}


async def test_a_key_that_is_set_again_is_told_again(daemon: Daemon) -> None:
    """An agent that could not follow the first time tries once more."""
    seen: list[dict[str, Any]] = []
    async with daemon.async_client() as client, client.events("config.") as events:
        await events.welcome(PATIENCE_S)
        for _ in range(2):
            await client.control("config_set", key="health.interval_s", value="3", save=False)
        following = aiter(events)
        with anyio.fail_after(PATIENCE_S):
            while seen[-2:] != [{"health.interval_s": 3.0}, {}]:  # behind what is retained
                event = await anext(following)
                assert isinstance(event.payload, ConfigChanged)
                seen.append(event.payload.changed)


# A daemon that goes away


@pytest.fixture
def mortal(runtime: Path, echo_package: Path) -> Iterator[Daemon]:
    """A daemon that the test may kill."""
    daemon = Daemon(runtime, packages=echo_package, **ECHO).start().wait()
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


def test_a_daemon_killed_in_mid_call_is_told(mortal: Daemon) -> None:
    with mortal.client() as client:
        steps = client.stream("say", **LONG)
        assert next(steps) == {"text": "x"}
        mortal.kill()
        with pytest.raises(CommandError, match="connection lost: no SOVL daemon answers") as caught:
            list(steps)
        assert caught.value.code == "agent_lost"
        with pytest.raises(DaemonDown):
            client.ask("say", text="anybody?")
        with pytest.raises(DaemonDown):
            client.control("ping")

        # What was asked in vain is not done later, when nobody expects it.
        with pytest.raises(DaemonDown):
            client.control("stop")
        mortal.start().wait()
        for _ in until():
            if client.control("ping", timeout_s=PATIENCE_S)["state"] == "ready":
                break
        assert client.ask("say", text="here again")["text"] == "here again"
        assert client.control("stats")["commands"]["accepted"] == 1
    assert mortal.stop() == 0


def test_a_daemon_started_anew_in_mid_call_does_not_leave_the_call_hanging(mortal: Daemon) -> None:
    with mortal.client() as client:
        steps = client.stream("say", **LONG)
        next(steps)
        mortal.kill()
        mortal.start()
        with pytest.raises(CommandError, match="connection lost"):
            list(steps)


def test_a_daemon_that_hangs_is_told_from_one_that_is_down(mortal: Daemon) -> None:
    with mortal.client() as client:
        steps = client.stream("say", **LONG)
        next(steps)
        mortal.process.send_signal(signal.SIGSTOP)
        with pytest.raises(CommandError, match=r"connection lost: .* gave no answer within"):
            list(steps)
        with pytest.raises(DaemonSlow, match="gave no answer within 1 s"):
            client.control("ping")
        with pytest.raises(DaemonSlow, match="said nothing for 1 s"), mortal.client():
            pass
        mortal.process.send_signal(signal.SIGCONT)
        assert nothing_in_flight(mortal)  # the call that was given up is not carried out


async def test_a_client_that_waited_long_for_a_daemon_still_finds_it(
    mortal: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt to connect makes events inside ZeroMQ that somebody must read."""
    import sovl_daemon.client.channel as channel_module

    plain = channel_module.AsyncSocket

    def eager(kind: int, **options: object) -> object:
        return plain(kind, reconnect_ivl=1, **options)  # a thousand attempts in a second

    monkeypatch.setattr(channel_module, "AsyncSocket", eager)
    async with mortal.async_client() as client:
        mortal.kill()
        await anyio.sleep(4)
        mortal.start()
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    assert await client.control("ping")
                    break
                except DaemonDown:
                    await anyio.sleep(0.1)


# What is no daemon


@contextmanager
def listening(address: str, says: bytes | None) -> Iterator[None]:
    """Something that accepts connections and stays silent, or says its piece and hangs up."""
    over = threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.05)

        def accept() -> None:
            open_ones = []
            while not over.is_set():
                try:
                    open_ones.append(listener.accept()[0])
                except TimeoutError:
                    continue
                if says is not None:
                    with open_ones.pop() as caller, suppress(BrokenPipeError):
                        caller.sendall(says)
            for each in open_ones:
                each.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        (None, DaemonSlow, "somebody listens at .*, but said nothing for 1 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", DaemonDown, "is no SOVL daemon of this version"),
    ],
)
def test_who_listens_but_is_no_daemon(
    runtime: Path, says: bytes | None, error: type[Exception], words: str
) -> None:
    with (
        listening(str(runtime / "control.ipc"), says),
        pytest.raises(error, match=words),
        Client(Target.local(runtime)),
    ):
        pass


async def test_a_socket_that_nobody_listens_on(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(runtime / "control.ipc"))
    with pytest.raises(DaemonDown, match="no SOVL daemon answers at"):
        async with AsyncClient(Target.local(runtime)):
            pass
