"""What is known, asked as a user asks it; and what was known before, whether it is still there."""

import re
from collections.abc import Sequence
from pydoc_data.topics import topics

import anyio

from config import Settings
from experiments.learn_facts import Fact
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.learning.sample import Sample
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message
from sovl_daemon.night.layout import SystemLayout
from sovl_daemon.night.replay import prompt_ids

ANSWER_TOKENS = 16
NEUTRAL_TOKENS = 24
PREFIX, REST, WINDOWS = 48, 64, 24
NEUTRAL = (
    "What is the capital of France?",
    "Who founded the company Apple?",
    "Write a short poem about the sea.",
    "How old is the universe?",
    "What is 7 times 8?",
    "Tell me a joke.",
    "Which color do most people like best?",
    "Where do penguins live?",
    "Who wrote Hamlet?",
    "Explain photosynthesis briefly.",
    "What does a plumber do?",
    "Give me a recipe for pancakes.",
    "What is the name of the largest ocean?",
    "Hello, how are you?",
    "Which animals eat grass?",
    "Name three colors.",
)


async def answers(
    engine: Engine, settings: Settings, questions: Sequence[str], tokens: int = ANSWER_TOKENS
) -> list[str]:
    """To questions that each begin a conversation: the likeliest words, as the daemon decodes."""
    said = [""] * len(questions)
    system = settings.generation.system_prompt
    before = [Message("system", system)] if system else []
    options = SamplingOptions(temperature=0, max_new_tokens=tokens)

    async def ask(place: int, question: str) -> None:
        pieces = engine.generate([*before, Message("user", question)], options)
        said[place] = "".join([piece.text async for piece in pieces])

    async with anyio.create_task_group() as tasks:
        for place, question in enumerate(questions):
            tasks.start_soon(ask, place, question)
    return said


async def exact_match(
    engine: Engine, settings: Settings, asked: Sequence[tuple[str, Sequence[str]]]
) -> float:
    """The share of questions that get one of the answers they have."""
    said = await answers(engine, settings, [question for question, _ in asked])
    right = [bare(a) in map(bare, gold) for a, (_, gold) in zip(said, asked, strict=True)]
    return sum(right) / len(right)


async def in_context(engine: Engine, settings: Settings, facts: Sequence[Fact]) -> float:
    """The upper bound: everything told stands before the question; any mention counts."""
    told = " ".join(fact.told for fact in facts)
    asked = [f"{told}\n\nAnswer with the name alone: {fact.same}" for fact in facts]
    said = await answers(engine, settings, asked)
    right = [
        any(f" {bare(gold)} " in f" {bare(answer)} " for gold in fact.objects)
        for fact, answer in zip(facts, said, strict=True)
    ]
    return sum(right) / len(right)


async def neutral_turns(engine: Engine, settings: Settings) -> list[Sample]:
    """What the engine says now to questions about nothing that was told, to say the same later."""
    layout = SystemLayout(engine.tokenizer, settings.generation.system_prompt)
    said = await answers(engine, settings, NEUTRAL, NEUTRAL_TOKENS)
    turns = [
        (prompt_ids(layout, question), tuple(layout.encode_text(answer)))
        for question, answer in zip(NEUTRAL, said, strict=True)
    ]
    return [Sample(prompt, answer, teacher=prompt) for prompt, answer in turns if answer]


def windows(engine: Engine) -> list[Sample]:
    """Pieces of Python's manual: the beginning is what the scaffold hears, the rest is foretold."""
    text = " ".join(topics[key] for key in sorted(topics))[:60_000]
    ids = engine.tokenizer.encode_text(text)
    stride = len(ids) // WINDOWS
    starts = range(0, stride * WINDOWS, stride)
    return [
        Sample(tuple(ids[at : at + PREFIX]), tuple(ids[at + PREFIX : at + PREFIX + REST]))
        for at in starts
    ]


def bare(answer: str) -> str:
    """As SQuAD compares answers (Rajpurkar et al. 2016): small letters, no points, no articles."""
    words = re.sub(r"[^\w\s]", "", answer.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))
