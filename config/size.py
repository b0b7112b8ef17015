"""How large a configuration may be: all of it is told to every agent whenever it changes."""

import json
from collections.abc import Iterator

from config.faults import Fault
from config.settings import Settings

MAX_BYTES = 131_072


def oversize(settings: Settings) -> Iterator[Fault]:
    """Yield a fault that names the largest value, where all of them are too large together."""
    document = settings.model_dump(mode="json")
    if len(json.dumps(document)) <= MAX_BYTES:
        return
    sizes = {
        f"{section}.{name}": len(json.dumps(value))
        for section, values in document.items()
        for name, value in values.items()
    }
    largest = max(sizes, key=sizes.__getitem__)
    problem = f"has {sizes[largest]} bytes, all settings together may have {MAX_BYTES}"
    yield Fault(largest, problem)
