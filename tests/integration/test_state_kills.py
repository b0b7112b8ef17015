"""`kill -9` while generations are written: the state before or the state after, whole.

A kill leaves what the kernel already has; what a power cut leaves of unsynced writes is another
matter that no test here can show (tests/unit/test_state_damage.py checks the order of syncing).
"""

import random
import subprocess
import sys
import time
from pathlib import Path

from sovl_daemon.state import StateStore
from tests.states import ORIGIN, mind, number_in

ROOT = Path(__file__).parents[2]

# Commits minds 1, 2, 3 ... with checkpoints and saves in between, and tells what is done.
WRITER = """
import itertools, sys
from pathlib import Path
from sovl_daemon.state import StateStore
from tests.states import ORIGIN, mind
with StateStore(Path(sys.argv[1])).writer(keep=3) as writer:
    for number in itertools.count(int(sys.argv[2])):
        writer.checkpoint(mind(number, 20_000), ORIGIN, progress={}, interactions=[number])
        writer.commit(mind(number, 20_000), ORIGIN, reason="night", interactions=[number])
        print("committed", number, flush=True)
        writer.save("latest", replacing=True)
        print("saved", number, flush=True)
"""

# Repeats one change in a fresh copy, each time killed before one more of the operations that
# change files; what is only read leaves nothing else behind.
EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
import safetensors.numpy  # else each child loads it
import sovl_daemon.state.writer
from sovl_daemon.state import StateStore
from tests.states import ORIGIN, mind
root, change = Path(sys.argv[1]), sys.argv[2]
WORK = {
    "commit": lambda w: w.commit(mind(2), ORIGIN, reason="night", interactions=[2]),
    "checkpoint": lambda w: w.checkpoint(mind(2), ORIGIN, progress={}, interactions=[2]),
    "save": lambda w: w.save("kept", replacing=True),
    "restore": lambda w: w.restore("kept"),
    "load": lambda w: w.load(),
}
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
def child(place, step):
    left = step
    def hook(event, args):
        nonlocal left
        if event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    with StateStore(place).writer(keep=2) as writer:
        sys.addaudithook(hook)
        WORK[change](writer)
    os._exit(0)
for step in range(1000):
    place = root / f"{step:03d}"
    shutil.copytree(root / "before", place)
    pid = os.fork()
    if pid == 0:
        child(place, step)
    if os.waitpid(pid, 0)[1] == 0:
        break
print(step)
"""


def run_each_step(root: Path, change: str) -> list[StateStore]:
    """The stores that the kills left, in the order of steps; the last was not killed."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_STEP, str(root), change],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = int(done.stdout)
    assert steps > 1, "nothing was killed"
    return [StateStore(root / f"{step:03d}") for step in range(steps + 1)]


def prepared(root: Path) -> StateStore:
    """One generation, saved, and another that is unfinished."""
    store = StateStore(root / "before")
    with store.writer(keep=2) as writer:
        writer.commit(mind(1), ORIGIN, reason="night", interactions=[1])
        writer.save("kept")
        writer.checkpoint(mind(50), ORIGIN, progress={}, interactions=[2])
    return store


def current(store: StateStore) -> int:
    """The mind found by a reader, and again by the next writer, who finds nothing damaged."""
    generation = store.find("current")
    with store.writer(keep=2) as writer:
        loaded = writer.load()
    assert loaded.refused == ()
    assert loaded.generation == generation
    hidden = [path.name for path in store.root.rglob(".*")]
    assert hidden == [], "left behind"
    return number_in(generation)


def test_random_kills_of_a_busy_writer(tmp_path: Path) -> None:
    rng = random.Random(5)
    store, number, committed, saved = StateStore(tmp_path), 1, 0, 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        told = [writer.stdout.readline()]
        time.sleep(rng.uniform(0, 0.15))
        writer.kill()
        told += writer.stdout.read().splitlines()
        writer.wait()
        committed = max(int(line.split()[1]) for line in told if line.startswith("committed"))
        saved = max([saved, *(int(line.split()[1]) for line in told if line.startswith("saved"))])
        found = current(store)
        assert found in (committed, committed + 1)
        assert store.find("current").manifest.interactions == [found]
        assert store.find("current").manifest.learned_from("memory-1").keys() == set(
            range(1, found + 1)
        )
        if saved:
            assert number_in(store.find("latest")) in (saved, saved + 1, found)
        number = found + 1


def test_a_commit_killed_at_each_step(tmp_path: Path) -> None:
    prepared(tmp_path)
    found = [current(store) for store in run_each_step(tmp_path, "commit")]
    assert found == sorted(found)
    assert set(found) == {1, 2}
    done = found.index(2)
    for step in range(len(found)):
        with StateStore(tmp_path / f"{step:03d}").writer(keep=2) as writer:
            candidate = writer.candidate(ORIGIN).generation
        if step < done:
            assert candidate is not None
            assert number_in(candidate) == 50
        else:
            assert candidate is None


def test_a_checkpoint_killed_at_each_step(tmp_path: Path) -> None:
    prepared(tmp_path)
    found = []
    for store in run_each_step(tmp_path, "checkpoint"):
        assert current(store) == 1
        with store.writer(keep=2) as writer:
            candidate = writer.candidate(ORIGIN).generation
        assert candidate is not None
        found.append(number_in(candidate))
    assert found == sorted(found, reverse=True)
    assert set(found) == {50, 2}


def test_a_save_killed_at_each_step(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    with store.writer(keep=2) as writer:
        writer.commit(mind(7), ORIGIN, reason="night")
    found = []
    for left in run_each_step(tmp_path, "save"):
        assert current(left) == 7
        found.append(number_in(left.find("kept")))
    assert found == sorted(found)
    assert set(found) == {1, 7}


def test_going_back_killed_at_each_step(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    with store.writer(keep=2) as writer:
        writer.commit(mind(7), ORIGIN, reason="night")
    found = [current(left) for left in run_each_step(tmp_path, "restore")]
    assert found == sorted(found, reverse=True)
    assert set(found) == {7, 1}


def test_a_fallback_killed_at_each_step(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    with store.writer(keep=2) as writer:
        writer.commit(mind(7), ORIGIN, reason="night")
    (store.folder(2) / "mind.json").unlink()
    for left in run_each_step(tmp_path, "load"):
        with left.writer(keep=2) as writer:
            loaded = writer.load()
        assert loaded.generation is not None
        assert number_in(loaded.generation) == 1
        assert [path.name for path in left.aside()] == ["000002"]
