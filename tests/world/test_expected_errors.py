"""An expected error is one line and its exit code, whatever is missing around the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sovl_daemon.testing import PATIENCE_S, SOVL, Daemon
from tests import tiny_models
from tests.conftest import ECHO
from tests.starts import WAYS, environment, filled, mounted, start, verdict
from tests.world import situation


def sovl(
    root: Path, *words: str, shell: str = "", **added: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `sovl`, by a shell where its streams are redirected."""
    command = ["sh", "-c", f'"$@" {shell}', "sh", *SOVL, *words]
    return subprocess.run(command, env=environment(root) | added, capture_output=True)


def starts(root: Path, name: str) -> None:
    way = WAYS[name]
    assert verdict(way, start(root, way)) == ""


@situation("own", "A faulty configuration file is one line, and systemd does not try again.")
def test_a_faulty_configuration(tmp_path: Path) -> None:
    starts(tmp_path, "configuration: several faults")


@situation("ollama/ollama#2147", "A folder of somebody else is named, not tried 151 times.")
def test_a_state_folder_of_somebody_else(runtime: Path) -> None:
    starts(runtime, "state: of somebody else")


@situation("own", "Without any home directory it says what to set.")
def test_no_home(runtime: Path) -> None:
    starts(runtime, "no home")


@situation("own", "A pipe as configuration is refused at once and not waited for.")
def test_a_pipe_as_configuration(tmp_path: Path) -> None:
    starts(tmp_path, "configuration: a pipe")


@situation("own", "Where too few files may be open it says so, and does not abort.")
def test_too_few_descriptors(runtime: Path) -> None:
    starts(runtime, "descriptors: too few")


@situation("own", "Every start that cannot go well ends with one line and its exit code.")
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WAYS)
def test_every_way(runtime: Path, name: str) -> None:
    starts(runtime, name)


@situation("own", "Closed standard streams change nothing but what can be heard.")
@pytest.mark.parametrize("shell", [">&-", "<&-", ">&- <&- 2>&-"])
def test_closed_streams(tmp_path: Path, shell: str) -> None:
    found = sovl(tmp_path, "status", shell=shell)
    assert found.returncode == 3
    assert b"Traceback" not in found.stderr
    if "2>" not in shell:
        assert found.stderr.count(b"\n") == 1


@situation("own", "A full disk behind standard output is one line and not a traceback.")
def test_no_room_for_the_output(tmp_path: Path) -> None:
    found = sovl(tmp_path, "--help", shell=">/dev/full")
    assert found.returncode == 75
    assert found.stderr.splitlines() == [b"sovl: standard output: No space left on device"]


@situation("own", "Where the output was closed the one line names it; none of it is lost unsaid.")
@pytest.mark.parametrize("shell", [">&-", "1</dev/null"])
@pytest.mark.parametrize("words", [("--help",), ("model", "list")])
def test_an_output_that_was_closed(tmp_path: Path, words: tuple[str, ...], shell: str) -> None:
    found = sovl(tmp_path, *words, shell=shell)
    assert found.returncode == 1
    assert found.stderr.splitlines() == [b"sovl: standard output: Bad file descriptor"]


@situation("own", "A full disk is the same exit code whatever command meets it.")
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_model_has_no_room(runtime: Path, tmp_path: Path) -> None:
    model = tiny_models.save(tiny_models.llama(), tmp_path / "mind")
    with mounted(runtime / "models", "64k") as disk:
        filled(disk)
        found = sovl(runtime, "model", "pull", str(model), SOVL_STORE__MODEL_DIR=str(disk))
    assert found.returncode == 75
    assert len([line for line in found.stderr.splitlines() if line.startswith(b"sovl: ")]) == 1


@situation(
    "Backblaze/B2_Command_Line_Tool#914", "A terminal that knows ASCII only is shown what it can."
)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_cannot_say_it(tmp_path: Path, encoding: str) -> None:
    found = sovl(tmp_path, "doctor", PYTHONIOENCODING=encoding)
    assert b"\\u2192 run: sovl run" in found.stdout
    assert found.stderr == b""


@situation("own", "A prompt that is no text is refused with the place of the fault.")
def test_standard_input_that_is_no_text(echo_daemon: Daemon) -> None:
    command = ["sh", "-c", "printf 'ab\\377' | \"$@\"", "sh", *SOVL, "generate", "-"]
    found = subprocess.run(command, env=echo_daemon.environment, capture_output=True)
    assert found.returncode == 2
    assert found.stderr == b"sovl: standard input: not UTF-8 text at byte 2\n"


@situation("Tracer-Cloud/opensre#2748", "Ctrl-C while it still starts ends it without a traceback.")
def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    # Sent by the first module that is imported once Ctrl-C is looked after.
    script = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from sovl_daemon.cli.entry import main\n"
        "sys.argv = ['sovl', 'status']\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment(tmp_path), capture_output=True)
    assert (found.returncode, found.stderr) == (130, b"")


@situation("own", "Ctrl-C while a command waits ends it with 130 and no words.")
def test_ctrl_c_later(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "log.jsonl").write_text('{"event":"x","level":"info"}\n')
    command = [*SOVL, "logs", "-f", "--json"]
    process = subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (130, b"")


@situation("own", "A link to a configuration that is gone is no reason to live by the defaults.")
def test_a_configuration_that_is_a_dangling_link(runtime: Path) -> None:
    file = runtime / "config" / "sovl" / "config.json"
    file.parent.mkdir(parents=True)
    file.symlink_to(runtime / "unmounted" / "config.json")
    found = sovl(runtime, "run")
    assert found.returncode == 78
    assert found.stderr == f"sovl: {file}: a link to a file that is not there\n".encode()


@situation("own", "A pipe where the mind is kept is said and not waited for.")
def test_a_pipe_as_mind(runtime: Path) -> None:
    (runtime / "state").mkdir()
    mind = runtime / "state" / "mind.json"
    os.mkfifo(mind)
    disabled = json.dumps(ECHO["agents.disabled"])
    found = sovl(runtime, "run", f"--set=agents.disabled={disabled}")
    assert found.returncode == 78
    assert found.stderr.startswith(f"sovl: mind: {mind}: not a regular file".encode())
    assert found.stderr.count(b"\n") == 1


@situation("own", "The doctor finds what it cannot look at, and goes on.")
def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sovl_daemon.cli import doctor

    def broken(*_: object) -> object:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(doctor, "Gpus", broken)
    monkeypatch.setattr(doctor.psutil, "disk_usage", broken)
    monkeypatch.setattr(os, "environ", environment(tmp_path))
    found = {check.name: check for check in doctor.examine()}
    for name in ("gpu", "disk"):
        assert found[name].state == "wrong"
        assert "no such thing here" in found[name].says
    assert found["daemon"].state == "warning"
