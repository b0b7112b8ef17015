"""A child's import path is in strangers' hands: whose code runs in whose folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sovl_daemon.testing import PATIENCE_S, running
from tests import tiny_models
from tests.conftest import ECHO
from tests.world import situation

ROOT = Path(__file__).parents[2]
SOVL = Path(sys.executable).with_name("sovl")
OURS = ["config", "bus", "agents"]
OTHERS = [
    *("queue", "typing", "json", "random", "logging", "zmq", "anyio", "pydantic", "structlog"),
    *("torch", "transformers", "safetensors", "numpy", "tensorflow", "flash_attn", "triton"),
]
PYTHONS_OWN = ["types", "enum", "sitecustomize", "usercustomize"]
"""What Python, or the script that pip wrote for `sovl`, loads before any line of ours."""

CUSTOM_MODEL = (
    '"auto_map": {"AutoConfig": "configuration_own.OwnConfig",'
    ' "AutoModelForCausalLM": "modeling_own.OwnModel"}'
)
CUSTOM_TOKENIZER = '"auto_map": {"AutoTokenizer": ["tokenization_own.Own", null]}'


def set_traps(folder: Path, *names: str) -> Path:
    """Put modules and packages there that write down their name when somebody imports them."""
    for name in names:
        trap = f"open({str(folder / 'sprung')!r}, 'a').write({name!r} + ' ')\n"
        (folder / f"{name}.py").write_text(trap)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trap)
    return folder


def sprung(folder: Path) -> str:
    mark = folder / "sprung"
    return mark.read_text() if mark.exists() else ""


@situation("own", "`sovl run` in a folder with a config.py or a queue.py starts, and runs neither.")
def test_a_daemon_started_in_a_folder_full_of_modules(
    runtime: Path, echo_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(set_traps(tmp_path, *OURS, *OTHERS, *PYTHONS_OWN))
    with running(runtime, packages=echo_package, **ECHO) as daemon:
        with daemon.client() as client:
            assert client.ask("say", text="here")["text"] == "here"
        assert daemon.worker().cwd() == str(tmp_path)
    assert sprung(tmp_path) == ""


@situation(
    "python/cpython#101210",
    "Whatever lies in the working folder or in the model's, loading a model runs none of it.",
)
def test_a_model_with_code_of_its_own_in_a_folder_full_of_modules(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_models.settings(tmp_path / "models")
    model = Path(str(settings["core_config.base_model_name"]))
    set_traps(model, "modeling_own", "tokenization_own", "configuration_own")
    for name, custom in (
        ("config.json", CUSTOM_MODEL),
        ("tokenizer_config.json", CUSTOM_TOKENIZER),
    ):
        text = (model / name).read_text()
        (model / name).write_text(text.replace("{", "{" + custom + ",", 1))
    monkeypatch.chdir(set_traps(tmp_path, *OURS, *OTHERS, *PYTHONS_OWN))
    with running(runtime, **settings) as daemon, daemon.client() as client:
        assert client.ask("generate", prompt="hello")["finish_reason"]
    assert sprung(tmp_path) == sprung(model) == ""


@situation(
    "distcc/distcc#109",
    "An entry of PYTHONPATH that is empty by mistake lets nobody's folder into the program.",
)
@pytest.mark.parametrize("search", [":/nowhere", "."])
def test_the_current_folder_on_the_import_path(tmp_path: Path, search: str) -> None:
    done = subprocess.run(
        [SOVL, "status"],
        cwd=set_traps(tmp_path, *OURS, *OTHERS),
        env=os.environ | {"PYTHONPATH": search, "SOVL_CONNECT": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, sprung(tmp_path)) == (3, "")
    assert "no SOVL daemon runs" in done.stderr


@situation(
    "python/peps#1590",
    "A daemon started so says what it leaves out of its import path, and its workers do as well.",
)
def test_workers_of_a_daemon_with_the_current_folder_on_its_import_path(
    runtime: Path, echo_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(set_traps(tmp_path, *OURS, *OTHERS))
    search = os.pathsep.join((str(echo_package), ".", ""))
    with running(runtime, packages=search, **ECHO) as daemon:
        assert daemon.logged("hub.path_left_out")["entries"][:2] == [".", ""]
        # Python itself would have fallen for these, before any line of the worker's.
        entries = daemon.worker().environ()["PYTHONPATH"].split(os.pathsep)
        assert all(map(os.path.isabs, entries))
    assert sprung(tmp_path) == ""


@situation("own", "A project's folder on PYTHONPATH, with a config.py of its own, hinders nothing.")
def test_names_of_ours_on_the_import_path(runtime: Path, tmp_path: Path) -> None:
    off = ["generator", "dreamer", "trainer", "curiosity", "gestation", "judge", "controller"]
    with running(
        runtime, packages=set_traps(tmp_path, *OURS), **{"agents.disabled": off}
    ) as daemon:
        assert daemon.sovl("status").returncode == 0
    assert sprung(tmp_path) == ""


@situation(
    "ohmyzsh/ohmyzsh#8400", "Each Python that a program starts keeps away from the folder it is in."
)
def test_each_python_that_is_started_leaves_the_current_folder_out() -> None:
    lines = [
        line
        for folder in ("sovl_daemon", *OURS)
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if "sys.executable" in line
    ]
    assert len(lines) >= 3
    assert [line for line in lines if not re.search(r'\[sys.executable, "-[IP]"', line)] == []
