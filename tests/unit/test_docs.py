"""The documents say what the code says."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from documents import parts
from documents.log_events import log_events
from pydantic import Field

from agents.control.actuators import ACTUATORS
from bus.commands import CommandSpec, Reply, Request, command, commands_of
from config import KEYS
from sovl_daemon.control.task_file import load_task
from sovl_daemon.controls import Controls
from tests.world.register import as_markdown

ROOT = parts.ROOT
GENERATORS = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*DOCS, ROOT / "README.md"]
OURS = [
    ROOT / "docs" / f"{name}.md"
    for name in ("agents", "commands", "data", "decisions", "logging", "protocol", "remote")
]
CLIENTS = [ROOT / "examples" / name for name in ("minimal_client.py", "follow_events.py")]
NOT_SETTINGS = {  # names of topics, modules and files that look like one
    "agents.actuator",
    "agents.base",
    "agents.ipc",
    "bus.commands",
    "bus.envelope",
    "bus.errors",
    "bus.subscriber_cut",
    "config.changed",
    "config.refused",
    "control.acted",
    "control.action",
    "control.decided",
    "control.decision",
    "control.failed",
    "health.diagnosed",
    "health.diagnosis",
    "health.source_back",
    "health.source_lost",
    "night.ended",
    "night.progress",
    "night.resumed",
    "night.rolled_back",
    "night.started",
    "night.unfinished",
    "state.begun_anew",
    "state.known_by_name",
    "state.loaded",
    "state.refused",
    "state.unfit",
}
ECHO = ROOT / "tests" / "fixtures" / "sovl-echo"


def table(document: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose header begins with `first_column`; markup taken off the ends."""
    text = (ROOT / "docs" / document).read_text()
    found = re.search(rf"^\| {re.escape(first_column)} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.M)
    assert found, f"{document} has no table of {first_column}"
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in found[1].splitlines()
    ]


def words(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_generated_parts_are_current(path: Path) -> None:
    text = path.read_text()
    assert parts.updated(text) == text, "run: ./scripts/docs"


def test_every_part_has_its_place() -> None:
    text = "".join(path.read_text() for path in OURS)
    assert set(re.findall(r"<!-- generated: ([a-z-]+) -->", text)) == set(parts.PARTS)


def test_no_meaning_is_missing() -> None:
    for document, column in [
        ("protocol.md", "Field"),
        ("protocol.md", "Code"),
        ("protocol.md", "Limit"),
        ("protocol.md", "Kind"),
        ("commands.md", "Exit code"),
        ("logging.md", "Event"),
    ]:
        without = [row[0] for row in table(document, column) if not row[-1]]
        assert without == [], f"{document}: write a meaning for {without}"


def test_meanings_are_kept_and_gone_rows_go() -> None:
    before = (
        "<!-- generated: exits -->\n| Exit code | Errors | Meaning |\n|---|---|---|\n"
        "| `3` | old | nobody \\| there |\n| `99` | old | gone |\n<!-- end -->\n"
    )
    after = parts.updated(before)
    assert "| `3` | `DaemonDown` | nobody \\| there |" in after
    assert "gone" not in after
    assert "| `0` |" in after


def test_unknown_part_is_refused() -> None:
    with pytest.raises(parts.UnknownPart, match="nonsense: no such part; there are: file, "):
        parts.updated("<!-- generated: nonsense -->\n<!-- end -->\n")


def test_the_generator_is_deterministic() -> None:
    script = "from documents.parts import *\nfor p in documents(): print(updated(p.read_text()))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**GENERATORS, "PYTHONHASHSEED": seed, "COLUMNS": width, "TERM": "xterm"},
            capture_output=True,
            check=True,
        ).stdout
        for seed, width in (("1", "40"), ("2", "200"))
    }
    assert len(outputs) == 1


def test_the_generator_needs_no_torch() -> None:
    script = (
        "import sys; from documents.parts import PARTS\n"
        "for part in PARTS.values(): part({})\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], env=GENERATORS).returncode == 0


@pytest.mark.parametrize("name", ["pyproject.toml", "sovl_echo.py"])
def test_the_echo_agent_is_quoted_to_the_letter(name: str) -> None:
    quoted = re.findall(r"```\w+\n(.*?)```", (ROOT / "docs" / "agents.md").read_text(), re.S)
    assert (ECHO / name).read_text() in quoted


class Fruit(Reply):
    """One of them."""

    apples: int | None = None
    size: tuple[int, float]


class Basket(Reply):
    """Fruit."""

    fruit: list[Fruit] = Field(description="what is in it")


class Give(Request[Basket], command="give"):
    at: int = Field(default=1, description="Where.")


class Shop:
    name = "shop"

    @command(Give)
    async def give(self, request: Give, job: object) -> Basket:
        """Give."""
        return Basket(fruit=[])


def test_an_answer_is_told_in_full_once() -> None:
    (give,) = commands_of(Shop)
    again = replace(give, name="take", help="Take.")
    first, second = parts.commands([give, again]).split("### take\n")
    assert "| `at` | whole number | `1` |  | Where. |" in first
    assert "| `fruit` | list of `Fruit` | what is in it |" in first
    assert "Each `Fruit`: One of them." in first
    assert "| `apples` | whole number or null |" in first
    assert "| `size` | [whole number, number] |" in first
    assert "| `at` | whole number | `1` |  | Where. |" in second
    assert "Answers as [give](#give).\n" in second
    assert "`fruit`" not in second


# The log


def test_every_event_name_in_the_code_is_in_the_document_and_the_reverse() -> None:
    calls = re.compile(
        r"(?:log|logger|get_logger\(.*\))\.(?:debug|info|warning|error|critical|exception)\(\s*\"([^\"]+)\""
    )
    in_code = {
        name
        for package in parts.PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in calls.findall(path.read_text())
    }
    indirect = {"library.message", "worker.failed", "worker.fatal"}  # named in a call further up
    assert {words(row[0])[0] for row in table("logging.md", "Event")} == in_code | indirect


def test_event_names_have_one_form() -> None:
    assert [name for name in parts.logged() if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


def test_log_events_are_found_however_they_are_written() -> None:
    source = """
class Agent:
    def run(self):
        self.log.info("a.plain", one=1, two=2)
        structlog.get_logger(agent="x").critical("a.direct", **more)
    def tell(self, event, why):
        log.error(event, why=why, exc_info=why)
async def work(agent):
    agent.tell("a.passed", 1)
    log.log(30, "a.level", x=1)
    math.log(2)
    try: ...
    except Exception: logger.exception("a.caught")
def hear(line):
    name = line.pop()
    log.info(name)
"""
    found = log_events([ast.parse(source)])
    assert {name: (event.levels, event.fields, event.open) for name, event in found.items()} == {
        "a.plain": ({"info"}, ["one", "two"], False),
        "a.direct": ({"critical"}, [], True),
        "a.passed": ({"error"}, ["why", "exception"], False),
        "a.level": ({"any"}, ["x"], False),
        "a.caught": ({"error"}, ["exception"], False),
    }


# What the text mentions


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for file, anchor in re.findall(r"\]\(([\w./-]*)#?([\w-]*)\)", path.read_text()):
        target = path.parent / file if file else path
        assert target.is_file(), file
        if anchor:
            assert anchor in {_anchor(each) for each in _headings(target)}, f"{file}#{anchor}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_files_that_the_text_mentions_exist(path: Path) -> None:
    """Paths begin at the top, in the daemon or in the engine; a bare name is a neighbour."""
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*\w\.(?:py|md|toml|sh))`", path.read_text()):
        places = (ROOT, ROOT / "sovl_daemon", ROOT / "sovl_daemon" / "engine")
        assert any((place / name).is_file() for place in places), name


def _headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", path.read_text(), re.M)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_commands_that_the_text_mentions_exist(path: Path) -> None:
    text = path.read_text()
    code = [
        *words(re.sub(r"```.*?```", "", text, flags=re.S)),
        *re.findall(r"```sh.*?```", text, re.S),
    ]
    known = parts.subcommands()
    for line in (line.strip() for block in code for line in block.splitlines()):
        if line.startswith("sovl ") and not line.startswith(("sovl -", "sovl [")):
            mentioned = re.match(r"sovl (?:keys |model |data |state |actions |judge )?\w+", line)
            assert mentioned, line
            assert mentioned[0] in known, line


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_settings_that_the_text_mentions_exist(path: Path) -> None:
    sections = {key.partition(".")[0] for key in KEYS}
    mentioned = re.findall(r"(?:`|--set '?|sovl config )([a-z_]+)\.([a-z_]+)", path.read_text())
    wrong = [f"{a}.{b}" for a, b in mentioned if a in sections and f"{a}.{b}" not in KEYS]
    assert set(wrong) <= NOT_SETTINGS


def public_commands() -> list[CommandSpec]:
    specs = [spec for agent in parts.shipped_agents() for spec in agent.commands()]
    return [spec for spec in (*specs, *Controls.table().public()) if not spec.internal]


def test_answers_of_every_command_are_described() -> None:
    for spec in public_commands():
        fields = spec.reply.model_fields.items()
        assert [name for name, field in fields if not field.description] == [], spec.name


# Decisions


def test_every_actuator_is_described() -> None:
    assert {words(row[0])[0] for row in table("decisions.md", "Action")} == {
        each.name for each in ACTUATORS
    }


def test_the_task_in_the_text_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    found, _entry_point = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "disk.toml").write_text(found)
    task = load_task(tmp_path / "disk.toml")
    assert {rung.action for rung in task.ladder} <= {each.name for each in ACTUATORS}


def test_every_situation_is_listed() -> None:
    assert (ROOT / "docs" / "world.md").read_text(encoding="utf-8") == as_markdown()


# Examples


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_the_example_clients_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_the_example_clients_import_pyzmq_and_the_standard_library_alone(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names}
    assert "zmq" in tops
    assert tops - sys.stdlib_module_names == {"zmq"}
