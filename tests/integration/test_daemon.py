"""The whole daemon, its processes and sockets, with a quick agent in the host."""

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest
import zmq

from sovl_daemon.cli import exits
from sovl_daemon.cli.daemon import EX_CONFIG
from sovl_daemon.client import CommandError, DaemonDown
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until


def test_a_third_partys_agent_answers(echo_daemon: Daemon) -> None:
    with echo_daemon.client() as client:
        steps = list(client.stream("say", text="hey", times=3))
    assert [step.get("text") for step in steps] == ["hey", "hey", "hey", "heyheyhey"]


def test_commands_lists_the_third_partys(echo_daemon: Daemon) -> None:
    answer = json.loads(echo_daemon.sovl("commands", "--json").stdout)
    assert "say" in {spec["name"] for spec in answer["commands"]}
    assert "record" not in {spec["name"] for spec in answer["commands"]}


def test_killed_host_fails_its_command_and_comes_back(echo_daemon: Daemon) -> None:
    with echo_daemon.client() as client:
        first = client.ask("say", text="x")["pid"]
        with pytest.raises(CommandError) as caught:
            for step in client.stream("say", text="x", times=100, pause_s=0.1):
                if step:
                    os.kill(first, signal.SIGKILL)
        assert caught.value.code == "agent_lost"
        assert "SIGKILL" in caught.value.message
        assert client.ask("say", text="x")["pid"] != first


def test_stopped_host_counts_as_dead(echo_daemon: Daemon) -> None:
    with echo_daemon.client() as client:
        first = client.ask("say", text="x")["pid"]
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(CommandError, match="no sign of life"):
            client.ask("say", text="x")
        assert client.ask("say", text="x")["pid"] != first


def test_killed_hub_leaves_no_worker(runtime, echo_package) -> None:
    from tests.conftest import ECHO

    daemon = Daemon(runtime, packages=echo_package, **ECHO).start().wait()
    worker = daemon.worker()
    daemon.kill()
    assert psutil.wait_procs([worker], 3)[1] == []
    with pytest.raises(DaemonDown), daemon.client():
        pass
    daemon.start().wait()
    assert daemon.stop() == 0


def test_second_hub_is_refused(echo_daemon: Daemon) -> None:
    second = echo_daemon.sovl("run")
    assert second.returncode == 78
    assert "already running" in second.stderr
    assert echo_daemon.sovl("ping").returncode == 0


@pytest.mark.parametrize(
    "option", ["--dry-run", "--set=controls_config.base_temperature=1", "--config=/there.json"]
)
def test_a_running_daemon_is_not_talked_to_with_options_it_does_not_have(
    echo_daemon: Daemon, option: str
) -> None:
    for talk in ("--console", "--once=Hello!"):
        refused = echo_daemon.sovl("run", talk, option, text="ping\n")
        assert refused.returncode == exits.USAGE
        assert (
            f"a daemon runs already and has its own settings: leave {option} out" in refused.stderr
        )
        assert refused.stdout == ""


def test_a_configuration_that_the_environment_names_is_no_such_option(echo_daemon: Daemon) -> None:
    echo_daemon.environment["SOVL_CONFIG"] = "/there.json"
    talked = echo_daemon.sovl("run", "--console", text="ping\n")
    assert (talked.returncode, talked.stderr) == (0, "")


def test_stop_command_waits_for_the_end(echo_daemon: Daemon) -> None:
    assert echo_daemon.sovl("stop").returncode == 0
    assert echo_daemon.process.wait(PATIENCE_S) == 0
    names = [
        (e["agent"], e.get("state")) for e in echo_daemon.events() if e["event"] == "agent.state"
    ]
    assert ("echo", "stopped") in names
    assert ("scribe", "stopped") in names


def test_crash_loop_gives_up_loudly(runtime, echo_package) -> None:
    from tests.conftest import ECHO

    limits = {"supervision.restart_intensity": 2, "supervision.backoff_initial_s": 0.05}
    with running(runtime, packages=echo_package, **ECHO, **limits) as daemon:
        for _ in range(3):
            daemon.worker().kill()
            for _ in until():
                status = json.loads(daemon.sovl("status", "--json").stdout)
                if status["agents"]["echo"]["state"] in ("ready", "failed"):
                    break
        assert status["agents"]["echo"]["state"] == "failed"
        answer = daemon.sovl("call", "say", "text=x")
        assert answer.returncode == exits.FAILED
        assert "echo has failed" in answer.stderr
        assert any(e["event"] == "child.given_up" for e in daemon.events())


def test_model_that_does_not_exist_ends_it_with_one_line(runtime: Path) -> None:
    daemon = Daemon(runtime, **{"core_config.base_model_name": "no-such-model"})
    daemon.environment["HF_HUB_OFFLINE"] = "1"
    answer = daemon.sovl("run", "--set=core_config.base_model_name=no-such-model")
    assert answer.returncode == EX_CONFIG
    assert len(answer.stderr.splitlines()) == 1
    assert "core_config.base_model_name: " in answer.stderr
    assert "sovl model list" in answer.stderr


def test_cancel_right_behind_its_command_is_heard(echo_daemon: Daemon) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"ipc://{echo_daemon.runtime_dir}/commands.ipc")
        payload = {"name": "say", "args": {"text": "x", "times": 100, "pause_s": 1}}
        for number in range(20):
            name = f"quick{number}"
            command = {"v": 1, "kind": "command", "id": name, "payload": payload}
            cancel = {"v": 1, "kind": "cancel", "correlation": name, "payload": {}}
            dealer.send_json(command)
            dealer.send_json(cancel)
        ends = []
        while len(ends) < 20:
            assert dealer.poll(10_000)
            reply = dealer.recv_json()
            if reply["kind"] == "error":
                ends.append(reply["payload"]["message"])
    assert set(ends) <= {"cancelled", "cancelled before it began"}


def test_port_in_use_is_one_line(runtime: Path) -> None:
    daemon = Daemon(runtime)
    assert daemon.sovl("keys", "new", "server").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = daemon.sovl("run", f"--set=bus.listen=tcp://127.0.0.1:{port}")
    assert answer.returncode == EX_CONFIG
    assert answer.stderr.strip().endswith(f"tcp://127.0.0.1:{port}: Address already in use")
    assert len(answer.stderr.splitlines()) == 1
