"""What each precision of a model costs in perplexity and memory. Loads torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import get_args

from rich.console import Console
from rich.table import Table

from sovl_daemon.cli.render import escape
from sovl_daemon.engine.errors import (
    EngineError,
    EngineOutOfMemoryError,
    OptionError,
    is_out_of_memory,
)
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.model.perplexity import WINDOW, perplexity
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.text.chat import load_tokenizer
from sovl_daemon.engine.text.tokenizer import PlainText
from sovl_daemon.models import ProgressCallback, StageProgress
from sovl_daemon.models.progress import begin

# More characters than tokenizers put into one token of a text, so that no window lacks any.
_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """One precision: what it costs, or in `reason` why it cannot be had here.

    `increase` of the perplexity is relative to the weights as they are, 0.01 for 1 %; None if
    those were not asked for. `weight_bytes` is the memory that the weights take.
    """

    precision: Precision
    perplexity: float | None = None
    increase: float | None = None
    weight_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measurements of one model over `tokens` tokens of text, and how they were made."""

    model: str
    dtype: str
    dtype_reason: str
    device: str
    tokens: int
    window: int
    precisions: list[Measurement]

    @property
    def failed(self) -> bool:
        """Whether there is no precision that could be measured."""
        return all(each.reason for each in self.precisions)


def parse_precisions(text: str) -> list[Precision]:
    """Read a list such as "fp16,int8", each precision once. Raises OptionError."""
    named: dict[str, Precision] = {each: each for each in get_args(Precision)}
    words = dict.fromkeys(word.strip() for word in text.split(","))
    unknown = [word for word in words if word not in named]
    if unknown:
        raise OptionError(
            f"--precision {text}: {unknown[0]!r} is unknown; give one or more of "
            f"{', '.join(named)} with commas between"
        )
    return [named[word] for word in words]


def read_text(file: Path | None, windows: int) -> str:
    """Return as much of a file as `windows` can need, or of Python's help, which is in English.

    Raises:
        OptionError: the file cannot be read, or is not UTF-8 text.

    """
    length = windows * WINDOW * _CHARACTERS_PER_TOKEN
    if file is None:
        return " ".join(topics[key] for key in sorted(topics))[:length]
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return opened.read(length)
    except OSError as error:
        raise OptionError(f"--text {file}: {error.strerror}; give a text file") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--text {file}: not UTF-8; give a text file in UTF-8") from error


def evaluate(
    folder: Path,
    precisions: Sequence[Precision],
    text: str,
    *,
    windows: int,
    device: str,
    threads: int,
    report: ProgressCallback,
) -> Evaluation:
    """Load the model in `folder` and read the text in each precision, `windows` of it at most.

    "fp16" stands for the weights as they are, which have 32 bits on some devices. A precision that
    cannot be had is no error: its measurement says why.

    Raises:
        OptionError: the text is too short, or there is no such device.
        EngineError: the model cannot be loaded.

    """
    begin("loading the model", report)
    model = load_model(folder, device=device, threads=threads)
    window = min(WINDOW, model.max_context or WINDOW)
    ids = _first_tokens(folder, text, windows * window)
    plain = model.plain
    asked = dict.fromkeys(plain if each == "fp16" else each for each in precisions)
    found = [_measure(model, each, ids, report) for each in asked]
    return Evaluation(
        model=folder.name,
        dtype=str(model.precision.dtype).removeprefix("torch."),
        dtype_reason=model.precision.reason,
        device=str(model.device),
        tokens=len(ids),
        window=window,
        precisions=_compared(found, plain),
    )


def show(evaluation: Evaluation) -> None:
    """Print an evaluation for people."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{escape(evaluation.model)}: {evaluation.dtype} on {evaluation.device} "
        f"({escape(evaluation.dtype_reason)}); {evaluation.tokens} tokens of text "
        f"in windows of {evaluation.window}"
    )
    table = Table("precision", "perplexity", "increase", "weights", box=None)
    for each in evaluation.precisions:
        table.add_row(each.precision, *_cells(each))
    console.print(table)
    for each in evaluation.precisions:
        if each.reason:
            console.print(f"{each.precision} cannot be had: {escape(each.reason)}")


def _first_tokens(folder: Path, text: str, count: int) -> list[int]:
    ids = PlainText(load_tokenizer(folder)).encode(text)[:count]
    if len(ids) < 2:
        raise OptionError(f"the text is too short ({len(ids)} tokens): give one of 2 or more")
    return ids


def _measure(
    model: LoadedModel, precision: Precision, ids: Sequence[int], report: ProgressCallback
) -> Measurement:
    stage = f"reading in {precision}"
    begin(stage, report)
    try:
        hold(model, precision)
        for reading in perplexity(model, ids):
            so_far = f"windows, perplexity {reading.perplexity:.2f}"
            report(StageProgress(stage, reading.done, reading.total, so_far))
    except EngineError as error:
        return Measurement(precision, reason=str(error))
    return Measurement(precision, reading.perplexity, None, model.weight_bytes)


def hold(model: LoadedModel, precision: Precision) -> None:
    """Hold the weights in a precision from now on.

    Raises:
        OptionError: it cannot be had here.
        EngineOutOfMemoryError: there is no memory for it; nothing has changed.

    """
    switch = model.switch(precision)
    if switch is None:
        return
    try:
        while switch.step():
            pass
    except (RuntimeError, MemoryError) as error:
        switch.roll_back()
        if not is_out_of_memory(error):
            raise
        raise EngineOutOfMemoryError(f"no memory to hold the weights in {precision}") from error


def _compared(found: Sequence[Measurement], plain: Precision) -> list[Measurement]:
    """The measurements with their increase over that of the weights as they are."""
    base = next((each.perplexity for each in found if each.precision == plain), None)
    return [
        replace(each, increase=each.perplexity / base - 1) if base and each.perplexity else each
        for each in found
    ]


def _cells(measured: Measurement) -> list[str]:
    if measured.perplexity is None or measured.weight_bytes is None:
        return ["-", "-", "-"]
    increase = "-" if measured.increase is None else f"{measured.increase:+.2%}"
    return [f"{measured.perplexity:.3f}", increase, f"{measured.weight_bytes / 1e6:.1f} MB"]
