"""scikit-learn's gradient boosting on the numbers of a question, one model for each task."""

import json
import math
import subprocess
from collections.abc import Mapping, Sequence

from benches.peer_python import PYTHON, environment, install

REQUIREMENT = "scikit-learn==1.9.1"
SCRIPT = """
import json, math, sys
from sklearn.ensemble import HistGradientBoostingClassifier
chances = {}
for name, (taught, truths, asked) in json.load(sys.stdin).items():
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
    chances[name] = model.fit(taught, truths).predict_proba(asked)[:, 1].tolist()
json.dump(chances, sys.stdout)
"""

Numbers = Sequence[Sequence[float | None]]


def boosted(
    lessons: Mapping[str, tuple[Numbers, Sequence[bool], Numbers]],
) -> Mapping[str, list[float]]:
    """P(true) of each question asked, by task: what was taught, its truths, and what is asked."""
    install(REQUIREMENT)
    told = {
        name: (_filled(taught), list(truths), _filled(asked))
        for name, (taught, truths, asked) in lessons.items()
    }
    done = subprocess.run(
        [str(PYTHON), "-c", SCRIPT],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _filled(rows: Numbers) -> list[list[float]]:
    return [[math.nan if x is None else x for x in row] for row in rows]
