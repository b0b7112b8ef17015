"""The soak of scripts/soak, with a smaller count."""

from pathlib import Path

from tests.torture.soak import soak


def test_no_command_is_lost_or_answered_twice(runtime: Path, echo_package: Path) -> None:
    result = soak(runtime, echo_package, commands=3000, clients=8, kills=0.5, timeout=90)
    figures = {row["figure"]: row["value"] for row in result.rows}
    assert figures["host kills"] >= 2
    assert figures["client kills"] >= 1
    assert [goal.as_dict() for goal in result.goals if not goal.met] == []
