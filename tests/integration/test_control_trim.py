"""Clearing caches gives memory back, for real, as a whole transaction."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Fills the heap, keeps every hundredth piece so that the C library cannot shrink it by itself,
# and lets the rest go.
SCRIPT = """
import sys
from pathlib import Path
import anyio
from sovl_daemon.control.journal import Journal
from sovl_daemon.control.performer import Performer
from sovl_daemon.control.trim import Trim

async def go():
    performer = Performer(Journal(Path(sys.argv[1]) / "journal.db"), [Trim()])
    print(await performer.perform("clear_caches", "memory", "why"), flush=True)
    pieces = [bytes(20_000) for _ in range(5_000)]
    kept = pieces[::100]
    del pieces
    first = await performer.perform("clear_caches", "memory", "why")
    print(first.result, first.freed > 50e6, first, flush=True)
    print(await performer.perform("clear_caches", "memory", "why"), len(kept), flush=True)

anyio.run(go)
"""


def test_the_heap_is_given_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "1"},
    )
    before, first, second = done.stdout.splitlines()
    assert "refused" in before
    assert "KiB lie free in the heap" in before
    assert first.startswith("committed True"), first
    assert "refused" in second, "what was given back cannot be given back twice"
