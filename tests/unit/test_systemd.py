"""The unit file and the daemon agree."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from config import Settings
from sovl_daemon.cli.exits import EX_CONFIG, USAGE

UNIT = Path(__file__).parents[2] / "systemd" / "sovl.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_stages_of_the_shutdown_fit_into_the_stop_timeout(
    service: configparser.SectionProxy,
) -> None:
    budget = Settings().supervision
    assert budget.drain_s + budget.stop_s + budget.close_s < float(service["TimeoutStopSec"])


def test_faults_that_a_restart_would_not_mend_end_it(service: configparser.SectionProxy) -> None:
    assert service["RestartPreventExitStatus"].split() == [str(USAGE), str(EX_CONFIG)]


def test_first_start_may_pull_a_model(service: configparser.SectionProxy) -> None:
    assert service["TimeoutStartSec"] == "15min"
    assert Settings().supervision.start_timeout_s <= 15 * 60


def test_options_of_the_command_line_are_known(service: configparser.SectionProxy) -> None:
    from config import load

    words = service["ExecStart"].split()
    overrides = dict(word.split("=") for word in words if "=" in word)
    assert load(None, overrides, {}).logging.destination == "stdout"


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here; the parts above do not need it")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/sovl/.venv/bin/sovl", "/bin/true"))
    found = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert unit.name not in found.stderr
