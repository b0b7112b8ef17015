"""Genuine memory pressure on a small model; ./scripts/memory-pressure does it with the real one."""

from pathlib import Path
from typing import Any

import pytest
from benches.pressure import Pace, judged, live

from tests import tiny_models

PACE = """
[pace]
dwell_s = 3.0
cooldown_s = 1.0
urgent_s = 0.5
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A model large enough to be seen in memory, with a scaffold that is not."""
    model = tiny_models.save(tiny_models.wide(blocks=12), tmp_path / "wide")
    return tiny_models.settings(tmp_path) | {
        "core_config.base_model_name": str(model),
        "controls_config.has_woken": True,
    }


def test_it_lives_only_with_the_loop_and_all_comes_back(
    runtime: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pace = Pace(warm_s=3.0, hold_s=2.0, back_s=60.0)
    lives = []
    for name, controlled in (("off", False), ("on", True)):
        root = runtime / name
        root.mkdir()
        lives.append(live(root, controlled=controlled, settings=settings, pace=pace))
    result = judged(*lives)
    assert [goal.as_dict() for goal in result.goals if not goal.met] == [], result.rows
