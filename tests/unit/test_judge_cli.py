"""`sovl judge simulate`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from sovl_daemon.cli import exits
from sovl_daemon.cli.app import app
from sovl_daemon.control.guard import Limit
from sovl_daemon.laboratory.control import plot
from sovl_daemon.laboratory.control.plot import Picture
from sovl_daemon.laboratory.control.recorder import Happening, Observation

DOCUMENT = Path(__file__).parents[2] / "docs" / "decisions.md"
HOUR = ("--scenario", "kv_growth", "--seed", "1", "--policy", "guard alone")


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", "simulate", *map(str, arguments)])


def complaint(result: Result) -> str:
    assert result.exit_code == exits.USAGE
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def texts(path: Path) -> list[str]:
    """The words of a picture; numbers on the axes left out."""
    found = (
        node.text or "" for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")
    )
    return sorted(text for text in found if re.search("[a-z]", text))


def test_it_tells_what_an_hour_came_to() -> None:
    result = simulate(*HOUR)
    assert result.exit_code == 0, result.output
    for part in (
        "An hour of kv_growth, seed 1, with guard alone.",
        "Memory ran out: never; had nobody acted: 2 times.",
        "of doing nothing: 600 s; of hindsight: ",
    ):
        assert part in result.stdout


def test_json_has_all_that_happened_and_agrees_with_the_figures() -> None:
    document = json.loads(simulate(*HOUR, "--json").stdout)
    kinds = [each["kind"] for each in document["happenings"]]
    assert document["questions"] == kinds.count("asks") > 0
    assert document["scenario"] == "kv_growth"
    seconds = [each["time_s"] for each in document["moments"]]
    assert seconds == sorted(seconds)
    assert {"used", "read", "pressure", "settings"} <= set(document["moments"][0])
    assert json.loads(simulate(*HOUR, "--json").stdout) == document


def test_a_lie_is_told() -> None:
    hour = ("--scenario", "burst", "--seed", 4, "--policy", "guard alone", "--json")
    assert json.loads(simulate(*hour, "--fault", "lies").stdout)["failures"] > 0
    assert json.loads(simulate(*hour).stdout)["failures"] == 0


def test_it_lists_what_there_is() -> None:
    known = json.loads(simulate("--list", "--json").stdout)
    assert set(known["held_out"]) < set(known["families"])
    assert {"none", "hindsight", "guard alone"} < set(known["policies"])
    assert "families: steady" in simulate("--list").stdout


@pytest.mark.parametrize(
    ("option", "what"), [("scenario", "family"), ("policy", "policy"), ("fault", "fault")]
)
def test_what_there_is_not_is_refused_and_named(option: str, what: str) -> None:
    line = complaint(simulate(f"--{option}", "sunny"))
    assert line.startswith(f"sovl: --{option} sunny: no such {what}; there are: ")


@pytest.mark.parametrize("command", ["fit", "eval", "simulate"])
def test_without_scikit_learn_it_says_how_to_get_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    line = complaint(CliRunner().invoke(app, ["judge", command]))
    assert line == "sovl: this needs scikit-learn: run pip install 'sovl-daemon[laboratory]'"


def test_nothing_heavy_without_need() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from sovl_daemon.cli.app import app\n"
        "result = CliRunner().invoke(app, ['judge', 'simulate', '--policy', 'none'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print({'torch', 'transformers', 'matplotlib', 'sklearn'} & sys.modules.keys())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


# The picture


@pytest.mark.parametrize("name", ["hour.png", "hour.svg"])
def test_a_picture_is_written_and_is_the_same_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = simulate(*HOUR, "--plot", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"drawn in {path}\n")
    first = path.read_bytes()
    simulate(*HOUR, "--plot", path)
    assert path.read_bytes() == first


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    assert "ends in .png or .svg" in complaint(simulate("--plot", tmp_path / "hour.jpg"))
    line = complaint(simulate(*HOUR, "--plot", tmp_path / "none" / "hour.png"))
    assert line.endswith("No such file or directory; give another place")


def test_the_picture_of_the_document_is_drawn_by_its_command(tmp_path: Path) -> None:
    found = re.search(
        r"`sovl judge simulate (--scenario.*) --plot docs/(\S+)`", DOCUMENT.read_text()
    )
    assert found is not None
    path = tmp_path / "again.svg"
    assert simulate(*found[1].split(), "--plot", path).exit_code == 0
    assert texts(path) == texts(DOCUMENT.parent / found[2])


def test_the_picture_shows_what_was_lived() -> None:
    picture = Picture(
        title="made up",
        moments=[
            Observation(0, 50, 50.0, 0.0, ()),
            Observation(60, 95, 95.0, 20.0, ("shrink",)),
            Observation(120, 80, None, None, ("shrink",)),
        ],
        happenings=[Happening(60, "acts", "shrink", "hot"), Happening(61, "done", "shrink", "so")],
        ooms=[30.0],
        demand=[50.0, 60.0],
        limit=Limit(metric="memory", hard=92, grey=75),
        actions=["shrink"],
    )
    memory, pressure, settings, happened = plot.draw(picture).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in memory.get_lines()}
    assert drawn["in use"] == [50, 95, 80]
    assert drawn["hard limit"] == [92, 92]
    assert list(pressure.get_lines()[0].get_xdata()) == [0, 1, 2]
    (bars,) = settings.collections
    (bar,) = bars.get_paths()
    assert (bar.get_extents().x0, bar.get_extents().x1) == (1, 2)
    assert sum(len(lane.get_positions()) for lane in happened.collections) == 2
