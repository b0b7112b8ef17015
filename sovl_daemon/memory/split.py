"""Which pairs are learned from, and which are held back to check what was learned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sovl_daemon.memory.pairs import Pair

_SCALE = 2.0**64


@dataclass(frozen=True, slots=True)
class Split:
    """Pairs to learn from and pairs held back, each in the order they were given."""

    training: tuple[Pair, ...]
    validation: tuple[Pair, ...]


def split(
    pairs: Sequence[Pair], ratio: float, seed: int, *, max_samples: int | None = None
) -> Split:
    """Hold a share of the pairs back for validation.

    A hash of seed and prompt decides, so a pair stays on its side while others come and go, all
    responses to one prompt are on the same side, and a larger ratio only adds to the validation.
    The share is `ratio` on average. When all pairs would be on one side and there are two prompts
    or more, the prompt nearest to the border changes sides: only then can another pair move one.

    Args:
        pairs: All pairs.
        ratio: Share for validation, 0 to below 1; with 0 nothing is held back.
        seed: Any whole number; another seed gives another split.
        max_samples: Use no more than the first so many pairs, for a dry run; None for all. How
            many tokens a pair may have is for the trainer to say, who has the tokenizer.

    Raises:
        ValueError: The ratio is not one.

    """
    if not 0 <= ratio < 1:
        raise ValueError(f"the ratio {ratio} is out of range, allowed 0 to below 1")
    used = tuple(pairs[:max_samples])
    if ratio == 0:
        return Split(used, ())
    held = _held_back({each.prompt for each in used}, ratio, seed)
    return Split(
        training=tuple(each for each in used if each.prompt not in held),
        validation=tuple(each for each in used if each.prompt in held),
    )


def _held_back(prompts: set[str], ratio: float, seed: int) -> set[str]:
    places = {prompt: _place(prompt, seed) for prompt in prompts}
    held = {prompt for prompt in prompts if places[prompt] < ratio}
    if len(prompts) < 2:
        return set()
    if not held:
        return {min(prompts, key=places.__getitem__)}
    if held == prompts:
        return held - {max(prompts, key=places.__getitem__)}
    return held


def _place(prompt: str, seed: int) -> float:
    """Return where between 0 and 1 a prompt falls."""
    digest = hashlib.blake2b(f"{seed}\n{prompt}".encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / _SCALE
