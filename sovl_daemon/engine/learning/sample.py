"""What the learner learns from, token ids alone, and how gently."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and how to go on from it, the token that ends the turn included.

    Without a `teacher` the answer itself is to be learned. With one, it is what the plain base
    would say after each token of the answer if its prompt were `teacher`: a conversation with the
    facts in it, or the sample's own prompt, to stay as it is. `weight` is relative to the others.
    """

    prompt: Ids
    answer: Ids
    weight: float = 1.0
    teacher: Ids | None = None

    def within(self, limit: int) -> "Sample":
        """Return the end of its prompt and the beginning of its answer, `limit` tokens at most.

        The answer gets what the prompt leaves, or half if that is less.
        """
        answer = self.answer[: max(limit - len(self.prompt), limit // 2, 1)]
        room = max(limit - len(answer), 1)
        teacher = None if self.teacher is None else self.teacher[-room:]
        return replace(self, prompt=self.prompt[-room:], answer=answer, teacher=teacher)

    @property
    def replay(self) -> bool:
        """Whether it asks the model to stay as it is."""
        return self.teacher == self.prompt


def common_prefix(samples: Sequence[Sample]) -> Ids:
    """Return what all prompts begin with, at least one token short of the shortest."""
    prompts = [sample.prompt for sample in samples]
    if not prompts:
        return ()
    low, high = min(prompts), max(prompts)
    count = 0
    while count < min(map(len, prompts)) - 1 and low[count] == high[count]:
        count += 1
    return low[:count]


@dataclass(frozen=True, slots=True)
class ThrottleFactors:
    """How gently a training goes on, as factors above 0, at most 1.

    `rate` is one on the learning rate; `batch` the share of a micro-batch that is computed at a
    time, in whole rows: the update is the same sum, only what dropout leaves out is drawn anew.
    """

    rate: float = 1.0
    batch: float = 1.0
