"""Imports point one way, and light things stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("sovl_daemon", "agents", "bus", "config")
LIBRARIES = (
    "sovl_daemon.engine",
    "sovl_daemon.limits",
    "sovl_daemon.models",
    "sovl_daemon.memory",
    "sovl_daemon.mind",
    "sovl_daemon.state",
    "sovl_daemon.control",
    "sovl_daemon.judge",
    "sovl_daemon.night",
)
PURE = ("sovl_daemon.memory", "sovl_daemon.mind", "sovl_daemon.control")
ROOMS = {
    "thread": (),
    "text": (),
    "model": ("thread", "text"),
    "fusion": ("thread", "text", "model"),
    "serving": ("thread", "text", "model"),
    "learning": ("thread", "text", "model", "fusion"),
    "judging": ("thread", "text", "model", "serving"),
}
ALLOWED = {
    "config": ("config", "sovl_daemon.durable", "sovl_daemon.limits"),
    "bus": ("bus", "config", "sovl_daemon.durable", "sovl_daemon.opened"),
    "sovl_daemon/durable.py": (),
    "sovl_daemon/limits": ("sovl_daemon.limits",),
    "sovl_daemon/engine": ("sovl_daemon.engine", "sovl_daemon.durable", "sovl_daemon.limits"),
    **{
        f"sovl_daemon/engine/{room}": (
            *(f"sovl_daemon.engine.{each}" for each in ("errors", room, *before)),
            "sovl_daemon.durable",
            "sovl_daemon.limits",
        )
        for room, before in ROOMS.items()
    },
    "sovl_daemon/contracts": ("sovl_daemon.contracts", "bus", *PURE),
    "sovl_daemon/models": ("sovl_daemon.models", "sovl_daemon.durable"),
    "sovl_daemon/database.py": ("sovl_daemon.conditions",),
    "sovl_daemon/memory": ("sovl_daemon.memory", "sovl_daemon.database", "sovl_daemon.durable"),
    "sovl_daemon/mind": ("sovl_daemon.mind", "config"),
    "sovl_daemon/night": ("sovl_daemon.night", "sovl_daemon.engine"),
    "sovl_daemon/state": ("sovl_daemon.state", "sovl_daemon.durable", "sovl_daemon.models"),
    "sovl_daemon/control": (
        "sovl_daemon.control",
        "sovl_daemon.database",
        "sovl_daemon.handle",
        "sovl_daemon.limits",
        "sovl_daemon.own_time",
    ),
    "sovl_daemon/judge": (
        "sovl_daemon.judge",
        "sovl_daemon.control",
        "sovl_daemon.engine",
        "sovl_daemon.models",
    ),
    "sovl_daemon/laboratory": (
        "sovl_daemon.laboratory",
        "sovl_daemon.library_caches",
        "config",
        *LIBRARIES,
    ),
    "sovl_daemon/client": ("sovl_daemon.client", "sovl_daemon.own_time", "bus", "config"),
    "sovl_daemon/testing": ("sovl_daemon.testing", "sovl_daemon.client", "bus"),
    "sovl_daemon/own_time.py": (),
    "agents": (
        "agents",
        "bus",
        "config",
        *LIBRARIES,
        "sovl_daemon.conditions",
        "sovl_daemon.contracts",
        "sovl_daemon.database",
        "sovl_daemon.durable",
        "sovl_daemon.handle",
        "sovl_daemon.health_sampler",
        "sovl_daemon.heavy_imports",
        "sovl_daemon.opened",
        "sovl_daemon.own_time",
    ),
    "sovl_daemon": ("sovl_daemon", "bus", "config"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def loaded_with(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: not those for types, or in functions."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from loaded_with(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from loaded_with(ast.iter_child_nodes(node))


def circle(root: Path) -> list[str]:
    """A circle of modules below a folder that import each other; none if there is none."""
    paths = {}
    for path in (path for folder in OURS for path in (root / folder).rglob("*.py")):
        *packages, name = path.relative_to(root).with_suffix("").parts
        paths[".".join(packages if name == "__init__" else (*packages, name))] = path
    imports: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = imports[module] = set()
        for node in loaded_with(ast.parse(path.read_text()).body):
            for alias in node.names:
                if isinstance(node, ast.Import):
                    names.add(alias.name)
                else:
                    inner = f"{node.module}.{alias.name}"
                    names.add(inner if inner in paths else f"{node.module}")
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ("import bus.first", True),
        ("from bus import first", True),
        ("try:\n    from bus.first import x\nexcept ImportError:\n    x = None", True),
        ("class A:\n    from bus.first import x", True),
        ("def f():\n    import bus.first", False),
        ("if TYPE_CHECKING:\n    import bus.first", False),
        ("from bus import other", False),
    ],
)
def test_a_circle_is_found(tmp_path: Path, second: str, found: bool) -> None:
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus" / "__init__.py").write_text("")
    (tmp_path / "bus" / "first.py").write_text("import os\nfrom bus.second import A")
    (tmp_path / "bus" / "second.py").write_text(second)
    assert bool(circle(tmp_path)) is found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder: str) -> None:
    allowed = ALLOWED[folder]
    place = ROOT / folder
    for path in place.rglob("*.py") if place.is_dir() else (place,):
        for name in imported(path):
            if name.split(".")[0] in OURS:
                fits = any(name == each or name.startswith(each + ".") for each in allowed)
                assert fits, f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_of_the_daemon_imports_the_laboratory() -> None:
    """Commands do, in the function that needs it: no other command loads it."""
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        if path.is_relative_to(ROOT / "sovl_daemon" / "laboratory"):
            continue
        module = ast.parse(path.read_text())
        for node in module.body if path.parent.name == "cli" else ast.walk(module):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "laboratory" not in ast.unparse(node), f"{path}: {ast.unparse(node)}"


def test_nothing_of_the_daemon_imports_what_tests_start_it_with() -> None:
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        if path.parent != ROOT / "sovl_daemon" / "testing":
            found = [name for name in imported(path) if name.startswith("sovl_daemon.testing")]
            assert found == [], path


@pytest.mark.parametrize("folder", ["sovl_daemon/testing", "benchmarks", "experiments"])
def test_outside_of_the_tests_nothing_imports_them(folder: str) -> None:
    above = {"tests", "experiments"} - {folder}
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        found = [name for name in imported(path) if name.split(".")[0] in above]
        assert found == [], path


def test_nothing_of_ours_is_a_pickle() -> None:
    dangerous = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            assert not dangerous & set(imported(path)), path


@pytest.mark.parametrize(
    "module",
    [
        "sovl_daemon.client",
        "sovl_daemon.hub",
        "sovl_daemon.cli.app",
        "sovl_daemon.control.decision_log",
        "sovl_daemon.judge.why",
        "sovl_daemon.engine.serving.options",
        "sovl_daemon.engine.text.message",
        "sovl_daemon.engine.learning.sample",
        "sovl_daemon.engine.thread.inbox",
        "sovl_daemon.engine.text.token_map",
        "sovl_daemon.laboratory.control.study",
        "sovl_daemon.laboratory.judge.lessons",
        "sovl_daemon.laboratory.mind.simulation",
        "sovl_daemon.mind.state",
        "sovl_daemon.mind.temperament",
        "sovl_daemon.state",
        "sovl_daemon.testing",
        "sovl_daemon.testing.level",
        "agents.generator",
    ],
)
def test_light_modules_load_no_tensors(module: str) -> None:
    heavy = "('torch', 'transformers', 'pytest')"
    check = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
