"""What is too large for a message is an error of what it belonged to, and of nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bus.size import MAX_BYTES
from sovl_daemon.cli import exits
from sovl_daemon.client import CommandError
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.testing import PATIENCE_S, Daemon, running
from tests.conftest import ECHO
from tests.world import situation

LIVED = 900
LIMIT = 1 << 20
PATIENCE_MS = 20_000


@pytest.fixture(scope="module")
def daemon(module_runtime: Path, echo_package: Path) -> Iterator[Daemon]:
    """A daemon that has lived through 900 interactions of 4 KB, and one of 5 MB."""
    state = module_runtime / "state"
    state.mkdir()
    store = InteractionStore(state / "sovl.db")
    store._db.execute("PRAGMA synchronous=OFF")
    for number in range(LIVED):
        text = chr(0) * 5_000_000 if number == 400 else "said " * 400
        store.add(Interaction(f"c{number}", "a", text, text[:2000], 1, 0.5))
    store.close()
    with running(module_runtime, packages=echo_package, **ECHO) as found:
        yield found
        restarts = [each for each in found.events() if each["event"] == "child.restarting"]
        assert restarts == [], "somebody was lost"


class Raw:
    """A client of no library of ours."""

    def __init__(self, daemon: Daemon, socket: str = "commands") -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(f"ipc://{daemon.runtime_dir}/{socket}.ipc")

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, name: str, **args: Any) -> None:
        command = {"v": 1, "kind": "command", "id": name, "payload": {"name": name, "args": args}}
        self.socket.send_json(command)

    def final(self) -> dict[str, Any]:
        while self.socket.poll(PATIENCE_MS):
            reply: dict[str, Any] = self.socket.recv_json()
            if reply["kind"] in ("result", "error"):
                return reply
        raise AssertionError("no answer")


@situation(
    "stablyai/orca#15143",
    "A page of a history is bounded by bytes as well as by rows, and all of it can be reached.",
)
def test_all_of_a_long_history_can_be_paged_through(daemon: Daemon) -> None:
    found: list[int] = []
    before = None
    with daemon.client() as client:
        while True:
            page = client.ask("history", limit=1000, before=before)
            assert len(json.dumps(page)) < 2 * LIMIT
            if not page["interactions"]:
                break
            found = [each["id"] for each in page["interactions"]] + found
            before = page["before"]
    assert found == list(range(1, LIVED + 1))


@situation(
    "temporalio/features#487",
    "One entry that is larger than any page does not keep people from the others.",
)
def test_one_huge_interaction_is_shown_by_its_beginning(daemon: Daemon) -> None:
    with daemon.client() as client:
        (huge,) = client.ask("history", limit=1, before=402)["interactions"]
    assert huge["id"] == 401
    assert 10_000 < len(huge["prompt"]) < LIMIT
    assert set(huge["prompt"]) == {chr(0)}


@situation(
    "apache/texera#6857",
    "An answer that is too large is an error that says how large, not silence.",
)
def test_an_answer_too_large_is_an_error_of_its_command(daemon: Daemon) -> None:
    pid = daemon.worker().pid
    with daemon.client() as client:
        with pytest.raises(CommandError) as caught:
            client.ask("say", text="x" * 100_000, times=50)
        assert caught.value.code == "too_large"
        assert caught.value.detail["allowed"] == LIMIT
        assert caught.value.detail["bytes"] > 5_000_000
        assert "\n" not in caught.value.message
        assert client.ask("say", text="still here")["pid"] == pid


@situation(
    "zeromq/libzmq#1153",
    "A message that is too large is answered, and the connection goes on.",
)
@pytest.mark.parametrize("socket", ["commands", "control"])
def test_a_raw_message_too_large_is_refused_by_its_id(daemon: Daemon, socket: str) -> None:
    with Raw(daemon, socket) as raw, daemon.client() as other:
        raw.send("ping" if socket == "control" else "say", text="x" * (LIMIT + 1))
        refused = raw.final()
        assert refused["payload"]["code"] == "bad_message"
        assert refused["correlation"] in ("ping", "say")
        assert str(LIMIT) in refused["payload"]["message"]
        raw.send("status" if socket == "control" else "history")
        assert raw.final()["kind"] == "result"
        assert other.ask("say", text="hi")["text"] == "hi"


@situation("own", "What no memory should hold is cut off, and nobody else is.")
def test_the_hard_limit_cuts_off_its_sender_alone(daemon: Daemon) -> None:
    send = (
        "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.linger = 5000;"
        "s.connect(sys.argv[1]); s.send(bytes(int(sys.argv[2]))); print(s.poll(2000))"
    )
    address = f"ipc://{daemon.runtime_dir}/commands.ipc"
    with daemon.client() as client:
        command = [sys.executable, "-c", send, address, str(MAX_BYTES + 1)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.stdout == "0\n", done.stderr
        assert client.ask("say", text="hi")["text"] == "hi"


@situation(
    "nanomsg/nnpy#33",
    "A library refuses a message that is too large with an error, before it is sent.",
)
def test_the_client_refuses_before_it_sends(daemon: Daemon) -> None:
    with daemon.client() as client:
        for text in ("x" * 2 * LIMIT, "\0" * (LIMIT // 2)):  # a NUL takes six bytes of JSON
            with pytest.raises(CommandError, match=r"say has \d+ bytes, a message may have") as no:
                client.ask("say", text=text)
            assert no.value.code == "too_large"
        assert client.ask("say", text="hi")["text"] == "hi"


@situation("own", "A thousand steps on the way are all read, one large step is an error.")
def test_many_steps_and_large_ones(daemon: Daemon) -> None:
    with daemon.client() as client:
        steps = list(client.stream("say", text="x" * 1000, times=1000))
    assert [each["text"] for each in steps[:-1]] == ["x" * 1000] * 1000


@situation(
    "PrimeIntellect-ai/verifiers#951",
    "What a flood of large messages asks is refused one by one; others are answered meanwhile.",
)
def test_a_flood_of_large_messages(daemon: Daemon) -> None:
    with Raw(daemon) as raw, daemon.client() as other:
        for _ in range(50):
            raw.send("say", text="x" * (LIMIT + 1))
        for _ in range(20):
            assert other.ask("say", text="hi")["text"] == "hi"
        assert [raw.final()["payload"]["code"] for _ in range(50)] == ["bad_message"] * 50


def test_the_exit_code_says_that_it_was_the_input(daemon: Daemon) -> None:
    answer = daemon.sovl("call", "say", "text=" + "x" * 100_000, "times=50")
    assert answer.returncode == exits.USAGE
    assert answer.stderr.startswith("sovl: say: the answer has 5")
    assert answer.stderr.count("\n") == 1
