"""Every knob of the mind has a test that shows its effect."""

import subprocess
import sys

from documents.configuration import KNOB_TESTS, knob_tests

from config.keys import KEYS

SECTIONS = ("core_config.", "lora_config.", "training_config.", "controls_config.")


def test_every_knob_has_one() -> None:
    assert list(knob_tests()) == [key for key in KEYS if key.startswith(SECTIONS)]


def test_they_exist() -> None:
    """By pytest's own search, so that a test that was renamed or lost a case is noticed."""
    named = sorted(set(knob_tests().values()))
    search = [sys.executable, "-m", "pytest", "--collect-only", *named]
    found = subprocess.run(search, cwd=KNOB_TESTS.parents[1], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert set(named) <= set(found.stdout.splitlines())


def test_each_names_its_knob() -> None:
    """In its cases or in its file: a test of something else would not."""
    root = KNOB_TESTS.parents[1]
    strange = [
        (key, test)
        for key, test in knob_tests().items()
        if key.rpartition(".")[2] not in (root / test.partition("::")[0]).read_text()
    ]
    assert strange == []
