"""`kill -9` at every step of an action: after the next start, reality and journal agree."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sovl_daemon.control.executor import Executor
from sovl_daemon.control.journal import Journal
from tests.control import FileAction, prepare

ROOT = Path(__file__).parents[2]

# Does or undoes one action, and is killed before the step of that number: each use of the journal,
# and each change of the files that stand for the machine.
EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
import anyio
from sovl_daemon.control.journal import Journal
from sovl_daemon.control.executor import Executor
from tests.control import FileAction

root, work = Path(sys.argv[1]), sys.argv[2]
left = 0

def counted(method):
    def counting(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kwargs)
    return counting

def instrument():
    for name in ("intend", "move", "verified", "commit", "set_breaker"):
        setattr(Journal, name, counted(getattr(Journal, name)))
    FileAction._set = halved(FileAction._set)
    FileAction.apply, FileAction.revert = counted(FileAction.apply), counted(FileAction.revert)

def halved(method):
    def setting(self, word):
        with self.setting.open("w") as file:
            file.write(word[:2])
        counted(lambda: None)()
        method(self, word)
        counted(lambda: None)()
    return setting

async def go(place):
    action = FileAction(place, lies=work == "lie")
    executor = Executor(Journal(place / "journal.db"), [action])
    if work == "undo":
        await executor.take_back(1, "all low")
    else:
        await executor.execute("quantize", "memory", "why")

for step in range(100):
    place = root / f"{step:03d}"
    shutil.copytree(root / "before", place)
    pid = os.fork()
    if pid == 0:
        left = step
        instrument()
        anyio.run(go, place)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
print(step)
"""

# Does and undoes for ever, and tells how often it has.
BUSY = """
import sys
from pathlib import Path
import anyio
from sovl_daemon.control.journal import Journal
from sovl_daemon.control.executor import Executor
from tests.control import FileAction

async def go(place):
    action = FileAction(place)
    executor = Executor(Journal(place / "journal.db"), [action])
    await executor.reconcile()
    while True:
        action.memory.write_bytes(b"x" * 2000)
        outcome = await executor.execute("quantize", "memory", "why")
        assert outcome.result == "committed", outcome
        print("did", flush=True)
        assert (await executor.take_back(outcome.id, "all low")).result == "reverted"

anyio.run(go, Path(sys.argv[1]))
"""


async def settled(place: Path) -> str:
    """Start as a new process would; return the setting that is then in force."""
    action = FileAction(place)
    journal = Journal(place / "journal.db")
    executor = Executor(journal, [action])
    await executor.reconcile()
    setting = (place / "setting").read_text()
    in_force = [entry.target for entry in journal.in_force()]
    assert setting == (in_force[0] if in_force else "float16"), "journal and reality disagree"
    assert journal.unfinished() == []
    assert await executor.reconcile() == [] or in_force, "the second start has more to do"
    action.memory.write_bytes(b"x" * 2000)
    again = await executor.execute("quantize", "memory", "why")
    assert again.result == "committed", "nothing may be blocked for ever"
    journal.close()
    return setting


def run_each_step(root: Path, work: str) -> list[Path]:
    """The places that the kills left; the last was not killed."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_STEP, str(root), work],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = int(done.stdout)
    assert steps > 4, "hardly anything was killed"
    return [root / f"{step:03d}" for step in range(steps + 1)]


async def test_killed_at_every_step_of_an_action(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    prepare(tmp_path / "before")
    settings = [await settled(place) for place in run_each_step(tmp_path, "do")]
    assert settings[0] == "float16"
    assert settings[-1] == "int8"
    # What was not committed is reverted: once committed it stays.
    assert settings == sorted(settings), settings


async def test_killed_at_every_step_of_an_action_that_lies(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    prepare(tmp_path / "before")
    settings = {await settled(place) for place in run_each_step(tmp_path, "lie")}
    assert settings == {"float16"}


async def test_killed_at_every_step_of_undoing(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    prepare(before)
    journal = Journal(before / "journal.db")
    outcome = await Executor(journal, [FileAction(before)]).execute("quantize", "m", "why")
    assert outcome.result == "committed"
    journal.close()
    settings = [await settled(place) for place in run_each_step(tmp_path, "undo")]
    assert settings[0] == "int8"
    assert settings[-1] == "float16"
    assert settings == sorted(settings, reverse=True), settings


@pytest.mark.parametrize("seed", range(2))
async def test_random_kills_of_a_busy_daemon(tmp_path: Path, seed: int) -> None:
    prepare(tmp_path)
    rng, did = random.Random(seed), 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "did\n"
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        out, error = process.communicate()
        assert error == "", error
        did += 1 + out.count("did")
    assert did >= 4
    await settled(tmp_path)


def test_the_journal_is_plain_sqlite(tmp_path: Path) -> None:
    """Anyone can read it with the tools at hand, also after a kill."""
    prepare(tmp_path)
    journal = Journal(tmp_path / "journal.db")
    query = (
        "import json, sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "print(json.dumps(db.execute('PRAGMA journal_mode').fetchone()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", query, str(tmp_path / "journal.db")],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["wal"]
    journal.close()
