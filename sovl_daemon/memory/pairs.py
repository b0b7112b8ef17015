"""Training data: prompts and the responses to learn, one JSON object a line.

A line is `{"prompt": "...", "response": "..."}` in UTF-8. Blank lines say nothing, other fields are
counted and ignored.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, NoReturn, TypeVar

from sovl_daemon.durable import replacing

MAX_LINE_BYTES = 1_048_576
"""Longest line, its end not counted. No more than this of a line is ever in memory."""

MAX_FILE_BYTES = 268_435_456
"""Largest file: its pairs are kept in memory, and training on them takes days as it is."""

KEPT = 100
"""Bad lines, duplicates and names of ignored fields that are kept; the others are only counted."""

OTHER_FIELDS = "(others)"
"""Stands for the ignored fields whose names are not kept."""

_EXAMPLE = '{"prompt": "...", "response": "..."}'
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAME_LENGTH = 60

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and the response to learn; neither is blank."""

    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no pair: its number, from 1, and what is wrong with it."""

    number: int
    problem: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A line that says what the line `first` has said already."""

    number: int
    first: int


@dataclass(slots=True)
class Tally(Generic[T]):
    """How many there are of something, and the first hundred of them."""

    total: int = 0
    first: list[T] = field(default_factory=list)

    def add(self, item: T) -> None:
        """Count one more."""
        self.total += 1
        if len(self.first) < KEPT:
            self.first.append(item)


@dataclass(slots=True)
class PairFile:
    """What a file holds.

    Attributes:
        path: The file.
        lines: Number of its lines, blank ones included.
        pairs: Its pairs in the order of the file, each once.
        skipped: Lines that are no pair.
        duplicates: Lines that repeat a pair to the letter.
        ignored: Fields that are neither prompt nor response, by name, and how often they occur.

    """

    path: Path
    lines: int = 0
    pairs: list[Pair] = field(default_factory=list)
    skipped: Tally[BadLine] = field(default_factory=Tally)
    duplicates: Tally[Duplicate] = field(default_factory=Tally)
    ignored: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Written:
    """How many pairs were written, and how many left out that could not be read back."""

    pairs: int
    left_out: int


class PairsError(Exception):
    """A file of pairs was refused, or cannot be written.

    `str()` is one line; after it comes, for each of the `lines` that are bad, one of its own.
    """

    def __init__(self, problem: str, found: PairFile | None = None) -> None:
        self.lines = tuple(found.skipped.first) if found else ()
        super().__init__("\n".join([problem, *(bad_lines(found) if found else ())]))


def bad_lines(found: PairFile) -> Iterator[str]:
    """Say what is wrong with each bad line, as FILE:NUMBER, and how many more there are."""
    kept = found.skipped.first
    yield from (f"{found.path}:{each.number}: {each.problem}" for each in kept)
    if found.skipped.total > len(kept):
        yield f"{found.path}: and {found.skipped.total - len(kept)} more"


class BadPair(ValueError):
    """One line is no pair; the message says why and what is allowed."""


def read_pairs(path: Path, on_bad: Literal["refuse", "skip"] = "refuse") -> PairFile:
    """Read a file of pairs.

    Args:
        path: The file.
        on_bad: What to do when a line is no pair: refuse the file, or skip the line. What was
            skipped is in the answer either way.

    Raises:
        PairsError: The file cannot be read, has no pairs, or has bad lines that are not skipped.

    """
    found = scan(path)
    bad = found.skipped.total
    if bad and (on_bad == "refuse" or not found.pairs):
        count = "1 line is" if bad == 1 else f"{bad} lines are"
        raise PairsError(f"{path}: {count} no pair, correct or remove what is named here", found)
    if not found.pairs:
        raise PairsError(f"{path}: is empty, write one {_EXAMPLE} a line")
    return found


def scan(path: Path) -> PairFile:
    """Read a file of pairs and report everything that is wrong with its lines.

    Raises:
        PairsError: The file as a whole cannot be read.

    """
    found = PairFile(path)
    numbers: dict[Pair, int] = {}
    for number, line in _lines(path):
        found.lines = number
        if not line.strip():
            continue
        try:
            pair, others = parse_pair(line)
        except BadPair as problem:
            found.skipped.add(BadLine(number, str(problem)))
            continue
        for name in map(_shown, others):
            named = name in found.ignored or len(found.ignored) < KEPT
            found.ignored[name if named else OTHER_FIELDS] += 1
        first = numbers.setdefault(pair, number)
        if first != number:
            found.duplicates.add(Duplicate(number, first))
    found.pairs = list(numbers)
    return found


# The file


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number the lines from 1; one that is too long comes cut, but still too long."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if number == 1:
                if line.startswith(_UTF16):
                    raise PairsError(f"{path}: is in UTF-16, save it as UTF-8")
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PairsError(f"{path}: is a directory, name a file of pairs in it")
        if not stat.S_ISREG(status.st_mode):  # a pipe might never say anything
            raise PairsError(f"{path}: is not a plain file, copy what it gives into one")
        if status.st_size > MAX_FILE_BYTES:
            raise PairsError(
                f"{path}: has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read: split it"
            )
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise PairsError(f"{path}: no such file") from error
    except OSError as error:
        raise PairsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a zero byte, or what no file name can hold
        raise PairsError(f"{_shown(str(path))}: is no name of a file") from error


# One line


class _Object(list[tuple[str, Any]]):
    """A JSON object with its fields as they are written, repeated ones included."""


def parse_pair(line: bytes) -> tuple[Pair, list[str]]:
    """Return the pair of one line, and the names of its other fields.

    Raises:
        BadPair: It is no pair.

    """
    fields = _parse_object(line)
    pair = Pair(_text(fields, "prompt"), _text(fields, "response"))
    return pair, [name for name, _ in fields if name not in ("prompt", "response")]


def _parse_object(line: bytes) -> _Object:
    if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
        raise BadPair(f"longer than {MAX_LINE_BYTES} bytes, shorten it")
    try:
        value = json.loads(
            line.decode(), object_pairs_hook=_Object, parse_constant=_no_number, parse_int=float
        )
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise BadPair(f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise BadPair(
            f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
        ) from None
    except RecursionError:
        raise BadPair("nested too deeply, a pair is flat") from None
    if not isinstance(value, _Object):
        raise BadPair(f"{_kind(value)}, write an object: {_EXAMPLE}")
    return value


def _no_number(word: str) -> NoReturn:
    raise BadPair(f"not JSON: {word} is no number of JSON")


def _text(fields: _Object, name: str) -> str:
    values = [value for each, value in fields if each == name]
    if not values:
        raise BadPair(f"{name} is missing{_instead(fields)}")
    if len(values) > 1:
        raise BadPair(f"{name} is written {len(values)} times, keep one")
    (text,) = values
    if not isinstance(text, str):
        raise BadPair(f"{name} is {_kind(text)}, write text")
    if not text.strip():
        raise BadPair(f"{name} is empty, write some text")
    return _encodable(text, name)


def _instead(fields: _Object) -> str:
    names = [_shown(name) for name, _ in fields[:5]]
    return f", the line has {', '.join(names)}" if names else f", write {_EXAMPLE}"


def _encodable(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise BadPair(f"{name} has half a character: {half} without its other half") from None
    return text


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", float: "a number", str: "text", list: "a list"}
    return kinds.get(type(value), "an object")


def _shown(name: str) -> str:
    """Cut and escape what would break the line or the terminal."""
    escaped = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in name[:_NAME_LENGTH]
    )
    return escaped + "..." * (len(name) > _NAME_LENGTH)


# Writing


def write_pairs(path: Path, pairs: Iterable[Pair], *, replace: bool = False) -> Written:
    """Write a file of pairs that only its owner may read; it appears whole or not at all.

    A pair that `read_pairs` would not take back is left out. A link is followed.

    Args:
        path: The file.
        pairs: What to write, one after the other.
        replace: Whether a file that is there already may be replaced.

    Raises:
        PairsError: The file is there already, or cannot be written; nothing has changed.

    """
    try:
        with replacing(path, mode=0o600) as file:
            written = _write_lines(file, pairs)
            file.flush()
            os.fsync(file.fileno())  # nothing is there before all of it can be
            if not replace:
                path.resolve().open("xb").close()  # nobody else can take the name from here on
            return written
    except FileExistsError as error:
        raise PairsError(f"{path}: is there already, name another file or use --force") from error
    except OSError as error:
        raise PairsError(f"{path}: cannot be written: {error.strerror}") from error


def _write_lines(file: BinaryIO, pairs: Iterable[Pair]) -> Written:
    written = left_out = 0
    for pair in pairs:
        fields = {"prompt": pair.prompt, "response": pair.response}
        line = json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass")
        try:
            parse_pair(line)  # the reader is the judge
        except BadPair:
            left_out += 1
            continue
        file.write(line + b"\n")
        written += 1
    return Written(written, left_out)
