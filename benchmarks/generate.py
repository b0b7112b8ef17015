"""Tokens a second on the default model: ours, transformers, bitsandbytes and llama.cpp."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import Bench, Goal, median, ratio
from benchmarks.default_model import default_model
from benchmarks.ours import first_token_steps, hold, steered, tokens_per_s
from benchmarks.peers import LlamaCpp, Pace, network, transformers_pace
from sovl_daemon.engine.model.model import LoadedModel, load_model
from sovl_daemon.engine.model.precision import Precision

THREADS = 2
ROUNDS = 3
BATCH = 8
PROMPT = list(range(100, 130))
LONG_PROMPT = list(range(100, 612))
TURN = list(range(700, 716))  # a short question, with what the chat template puts around it
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "bf16": "fp16", "int8": "int8", "int4": "int4"}


@dataclass
class Row:
    """Whose pace it is, in a state that `prepare` brings about, untimed; `bytes_` are read a step.

    `batch` is how many conversations that step is shared by. `steps` measures what a kept prompt
    costs with a turn behind it, or with none.
    """

    name: str
    pace: Pace
    bytes_: Callable[[], int]
    batch: int = 1
    prepare: Callable[[], None] = lambda: None
    steps: Callable[[list[int]], float] | None = None
    found: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    turn: list[float] = field(default_factory=list)

    def measure(self, tokens: int, bandwidth: float) -> None:
        self.prepare()
        self.pace(32)  # a switch leaves memory that is slow at first
        pace = self.pace(tokens)
        self.found.append(pace)
        self.share.append(pace / self.batch * self.bytes_() / 1e9 / bandwidth)
        if self.steps is not None:
            self.again.append(self.steps([]))
            self.turn.append(self.steps(TURN))

    def as_dict(self) -> dict[str, object]:
        return {
            "engine": self.name,
            "tokens_per_s": median(self.found),
            "best": max(self.found),
            "share_of_bandwidth": median(self.share),
            "again_steps": median(self.again) if self.again else None,
            "next_turn_steps": median(self.turn) if self.turn else None,
        }


def ours(name: str, model: LoadedModel, precision: Precision, *, fused: bool, batch: int) -> Row:
    return Row(
        name,
        lambda tokens: tokens_per_s(model, PROMPT, tokens, batch),
        lambda: model.weight_bytes,
        batch,
        partial(hold, model, precision, fused=fused),
        partial(first_token_steps, model, LONG_PROMPT) if batch == 1 else None,
    )


def our_rows(half: LoadedModel, full: LoadedModel) -> list[Row]:
    return [
        ours(
            f"{'fused' if fused else 'plain'} {name}{f' x{batch}' if batch > 1 else ''}",
            full if precision == "fp32" else half,
            precision,
            fused=fused,
            batch=batch,
        )
        for name, precision in PRECISIONS.items()
        for batch in (1, BATCH)
        for fused in (False, True)
    ]


def peer_rows(path: Path) -> list[Row]:
    rows = []
    for name, dtype, bits in (
        ("transformers fp32", torch.float32, 16),
        ("transformers bf16", torch.bfloat16, 16),
        ("transformers fp16", torch.float16, 16),
        ("transformers bitsandbytes int8", torch.bfloat16, 8),
        ("transformers bitsandbytes nf4", torch.bfloat16, 4),
    ):
        loaded = network(path, dtype, bits)
        size = sum(each.numel() * each.element_size() for each in loaded.parameters())
        rows.append(Row(name, transformers_pace(loaded, PROMPT), partial(int, size)))
    return rows


def bandwidth_gb_s() -> float:
    """Reading memory, with the same threads, in GB/s."""
    block = torch.ones(2**26)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - began)
    return block.numel() * block.element_size() / 1e9 / median(times)


def run(quick: bool) -> Bench:
    path = default_model()
    tokens, rounds = (24, 2) if quick else (64, ROUNDS)
    half = load_model(path, device="cpu", dtype="bfloat16", threads=THREADS)
    full = load_model(path, device="cpu", dtype="float32", threads=THREADS)
    for model in (half, full):
        model.warm_up()
        steered(model)
    rows = our_rows(half, full) + peer_rows(path)
    torch.set_num_threads(THREADS)
    bandwidth = []
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        llama_cpp = LlamaCpp.start(Path(place), PROMPT, THREADS)
        rows.append(Row("llama.cpp Q4_1", llama_cpp.pace, partial(int, llama_cpp.weight_bytes)))
        try:
            for _ in range(rounds):  # in turn, so that a slow spell of the machine hits all
                bandwidth.append(bandwidth_gb_s())
                for row in rows:
                    row.measure(tokens, bandwidth[-1])
        finally:
            llama_cpp.stop()
    return told(rows, bandwidth, tokens)


def told(rows: list[Row], bandwidth: list[float], tokens: int) -> Bench:
    found = {row.name: row.found for row in rows}
    single = [f"plain {name}" for name in PRECISIONS]

    def best(names: list[str]) -> list[float]:
        """The fastest of each round."""
        return [max(each) for each in zip(*(found[name] for name in names), strict=True)]

    def worst(of: str, by: str) -> float:
        """The least ratio of all precisions; the names have a place for it."""
        return min(ratio(found[of.format(name)], found[by.format(name)]) for name in PRECISIONS)

    again = [median(row.again) for row in rows if row.name in single]
    peers = [name for name in found if name.startswith("transformers")]
    goals = [
        Goal("plain_over_transformers", ratio(best(single), best(peers)), ">=", 2),
        Goal("plain_over_llama_cpp", ratio(best(single), found["llama.cpp Q4_1"]), ">=", 1),
        Goal("fused_over_plain", worst("fused {}", "plain {}"), ">=", 0.85),
        Goal("batch8_over_batch1", worst("plain {} x8", "plain {}"), ">=", 3),
        Goal("prefix_first_token_steps", max(again), "<=", 2),
    ]
    note = (
        f"{THREADS} threads, {tokens} tokens; medians of rounds in turn, ratios paired by round: "
        "the fastest precision of each engine; for fused_over_plain, batch8_over_batch1 and "
        "prefix_first_token_steps the worst precision. x8: tokens of eight conversations together. "
        f"again_steps: time to the first token of a prompt of {len(LONG_PROMPT)} tokens that was "
        "read before, in decode steps (that is prefix_first_token_steps); next_turn_steps: the "
        f"same with {len(TURN)} more tokens behind it. "
    )
    return Bench("generate", [row.as_dict() for row in rows], goals, note + read_at(bandwidth))


def read_at(bandwidth: list[float]) -> str:
    return (
        f"Memory reads at {median(bandwidth):.1f} GB/s; share_of_bandwidth is how much of that the "
        "weights of each step take."
    )
