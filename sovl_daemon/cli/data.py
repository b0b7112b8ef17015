"""`sovl data`: check the pairs to train on, and export what was lived as such pairs."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from config import Paths, Settings, load
from sovl_daemon.cli import exits, render
from sovl_daemon.memory.interactions import InteractionStore
from sovl_daemon.memory.pairs import (
    BadLine,
    Duplicate,
    Pair,
    PairFile,
    Tally,
    bad_lines,
    scan,
    write_pairs,
)
from sovl_daemon.memory.split import split

app = typer.Typer(
    name="data", help="Check training data, and make it of what was lived.", no_args_is_help=True
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_since(text: str) -> float:
    """Read a date, a date and time, or an age such as 90min, 12h, 7d, 2w; seconds since the epoch.

    Raises:
        BadParameter: It is none of them.

    """
    age = re.fullmatch(r"([0-9]{1,6})(min|h|d|w)", text)
    try:
        if age:
            return time.time() - int(age[1]) * _SECONDS[age[2]]
        return datetime.fromisoformat(text).timestamp()  # local time unless it names a zone
    except (ValueError, OverflowError, OSError):
        allowed = "write 2026-01-31, 2026-01-31T18:00, or an age: 90min, 12h, 7d, 2w"
        raise typer.BadParameter(f"{text!r} is no time, {allowed}") from None


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Pairs as JSONL [default: store.training_file].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what a file of pairs holds and what is wrong with it; exit code 1 if a line is bad."""
    settings = load()
    found = scan(file or Paths.of(settings).training_file)
    report = _report(found, settings)
    render.show(report, as_json=as_json, view=lambda facts: _show(facts, found))
    if not found.pairs or found.skipped.total:
        raise typer.Exit(exits.FAILED)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="File to write, as JSONL.")],
    since: Annotated[
        float | None,
        typer.Option(
            parser=parse_since, metavar="WHEN", help="Only from a date or an age (12h, 7d) on."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write what was lived as pairs, for training or a backup; the daemon may run meanwhile."""
    with closing(_lived_through()) as store:
        lived = (Pair(each.prompt, each.response) for each in store.since(since or 0.0))
        written = write_pairs(file, lived, replace=force)
    left = f", {written.left_out} without a prompt or an answer left out" * bool(written.left_out)
    text = f"{file}: {_count(written.pairs, 'pair')}{left}"
    report = {"file": str(file), **asdict(written)}
    render.show(report, as_json=as_json, view=lambda _: render.say(text))


def _lived_through() -> InteractionStore:
    return InteractionStore.reading(Paths.of(load()).database)


@dataclass(frozen=True)
class Report:
    """What a file of pairs holds, and how long its texts are."""

    file: str
    lines: int
    pairs: int
    training: int
    validation: int
    bad: Tally[BadLine]
    duplicates: Tally[Duplicate]
    ignored: dict[str, int]
    prompt: dict[str, dict[str, float]]
    response: dict[str, dict[str, float]]


def _report(found: PairFile, settings: Settings) -> Report:
    core = settings.core_config
    parts = split(found.pairs, core.valid_split_ratio, core.random_seed)
    return Report(
        file=str(found.path),
        lines=found.lines,
        pairs=len(found.pairs),
        training=len(parts.training),
        validation=len(parts.validation),
        bad=found.skipped,
        duplicates=found.duplicates,
        ignored=dict(found.ignored),
        prompt=_lengths([pair.prompt for pair in found.pairs]),
        response=_lengths([pair.response for pair in found.pairs]),
    )


def _lengths(texts: list[str]) -> dict[str, dict[str, float]]:
    return {
        "characters": _spread([len(text) for text in texts]),
        "words": _spread([len(text.split()) for text in texts]),
    }


def _spread(numbers: list[int]) -> dict[str, float]:
    if not numbers:
        return {}
    return {
        "least": min(numbers),
        "median": statistics.median(numbers),
        "mean": round(statistics.fmean(numbers), 1),
        "most": max(numbers),
    }


def _show(report: Report, found: PairFile) -> None:
    held = f"{_count(report.pairs, 'pair')} in {_count(report.lines, 'line')}"
    parts = f"{report.training} for training and {report.validation} for validation"
    render.say(f"{report.file}: {held}, {parts}")
    if found.pairs:
        render.console.print(_length_table(report))
    if found.ignored:
        names = (f"{name} ({count})" for name, count in found.ignored.most_common(10))
        render.say(f"ignored fields: {', '.join(names)}")
    _list(_count(found.duplicates.total, "duplicate"), _duplicates(found))
    _list(_count(found.skipped.total, "bad line"), bad_lines(found))


def _length_table(report: Report) -> Table:
    table = Table("length", "least", "median", "mean", "most", box=None)
    for side, lengths in (("prompt", report.prompt), ("response", report.response)):
        for unit, spread in lengths.items():
            table.add_row(f"{side}, {unit}", *(f"{number:g}" for number in spread.values()))
    return table


def _duplicates(found: PairFile) -> Iterable[str]:
    kept = found.duplicates.first
    yield from (f"{found.path}:{each.number}: the same as line {each.first}" for each in kept)
    if found.duplicates.total > len(kept):
        yield f"{found.path}: and {found.duplicates.total - len(kept)} more"


def _list(title: str, lines: Iterable[str]) -> None:
    rows = list(lines)
    if rows:
        render.say("\n".join([f"{title}:", *(f"  {row}" for row in rows)]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
