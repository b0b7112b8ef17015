"""Small minds to store, each unlike the others, and how to tell which one was found."""

from typing import Any

import numpy as np

from sovl_daemon.state import Contents, Generation, Origin

ORIGIN = Origin(base="base", scaffold="scaffold", memory="memory-1")
FILES = (
    "fusion.safetensors",
    "scaffold.safetensors",
    "token_map.json",
    "mind.json",
    "manifest.json",
    "manifest.sha256",
)


def mind(number: int, size: int = 4) -> Contents:
    """Contents that have `number` in each of their files."""
    return Contents(
        fusion={"0.q": np.full((size, 2), number, np.float32), "0.gate": np.array(0.5)},
        scaffold={"lora_A": np.arange(size, dtype=np.float32) + number},
        token_map={"version": 1, "weights": {"7": float(number)}},
        mind={"number": number, "temperament": {"score": number / 1000}},
    )


def number_in(generation: Generation) -> int:
    """The number of the mind in a generation; fails if its files are of several."""
    return number_of(generation.contents())


def number_of(contents: Contents) -> int:
    numbers: set[Any] = {contents.mind["number"], contents.token_map["weights"]["7"]}
    numbers |= set(contents.fusion["0.q"].flatten().tolist())
    numbers.add(contents.scaffold["lora_A"][0].item())
    assert len(numbers) == 1, f"a mixture: {numbers}"
    return int(numbers.pop())
