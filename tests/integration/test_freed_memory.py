"""What is freed, the system gets, to the last megabyte, time and again."""

import json
import subprocess
import sys
from pathlib import Path

from config import Settings
from sovl_daemon.process import _environment
from tests import tiny_models

# Prints by how many bytes this process shrinks each time that the weights are held in 8 bits.
CYCLES = """
import json, os, sys
from pathlib import Path
import anyio
from sovl_daemon.control.sources.process_tree import exact_anonymous_bytes
from sovl_daemon.engine.model.allocator import return_free_memory
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.serving.options import SamplingOptions

def held():
    return_free_memory()
    return exact_anonymous_bytes(os.getpid())

async def main():
    engine = await Engine.load(Path(sys.argv[1]), device="cpu", dtype="bfloat16")
    await engine.resize_prefix_cache(64 << 20)
    freed = []
    for _ in range(6):
        for sea in ("Black", "White"):
            talk = [Message("user", f"The {sea} Sea is wide. " * 70)]
            async for _ in engine.generate(talk, SamplingOptions(max_new_tokens=20)):
                pass
        before = held()
        await engine.set_precision("int8")
        freed.append(before - held())
        await engine.set_precision("fp16")
    print(json.dumps({"freed": freed, "weights": engine.usage().parameters}))
    await engine.close()

anyio.run(main)
"""


# Fills the heap, keeps every hundredth piece so that the C library cannot shrink it by itself,
# lets the rest go, and gives back what lies free.
HEAP = """
import json, os
from sovl_daemon.control.sources.process_tree import exact_anonymous_bytes
from sovl_daemon.engine.model.allocator import return_free_memory, returnable_bytes

return_free_memory()
told = [returnable_bytes()]
pieces = [bytes(20_000) for _ in range(5_000)]
kept = pieces[::100]
del pieces
told.append(returnable_bytes())
before = exact_anonymous_bytes(os.getpid())
return_free_memory()
freed = before - exact_anonymous_bytes(os.getpid())
told.append(returnable_bytes())
print(json.dumps({"told": told, "freed": freed, "kept": len(kept)}))
"""


def test_what_can_be_given_back_is_told_before_and_given_back_once() -> None:
    command = [sys.executable, "-c", HEAP]
    said = subprocess.run(command, env=_environment(Settings()), capture_output=True, check=True)
    found = json.loads(said.stdout)
    at_first, between, at_last = found["told"]
    assert between > 50e6
    assert found["freed"] > 0.9 * between
    assert max(at_first, at_last) < 4e6, "what was given back cannot be given back twice"


def test_quantized_weights_leave_no_hole_behind(tmp_path: Path) -> None:
    model = tiny_models.save(tiny_models.wide(), tmp_path)
    command = [sys.executable, "-c", CYCLES, str(model)]
    told = subprocess.run(command, env=_environment(Settings()), capture_output=True, check=True)
    found = json.loads(told.stdout)
    # Nearly all are matrices, of which each weight takes a byte less.
    assert min(found["freed"]) > 0.9 * found["weights"]
    assert max(found["freed"]) < 1.1 * found["weights"]
