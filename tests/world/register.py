"""The list of all situations, read off the tests themselves."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD = """# What the world does to it

Situations that other people reported of model servers, daemons, trainers and users of ZeroMQ and
systemd, each tried on SOVL by a test in `tests/world/`. `./scripts/test` runs the quick ones,
`./scripts/test-long` those marked long. Nothing but the situation is taken from a report.

This page is written by `python -m tests.world`; a test holds it in agreement."""


@dataclass(frozen=True)
class Situation:
    """One row of the list."""

    kind: str
    source: str
    expects: str
    test: str
    long: bool


def situations() -> Iterator[Situation]:
    """Yield every situation, by kind and then in the order of its file."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.world.{path.stem}")
        for name, test in vars(module).items():
            marks = {mark.name: mark for mark in _marks(test, module)}
            if name.startswith("test_") and "situation" in marks:
                kind = path.stem.removeprefix("test_").replace("_", " ")
                yield Situation(kind, **marks["situation"].kwargs, test=name, long="long" in marks)


def as_markdown() -> str:
    """Return the page."""
    lines, kind = [_HEAD], ""
    for each in situations():
        if each.kind != kind:
            kind = each.kind
            lines.append(
                f"\n## {kind.capitalize()}\n\n| reported in | expected | test |\n|---|---|---|"
            )
        long = " (long)" if each.long else ""
        lines.append(f"| {each.source} | {each.expects} | `{each.test}`{long} |")
    return "\n".join(lines) + "\n"


def _marks(test: Any, module: Any) -> list[Any]:
    marks = getattr(module, "pytestmark", [])
    return [*(marks if isinstance(marks, list) else [marks]), *getattr(test, "pytestmark", [])]
