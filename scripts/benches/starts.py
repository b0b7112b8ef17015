"""Starts that fail, in every way that the suite knows, half of them beside busy programs.

Each must end by itself, not by a signal, with one line on standard error and its documented code.
"""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

from benches.common import Bench, Goal
from tests.starts import WAYS, start, verdict

STARTS = 500
AT_ONCE = 3  # more than this machine has cores, so that they hinder each other
BUSY = "while True: pass"


def run(quick: bool = False) -> Bench:
    """Try them all in turn until the number is reached."""
    if shutil.which("setpriv") is None or shutil.which("mount") is None:
        raise SystemExit("setpriv and mount are needed, and root")
    names = list(islice(cycle(WAYS), STARTS // 10 if quick else STARTS))
    half = len(names) // 2
    alone = _tried(names[:half])
    with ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(busy.kill)
        beside = _tried(names[half:])
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


def _tried(names: list[str]) -> list[tuple[str, int, str]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_try, names))


def _try(name: str) -> tuple[str, int, str]:
    with tempfile.TemporaryDirectory(prefix="sovl") as root:
        found = start(Path(root), WAYS[name], timeout_s=300)
        return name, found.returncode, verdict(WAYS[name], found)
