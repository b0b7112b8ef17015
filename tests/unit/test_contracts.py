"""A contract is held by the type checker: from the agent that answers to the one that reads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = Path("sovl_daemon") / "contracts"
RENAMED = [  # a reply, a field of it, and who reads that where
    ("scribe", "UnlearnedPage", "memory", "agents/training/night.py", ".memory\n"),
    ("scribe", "Recalled", "rest", "agents/recall.py", "page.rest"),
    ("trainer", "TrainingHold", "held", "agents/gestation.py", "training.held"),
]


@pytest.mark.timeout(600)  # a few seconds, but of a processor that others may have
def test_a_renamed_field_of_a_reply_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    shadows, expected = {}, set()
    for module, reply, field, reader, use in RENAMED:
        path = CONTRACTS / f"{module}.py"
        text = shadows.get(path) or (ROOT / path).read_text()
        renamed, count = re.subn(
            rf"(\nclass {reply}\(.*?\n    ){field}:",
            rf"\1{field}_renamed:",
            text,
            count=1,
            flags=re.DOTALL,
        )
        assert count == 1, f"{reply} has no {field}"
        shadows[path] = renamed
        lines = (ROOT / reader).read_text().splitlines(keepends=True)
        (line,) = (number for number, line in enumerate(lines, 1) if use in line)
        expected.add(f'{reader}:{line}: error: "{reply}" has no attribute "{field}"')
    options = ["--follow-imports=silent", "--no-error-summary", f"--cache-dir={tmp_path}/cache"]
    for path, text in shadows.items():
        (tmp_path / path.name).write_text(text)
        options += ["--shadow-file", str(path), str(tmp_path / path.name)]
    readers = {reader for *_, reader, _ in RENAMED}
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *sorted(readers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert {line.partition("  [")[0] for line in found.stdout.splitlines()} == expected
