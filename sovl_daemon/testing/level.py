"""A gauge that tests set, tasks that watch it, and what of their actions is in force."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from bus.endpoints import Endpoints
from bus.publisher import Publisher
from bus.topics import GaugesGiven
from sovl_daemon.testing.daemon import Daemon, until

LEVEL = "test.level"
ACT, HOLD = 1.0, 0.15  # what the gauge says; between low and grey nothing is done
AT_ONCE = {"hard": 0.5, "grey": 0.2, "low": 0.1}
QUICK = {"dwell_s": 0.1, "cooldown_s": 0.1, "urgent_s": 0.1}
_AGAIN_S = 0.2  # after which a gauge is given again, though it is the same

_TASK = """
name = "{name}"
title = "memory health"
about = "Memory may run out."
[pace]
{pace}
[[metrics]]
name = "{metric}"
label = "Level"
high = {high}
levels = [{{ from = 0.0, word = "low" }}]
[[limits]]
metric = "{metric}"
{limits}
"""
_RUNG = """
[[ladder]]
action = "{action}"
when = "Always."
"""


def write_task(
    root: Path,
    limits: Mapping[str, float] = AT_ONCE,
    *,
    name: str = "memory",
    metric: str = LEVEL,
    high: float = 1.0,
    pace: Mapping[str, float] = QUICK,
    action: str = "limit_admission",
    others: Sequence[str] = (),
) -> None:
    """Give the daemon of this root a task with one metric, which waits for nothing.

    Its ladder is one action, and `others` after it. By the name of a shipped task it stands in its
    place. That of the processor, which others keep busy while tests run, does nothing.
    """
    given = {"hard_s": 0.0, "grey_s": 0.0} | dict(limits)
    _write(root, "cpu", "pressure.cpu", 200.0, {}, {"grey": 200.0}, ["pause_training"])
    _write(root, name, metric, high, pace, given, [action, *others])


def _write(
    root: Path,
    name: str,
    metric: str,
    high: float,
    pace: Mapping[str, float],
    limits: Mapping[str, float],
    actions: Sequence[str],
) -> None:
    folder = root / "state" / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    text = _TASK.format(
        name=name, metric=metric, high=high, pace=_lines(pace), limits=_lines(limits)
    )
    rungs = [_RUNG.format(action=each) for each in actions]
    (folder / f"{name}.toml").write_text("".join([text, *rungs]))


def _lines(values: Mapping[str, float]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in values.items())


class Level:
    """Publishes a gauge until closed, in a thread of its own, as any agent may.

    `given` is set when the value was, at `given_s` by the wall clock. `name` may be changed; then
    another gauge is given, and the one before grows stale.
    """

    def __init__(self, daemon: Daemon, *, every_s: float = 0.05) -> None:
        self.value, self.name = HOLD, LEVEL
        self.given, self.given_s = threading.Event(), 0.0
        self._every_s = every_s
        self._address = Endpoints.local(daemon.runtime_dir).publish
        self._over = False
        self._thread = threading.Thread(target=lambda: anyio.run(self._give))
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over = True
        self._thread.join()

    async def _give(self) -> None:
        publisher = Publisher(self._address, "test")
        told, told_s = 0.0, 0.0
        while not self._over:
            value, now_s = self.value, time.monotonic()
            if value != told or now_s - told_s > _AGAIN_S:
                self.given_s = self.given_s if value == told else time.time()
                payload = GaugesGiven(time_s=now_s, values={self.name: value})
                with suppress(TimeoutError), anyio.fail_after(1):
                    await publisher.publish("gauges.test", payload)
                    told, told_s = value, now_s
            if value == told:
                self.given.set()
            await anyio.sleep(self._every_s)
        publisher.close()


def in_force(daemon: Daemon) -> list[str]:
    """The actions that are not taken back."""
    with daemon.client() as client:
        return [each["action"] for each in client.ask("actions")["in_force"]]


def expect(daemon: Daemon, actions: list[str]) -> None:
    """Wait until these actions are in force, and no others."""
    for _ in until():
        if (found := in_force(daemon)) == actions:
            return
    raise AssertionError(f"{found} in force, not {actions}\n{daemon.output()}")
