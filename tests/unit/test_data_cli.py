"""`sovl data`: what people see, what scripts see, and the exit codes."""

import json
import sqlite3
import stat
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from sovl_daemon.cli.app import app
from sovl_daemon.cli.data import parse_since
from sovl_daemon.memory.interactions import Interaction, InteractionStore
from sovl_daemon.memory.pairs import Pair, read_pairs

GOOD = '{"prompt": "a", "response": "b c"}\n'


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    (tmp_path / "state" / "sovl").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def database(home: Path) -> Path:
    path = home / "state" / "sovl" / "sovl.db"
    store = InteractionStore(path)
    now = time.time()
    for number, days in enumerate((30, 3, 0), start=1):
        lived = Interaction(
            f"c{number}", "a", f"p{number}", f"r{number}", 1, None, now - days * 86400
        )
        store.add(lived)
    store.add(Interaction("empty", "a", "p4", "", 0, None, now))
    store.close()
    return path


def sovl(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)], env={"COLUMNS": "200"})


# check


def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(GOOD + '{"prompt": "aaa", "response": "d", "source": 1}\n')
    found = sovl("check", file)
    lines = found.stdout.splitlines()
    assert found.exit_code == 0
    assert lines[0] == f"{file}: 2 pairs in 2 lines, 1 for training and 1 for validation"
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "length least median mean most",
        "prompt, characters 1 2 2 3",
        "prompt, words 1 1 1 1",
        "response, characters 1 2 2 3",
        "response, words 1 1.5 1.5 2",
        "ignored fields: source (1)",
    ]


def test_bad_lines_and_duplicates_are_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs[1].jsonl"
    file.write_text(GOOD + "[]\n" + GOOD)
    found = sovl("check", file)
    assert found.exit_code == 1
    assert "1 duplicate:\n" + f"  {file}:3: the same as line 1\n" in found.stdout
    assert "1 bad line:\n" + f"  {file}:2: a list, write an object: " in found.stdout


def test_the_same_in_json(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(GOOD + "[]\n" + GOOD)
    found = sovl("check", file, "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert report["bad"]["total"] == 1
    assert report["bad"]["first"][0]["number"] == 2
    assert report["duplicates"] == {"total": 1, "first": [{"number": 3, "first": 1}]}
    assert (report["lines"], report["pairs"], report["training"]) == (3, 1, 1)
    assert report["response"]["words"] == {"least": 2, "median": 2, "mean": 2, "most": 2}


def test_more_trouble_than_is_named_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(GOOD * 150 + "[]\n" * 120)
    said = sovl("check", file).stdout
    assert f"149 duplicates:\n  {file}:2: the same as line 1\n" in said
    assert f"{file}: and 49 more\n120 bad lines:\n" in said
    assert said.endswith(f"{file}: and 20 more\n")


def test_an_empty_file_has_nothing_and_exits_1(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.touch()
    assert sovl("check", file).exit_code == 1
    assert json.loads(sovl("check", file, "--json").stdout)["prompt"]["words"] == {}


def test_a_missing_file_is_one_line_and_exits_1(tmp_path: Path) -> None:
    found = sovl("check", tmp_path / "none")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == f"sovl: {tmp_path}/none: no such file\n"


def test_without_a_name_the_configured_file_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = json.loads(sovl("check", "--json").stdout)
    assert shipped["file"].endswith("config/sample_log.jsonl")
    assert shipped["pairs"] >= 120
    (tmp_path / "mine.jsonl").write_text(GOOD)
    monkeypatch.setenv("SOVL_STORE__TRAINING_FILE", str(tmp_path / "mine.jsonl"))
    assert json.loads(sovl("check", "--json").stdout)["pairs"] == 1


def test_the_split_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def held() -> int:
        return int(json.loads(sovl("check", "--json").stdout)["validation"])

    usual = held()
    monkeypatch.setenv("SOVL_CORE_CONFIG__VALID_SPLIT_RATIO", "0.5")
    assert held() > usual
    monkeypatch.setenv("SOVL_CORE_CONFIG__VALID_SPLIT_RATIO", "0")
    assert held() == 0


# export


def test_what_was_lived_becomes_pairs(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "lived.jsonl"
    found = sovl("export", file)
    assert found.exit_code == 0
    assert found.stdout == f"{file}: 3 pairs, 1 without a prompt or an answer left out\n"
    assert read_pairs(file).pairs == [Pair(f"p{n}", f"r{n}") for n in (1, 2, 3)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_since_leaves_out_what_is_older(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "lived.jsonl"
    found = sovl("export", file, "--since", "7d", "--json")
    assert json.loads(found.stdout) == {"file": str(file), "pairs": 2, "left_out": 1}
    day = (datetime.now() - timedelta(days=1)).isoformat()
    assert (
        json.loads(sovl("export", file, "--since", day, "--force", "--json").stdout)["pairs"] == 1
    )


def test_a_file_that_is_there_needs_force(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "lived.jsonl"
    file.write_text("precious")
    found = sovl("export", file)
    assert (found.exit_code, file.read_text()) == (1, "precious")
    assert found.stderr == f"sovl: {file}: is there already, name another file or use --force\n"
    assert sovl("export", file, "--force").exit_code == 0
    assert len(read_pairs(file).pairs) == 3


def test_a_life_that_has_not_begun_is_one_line(home: Path, tmp_path: Path) -> None:
    found = sovl("export", tmp_path / "lived.jsonl")
    database = home / "state" / "sovl" / "sovl.db"
    assert found.exit_code == 1
    assert found.stderr == f"sovl: {database}: no such file, nothing has been lived through yet\n"
    assert not database.exists()


def test_a_store_in_use_is_read_and_left_alone(database: Path, tmp_path: Path) -> None:
    daemon = InteractionStore(database)
    daemon.add(Interaction("late", "a", "p5", "r5", 1, None))
    sovl("export", tmp_path / "lived.jsonl")
    assert read_pairs(tmp_path / "lived.jsonl").pairs[-1] == Pair("p5", "r5")
    daemon.add(Interaction("later", "a", "p6", "r6", 1, None))
    assert daemon.count() == 6
    daemon.close()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no database " * 500, "file is not a database; restore it from a backup"),
        (b"", "has schema 0, not 4; start SOVL, or update it"),
    ],
)
def test_a_damaged_or_strange_store_is_one_line(
    content: bytes, problem: str, home: Path, tmp_path: Path
) -> None:
    (home / "state" / "sovl" / "sovl.db").write_bytes(content)
    found = sovl("export", tmp_path / "lived.jsonl")
    assert (found.exit_code, len(found.stderr.splitlines())) == (1, 1)
    assert problem in found.stderr
    assert not (tmp_path / "lived.jsonl").exists()


def test_a_store_that_is_damaged_further_in_leaves_no_half_file(
    database: Path, tmp_path: Path
) -> None:
    with sqlite3.connect(database) as broken:
        broken.execute("PRAGMA writable_schema=ON")
        broken.execute("UPDATE sqlite_schema SET rootpage = 999 WHERE name = 'interactions'")
    found = sovl("export", tmp_path / "lived.jsonl")
    assert (found.exit_code, len(found.stderr.splitlines())) == (1, 1)
    assert "restore it from a backup" in found.stderr
    assert [each for each in tmp_path.iterdir() if "lived" in each.name] == []


# when


@pytest.mark.parametrize(
    ("text", "seconds"), [("90min", 5400), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_an_age_counts_back_from_now(text: str, seconds: int) -> None:
    assert parse_since(text) == pytest.approx(time.time() - seconds, abs=60)


def test_a_date_is_local_unless_it_names_a_zone() -> None:
    assert parse_since("2026-01-31") == datetime(2026, 1, 31).timestamp()
    assert parse_since("2026-01-31T18:30") == datetime(2026, 1, 31, 18, 30).timestamp()
    assert parse_since("1970-01-02T00:00Z") == 86_400


SEVEN = "\N{ARABIC-INDIC DIGIT SEVEN}"


@pytest.mark.parametrize("text", ["yesterday", "7", "7 d", "-7d", "2026-13-01", f"{SEVEN}d", ""])
def test_what_is_no_time_is_a_mistake_of_usage(text: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="is no time, write 2026-01-31"):
        parse_since(text)
    assert sovl("export", tmp_path / "x", f"--since={text}").exit_code == 2
