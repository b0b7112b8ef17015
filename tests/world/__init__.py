"""Situations that other people reported of such programs, tried on ours; a file for each kind.

A situation says where it was reported and what a user would expect; the test is what happens. All
of them are listed in docs/world.md, which `python -m tests.world` writes.
"""

from collections.abc import Callable
from typing import Any

import pytest


def situation(source: str, expects: str) -> Callable[[Any], Any]:
    """Mark a test as a situation out of a report.

    Args:
        source: Project and number of the report, such as "ollama/ollama#1234"; "own" for one that
            showed itself here first.
        expects: What somebody in it would expect, in one sentence.

    """
    return pytest.mark.situation(source=source, expects=expects)
