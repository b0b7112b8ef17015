"""Files of pairs: every mistake has its line, and what was written is read back."""

import codecs
import errno
import json
import os
import stat
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovl_daemon.memory import pairs
from sovl_daemon.memory.pairs import (
    KEPT,
    MAX_LINE_BYTES,
    OTHER_FIELDS,
    BadLine,
    BadPair,
    Duplicate,
    Pair,
    PairsError,
    parse_pair,
    read_pairs,
    scan,
    write_pairs,
)

GOOD = b'{"prompt": "a", "response": "b"}'
EXAMPLE = '{"prompt": "...", "response": "..."}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.jsonl"


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# What is read


def test_pairs_come_in_the_order_of_the_file(path: Path) -> None:
    path.write_bytes(line(prompt="a", response="1\n2") + b"\n" + line(response=" ü ", prompt="b"))
    found = read_pairs(path)
    assert found.pairs == [Pair("a", "1\n2"), Pair("b", " ü ")]
    assert (found.lines, found.skipped.total, found.duplicates.total) == (2, 0, 0)


@pytest.mark.parametrize(
    "text", [GOOD, codecs.BOM_UTF8 + GOOD, GOOD + b"\r\n", b"\n \r\n\t\n" + GOOD]
)
def test_marks_ends_and_blank_lines_do_not_matter(text: bytes, path: Path) -> None:
    path.write_bytes(text)
    assert read_pairs(path).pairs == [Pair("a", "b")]


def test_a_byte_order_mark_further_down_is_a_mistake(path: Path) -> None:
    path.write_bytes(GOOD + b"\n" + codecs.BOM_UTF8 + GOOD)
    assert scan(path).skipped.first[0].number == 2


def test_separators_of_unicode_do_not_end_a_line(path: Path) -> None:
    path.write_text('{"prompt": "a\u2028b\x85c", "response": "d"}', encoding="utf-8")
    assert read_pairs(path).pairs == [Pair("a\u2028b\x85c", "d")]


def test_other_fields_are_counted_and_ignored(path: Path) -> None:
    huge = f'{{"prompt": "a", "response": "b", "n": {"9" * 5000}, "deep": {{"prompt": 1}}}}'
    path.write_text(huge + "\n" + '{"prompt": "c", "response": "d", "n": 1, "n": 2}')
    found = read_pairs(path)
    assert found.pairs == [Pair("a", "b"), Pair("c", "d")]
    assert found.ignored == {"n": 3, "deep": 1}


def test_names_of_ignored_fields_are_bounded_and_printable(path: Path) -> None:
    rows = [
        line(prompt=str(i), response="b", **{f"{i}\x1b" + "x" * 99: 1}) for i in range(KEPT + 9)
    ]
    path.write_bytes(b"\n".join(rows))
    ignored = read_pairs(path).ignored
    assert (len(ignored), ignored[OTHER_FIELDS], ignored.total()) == (KEPT + 1, 9, KEPT + 9)
    assert all(name.isprintable() and len(name) < 80 for name in ignored)


def test_duplicates_are_kept_once_and_reported(path: Path) -> None:
    same_prompt = line(prompt="a", response="other")
    path.write_bytes(b"\n".join([GOOD, b"", same_prompt, GOOD, line(response="b", prompt="a")]))
    found = read_pairs(path)
    assert found.pairs == [Pair("a", "b"), Pair("a", "other")]
    assert found.duplicates.first == [Duplicate(4, 1), Duplicate(5, 1)]
    assert found.duplicates.total == 2


# Lines that are no pair


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"hello", "not JSON: Expecting value at column 1"),
        (GOOD + b",", "not JSON: Extra data at column 33"),
        (b'{"prompt": "a\tb"}', "not JSON: Invalid control character at column 14"),
        (b'{"prompt": NaN}', "not JSON: NaN is no number of JSON"),
        (b'{"prompt": "a", "response": "b", "x": -Infinity}', "not JSON: -Infinity is no number "
         "of JSON"),
        (b"[" * 100_000, "nested too deeply, a pair is flat"),
        (b"[1]", f"a list, write an object: {EXAMPLE}"),
        (b'"prompt"', f"text, write an object: {EXAMPLE}"),
        (b"null", f"null, write an object: {EXAMPLE}"),
        (b"{}", f"prompt is missing, write {EXAMPLE}"),
        (b'{"prompt": "a"}', "response is missing, the line has prompt"),
        (b'{"Prompt": 1, "a\\n": 2}', r"prompt is missing, the line has Prompt, a\n"),
        (b'{"prompt": "a", "response": "b", "prompt": "a"}', "prompt is written 2 times, keep one"),
        (b'{"prompt": 5, "response": "b"}', "prompt is a number, write text"),
        (b'{"prompt": "a", "response": null}', "response is null, write text"),
        (b'{"prompt": "a", "response": false}', "response is true or false, write text"),
        (b'{"prompt": "a", "response": ["b"]}', "response is a list, write text"),
        (b'{"prompt": "a", "response": {}}', "response is an object, write text"),
        (b'{"prompt": "", "response": "b"}', "prompt is empty, write some text"),
        (b'{"prompt": "a", "response": " \\n"}', "response is empty, write some text"),
        (b'{"prompt": "a", "response": "b\\ud83d"}', r"response has half a character: \ud83d "
         "without its other half"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 0xff at position 13"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8: byte 0xed at position 13"),
        (b"x" * (MAX_LINE_BYTES + 1), f"longer than {MAX_LINE_BYTES} bytes, shorten it"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else "",
)  # fmt: skip
def test_what_is_wrong_with_a_line_and_what_is_allowed(
    text: bytes, problem: str, path: Path
) -> None:
    path.write_bytes(GOOD + b"\n" + text + b"\n" + line(prompt="c", response="d"))
    with pytest.raises(PairsError) as refused:
        read_pairs(path)
    assert refused.value.lines == (BadLine(2, problem),)
    assert str(refused.value) == (
        f"{path}: 1 line is no pair, correct or remove what is named here\n{path}:2: {problem}"
    )
    found = read_pairs(path, on_bad="skip")
    assert found.pairs == [Pair("a", "b"), Pair("c", "d")]
    assert found.skipped.first == [BadLine(2, problem)]
    assert found.lines == 3


def test_the_longest_line_is_read(path: Path) -> None:
    text = "x" * (MAX_LINE_BYTES - len(GOOD) + 1)
    row = line(prompt="a", response=text)
    assert len(row) == MAX_LINE_BYTES
    path.write_bytes(row + b"\r\n" + GOOD)
    assert [pair.response for pair in read_pairs(path).pairs] == [text, "b"]
    path.write_bytes(row + b" \n" + GOOD)
    assert [each.number for each in scan(path).skipped.first] == [1]


def test_a_very_long_line_is_never_held_whole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * MAX_LINE_BYTES)  # one sparse line of zeros
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + GOOD)
    tracemalloc.start()
    found = scan(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.pairs == [Pair("a", "b")]
    assert [each.number for each in found.skipped.first] == [1]
    assert peak < 6 * MAX_LINE_BYTES


def test_all_bad_lines_are_counted_and_the_first_hundred_named(path: Path) -> None:
    path.write_bytes(b"[]\n" * (KEPT + 5) + GOOD)
    with pytest.raises(PairsError) as refused:
        read_pairs(path)
    said = str(refused.value).splitlines()
    assert said[0].startswith(f"{path}: {KEPT + 5} lines are no pair")
    assert said[-1] == f"{path}: and 5 more"
    assert [each.number for each in refused.value.lines] == list(range(1, KEPT + 1))
    assert read_pairs(path, on_bad="skip").skipped.total == KEPT + 5


def test_a_file_of_bad_lines_alone_is_refused_even_when_they_may_be_skipped(path: Path) -> None:
    path.write_bytes(b"prompt,response\na,b\n")
    with pytest.raises(PairsError, match="2 lines are no pair"):
        read_pairs(path, on_bad="skip")


# The file as a whole


@pytest.mark.parametrize("text", [b"", b"\n\n", codecs.BOM_UTF8])
def test_an_empty_file(text: bytes, path: Path) -> None:
    path.write_bytes(text)
    with pytest.raises(PairsError) as refused:
        read_pairs(path)
    assert str(refused.value) == f"{path}: is empty, write one {EXAMPLE} a line"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "wide").write_text("{}", encoding="utf-16")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    problems = {
        tmp_path / "none": "no such file",
        tmp_path / "wide" / "none": "cannot be read: Not a directory",
        tmp_path: "is a directory, name a file of pairs in it",
        tmp_path / "pipe": "is not a plain file, copy what it gives into one",
        tmp_path / "wide": "is in UTF-16, save it as UTF-8",
        tmp_path / "loop": "cannot be read: Too many levels of symbolic links",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    for path, problem in problems.items():
        with pytest.raises(PairsError) as refused:
            read_pairs(path)
        assert str(refused.value) == f"{path}: {problem}"
    with pytest.raises(PairsError, match=r"a\\x00b: is no name of a file"):
        read_pairs(Path("a\0b"))


def test_a_file_that_fails_while_it_is_read() -> None:
    with pytest.raises(PairsError) as refused:
        read_pairs(Path("/proc/self/mem"))  # nothing is mapped at its beginning
    assert str(refused.value) == "/proc/self/mem: cannot be read: Input/output error"


def test_a_file_without_permission(path: Path) -> None:
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything
        assert read_pairs(path).pairs == [Pair("a", "b")]
    else:
        with pytest.raises(PairsError, match="cannot be read: Permission denied"):
            read_pairs(path)


def test_a_file_that_is_too_large_is_not_even_begun(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(pairs.MAX_FILE_BYTES + 1)
    with pytest.raises(PairsError) as refused:
        read_pairs(path)
    limit = pairs.MAX_FILE_BYTES
    assert str(refused.value) == (
        f"{path}: has {limit + 1} bytes, at most {limit} are read: split it"
    )


# Any file at all


@pytest.fixture(scope="module")
def any_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs") / "any"


texts = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)
any_pairs = st.builds(Pair, texts, texts)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("prompt"), inner),
    max_leaves=5,
)
rows = st.one_of(
    st.binary(),
    st.builds(lambda value: json.dumps(value).encode(), values),
    st.builds(lambda a, b: json.dumps({"prompt": a, "response": b}).encode(), values, values),
    st.builds(lambda pair: line(prompt=pair.prompt, response=pair.response), any_pairs),
)


@given(st.binary() | st.lists(rows).map(b"\n".join))
def test_nothing_crashes_the_reader_and_every_line_is_accounted_for(
    any_file: Path, content: bytes
) -> None:
    content = content.removeprefix(codecs.BOM_UTF16_BE).removeprefix(codecs.BOM_UTF16_LE)
    any_file.write_bytes(content)
    found = scan(any_file)
    written = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    judged = {number: judge(text) for number, text in enumerate(written, 1) if text.strip()}
    assert [each.number for each in found.skipped.first] == [
        number for number, pair in judged.items() if pair is None
    ]
    good = [pair for pair in judged.values() if pair is not None]
    assert found.pairs == list(dict.fromkeys(good))
    assert found.duplicates.total == len(good) - len(found.pairs)
    for each in found.skipped.first:
        assert each.problem.isprintable()
        assert len(each.problem) < 500


def judge(text: bytes) -> Pair | None:
    """What a line is, by the plainest reading of the rules."""
    try:
        value = json.loads(text.decode(), parse_constant=lambda _: 1 / 0)
        pair = Pair(value["prompt"], value["response"])
        (pair.prompt + pair.response).encode()
        return pair if pair.prompt.strip() and pair.response.strip() else None
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
        return None


@given(st.lists(any_pairs, min_size=1))
def test_what_is_written_is_read_back(any_file: Path, written: list[Pair]) -> None:
    assert write_pairs(any_file, written, replace=True) == pairs.Written(len(written), 0)
    assert read_pairs(any_file).pairs == list(dict.fromkeys(written))


# Writing


def test_what_could_not_be_read_back_is_left_out(path: Path) -> None:
    good = Pair("a", "b")
    bad = [Pair("", "b"), Pair("a", " "), Pair("\ud800", "b"), Pair("a", "x" * MAX_LINE_BYTES)]
    assert write_pairs(path, [*bad, good]) == pairs.Written(1, 4)
    assert read_pairs(path).pairs == [good]


def test_a_written_file_is_private_and_alone(path: Path) -> None:
    write_pairs(path, [Pair("a", "b")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_there_stays_unless_told_otherwise(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(PairsError) as refused:
        write_pairs(path, [Pair("a", "b")])
    assert str(refused.value) == f"{path}: is there already, name another file or use --force"
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]
    write_pairs(path, [Pair("a", "b")], replace=True)
    assert read_pairs(path).pairs == [Pair("a", "b")]


def test_a_link_is_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    write_pairs(link, [Pair("a", "b")], replace=True)
    assert link.is_symlink()
    assert read_pairs(path).pairs == [Pair("a", "b")]


def test_a_link_to_what_is_not_there_yet_is_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    write_pairs(link, [Pair("a", "b")])
    assert read_pairs(path).pairs == [Pair("a", "b")]


def test_a_disk_that_is_full_at_the_end_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PairsError, match="cannot be written: No space left"):
        write_pairs(path, [Pair("a", "b")])
    assert list(path.parent.iterdir()) == []


def test_trouble_half_way_leaves_nothing(path: Path) -> None:
    def failing() -> object:
        yield Pair("a", "b")
        raise RuntimeError("half way")

    path.write_text("precious")
    with pytest.raises(RuntimeError, match="half way"):
        write_pairs(path, failing(), replace=True)  # type: ignore[arg-type]
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing_is_one_line(path: Path) -> None:
    with pytest.raises(PairsError) as refused:
        write_pairs(path / "x", [Pair("a", "b")])
    assert str(refused.value) == f"{path}/x: cannot be written: No such file or directory"


def test_a_directory_is_never_replaced(path: Path) -> None:
    path.mkdir()
    with pytest.raises(PairsError, match="cannot be written: Is a directory"):
        write_pairs(path, [Pair("a", "b")], replace=True)
    assert list(path.parent.iterdir()) == [path]


def test_one_line_by_itself() -> None:
    assert parse_pair(line(prompt="a", response="b", source="me")) == (Pair("a", "b"), ["source"])
    with pytest.raises(BadPair):
        parse_pair(b"")
