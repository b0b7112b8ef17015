"""How OpenMP, with which torch shares out its products, waits and how far it goes.

It reads this when torch is loaded. Threads that have done their part spin until the others have, by
default for some milliseconds: beside a program that took one of their cores each of a token's
hundred products waited so long for its last thread, on a core that the last one could have had. As
they are set they spin for about as long as the pause between two products takes, and then sleep.
"""

import os
from collections.abc import Mapping

# GNU's, which comes with torch, has a number of spins; LLVM's and Intel's go by the policy.
_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def variables(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to an environment; how to wait is left to whoever has set it there."""
    waiting = {} if _WAITING.keys() & environment.keys() else _WAITING
    return {**waiting, **dict.fromkeys(_COUNTS, str(threads))}


def prepare(threads: int) -> None:
    """Set it for this process, which has not loaded torch yet."""
    os.environ.update(variables(threads, os.environ))
