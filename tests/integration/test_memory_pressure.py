"""Genuine memory pressure on a small model; ./scripts/memory-pressure does it with the real one."""

from pathlib import Path
from typing import Any

import pytest
from benches.pressure import Pace, judged, live

from sovl_daemon.control.task import SHIPPED
from tests import tiny_models

QUICKER = {"dwell_s = 60": "dwell_s = 3", "cooldown_s = 10": "cooldown_s = 1"}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A model large enough to be seen in memory, with a scaffold that is not."""
    model = tiny_models.save(tiny_models.wide(blocks=24), tmp_path / "wide")
    text = (SHIPPED / "memory.toml").read_text()
    for slow, quick in QUICKER.items():
        assert slow in text
        text = text.replace(slow, quick)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "memory.toml").write_text(text)
    return tiny_models.settings(tmp_path) | {
        "core_config.base_model_name": str(model),
        "control.tasks_dir": str(tmp_path / "tasks"),
        "generation.max_new_tokens": 20,
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
    unmet = [goal.name for goal in result.goals if not goal.met]
    assert unmet == [], "\n".join(map(str, result.rows))
