"""The log of a real daemon: one order over all its processes, and a reader that keeps up."""

import json
import re
import subprocess
import time
from pathlib import Path

import psutil

from sovl_daemon.testing import SOVL, Daemon, running, until
from tests.conftest import ECHO


def said(daemon: Daemon, **wanted: object) -> list[dict[str, object]]:
    """The lines with these fields, once there is one."""
    for _ in until():
        lines = [e for e in daemon.events() if wanted.items() <= e.items()]
        if lines:
            return lines
    return []


def test_every_line_is_one_object_and_the_order_grows(daemon: Daemon) -> None:
    with daemon.client() as client:
        for number in range(50):
            client.ask("say", text=str(number))
    assert len(said(daemon, event="command.ended", agent="echo")) >= 1
    events = daemon.events()
    assert all({"time", "order", "level", "event"} <= event.keys() for event in events)
    orders = [event["order"] for event in events]
    assert orders == list(range(1, len(orders) + 1))
    assert {event["agent"] for event in events} >= {"hub", "echo", "scribe", "health"}
    assert all(re.match(r"\d{4}-\d\d-\d\dT.*Z$", str(event["time"])) for event in events)


def test_the_level_changes_while_it_runs_and_a_command_can_be_followed(daemon: Daemon) -> None:
    """In both processes: the hub that routed it and the worker that did it."""
    with daemon.client() as client:
        client.ask("say", text="quietly")
    assert daemon.sovl("config", "logging.level", "debug").returncode == 0
    assert said(daemon, event="config.changed")
    for _ in until():
        with daemon.client() as client:
            client.ask("say", text="aloud")
        if said_now := [e for e in daemon.events() if e["event"] == "command.started"]:
            break
    assert said_now, "the worker still keeps its debug lines to itself"
    correlation = said_now[-1]["correlation"]
    about = said(daemon, correlation=correlation, event="command.ended")
    assert about[0]["agent"] == "echo"
    processes = {e.get("process", "hub") for e in daemon.events()
                 if e.get("correlation") == correlation}  # fmt: skip
    assert processes == {"hub", "host"}
    assert daemon.sovl("config", "logging.level", "info").returncode == 0
    with daemon.client() as client:
        for _ in until():
            before = len([e for e in daemon.events() if e["event"] == "command.started"])
            client.ask("say", text="quietly")
            if len([e for e in daemon.events() if e["event"] == "command.started"]) == before:
                break
        else:
            raise AssertionError("debug lines go on")


def test_what_is_no_log_line_is_wrapped(daemon: Daemon) -> None:
    """The worker's own standard error, written by somebody who knows nothing of the log."""
    worker = daemon.worker()
    with Path(f"/proc/{worker.pid}/fd/2").open("wb", buffering=0) as pipe:
        pipe.write(b"Segmentation fault\n")
    line = said(daemon, event="process.output", text="Segmentation fault")[0]
    assert (line["process"], line["level"]) == ("host", "warning")


def test_the_file_rotates_and_a_follower_goes_on_across_it(
    runtime: Path, echo_package: Path
) -> None:
    limits = {"logging.max_bytes": 8192, "logging.backups": 2}
    with running(runtime, packages=echo_package, **ECHO, **limits) as daemon:
        follow = [*SOVL, "logs", "-f", "-n", "0", "--json", "--agent", "echo"]
        follower = subprocess.Popen(
            follow, env=daemon.environment, stdout=subprocess.PIPE, text=True
        )
        reader = psutil.Process(follower.pid)
        try:
            assert follower.stdout is not None
            for _ in until():
                if str(daemon.log_file) in {each.path for each in reader.open_files()}:
                    break
            with daemon.client() as client:
                for number in range(100):
                    client.ask("say", text=str(number))
                    time.sleep(0.02)  # a file lasts longer than the follower's pause
            seen = []
            while len(seen) < 100:
                event = json.loads(follower.stdout.readline())
                if event["event"] == "command.ended":
                    seen.append(event["order"])
        finally:
            follower.kill()
            follower.wait()
        assert seen == sorted(set(seen))
        files = sorted((runtime / "state").glob("log*"))
        assert [file.name for file in files] == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
        assert all(file.stat().st_size <= 8192 for file in files)
