"""Tasks are files; a bad one is refused with its line."""

from pathlib import Path

import pytest

from sovl_daemon.control.guard import Limit
from sovl_daemon.control.task import Rung
from sovl_daemon.control.task_file import SHIPPED, TaskError, load_task, load_tasks
from tests import control

GOOD = """\
name = "disk"
title = "disk space"
about = "The disk may fill up."

[pace]
dwell_s = 30

[[metrics]]
name = "disk.percent"
label = "Disk usage"
unit = "%"
high = 100.0
levels = [{ from = 0.0, word = "low" }, { from = 80.0, word = "high" }]

[[limits]]
metric = "disk.percent"
hard = 98.0
grey = 90.0
low = 85.0

[[ladder]]
action = "drop_logs"
when = "Old logs take much room."
relief = { "disk.percent" = 5.0 }
"""


def written(folder: Path, text: str, name: str = "disk.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_shipped_tasks() -> None:
    tasks = load_tasks()
    assert set(tasks) == {"memory", "room", "latency", "training", "gpu", "cpu"}
    for task in tasks.values():
        assert task.limits
        assert task.ladder
    machine = ("memory.", "swap.", "cpu.", "pressure.", "gpu.", "stability.")
    for task in tasks.values():
        for each in task.metrics:
            assert each.name in control.GAUGES or each.name.startswith(machine)


def test_a_users_task_is_read(tmp_path: Path) -> None:
    task = load_task(written(tmp_path, GOOD))
    assert task.limits == (Limit(metric="disk.percent", hard=98, grey=90, low=85),)
    assert task.pace.dwell_s == 30
    assert task.metrics[0].level(79.9) == "low"
    assert task.metrics[0].level(80) == "high"
    assert task.metrics[0].level(-5) == "low"
    assert task.ladder[0].relief == {"disk.percent": 5}


def test_the_same_in_json(tmp_path: Path) -> None:
    import json
    import tomllib

    path = written(tmp_path, json.dumps(tomllib.loads(GOOD), indent=1), "disk.json")
    (tmp_path / "toml").mkdir()
    assert load_task(path) == load_task(written(tmp_path / "toml", GOOD))


def test_a_users_task_joins_ours_or_replaces_one(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, GOOD.replace('"disk"', '"gpu"'), "gpu.toml")
    written(tmp_path, "not a task", "notes.txt")
    tasks = load_tasks([SHIPPED, tmp_path, tmp_path / "not there"])
    assert set(tasks) == {"memory", "room", "latency", "training", "gpu", "cpu", "disk"}
    assert tasks["gpu"].title == "disk space"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("high = 100.0", "high = ", 12, "is not TOML"),
        ("high = 100.0", 'high = "much"', 12, "metrics[1].high: "),
        ("high = 100.0", "high = inf", 12, "metrics[1].high: "),
        ("high = 100.0", "high = -1.0", 12, "must be above low (0)"),
        ("hard = 98.0", "hard = 80.0", 19, "low, grey, hard and fatal must rise in this order"),
        ("hard = 98.0", "hard = 980.0", 17, "must be within 0 to 100"),
        ("hard = 98.0", "harsh = 98.0", 17, "no such key here; allowed: metric, hard, grey"),
        ('metric = "disk.percent"', 'metric = "disk.size"', 16, "disk.size is not declared"),
        ('title = "disk space"\n', "", 1, "title: Field required, found nothing"),
        ('title = "disk space"', 'title = "a\\nb"', 2, "title: "),
        ("dwell_s = 30", "dwell_s = 0", 6, "pace.dwell_s: "),
        ('"disk.percent" = 5.0', '"disk.size" = 5.0', 24, "disk.size is not declared"),
        ("from = 80.0", "from = -1.0", 13, "must rise from one level to the next"),
        ('[[ladder]]\naction = "drop_logs"', "[ladders]\naction = 1", 21, "ladders: no such key"),
        ("hard = 98.0\n", "spare = 3.0\n", 17, "limits[1].spare: is not allowed without hard"),
        ('levels = [{ from = 0.0, word = "low" }, ', "levels = 3 # ", 13, "should be a valid list"),
        ('levels = [{ from = 0.0, word = "low" }, ', "levels = [] # ", 13, "List should have at"),
        ("from = 80.0", "start = 80.0", 13, "no such key here; allowed: from, word"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TaskError) as refused:
        load_task(path)
    lines = str(refused.value).splitlines()
    assert any(each.startswith(f"{path}:{line}: ") and says in each for each in lines), lines


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    written(tmp_path, GOOD.replace("grey = 90.0", "grey = 900.0").replace("98.0", "980.0"))
    written(tmp_path, "[", "other.toml")
    with pytest.raises(TaskError) as refused:
        load_tasks([tmp_path])
    assert len(str(refused.value).splitlines()) == 3


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, GOOD, "disk2.toml")
    with pytest.raises(TaskError, match=r"disk2\.toml:1: name: disk is also that of disk\.toml"):
        load_tasks([tmp_path])


def test_what_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="drop_logs is there twice"):
        load_task(written(tmp_path, GOOD + GOOD[GOOD.index("[[ladder]]") :]))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"x" * 2_000_000])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=r"bad\.json:1: "):
        load_task(path)


def test_a_task_made_by_code_is_checked_as_a_file_is() -> None:
    with pytest.raises(ValueError, match=r"ladder\.0\.relief\n  disk\.size is not declared"):
        control.task(ladder=(Rung(action="clear", when="first", relief={"disk.size": 2}),))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=":1: cannot be read"):
        load_task(tmp_path)
