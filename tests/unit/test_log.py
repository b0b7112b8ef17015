"""The log: one JSON object a line, whatever is said."""

import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from config.service import LoggingSettings
from sovl_daemon import log
from sovl_daemon.testing import until

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    log.logging.basicConfig(force=True)
    log.logging.captureWarnings(False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def settings(**changed: Any) -> LoggingSettings:
    return Settings().logging.model_copy(update=changed)


def lines(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def test_a_line_is_one_json_object_with_the_first_things_first(file: Path) -> None:
    log.configure_hub(settings(), file)
    structlog.get_logger(agent="me").info("a.thing", text="two\nlines", number=1)
    assert file.read_text().count("\n") == 1
    found = lines(file)[0]
    assert list(found)[:5] == ["time", "order", "level", "agent", "event"]
    assert (found["text"], found["number"], found["level"]) == ("two\nlines", 1, "info")


@given(st.dictionaries(st.text(), nested(scalars | st.binary()), max_size=4))
def test_anything_can_be_said(fields: dict[str, Any]) -> None:
    said = {"event": "x", "level": "info", **fields}
    line = log.to_line(said)
    assert "\n" not in line
    assert set(orjson.loads(line)) == set(said)


@pytest.mark.parametrize(
    "odd", ["\udcff", 2**70, -(2**70), {1: 2}, object(), float("nan"), {"\udcff"}]
)
def test_what_json_has_no_form_for_is_told_in_words(odd: object) -> None:
    found = orjson.loads(log.to_line({"event": "x", "level": "info", "odd": odd, "good": [1]}))
    assert (found["event"], found["good"]) == ("x", [1])
    assert "odd" in found


def test_an_exception_is_told_in_one_line(file: Path) -> None:
    log.configure_hub(settings(), file)
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError:
        structlog.get_logger(agent="me").exception("it.failed")
    found = lines(file)[0]
    assert "ZeroDivisionError: no" in found["exception"]
    assert found["level"] == "error"


def test_order_is_that_of_the_file_across_threads(file: Path) -> None:
    log.configure_hub(settings(), file)

    def talk() -> None:
        for _ in range(300):
            structlog.get_logger(agent="me").info("word")

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["order"] for line in lines(file)] == list(range(1, 1201))


def test_below_the_level_nothing_is_written_and_the_level_can_change(file: Path) -> None:
    log.configure_hub(settings(level="warning"), file)
    logger = structlog.get_logger(agent="me")
    logger.info("unheard")
    log.set_level("debug")
    logger.debug("heard")
    log.set_level("error")
    logger.warning("unheard")
    assert [line["event"] for line in lines(file)] == ["heard"]


def test_libraries_are_heard_too(file: Path) -> None:
    log.configure_hub(settings(), file)
    log.logging.getLogger("some.library").warning("watch %s", "out")
    warnings.warn("old thing", stacklevel=1)
    found = lines(file)
    assert [line["event"] for line in found] == ["library.message"] * 2
    assert (found[0]["library"], found[0]["message"]) == ("some.library", "watch out")
    assert "old thing" in found[1]["message"]


def test_the_file_is_rotated_and_the_last_few_are_kept(file: Path) -> None:
    log.configure_hub(settings(max_bytes=4096, backups=2), file)
    for number in range(200):
        structlog.get_logger(agent="me").info("word", number=number, text="x" * 100)
    found = sorted(path.name for path in file.parent.iterdir())
    assert found == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    kept = [line["number"] for name in reversed(found) for line in lines(file.parent / name)]
    assert kept == list(range(kept[0], 200))
    assert all(path.stat().st_size <= 4096 for path in file.parent.iterdir())


def test_with_no_old_ones_kept_the_file_stays_small_all_the_same(file: Path) -> None:
    log.configure_hub(settings(max_bytes=4096, backups=0), file)
    for number in range(200):
        structlog.get_logger(agent="me").info("word", number=number, text="x" * 100)
    assert [path.name for path in file.parent.iterdir()] == ["log.jsonl"]
    assert file.stat().st_size <= 4096
    assert lines(file)[-1]["number"] == 199


def test_destinations(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.configure_hub(settings(destination="both", format="json"), file)
    structlog.get_logger(agent="me").info("said")
    assert json.loads(capfd.readouterr().out) == lines(file)[0]
    log.configure_hub(settings(destination="stdout", format="pretty"), file)
    structlog.get_logger(agent="me").info("said.pretty")
    assert "said.pretty" in capfd.readouterr().out
    assert len(lines(file)) == 1


def test_what_a_worker_says_is_passed_on_as_it_said_it(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log.configure_worker(settings())
    with structlog.contextvars.bound_contextvars(correlation="c"):
        structlog.get_logger(agent="echo").warning("it.rains", inches=2, reason="a cloud")
    said = capfd.readouterr().out.encode()
    log.configure_hub(settings(), file)
    passed = log.pass_on(said, "host")
    found = lines(file)[0]
    assert found == orjson.loads(said) | {"order": found["order"], "process": "host"}
    assert (found["inches"], passed) == (2, log.Passed("it.rains", "a cloud"))


def test_what_a_worker_says_is_filtered_by_the_hubs_level(file: Path) -> None:
    log.configure_hub(settings(level="error"), file)
    log.pass_on(b'{"level":"warning","event":"unheard"}\n', "host")
    log.pass_on(b'{"level":"error","event":"heard"}\n', "host")
    assert [line["event"] for line in lines(file)] == ["heard"]


@pytest.mark.parametrize(
    "said",
    [
        b"plain words",
        b"\xff\xfe not text",
        b"{",
        b"[1]",
        b"7",
        b'"x"',
        b"null",
        b"{}",
        b'{"level":"info"}',
        b'{"level":[],"event":"x"}',
        b'{"level":"loud","event":"x"}',
        b'{"level":"info","event":7}',
        b"",
        b"x" * 10_000,
    ],
)
def test_other_output_is_wrapped_never_lost(file: Path, said: bytes) -> None:
    log.configure_hub(settings(), file)
    assert log.pass_on(said + b"\n", "host") == log.Passed()
    found = lines(file)[0]
    assert (found["event"], found["process"], found["level"]) == (
        "process.output",
        "host",
        "warning",
    )
    assert found["text"] == said.decode(errors="replace")[:2000]


@given(st.dictionaries(st.text(), nested(scalars), max_size=4))
def test_any_fields_of_a_worker_are_passed_on(fields: dict[str, Any]) -> None:
    heard: list[dict[str, Any]] = []

    class Sink:
        def write(self, event: dict[str, Any]) -> None:
            heard.append(orjson.loads(log.to_line(event)))

        def close(self) -> None:
            pass

    log.configure("info", [(Sink(), lambda event: event)])  # type: ignore[list-item]
    said = json.dumps({"self": 1, "logger": 2, "args": 3, **fields, "level": "info", "event": "x"})
    log.pass_on(said.encode(), "host")
    assert len(heard) == 1


class Mute:
    """Nothing can be said of it."""

    def __repr__(self) -> str:
        raise ValueError("not even this")


def test_what_cannot_even_be_told_in_words_is_named(file: Path) -> None:
    log.configure_hub(settings(), file)
    structlog.get_logger(agent="me").info("odd", thing=Mute())
    log.logging.getLogger("some.library").warning("%d", "no number")
    assert "Mute" in lines(file)[0]["thing"]
    assert "no number" in lines(file)[1]["message"]


def test_lines_that_were_lost_are_told_of_once_there_is_room(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure_hub(settings(), file)
    logger = structlog.get_logger(agent="me")
    monkeypatch.setattr(log.FileTarget, "write", lambda *_: os.write(full, b"x"))
    full = os.open("/dev/full", os.O_WRONLY)
    for number in range(2000):
        logger.info("word", number=number, text="x" * 1000)
    assert log.troubles()[0].startswith("log: No space left on device, ")
    monkeypatch.undo()
    os.close(full)
    for _ in until():
        if not log.troubles():
            break
    found = lines(file)
    told = [line for line in found if line["event"] == "log.lost"]
    kept = [line for line in found if line["event"] == "word"]
    assert [line["lines"] for line in told] == [2000 - len(kept)]
    assert told[0]["reason"] == "No space left on device"
    assert [line["number"] for line in kept] == list(range(len(kept)))


def test_pretty_lines_have_a_clock_and_no_bookkeeping() -> None:
    render = structlog.dev.ConsoleRenderer(colors=False)
    event = {"time": "2030-01-02T03:04:05.6Z", "order": 7, "level": "info", "event": "x", "a": 1}
    line = log.pretty(event, render)
    assert line.startswith("03:04:05")
    assert "order" not in line
    assert "a=1" in line


@pytest.mark.parametrize("how", ["removed", "renamed", "folder removed"])
def test_a_file_that_others_take_away_is_begun_anew(tmp_path: Path, how: str) -> None:
    file = tmp_path / "logs" / "log.jsonl"
    log.configure_hub(settings(), file)
    logger = structlog.get_logger(agent="me")
    logger.info("first.event")
    if how == "renamed":
        file.rename(tmp_path / "log.1")
    else:
        file.unlink()
    if how == "folder removed":
        file.parent.rmdir()
    logger.info("second.event")
    assert [each["event"] for each in lines(file)] == ["second.event"]


def test_a_file_that_is_emptied_where_it_is_goes_on(file: Path) -> None:
    log.configure_hub(settings(), file)
    logger = structlog.get_logger(agent="me")
    logger.info("first.event")
    file.write_text("")
    logger.info("second.event")
    assert [each["event"] for each in lines(file)] == ["second.event"]
