"""What each precision of the default model costs, and the live switch under a conversation."""

import gc
import hashlib
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, TypeVar

import anyio
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import Bench, Goal, median
from benchmarks.default_model import default_model
from benchmarks.peers import network
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.model.allocator import return_free_memory
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.perplexity import perplexity as readings
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority

T = TypeVar("T")

WINDOW = 512
ROUTE: tuple[Precision, ...] = ("int8", "int4", "int8", "fp16", "int4", "fp16")  # every pair
STORY = [Message("user", "Tell me a very long story about a lighthouse.")]


def anonymous_mb() -> float:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon in /proc/self/status")


class Peak:
    """The highest anonymous memory inside the block."""

    def __enter__(self) -> "Peak":
        self.mb, self._done = anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.mb = max(self.mb, anonymous_mb())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


@dataclass
class Switches:
    """What one time over ROUTE took; `lost` tokens never came, or not in one piece."""

    seconds: list[float] = field(default_factory=list)
    extra_mb: list[float] = field(default_factory=list)
    mb: dict[str, list[float]] = field(default_factory=lambda: {"int8": [], "int4": [], "fp16": []})
    tokens: int = 0
    lost: int = 0


def digest(engine: Engine) -> str:
    whole = hashlib.sha256()
    for parameter in engine.model.network.parameters():
        whole.update(parameter.data.contiguous().view(torch.uint8).numpy())
    return whole.hexdigest()


def perplexity(model: LoadedModel, ids: list[int]) -> float:
    """Of text read in windows of WINDOW tokens, each from its start."""
    *_, last = readings(model, ids, window=WINDOW)
    return last.perplexity


def perplexity_of_peer(loaded: Any, ids: list[int]) -> float:
    """The same through transformers."""
    windows = torch.tensor(ids).view(-1, 1, WINDOW)
    with torch.inference_mode():
        losses = [
            float(functional.cross_entropy(loaded(each).logits[0, :-1].float(), each[0, 1:]))
            for each in windows
        ]
    return float(torch.tensor(losses).mean().exp())


async def on_thread(engine: Engine, work: Callable[[], T]) -> T:
    """Compute where the engine does; another thread that computes would slow it down."""
    return await call(engine.thread, work, Priority.JUDGE)


def small_model(path: Path) -> Path:
    """One narrow layer with random weights and the tokenizer of the default model, as a folder."""
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    config = AutoConfig.from_pretrained(default_model(), **shape, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(default_model()).save_pretrained(path)
    return path


async def everything_loaded(path: Path) -> None:
    """Load another model first, so that libraries do not count as weights."""
    engine = await Engine.load(small_model(path), device="cpu")
    await engine.set_precision("int4")
    await engine.close()


@asynccontextmanager
async def streaming(engine: Engine, switches: Switches) -> AsyncIterator[None]:
    """A conversation goes on inside the block; it ends with it, and every token is counted."""
    ids: list[int] = []
    shown = 0

    async def stream() -> None:
        nonlocal shown
        options = SamplingOptions(temperature=0.7, seed=1, max_new_tokens=1900)
        generation = engine.generate(STORY, options)
        running.append(generation)
        async for piece in generation:
            shown += piece.tokens
            if piece.summary is not None:
                ids.extend(generation._scheduled.sequence.ids[len(generation.prompt) :])

    running: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(stream)
        await anyio.sleep(0.3)
        yield
        await anyio.sleep(0.3)
        running[0].cancel()
    switches.tokens += len(ids)
    switches.lost += abs(len(ids) - shown)


async def cycles(engine: Engine, count: int) -> float:
    """How much more memory there is after `count` switches to 8 or 4 bits and back, as a share."""
    before = anonymous_mb()
    for cycle in range(count):
        await engine.set_precision(("int8", "int4")[cycle % 2])
        await engine.set_precision("fp16")
    return anonymous_mb() / before - 1


async def switch_all(engine: Engine, switches: Switches, base_mb: float) -> None:
    """Take every pair of precisions once."""
    for precision in ROUTE:
        at_start = anonymous_mb()
        began = time.perf_counter()
        with Peak() as peak:
            await engine.set_precision(precision)
        switches.seconds.append(time.perf_counter() - began)
        now = anonymous_mb()
        switches.extra_mb.append(peak.mb - max(at_start, now))
        switches.mb[precision].append(now - base_mb)


def peer_row(path: Path, bits: int, ids: list[int]) -> dict[str, object]:
    """bitsandbytes has no live switch: it loads the model anew."""
    gc.collect()
    return_free_memory()
    before, began = anonymous_mb(), time.perf_counter()
    loaded = network(path, torch.bfloat16, bits)
    seconds = time.perf_counter() - began
    return_free_memory()
    return {
        "precision": f"bitsandbytes {'int8' if bits == 8 else 'nf4'}",
        "anonymous_mb": anonymous_mb() - before,
        "perplexity": perplexity_of_peer(loaded, ids),
        "switch_s": seconds,
    }


async def measure(path: Path, quick: bool) -> Bench:
    with tempfile.TemporaryDirectory(prefix="sovl") as tiny:
        await everything_loaded(Path(tiny))
    gc.collect()
    return_free_memory()
    base = anonymous_mb()
    # The 16-bit format that the packed kernels are made for.
    engine = await Engine.load(path, device="cpu", dtype="bfloat16", threads=2)
    before, first_mb = await on_thread(engine, partial(digest, engine)), anonymous_mb()
    tokenizer = engine.tokenizer._tokenizer
    text = " ".join(topics[key] for key in sorted(topics))[:200_000]
    ids = tokenizer.encode(text, verbose=False)[: WINDOW * (4 if quick else 16)]
    parameters = engine.model.network.parameters()
    weights_mb = sum(each.numel() * each.element_size() for each in parameters) / 2**20
    alone, talking = Switches(), Switches()
    await switch_all(engine, alone, base)
    alone.mb["fp16"].append(first_mb - base)
    async with streaming(engine, talking):
        for _ in range(1 if quick else 3):
            await switch_all(engine, talking, base)
    growth = await cycles(engine, 10 if quick else 100)
    same = await on_thread(engine, partial(digest, engine)) == before
    ppl = {}
    for precision in alone.mb:
        await engine.set_precision(precision)  # type: ignore[arg-type]
        ppl[precision] = await on_thread(engine, partial(perplexity, engine.model, ids))
    await engine.close()
    rows: list[dict[str, object]] = [
        {
            "precision": name,
            "anonymous_mb": median(alone.mb[name]),
            "perplexity": ppl[name],
            "switch_s": None,
        }
        for name in ppl
    ]
    del engine
    rows += [peer_row(path, bits, ids) for bits in (8, 4)]
    rows += pair_rows(talking)
    goals = [
        *goals_of(alone, talking, ppl, weights_mb),
        Goal("roundtrip_bit_identical", float(same), ">=", 1),
        Goal("cycles_memory_growth", growth, "<=", 0.02),
    ]
    note = (
        f"Switches while a conversation streams ({talking.tokens} tokens came meanwhile), memory "
        f"without one; the slowest switch with nobody talking took {max(alone.seconds):.2f} s. "
        "worst_switch_s is of the slowest pair of precisions its median. "
        f"Then {10 if quick else 100} times to int8 or int4 and back. bitsandbytes has no live "
        "switch: its time is that of loading. Memory: anonymous pages beside those of a process "
        "that holds a tiny model. Extra: above the larger of both precisions, over the weights in "
        "16 bit. The model's source has 4 bit blocks and an 8 bit embedding, which flatters int4."
    )
    return Bench("precision", rows, goals, note)


def goals_of(
    alone: Switches, talking: Switches, ppl: dict[str, float], weights_mb: float
) -> list[Goal]:
    return [
        Goal("worst_switch_s", worst_pair(talking), "<=", 1),
        Goal("tokens_lost", float(talking.lost), "<=", 0),
        Goal("peak_extra_fraction", max(alone.extra_mb) / weights_mb, "<=", 0.10),
        Goal(
            "int8_memory_fraction", median(alone.mb["int8"]) / median(alone.mb["fp16"]), "<=", 0.62
        ),
        Goal(
            "int4_memory_fraction", median(alone.mb["int4"]) / median(alone.mb["fp16"]), "<=", 0.45
        ),
        Goal("int8_ppl_increase", ppl["int8"] / ppl["fp16"] - 1, "<=", 0.01),
        Goal("int4_ppl_increase", ppl["int4"] / ppl["fp16"] - 1, "<=", 0.05),
    ]


def pair_rows(switches: Switches) -> list[dict[str, object]]:
    """One row for each pair of precisions; the route ends where it begins."""
    pairs = zip((ROUTE[-1], *ROUTE), ROUTE, strict=False)
    return [
        {
            "precision": f"{before} to {after}",
            "anonymous_mb": None,
            "perplexity": None,
            "switch_s": median(seconds),
        }
        for (before, after), seconds in zip(pairs, by_pair(switches), strict=True)
    ]


def worst_pair(switches: Switches) -> float:
    return max(median(seconds) for seconds in by_pair(switches))


def by_pair(switches: Switches) -> list[list[float]]:
    return [switches.seconds[pair :: len(ROUTE)] for pair in range(len(ROUTE))]


def run(quick: bool) -> Bench:
    return anyio.run(measure, default_model(), quick)
