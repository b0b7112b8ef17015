"""`kill -9` at the steps of an action of a running daemon.

./scripts/bench control_kills does it with every action, and the whole hub at every step.
"""

from pathlib import Path

import pytest

from tests.torture.control_kills import (
    Report,
    Torture,
    judged,
    settings_for,
)


@pytest.mark.long  # a dozen starts; the next test kills once, test_control_kills without a daemon
def test_the_controller_killed_at_every_step(runtime: Path, tmp_path: Path) -> None:
    report = Report()
    settings = settings_for(tmp_path, "limit_admission", process="keeper")
    Torture(runtime, settings, "limit_admission", report).controller()
    assert report.wrong == []
    assert report.kills["limit_admission do"] >= 6
    assert report.kills["limit_admission undo"] >= 4
    assert set(report.left) == {"degraded", "as configured"}
    assert judged(report).goals[0].met


def test_the_hub_killed_while_a_setting_is_in_force_and_not_committed(
    runtime: Path, tmp_path: Path
) -> None:
    report = Report()
    settings = settings_for(tmp_path, "limit_admission", process="hub")
    Torture(runtime, settings, "limit_admission", report).hub([3])
    assert (report.wrong, report.kills["limit_admission do"]) == ([], 1)
