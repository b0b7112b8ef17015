"""The sample_log.jsonl that comes with SOVL: sound, short, varied, and part of an installation."""

import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from config import Paths, Settings
from sovl_daemon.memory.pairs import read_pairs

ROOT = Path(__file__).parents[2]
SAMPLE = Paths.of(Settings(), {}).training_file


def test_it_is_sound_and_has_enough() -> None:
    found = read_pairs(SAMPLE)
    assert len(found.pairs) >= 120
    assert (found.duplicates.total, found.ignored) == (0, {})


def test_every_prompt_and_every_answer_is_said_once() -> None:
    pairs = read_pairs(SAMPLE).pairs
    assert len({pair.prompt.casefold() for pair in pairs}) == len(pairs)
    assert len({pair.response for pair in pairs}) == len(pairs)


def test_answers_are_short() -> None:
    # English has about 4 characters a token; 60 tokens is the longest answer by default.
    assert max(len(pair.response) for pair in read_pairs(SAMPLE).pairs) < 60 * 4


def test_text_is_trimmed_and_answers_are_sentences() -> None:
    for pair in read_pairs(SAMPLE).pairs:
        assert pair.prompt == pair.prompt.strip()
        assert pair.response.endswith((".", "?", "!")), pair


def test_it_is_in_the_package_that_gets_installed(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("config/sample_log.jsonl") == SAMPLE.read_bytes()
        assert "config/paths.py" in archive.namelist()
