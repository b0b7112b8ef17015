"""How alike two texts are, by their words and letters: cheap, and without a model.

The cosine between bags of features, each weighted by 1 + ln(how often it occurs), so that a word
said ten times does not drown the others (Manning, Raghavan, Schütze: Introduction to Information
Retrieval, 6.4.1). The features are words and character trigrams; trigrams let "dream" and
"dreaming" meet, and work for scripts without spaces.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_CHARACTERS = 4096
"""So much of a text counts; what comes after it has no say."""

_LONG_WORD = 8
_WORDS = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True, slots=True)
class Vector:
    """The weights of a text's features, and the square of their length."""

    weights: dict[str, float]
    square: float


def similarity(one: str, other: str) -> float:
    """Return how alike two texts are: 0 for nothing in common, 1 for the same.

    Case, width and spacing of the characters do not matter. Two blank texts are the same, and a
    blank one is like no other. The order does not matter: it is exactly symmetric.
    """
    return cosine(vector(one), vector(other))


def similarities(text: str, texts: Iterable[str]) -> list[float]:
    """Return how alike `text` is to each of several."""
    return [similarity(text, each) for each in texts]


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two vectors, 0 to 1."""
    if not (one.weights and other.weights):
        return float(one.weights == other.weights)
    few, many = sorted((one.weights, other.weights), key=len)
    # An exact sum makes it symmetric to the last bit, and 1 for a text with itself.
    dot = math.fsum(weight * many[name] for name, weight in few.items() if name in many)
    return min(1.0, dot / math.sqrt(one.square * other.square))


def vector(text: str) -> Vector:
    """Return the features of a text; the last few hundred texts are remembered."""
    return _vector(text[:MAX_CHARACTERS])


@lru_cache(maxsize=256)
def _vector(text: str) -> Vector:
    plain = unicodedata.normalize("NFKC", text).casefold()
    features: Counter[str] = Counter()
    importance: dict[str, float] = {}
    # Long words carry the topic, short ones the grammar. They come by length, so that a trigram of
    # several words is as important as the longest of them.
    for word in sorted(_WORDS.findall(plain), key=len):
        spaced = f" {word} "
        found = [f"={word}", *(spaced[at : at + 3] for at in range(len(word)))]
        features.update(found)
        importance.update(dict.fromkeys(found, min(len(word), _LONG_WORD) / _LONG_WORD))
    weights = {name: importance[name] * (1.0 + math.log(count)) for name, count in features.items()}
    return Vector(weights, math.fsum(weight * weight for weight in weights.values()))
