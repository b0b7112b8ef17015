"""A number that was fixed for a machine of one's own, on a machine that others use too."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sovl_daemon import openmp
from sovl_daemon.engine.thread.thread_count import ThreadCount
from sovl_daemon.engine.thread.threads import Threads
from tests.world import situation

# Seconds a token, in 4 bits, on AVX512 without BF16: by programs beside it, by threads.
TOKEN_S = {
    0: {1: 1 / 20.2, 2: 1 / 28.9},
    1: {1: 1 / 20.8, 2: 1 / 3.5},
    2: {1: 1 / 15.3, 2: 1 / 10.7},
}

SPINS = """
import os, time, torch
torch.set_num_threads(2)
a = torch.randn(600, 600)
a @ a
burnt = 0.0
for _ in range(40):
    a @ a
    before = time.process_time()
    time.sleep(0.01)
    burnt += time.process_time() - before
print(burnt)
"""
# What a CPU is found to do, and what comes of it.
TRIALS = """
import json, torch
from sovl_daemon.engine.model.matrix import PlainMatrix, VnniMatrix, max_exact_input
from sovl_daemon.engine.model.product import is_emulated
torch.manual_seed(0)
weight, x = torch.randn(512, 576).bfloat16(), torch.randn(64, 576).bfloat16()
exact = x.double() @ weight.double().T
def error(y): return float((y.double() - exact).norm() / exact.norm())
print(json.dumps({
    "highest": max_exact_input(),
    "emulated": is_emulated(torch.bfloat16),
    "whole": error(VnniMatrix([weight], torch.bfloat16)(x)),
    "plain": error(PlainMatrix(weight, "fp16")(x)),
}))
"""


def told(program: str, **more: str) -> Any:
    """What a program prints in an environment as the model host has it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    environment |= openmp.variables(2, environment) | more
    command = [sys.executable, "-W", "ignore", "-c", program]
    return json.loads(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    )


def lived(count: ThreadCount, seconds: float, now: float, token_s: Callable[[int], float]) -> float:
    """Let time pass as tokens take it; return what time it is then."""
    until = now + seconds
    while now < until:
        took = token_s(count.choose(now, 2))
        now += took
        count.took(now, 1, took)
    return now


@situation("own", "Beside one busy program it is no slower than a single thread would be.")
def test_one_neighbour_comes_and_goes() -> None:
    count, now = ThreadCount(lambda: 2, lambda now: 0.0), 0.0
    for busy, wanted in ((0, 2), (1, 1), (0, 2), (2, 1)):
        now = lived(count, 8, now, TOKEN_S[busy].__getitem__)
        assert count.count == wanted, f"{busy} beside it"


@situation(
    "ggml-org/llama.cpp#13079",
    "Threads that wait for others leave their core to whoever has work.",
)
def test_who_waits_does_not_keep_a_core_busy() -> None:
    assert told(SPINS) < 0.04  # seconds in 40 pauses; 0.1 as OpenMP is by default


@situation(
    "ggml-org/llama.cpp#29258", "Sixteen threads on two cores are not sixteen that wait in turn."
)
@pytest.mark.parametrize("number", [16, 0])
def test_more_threads_than_cores(number: int) -> None:
    threads = Threads(number)
    cores = len(os.sched_getaffinity(0))
    for work in ("decoding", "reading", "judging", "training"):
        with threads.working(work, 1):
            assert torch.get_num_threads() <= cores
    torch.set_num_threads(1)


@situation(
    "ollama/ollama#17916", "A cpuset that allows one core means one thread, whatever is configured."
)
@pytest.mark.parametrize("number", [8, 0])
def test_a_cpuset_narrower_than_the_machine_even_one_that_comes_later(number: int) -> None:
    threads, seen = Threads(number), []

    def steps() -> None:
        with threads.working("decoding", 1):
            pass
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        for _ in range(20):
            with threads.working("decoding", 1):
                seen.append(torch.get_num_threads())

    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
    assert set(seen) == {1}


@pytest.fixture(scope="module")
def without_instructions() -> Any:
    """What is found out on a processor that has AVX2 and no more."""
    return told(TRIALS, ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2", OMP_NUM_THREADS="1")


@situation(
    "uxlfoundation/oneDNN#717",
    "Products of 8 bits are right on a processor without the instructions for them too.",
)
def test_whole_numbers_that_would_overflow(without_instructions: Any) -> None:
    assert without_instructions["highest"] == 63
    assert without_instructions["whole"] < 0.01


@situation(
    "pytorch/pytorch#146508",
    "A format that the processor emulates is not what a long prompt is multiplied in.",
)
def test_a_format_that_is_emulated(without_instructions: Any) -> None:
    assert without_instructions["emulated"]
    assert without_instructions["plain"] < 0.01
