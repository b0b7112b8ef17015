"""Typed words become arguments, the way one means them."""

from typing import Any

import pytest

from bus.commands import CommandDescription
from bus.errors import CommandError
from sovl_daemon.cli.words import Argument, arguments_of, parse_line, parse_pairs, parse_words
from sovl_daemon.contracts.generator import Generate, Tune, TuneCross
from sovl_daemon.contracts.scribe import RecentInteractions
from sovl_daemon.contracts.trainer import TrainOnPairs


def arguments(schema: dict[str, Any]) -> list[Argument]:
    spec = CommandDescription(name="x", agent="y", help="", long=False, arguments=schema)
    return arguments_of(spec)


GENERATE = arguments(Generate.model_json_schema())
HISTORY = arguments(RecentInteractions.model_json_schema())
CROSS = arguments(TuneCross.model_json_schema())
TUNE = arguments(Tune.model_json_schema())
TRAIN = arguments(TrainOnPairs.model_json_schema())
TEXT = [Argument("text", required=True, text=True)]
COUNT = [Argument("count"), Argument("name", text=True)]


@pytest.mark.parametrize(
    ("rest", "takes", "args"),
    [
        ("", GENERATE, {}),
        ("How are you?", GENERATE, {"prompt": "How are you?"}),
        ("What's new?", GENERATE, {"prompt": "What's new?"}),
        ("2 + 2 = 4, or a=b?", GENERATE, {"prompt": "2 + 2 = 4, or a=b?"}),
        ('"How are you?" 20', GENERATE, {"prompt": "How are you?", "max_tokens": 20}),
        ('"How are you?"', GENERATE, {"prompt": "How are you?"}),
        ("count=5 and more", TEXT, {"text": "count=5 and more"}),
        ("limit=1", HISTORY, {"limit": 1}),
        ("abc 3", HISTORY, {"conversation": "abc", "limit": 3}),
        ("cross", TUNE, {"what": "cross"}),
        ("cross 0.8", TUNE, {"what": "cross", "weight": 0.8}),
        ("off", CROSS, {"what": "off"}),
        ("weight 0.7", CROSS, {"what": "weight", "values": [0.7]}),
        ("layers 0.5 0.6 0.7", CROSS, {"what": "layers", "values": [0.5, 0.6, 0.7]}),
        ("5 five", COUNT, {"count": 5, "name": "five"}),
        ("count=5 name=6", COUNT, {"count": 5, "name": 6}),
        ("five count=5", COUNT, {"count": 5, "name": "five"}),
        ("5 limit=3", COUNT, {"count": 5, "limit": 3}),  # who has the arguments refuses it
        ("weight values=[0.7]", CROSS, {"what": "weight", "values": [0.7]}),
        ('"2 = 2?" max_tokens=5', GENERATE, {"prompt": "2 = 2?", "max_tokens": 5}),
        ("is max_tokens=5 little?", GENERATE, {"prompt": "is max_tokens=5 little?"}),
        ("max_tokens=5", GENERATE, {"prompt": "max_tokens=5"}),
        ("max_tokens=5 prompt=Hi", GENERATE, {"prompt": "Hi", "max_tokens": 5}),
    ],
)
def test_line(rest: str, takes: list[Argument], args: dict[str, object]) -> None:
    assert parse_line(rest, takes) == args


@pytest.mark.parametrize(
    ("words", "takes", "args"),
    [
        ([], GENERATE, {}),
        (["How", "are", "you?"], GENERATE, {"prompt": "How are you?"}),
        (["How are you?", "20"], GENERATE, {"prompt": "How are you?", "max_tokens": 20}),
        (["2 + 2 = 4?"], GENERATE, {"prompt": "2 + 2 = 4?"}),
        (["promt=Hi", "max_tokens=5"], GENERATE, {"promt": "Hi", "max_tokens": 5}),  # refused
        (["Solve", "x=5"], GENERATE, {"prompt": "Solve x=5"}),
        (["max_tokens=5 is what?"], GENERATE, {"prompt": "max_tokens=5 is what?"}),
        (["a = b?", "max_tokens=5"], GENERATE, {"prompt": "a = b?", "max_tokens": 5}),
        (["Hi", "there", "max_tokens=5"], GENERATE, {"prompt": "Hi there", "max_tokens": 5}),
        (["prompt=Hi", "20"], GENERATE, {"prompt": "Hi", "max_tokens": 20}),
        (["5", "file=x.jsonl"], TRAIN, {"epochs": 5, "file": "x.jsonl"}),
        (["file=x.jsonl", "5"], TRAIN, {"epochs": 5, "file": "x.jsonl"}),
        (["limt=3"], HISTORY, {"limt": 3}),  # a mistake is refused, not taken for a conversation
        (["layers", "0.5", "0.6"], CROSS, {"what": "layers", "values": [0.5, 0.6]}),
    ],
)
def test_words(words: list[str], takes: list[Argument], args: dict[str, object]) -> None:
    assert parse_words(words, takes) == args


def test_too_many_words_name_what_is_allowed() -> None:
    with pytest.raises(CommandError, match="too many arguments, allowed: count, name"):
        parse_line("1 2 3", COUNT)


def test_pairs_are_json_or_text() -> None:
    words = ["a=1", "b=true", "c=x=y", "d=", 'e={"f": [1]}']
    assert parse_pairs(words) == {"a": 1, "b": True, "c": "x=y", "d": "", "e": {"f": [1]}}


@pytest.mark.parametrize("word", ["x", "=1", ""])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(CommandError, match="key=value"):
        parse_pairs([word])


def test_a_number_that_is_none_stays_what_was_written() -> None:
    args = {"a": "1e400", "b": "NaN", "c": "-Infinity"}
    assert parse_pairs([f"{key}={value}" for key, value in args.items()]) == args
