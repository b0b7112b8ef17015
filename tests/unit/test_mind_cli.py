"""`sovl mind simulate`."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from config.controls import ControlsConfig
from config.mind import TrainingConfig
from sovl_daemon.cli import exits
from sovl_daemon.cli.app import app
from sovl_daemon.laboratory.mind import plot
from sovl_daemon.laboratory.mind.simulation import MindSimulation, MindSnapshot


@pytest.fixture(autouse=True)
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SOVL_CONFIG", raising=False)


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mind", "simulate", *map(str, arguments)])


def complaint(result: Result) -> str:
    assert result.exit_code == exits.USAGE
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_it_tells_what_a_day_came_to() -> None:
    result = simulate()
    assert result.exit_code == 0, result.output
    told = dict(line.split() for line in result.stdout.splitlines())
    assert (told["hours"], told["seed"]) == ("24.0", "42")
    for name in ("visits", "nights", "dreams", "questions", "exposure"):
        assert int(told[name]) > 0


def test_json_has_every_moment_and_agrees_with_the_figures() -> None:
    result = simulate("--hours", 5, "--seed", 7, "--json")
    document = json.loads(result.stdout)
    moments = document["moments"]
    assert len(moments) == 5 * 60 + 1
    happened = [event["kind"] for moment in moments for event in moment["events"]]
    assert document["visits"] == happened.count("visit")
    assert document["questions"] == happened.count("question")
    assert document["exposure"] == moments[-1]["exposure"]
    assert {"confidence", "temperament", "tiredness", "pressure"} <= set(moments[0])


def test_the_seed_decides() -> None:
    first, again, other = (simulate("--json", "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_it_lives_with_the_configured_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVL_CONTROLS_CONFIG__ENABLE_GESTATION", "false")
    assert json.loads(simulate("--json").stdout)["nights"] == 0


def test_the_rank_of_the_adapters_makes_a_life_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    influence = json.loads(simulate("--json").stdout)["influence"]
    monkeypatch.setenv("SOVL_LORA_CONFIG__LORA_RANK", "1")
    assert json.loads(simulate("--json").stdout)["influence"] > influence


@pytest.mark.parametrize("arguments", [("--hours", 0), ("--seed", -1)])
def test_impossible_lives_are_refused(arguments: tuple[str, int]) -> None:
    assert simulate(*arguments).exit_code == exits.USAGE


def test_no_torch_and_no_matplotlib_without_need() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from sovl_daemon.cli.app import app\n"
        "result = CliRunner().invoke(app, ['mind', 'simulate', '--hours', '1'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


# The picture


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = complaint(simulate("--plot", tmp_path / "life.png"))
    assert "--plot needs matplotlib: run pip install 'sovl-daemon[plots]'" in line
    assert not (tmp_path / "life.png").exists()


def test_only_kinds_of_pictures_that_it_can_draw(tmp_path: Path) -> None:
    line = complaint(simulate("--plot", tmp_path / "life.jpg"))
    assert line.endswith("life.jpg: give a file that ends in .png or .svg")


@pytest.mark.parametrize("name", ["life.png", "life.svg", "LIFE.PNG"])
def test_a_picture_is_written_and_is_the_same_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = simulate("--hours", 3, "--plot", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"drawn in {path}\n")
    if path.suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    first = path.read_bytes()
    simulate("--hours", 3, "--plot", path)
    assert path.read_bytes() == first


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    line = complaint(simulate("--hours", 1, "--plot", tmp_path / "none" / "life.png"))
    assert line.endswith("none/life.png: No such file or directory; give another place")


def a_day(hours: float = 24) -> list[MindSnapshot]:
    simulation = MindSimulation(
        ControlsConfig(), TrainingConfig(), hours=hours, seed=1, parameters=460_800
    )
    return list(simulation.run())


def test_the_picture_shows_what_was_lived() -> None:
    moments = a_day()
    shares, temperament, exposure, happened = plot.draw(moments).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in shares.get_lines()}
    assert drawn["tiredness"] == [moment.tiredness for moment in moments]
    assert drawn["pressure"] == [moment.pressure for moment in moments]
    assert drawn["confidence"][-1] == moments[-1].confidence
    (line,) = temperament.get_lines()
    assert list(line.get_ydata()) == [moment.temperament for moment in moments]
    (line,) = exposure.get_lines()
    assert list(line.get_ydata()) == [moment.exposure for moment in moments]
    assert list(line.get_xdata())[-1] == 24
    marks = sum(len(lane.get_positions()) for lane in happened.collections)
    assert marks == sum(len(moment.events) for moment in moments)


def test_sleep_is_shaded_on_every_panel() -> None:
    moments = a_day()
    nights = sum(
        after.asleep and not before.asleep
        for before, after in itertools.pairwise(moments)
    )  # fmt: skip
    assert nights > 1
    assert [len(panel.patches) for panel in plot.draw(moments).axes] == [nights] * 4


def test_a_night_without_an_end_is_shaded_to_the_end() -> None:
    moments = a_day()
    start = next(index for index, moment in enumerate(moments) if moment.asleep)
    panel = plot.draw(moments[: start + 2]).axes[0]
    (night,) = panel.patches
    assert night.get_extents().width > 0
