"""What the documents and examples show, done with a real daemon."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq

from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests.conftest import ECHO
from tests.unit.test_docs import ROOT, table, words

EXAMPLES = ROOT / "examples"
PARIS = "What is the capital of France?"


@pytest.fixture(scope="module")
def model_daemon(default_model: Path) -> Iterator[Daemon]:
    """Return a daemon with the real model."""
    with tempfile.TemporaryDirectory(prefix="sovl") as root:
        settings = {"store.model_dir": str(default_model.parent), "host.device": "cpu"}
        with running(Path(root), **settings) as daemon:
            yield daemon


def example(daemon: Daemon, name: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / name), *words],
        env={**os.environ, "SOVL_CONNECT": str(daemon.runtime_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ask(daemon: Daemon, *words: str) -> tuple[int, str, str]:
    with example(daemon, "minimal_client.py", *words) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


# The worked exchange


def exchanges(name: str) -> list[tuple[list[str], list[str]]]:
    """What is sent and what is received in each exchange that the document shows for a socket."""
    blocks = re.findall(rf"```text {name}\n(.*?)```", (ROOT / "docs/protocol.md").read_text(), re.S)
    assert blocks
    return [
        (re.findall(r"^> (.*)$", block, re.M), re.findall(r"^< (.*)$", block, re.M))
        for block in blocks
    ]


@contextmanager
def dealer(daemon: Daemon, name: str) -> Iterator["zmq.Socket[bytes]"]:
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 60_000
        dealer.connect(f"ipc://{daemon.runtime_dir}/{name}.ipc")
        yield dealer


def shape(value: Any) -> Any:
    """Names and types; of the text that tells kinds apart, the text itself."""
    if isinstance(value, dict):
        kept = ("kind", "correlation", "code", "source", "topic")
        return {k: v if k in kept else shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def shapes(lines: list[Any]) -> list[Any]:
    """The shapes of messages; how many pieces of progress came in a row does not matter."""
    found = [shape(json.loads(line)) for line in lines]
    same = [a == b and a["kind"] == "progress" for a, b in pairwise(found)]
    return [each for each, repeated in zip(found, [*same, False], strict=True) if not repeated]


def held(daemon: Daemon, name: str, sent: list[str], last: str) -> list[bytes]:
    """Send the lines as they are; receive until a message of the kind `last`."""
    received = []
    with dealer(daemon, name) as line:
        for each in sent:
            line.send(each.encode())
        while not received or json.loads(received[-1])["kind"] != last:
            received.append(line.recv())
    return received


@pytest.mark.parametrize("name", ["control", "commands", "events"])
def test_the_worked_exchange_is_real(daemon: Daemon, name: str) -> None:
    for sent, expected in exchanges(name):
        received = held(daemon, name, sent, json.loads(expected[-1])["kind"])
        assert shapes(received) == shapes(expected)


@pytest.mark.model
def test_the_worked_answer_is_real(model_daemon: Daemon) -> None:
    for sent, expected in exchanges("generate"):
        received = held(model_daemon, "commands", sent, "result")
        assert shapes(received) == shapes(expected)


# Claims of the protocol


def test_a_message_of_two_frames_gets_no_answer(daemon: Daemon) -> None:
    ping = exchanges("control")[0][0][0].encode()
    with dealer(daemon, "control") as line:
        line.send_multipart([b"", ping])
        line.send(ping)
        assert json.loads(line.recv())["kind"] == "result"
        assert not line.poll(200)


def test_a_repeated_command_runs_once(daemon: Daemon) -> None:
    command = {"name": "say", "args": {"text": "x", "pause_s": 0.3}}
    message = json.dumps({"v": 1, "kind": "command", "id": "twice", "payload": command}).encode()
    with dealer(daemon, "commands") as line:
        line.send(message)
        line.send(message)
        kinds = [json.loads(line.recv())["kind"] for _ in range(3)]
        assert kinds == ["accepted", "progress", "result"]
        assert not line.poll(500)


def test_a_message_that_is_too_large_is_refused_by_its_id(daemon: Daemon) -> None:
    with dealer(daemon, "commands") as line:
        head = b'{"v": 1, "kind": "command", "id": "mine", "payload": {"name": "say", "args": "'
        line.send(head + b"x" * 1_048_577)
        assert line.poll(5000), "no answer"
        answer = json.loads(line.recv())
        assert answer["correlation"] == "mine"
        assert answer["payload"]["code"] == "bad_message"


def test_an_unsubscription_ends_the_events(daemon: Daemon) -> None:
    with dealer(daemon, "events") as line:
        for topics in (["hub."], []):
            payload = {"topics": topics}
            line.send_json({"v": 1, "kind": "subscribe", "id": "s", "payload": payload})
        kinds = []
        while line.poll(1500):  # longer than the time between two beats
            kinds.append(json.loads(line.recv())["kind"])
        assert kinds == ["welcome", "hub.state"]


# Examples


def test_minimal_client_streams_any_command(daemon: Daemon) -> None:
    assert ask(daemon, "say", 'text="hey"', "times=3") == (0, "heyheyhey\n", "")


def test_minimal_client_reports_errors(daemon: Daemon) -> None:
    code, out, err = ask(daemon, "say", "times=3")
    assert (code, out, err) == (1, "", "bad_argument: say: text: is required\n")


def test_minimal_client_tells_that_no_daemon_is_there(runtime: Path) -> None:
    code, _, err = ask(Daemon(runtime), "say", 'text="hey"')
    assert code == 1
    assert err == f"no daemon answers in {runtime}/run\n"


@pytest.mark.model
def test_minimal_client_answers_a_prompt(model_daemon: Daemon) -> None:
    code, out, err = ask(model_daemon, PARIS)
    assert (code, err) == (0, "")
    assert out.strip()
    asked = ask(model_daemon, "generate", f'prompt="{PARIS}"', "temperature=0")
    assert asked == (0, "The capital of France is Paris.\n", "")


def test_follow_events_prints_them_and_survives_a_restart(echo_daemon: Daemon) -> None:
    with example(echo_daemon, "follow_events.py", "echo.", "hub.") as process:
        assert process.stdout is not None
        try:
            state = json.loads(process.stdout.readline().split(" ", 2)[2])
            assert state == {"state": "ready", "detail": ""}
            assert ask(echo_daemon, "say", 'text="hey"')[0] == 0
            assert process.stdout.readline() == 'echo.heard 1 {"text": "hey"}\n'
            assert echo_daemon.stop() == 0
            echo_daemon.start().wait()
            for line in process.stdout:  # until it has subscribed again
                if line.startswith("hub.state") and '"ready"' in line:
                    break
            assert ask(echo_daemon, "say", 'text="again"')[0] == 0
            assert process.stdout.readline() == 'echo.heard 1 {"text": "again"}\n'
        finally:
            process.kill()


def test_the_example_agent_passes_its_own_test(tmp_path: Path, runtime: Path) -> None:
    """As its author runs it, outside of this checkout."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path)]
    source = EXAMPLES / "sovl-tally"
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    test = shutil.copy(source / "test_tally.py", tmp_path)
    words = ["-p", "no:cacheprovider", "--basetemp", str(runtime / "t"), test]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# Answers and the log


def described(command: str) -> set[str]:
    """The fields that the document names for a command's answer."""
    text = (ROOT / "docs" / "commands.md").read_text()
    section = re.search(rf"^### {command}$.*?(?=^### |\Z)", text, re.M | re.S)
    assert section
    if another := re.search(r"^Answers as \[(\w+)\]", section[0], re.M):
        return described(another[1])
    answer = section[0].partition("| Answer |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", answer, re.M))


@pytest.mark.parametrize("command", ["ping", "status", "stats", "commands", "reload"])
def test_control_answers_are_as_described(daemon: Daemon, command: str) -> None:
    with daemon.client() as client:
        assert set(client.control(command)) == described(command)


def test_answers_about_settings_are_as_described(daemon: Daemon) -> None:
    with daemon.client() as client:
        one = client.control("config", key="logging.level")
        assert {*client.control("config"), *one} == described("config")
        key, value = "logging.level", "info"
        answer = client.control("config_set", key=key, value=value, save=False)
        several = client.control("config_set", values={key: value}, save=False)
        assert {*answer, *several} == described("config_set")


def test_answers_about_agents_are_as_described(daemon: Daemon) -> None:
    with daemon.client() as client:
        for command in ("pause", "resume"):
            assert set(client.control(command, agent="echo")) == described(command)
        assert set(client.ask("history")) == described("history")


@pytest.mark.model
def test_generate_answers_as_described(model_daemon: Daemon) -> None:
    with model_daemon.client() as client:
        assert set(client.ask("generate", prompt="Hi", max_tokens=2)) == described("generate")
    check_log(model_daemon)


def check_log(daemon: Daemon) -> set[str]:
    """Compare every line of the log with the document; the names of the events in it."""
    common = {words(row[0])[0] for row in table("logging.md", "Field")}
    known = {
        words(name)[0]: (words(levels), {*words(fields), *words(meaning)})
        for name, levels, fields, meaning in table("logging.md", "Event")
    }
    always = {words(row[0])[0] for row in table("logging.md", "Field") if row[1] == "yes"}
    for line in daemon.events():
        name = str(line["event"])
        assert always <= set(line), line
        assert set(line) <= common | known[name][1], line
    return {str(line["event"]) for line in daemon.events()}


def test_the_log_is_as_described(runtime: Path, echo_package: Path) -> None:
    settings = {**ECHO, "logging.level": "debug", "supervision.backoff_initial_s": 0.05}
    with running(runtime, packages=echo_package, **settings) as daemon:
        with daemon.client() as client:
            client.ask("say", text="x")
            client.control("config_set", key="logging.level", value="info", save=False)
        (runtime / "sovl").mkdir(exist_ok=True)
        (runtime / "sovl" / "config.json").write_text("{")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.worker().kill()
        for _ in until():
            if "child.restarting" in {line["event"] for line in daemon.events()}:
                break
        with daemon.wait().client() as client:
            assert set(client.control("stop")) == described("stop")
        assert daemon.process.wait(PATIENCE_S) == 0
        assert check_log(daemon) >= {
            "agent.state", "child.restarting", "command.ended", "command.started",
            "config.changed", "config.refused", "hub.state", "hub.stop_requested", "hub.stopped",
        }  # fmt: skip
