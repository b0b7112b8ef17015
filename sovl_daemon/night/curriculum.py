"""What a night goes through, in which order."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sovl_daemon.engine.learning.sample import Sample
from sovl_daemon.night.replay import Layout, Writer, dream_chats, dream_texts, prompt_ids, starts_of
from sovl_daemon.night.statement import Statement, find_statements
from sovl_daemon.night.variants import Exchange, backward, forward

T = TypeVar("T")

ANSWER_WEIGHT = 1.2
"""The weight of what answered a question of the mind's own, against 1 for the rest; as in SOVL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumOptions:
    """How a night is laid out.

    Each micro-batch has `batch` lessons and `replayed` dreams, and every lesson is met `epochs`
    times. Dreamt are `dreams_per_start` exchanges for each of the commonest ways in which a
    question begins, `free_dreams` that begin anyhow, and `texts` of running text; `dream_tokens`
    bounds what is kept of each. Of known facts every `rehearsed_every`th form is met again; one
    dream of `eval_every` is not learned from. An exam has `eval_size` questions, and as many
    dreams, at most. However much was told, there are no more than `max_lessons`, `max_starts`,
    `max_lived` exchanges that are dreamt of and `max_rehearsed` forms of known facts.
    """

    epochs: int = 9
    batch: int = 16
    max_lessons: int = 5000
    max_rehearsed: int = 500
    max_lived: int = 64
    max_starts: int = 64
    replayed: int = 5
    dreams_per_start: int = 2
    free_dreams: int = 40
    texts: int = 32
    dream_tokens: int = 12
    rehearsed_every: int = 4
    eval_every: int = 6
    eval_size: int = 64
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The lessons of a night, and the dreams between them: exchanges and running text.

    The exam has `eval_questions`, in a form that no lesson has, and `eval_dreams`, which nothing is
    learned from.
    """

    lessons: tuple[Sample, ...]
    chats: tuple[Sample, ...]
    texts: tuple[Sample, ...]
    options: CurriculumOptions
    eval_questions: tuple[Sample, ...] = ()
    eval_dreams: tuple[Sample, ...] = ()

    @property
    def steps(self) -> int:
        """Number of micro-batches of the night."""
        return self.options.epochs * self._per_epoch

    def lasting(self, steps: int, factor: float) -> "Curriculum":
        """Return the same for so many epochs that there are `steps` * `factor` steps, or more."""
        epochs = max(1, math.ceil(steps * factor / self._per_epoch))
        return replace(self, options=replace(self.options, epochs=epochs))

    def within(self, limit: int) -> "Curriculum":
        """Return the same with no sample longer than `limit` tokens; see Sample.within."""

        def cut(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
            return tuple(sample.within(limit) for sample in samples)

        return replace(
            self,
            lessons=cut(self.lessons),
            chats=cut(self.chats),
            texts=cut(self.texts),
            eval_questions=cut(self.eval_questions),
            eval_dreams=cut(self.eval_dreams),
        )

    @property
    def _per_epoch(self) -> int:
        """One of dreams alone where there are no lessons."""
        return max(1, -(-len(self.lessons) // self.options.batch))

    def batches(self, start: int = 0) -> Iterator[list[Sample]]:
        """Yield the micro-batches from the step `start` on, the same for the same seed.

        Lessons of one batch have answers and questions of about one length; exchanges and running
        text take turns in between.
        """
        size = self.options.batch
        per_epoch = self._per_epoch
        for step in range(start, self.steps):
            epoch, place = divmod(step, per_epoch)
            rng = random.Random(f"{self.options.seed}/{epoch}")  # noqa: S311 - no secret
            order = sorted(  # by length, those of nearly the same at random
                self.lessons,
                key=lambda each: (len(each.answer) // 2, len(each.prompt) + 4 * rng.random()),
            )
            parts = [order[at : at + size] for at in range(0, len(order), size)]
            rng.shuffle(parts)
            rng = random.Random(f"{self.options.seed}:{step}")  # noqa: S311 - no secret
            one, other = (self.chats, self.texts) if step % 2 else (self.texts, self.chats)
            dreams = one or other
            replayed = rng.sample(dreams, min(self.options.replayed, len(dreams)))
            yield [*(parts[place] if parts else ()), *replayed]


def plan(
    told: Sequence[str],
    write: Writer,
    layout: Layout,
    options: CurriculumOptions,
    *,
    weights: Sequence[float] = (),
    known: Sequence[str] = (),
    lived: Sequence[Sample] = (),
) -> Curriculum:
    """Make lessons of what was told, a message each, and let the base dream between them.

    The lessons of a message weigh as `weights` says, one number a message, or 1 each; what several
    messages tell is learned once, with the largest of their weights. Of what is
    `known` from earlier nights some forms are rehearsed. `lived` are exchanges that tell nothing:
    they are dreamt of, to stay as they are. The last of the dreams are for the exam.
    """
    rng = random.Random(options.seed)  # noqa: S311 - no secret

    def sampled(found: Iterable[T], limit: int) -> list[T]:
        all_ = list(found)
        return all_ if len(all_) <= limit else rng.sample(all_, limit)

    about: dict[tuple[Exchange, str], float] = {}
    for text, weight in zip(told, weights or [1.0] * len(told), strict=True):
        for pair in exchanges(text):
            about[pair] = max(weight, about.get(pair, weight))
    starts = starts_of([(each.question, subject) for each, subject in about], options.max_starts)
    starts = starts * options.dreams_per_start + [""] * options.free_dreams
    tokens = options.dream_tokens
    lived = sampled(lived, options.max_lived)
    chats = [*lived, *dream_chats(write, layout, starts, tokens=tokens)]
    texts = dream_texts(write, layout, options.texts, tokens=tokens, seed=options.seed)
    learned = sampled(about.items(), options.max_lessons)
    old = (pair for text in known for pair in exchanges(text)[:: options.rehearsed_every])
    rehearsed = sampled(old, options.max_rehearsed)
    lessons = [lesson(layout, each, weight) for (each, _), weight in learned]
    lessons += [lesson(layout, each) for each, _ in rehearsed]
    held = dict.fromkeys(held_out(each) for text in told for each in find_statements(text))
    questions = [lesson(layout, each) for each in sampled(held, options.eval_size)]
    cut, end = len(chats) - len(chats) // options.eval_every, len(texts) // options.eval_every
    dreams = sampled([*chats[cut:], *texts[:end]], options.eval_size)
    return Curriculum(
        tuple(lessons),
        tuple(chats[:cut]),
        tuple(texts[end:]),
        options,
        eval_questions=tuple(questions),
        eval_dreams=tuple(dreams),
    )


def count_that_fits(told: Sequence[str], options: CurriculumOptions) -> int:
    """Return how many of the messages one night has room for, from the first one on: one at least.

    Of the lessons of what comes after that, some would be left out.
    """
    lessons: set[tuple[Exchange, str]] = set()
    for count, text in enumerate(told):
        lessons.update(exchanges(text))
        if count and len(lessons) > options.max_lessons:
            return count
    return len(told)


def exchanges(told: str) -> list[tuple[Exchange, str]]:
    """Return questions about what was told, with the words each is about; one form is held out."""
    found = []
    for statement in find_statements(told):
        out = held_out(statement)
        found += [(each, statement.subject) for each in forward(statement) if each != out]
        found += [(each, statement.object) for each in backward(statement)]
    return found


def held_out(statement: Statement) -> Exchange:
    """Return the question that no lesson asks, so that an exam can."""
    return forward(statement)[3]


def lesson(layout: Layout, exchange: Exchange, weight: float = 1.0) -> Sample:
    """Return the exchange as token ids."""
    answer = tuple(layout.encode_answer(exchange.answer))
    return Sample(prompt_ids(layout, exchange.question), answer, weight)
