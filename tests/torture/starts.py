"""Starts that fail, in every way that the suite knows, half of them beside busy programs.

Each must end by itself, not by a signal, with one line on standard error and its documented code.
"""

import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks.common import Bench, Goal
from tests.starts import WAYS, start, verdict

STARTS = 500
AT_ONCE = 3  # more than this machine has cores, so that they hinder each other
BUSY = "while True: pass"


def run(quick: bool = False, first: int = 0, minutes: float = math.inf) -> Bench:
    """Try them all in turn until the number is reached or the time is up."""
    if shutil.which("setpriv") is None or shutil.which("mount") is None:
        raise SystemExit("setpriv and mount are needed, and root")
    until = time.monotonic() + 60 * minutes
    names = list(islice(cycle(WAYS), first, STARTS // 10 if quick else STARTS))
    half = len(names) // 2
    alone = _tried(names[:half], until)
    with ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(busy.kill)
        beside = _tried(names[half:], until)
    found = [*alone, *beside]
    killed = sum(code < 0 for _, code, _ in found)
    wrong = [f"{name}: {fault}" for name, _, fault in found if fault]
    rows: list[dict[str, object]] = [
        {"way": way, "starts": count, "exit code": WAYS[way].code}
        for way, count in Counter(name for name, _, _ in found).items()
    ]
    goals = [
        Goal("starts", len(found), ">=", len(names)),
        Goal("ended by a signal", killed, "<=", 0),
        Goal("not one line with the documented exit code", len(wrong), "<=", 0),
    ]
    return Bench("starts", rows, goals, "; ".join(wrong[:5]))


def _tried(names: list[str], until: float) -> list[tuple[str, int, str]]:
    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in filter(None, pool.map(partial(_try, until), names)):
            found.append(each)
            killed, wrong = sum(code < 0 for _, code, _ in found), sum(bool(w) for *_, w in found)
            print(len(found), "starts,", killed, "killed,", wrong, "wrong", *each, file=sys.stderr)
    return found


def _try(until: float, name: str) -> tuple[str, int, str] | None:
    if time.monotonic() > until:
        return None
    with tempfile.TemporaryDirectory(prefix="sovl") as root:
        found = start(Path(root), WAYS[name], timeout_s=300)
        return name, found.returncode, verdict(WAYS[name], found)
