"""Rubbish on every socket of a real daemon."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovl_daemon.testing import Daemon
from tests.torture.fuzz import fuzz

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | JSON,
        "kind": st.sampled_from(["command", "cancel", "subscribe", "result", "x"]) | JSON,
        "id": st.text(max_size=120) | JSON,
        "payload": st.fixed_dictionaries({"name": st.just("ping") | JSON, "args": JSON}) | JSON,
    },
)


def test_rubbish_is_refused_counted_and_forgotten(runtime: Path, echo_package: Path) -> None:
    result = fuzz(runtime, echo_package, seconds=6, seed=1)
    assert [goal.as_dict() for goal in result.goals if not goal.met] == []


@pytest.fixture
def control(echo_daemon: Daemon) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 3000
        socket.connect(f"ipc://{echo_daemon.runtime_dir}/control.ipc")
        yield socket


def test_every_frame_gets_an_answer(control: zmq.Socket[bytes]) -> None:
    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300) | ENVELOPE.map(lambda value: json.dumps(value).encode()))
    def check(frame: bytes) -> None:
        control.send(frame)
        answer = json.loads(control.recv())
        assert answer["kind"] in ("result", "error")
        if answer["kind"] == "error":
            assert answer["payload"]["code"] in ("bad_message", "bad_command", "bad_argument")

    check()
