"""scikit-learn's gradient boosting on the numbers of a question, one model for each task."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

Numbers = Sequence[Sequence[float | None]]


def boosted(
    lessons: Mapping[str, tuple[Numbers, Sequence[bool], Numbers]],
) -> Mapping[str, list[float]]:
    """P(true) of each question asked, by task: what was taught, its truths, and what is asked."""
    return {name: _boosted(*each) for name, each in lessons.items()}


def _boosted(taught: Numbers, truths: Sequence[bool], asked: Numbers) -> list[float]:
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
    model.fit(np.array(taught, dtype=float), truths)
    found: list[float] = model.predict_proba(np.array(asked, dtype=float))[:, 1].tolist()
    return found
