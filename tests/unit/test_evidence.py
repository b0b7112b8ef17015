"""The log as evidence: what is recent, and telling."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.control.evidence import troubles

NOW_S = 1_000_000.0


def line(ago_s: float, level: str = "warning", agent: str = "hub", **fields: object) -> str:
    at = datetime.fromtimestamp(NOW_S - ago_s, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"time": at, "order": 1, "level": level, "agent": agent, **fields})


def found(folder: Path, *lines: str) -> list[str]:
    file = folder / "log.jsonl"
    file.write_text("\n".join(lines))
    return troubles(file, now_s=NOW_S)


def test_a_recent_warning_is_told_in_one_line(tmp_path: Path) -> None:
    told = found(tmp_path, line(10, event="child.silent", child="host", s=4))
    assert told == ["warning: child.silent agent=hub child=host s=4"]


@pytest.mark.parametrize(
    "other",
    [
        line(301, event="old"),
        line(10, level="info", event="usual"),
        line(10, agent="controller", event="its own"),
        '{"level": "error", "event": "with no time"}',
        "[1, 2]",
        '{"level": "err',
        "",
    ],
)
def test_anything_else_is_left_out(tmp_path: Path, other: str) -> None:
    assert found(tmp_path, other) == []


def test_the_last_five_are_told_oldest_first(tmp_path: Path) -> None:
    lines = [line(20 - n, event=f"e{n}") for n in range(9)]
    assert [each.split()[1] for each in found(tmp_path, *lines)] == ["e4", "e5", "e6", "e7", "e8"]


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    lines = [line(20, event="first"), *[line(10, level="info", event="x")] * 1000]
    assert found(tmp_path, *lines) == []
    assert len(found(tmp_path, *lines, line(5, event="last"))) == 1


def test_without_a_log_there_are_none(tmp_path: Path) -> None:
    assert troubles(tmp_path / "log.jsonl") == []
