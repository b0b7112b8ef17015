"""What each precision of the default model costs in memory and perplexity, and the live switch."""

import gc
import hashlib
import tempfile
import threading
import time
from pathlib import Path
from pydoc_data.topics import topics

import anyio
import torch

from benches.common import Bench, Goal, median
from benches.default_model import default_model
from sovl_daemon.engine.allocator import return_free_memory
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.model import LoadedModel
from sovl_daemon.engine.perplexity import perplexity as readings
from tests.unit.engine_tiny import save_tiny

WINDOW = 512
ROUTE = ("int8", "int4", "int8", "fp16", "int4", "fp16")


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


def digest(engine: Engine) -> str:
    whole = hashlib.sha256()
    for parameter in engine.model.network.parameters():
        whole.update(parameter.data.contiguous().view(torch.uint8).numpy())
    return whole.hexdigest()


def perplexity(model: LoadedModel, ids: list[int]) -> float:
    """Of text read in windows of WINDOW tokens, each from its start."""
    *_, last = readings(model, ids, window=WINDOW)
    return last.perplexity


async def everything_loaded(path: Path) -> None:
    """Load another model first, so that libraries do not count as weights."""
    engine = await Engine.load(save_tiny(path), device="cpu")
    await engine.set_precision("int4")
    await engine.close()


async def measure(path: Path, quick: bool) -> Bench:
    with tempfile.TemporaryDirectory(prefix="sovl") as tiny:
        await everything_loaded(Path(tiny))
    gc.collect()
    return_free_memory()
    base = anonymous_mb()
    # The 16-bit format that the packed kernels are made for.
    engine = await Engine.load(path, device="cpu", dtype="bfloat16", threads=2)
    before, first_mb = digest(engine), anonymous_mb()
    tokenizer = engine.tokenizer._tokenizer
    text = " ".join(topics[key] for key in sorted(topics))[:200_000]
    ids = tokenizer.encode(text, verbose=False)[: WINDOW * (4 if quick else 16)]
    weights_mb = (
        sum(p.numel() * p.element_size() for p in engine.model.network.parameters()) / 2**20
    )
    mb: dict[str, list[float]] = {"fp16": [first_mb - base], "int8": [], "int4": []}
    ppl = {"fp16": perplexity(engine.model, ids)}
    seconds, extras = [], []
    for precision in ROUTE:
        at_start = anonymous_mb()
        began = time.perf_counter()
        with Peak() as peak:
            await engine.set_precision(precision)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)
        now = anonymous_mb()
        extras.append(peak.mb - max(at_start, now))
        mb[precision].append(now - base)
        if precision not in ppl:
            ppl[precision] = perplexity(engine.model, ids)
            return_free_memory()
    same = digest(engine) == before
    await engine.close()
    rows: list[dict[str, object]] = [
        {"precision": p, "anonymous_mb": median(mb[p]), "perplexity": ppl[p]} for p in ppl
    ]
    goals = [
        Goal("worst_switch_s", max(seconds), "<=", 1),
        Goal("peak_extra_fraction", max(extras) / weights_mb, "<=", 0.10),
        Goal("int8_memory_fraction", median(mb["int8"]) / median(mb["fp16"]), "<=", 0.62),
        Goal("int4_memory_fraction", median(mb["int4"]) / median(mb["fp16"]), "<=", 0.45),
        Goal("int8_ppl_increase", ppl["int8"] / ppl["fp16"] - 1, "<=", 0.01),
        Goal("int4_ppl_increase", ppl["int4"] / ppl["fp16"] - 1, "<=", 0.05),
        Goal("roundtrip_bit_identical", float(same), ">=", 1),
    ]
    note = (
        "Memory: anonymous pages beside those of a process that holds a tiny model. Extra: above "
    )
    note += (
        "the larger of both precisions, over the weights in 16 bit. The model's source has 4 bit "
    )
    note += "blocks and an 8 bit embedding, which flatters int4."
    return Bench("precision", rows, goals, note)


def run(quick: bool) -> Bench:
    return anyio.run(measure, default_model(), quick)
