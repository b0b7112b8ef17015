"""100,000 interactions of 4 KB: how the daemon starts, shows them, sleeps a night and stops."""

import os
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import Bench, Goal
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.testing import Daemon, running

LIVED = 100_000
TEXT = "My neighbour Kira has a cat called Mivek, who is four years old and sleeps all day. "
PAGES = 20


def fill(path: Path, count: int) -> None:
    store = InteractionStore(path)
    store._db.execute("PRAGMA synchronous=OFF")
    store._db.execute("BEGIN")
    for number in range(count):
        prompt = f"{number}: {TEXT * 24}"[:2048]
        store.add(Interaction(f"c{number}", f"talk{number % 1000}", prompt, prompt, 500, 0.6))
    store._db.execute("COMMIT")
    store.close()


def first_word_of_a_night(daemon: Daemon) -> float:
    """Seconds until it has what it will learn, and begins to dream of it; then it is woken."""
    began = time.perf_counter()
    with daemon.client() as client, daemon.client() as other:
        for step in client.stream("gestate", force=True):
            if "text" in step:
                took = time.perf_counter() - began
                other.ask("wake")
                return took
    raise AssertionError("it never learned")


def run(quick: bool) -> Bench:
    os.environ.pop("SOVL_CONNECT", None)
    count = LIVED // 10 if quick else LIVED
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        state = Path(place) / "state"
        state.mkdir()
        fill(state / "sovl.db", count)
        began = time.perf_counter()
        with running(Path(place)) as daemon:
            seconds["start"] = time.perf_counter() - began
            hub = psutil.Process(daemon.process.pid)

            def timed(name: str, work: object) -> None:
                began = time.perf_counter()
                work()  # type: ignore[operator]
                seconds[name] = time.perf_counter() - began

            with daemon.client() as client:
                timed("status", lambda: client.control("status"))
                timed("history of 5", lambda: client.ask("history", limit=5))
                timed(
                    "history of a new talk",
                    lambda: client.ask("history", limit=5, conversation="unknown"),
                )

                def page_through() -> None:
                    before, seen = None, 0
                    for _ in range(PAGES):
                        page = client.ask("history", limit=1000, before=before)
                        before, seen = page["before"], seen + len(page["interactions"])
                    assert seen > 1000

                timed(f"{PAGES} pages of history", page_through)
                timed(
                    "an answer of one token",
                    lambda: client.ask("generate", prompt="Hello!", max_tokens=1),
                )
            seconds["a night has what it learns"] = first_word_of_a_night(daemon)
            restarts = sum(each["event"] == "child.restarting" for each in daemon.events())
            rss = hub.memory_info().rss / 1e6
            began = time.perf_counter()
        seconds["stop"] = time.perf_counter() - began
    rows: list[dict[str, object]] = [
        {"what": name, "seconds": round(took, 3)} for name, took in seconds.items()
    ]
    goals = [
        Goal("hub_rss_mb", rss, "<=", 100),
        Goal("restarts", float(restarts), "<=", 0),
        Goal("history_s", seconds["history of 5"], "<=", 1),
        Goal("status_s", seconds["status"], "<=", 1),
    ]
    return Bench("long_life", rows, goals, f"{count} interactions of 4 KB.")
