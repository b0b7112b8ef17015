"""A night: facts told by day are asked for in a new process; what was known must stay known.

Against plain LoRA on the base with the same lessons, dreams, steps and seeds, and against the base
with all facts in its context.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from benches.common import Bench, Goal, median
from benches.default_model import default_model
from benches.learn_facts import Fact, invent
from sovl_daemon.engine.candidate import Candidate
from sovl_daemon.engine.chat import ChatTokenizer
from sovl_daemon.engine.fusion import Fusion
from sovl_daemon.engine.influence import Influence
from sovl_daemon.engine.lean_batch import linear
from sovl_daemon.engine.learner import Learner, LearnerOptions, pace
from sovl_daemon.engine.lora import LoraOptions
from sovl_daemon.engine.memory_pass import LeanMemoryPass
from sovl_daemon.engine.message import Message
from sovl_daemon.engine.model import LoadedModel, load_model
from sovl_daemon.engine.sample import Ids, Sample, common_prefix
from sovl_daemon.engine.scaffold import LeanScaffold, make_scaffold
from sovl_daemon.engine.span import Span
from sovl_daemon.engine.store import Store
from sovl_daemon.night.curriculum import CurriculumOptions, plan
from sovl_daemon.night.replay import prompt_ids

THREADS = 2
LAYERS = (15, 18, 21, 24, 27)
ADAPTED_FROM = 22
TOGETHER = 16
ANSWER_TOKENS = 16
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


def write(
    model: Any, prompts: Sequence[Ids], tokens: int, stop: frozenset[int], seed: int | None = None
) -> list[list[int]]:
    """Answer prompts side by side: greedily, or sampled with a seed."""
    chance = None if seed is None else torch.Generator().manual_seed(seed)
    answers: list[list[int]] = []
    for start in range(0, len(prompts), TOGETHER):
        answers += _write_some(model, prompts[start : start + TOGETHER], tokens, stop, chance)
    return answers


def _write_some(
    model: Any, prompts: Sequence[Ids], tokens: int, stop: frozenset[int], chance: Any
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    caches = [model.new_cache() for _ in prompts]
    for prompt, cache in zip(prompts, caches, strict=True):
        if isinstance(model, LoadedModel):
            model.listen(prompt, cache, since=len(prompt) - 1)
    live = list(range(len(prompts)))
    news: list[Sequence[int]] = list(prompts)
    for _ in range(tokens):
        with torch.inference_mode():
            logits = model.forward([Span(news[i], caches[i]) for i in live]).float()
        chosen = _choose(logits, chance)
        for index, id_ in zip(live, chosen, strict=True):
            answers[index].append(id_)
            news[index] = [id_]
        live = [i for i, id_ in zip(live, chosen, strict=True) if id_ not in stop]
        if not live:
            break
    return answers


def _choose(logits: torch.Tensor, chance: Any) -> list[int]:
    if chance is None:
        return [int(id_) for id_ in logits.argmax(-1)]
    return [int(id_) for id_ in torch.multinomial(logits.softmax(-1), 1, generator=chance)]


class Lora:
    """Plain LoRA on all layers of the base; shares its matrices, and learns as the Learner does."""

    def __init__(self, base: LoadedModel, updates: int, common: Ids) -> None:
        made = make_scaffold(base, LoraOptions(dropout=0.0), seed=1)
        assert isinstance(made, LeanScaffold)
        # For its bookkeeping of adapters alone; it steers nothing.
        self.fusion = Fusion(base, made, rank=4, heads=1, seed=0)
        base.fusion = None
        self.candidate = Candidate(self.fusion, ())
        self.model = made.lean
        self.common, self.updates = common, 0
        self.options = LearnerOptions(learning_rate=1e-3, updates=updates, replay=3.0)
        self.reader = LeanMemoryPass(made, self.candidate, Store(0))
        self.optimizer = torch.optim.AdamW(self.candidate.adapters.values(), 1e-3, weight_decay=0.0)

    def logits(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Of all tokens of all answers, (N, vocab)."""
        turns = [sample.prompt + sample.answer[:-1] for sample in samples]
        begin = self.common
        common = len(begin) if all(t[: len(begin)] == begin for t in turns) else 0
        hidden = self.reader.read(turns, common, dropout=False).hidden
        rows = [
            hidden[i, len(s.prompt) - 1 - common : len(t) - common]
            for i, (s, t) in enumerate(zip(samples, turns, strict=True))
        ]
        return linear(self.model.head, torch.cat(rows), {}).float()

    def losses(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        told = [sample for sample in samples if sample.teacher is None]
        dreams = [sample for sample in samples if sample.teacher is not None]
        loss = divergence = torch.zeros(())
        # Before any graph is made: it changes the adapters for a moment.
        wanted = self.plain(dreams).log_softmax(-1) if dreams else None
        if told:
            targets = torch.tensor([id_ for sample in told for id_ in sample.answer])
            loss = functional.cross_entropy(self.logits(told), targets)
        if wanted is not None:
            found = self.logits(dreams).log_softmax(-1)
            each = functional.kl_div(found, wanted, log_target=True, reduction="none")
            divergence = each.sum(-1).mean()
        return loss, divergence

    @torch.no_grad()
    def plain(self, samples: Sequence[Sample]) -> torch.Tensor:
        """As the base has it: with adapters that add nothing."""
        ups = {n: p for n, p in self.candidate.adapters.items() if "lora_B" in n}
        kept = {name: each.clone() for name, each in ups.items()}
        for each in ups.values():
            each.zero_()
        found = self.logits(samples)
        for name, each in ups.items():
            each.copy_(kept[name])
        return found

    def step(self, batch: Sequence[Sample]) -> int:
        loss, divergence = self.losses(batch)
        (loss + self.options.replay * divergence).backward()
        torch.nn.utils.clip_grad_norm_(self.candidate.adapters.values(), self.options.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * pace(self.updates, self.options)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return sum(len(sample.answer) for sample in batch)


class Pair:
    """The base with its scaffold, and its learner."""

    def __init__(self, base: LoadedModel, updates: int, common: Ids) -> None:
        names = ("q_proj", "v_proj")
        targets = [
            f"layers.{i}.self_attn.{name}"
            for i in range(ADAPTED_FROM, base.layers)
            for name in names
        ]
        made = make_scaffold(base, LoraOptions(dropout=0.0, targets=tuple(targets)), seed=1)
        self.fusion = Fusion(base, made, rank=128, heads=4, seed=3)
        self.fusion.set(LAYERS, Influence())
        options = LearnerOptions(learning_rate=4e-3, updates=updates, replay=3.0)
        self.learner = Learner(base, self.fusion, options, common=common)
        self.candidate, self.model = self.learner.candidate, base

    def step(self, batch: Sequence[Sample]) -> int:
        return self.learner.step(batch).tokens

    def losses(self, samples: Sequence[Sample]) -> tuple[float, float]:
        found = self.learner.evaluate(samples)
        return found.loss, found.divergence


def loaded() -> tuple[LoadedModel, ChatTokenizer]:
    base = load_model(default_model(), device="cpu", dtype="bfloat16", threads=THREADS)
    base.warm_up()
    return base, ChatTokenizer.load(default_model(), stop_ids=base.stop_ids)


def night(method: str, facts: Sequence[Fact], seed: int, place: Path, epochs: int) -> None:
    """Learn what was told, and leave what was learned in `place`."""
    base, chat = loaded()
    began, calls = time.perf_counter(), iter(range(10**6))

    def dream(prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
        return write(base, prompts, tokens, chat.stop_ids, seed=seed * 1000 + next(calls))

    options = CurriculumOptions(seed=seed, epochs=epochs)
    course = plan([fact.told for fact in facts], dream, chat, options)
    planned = time.perf_counter() - began
    kind = Lora if method == "lora" else Pair
    learning = kind(base, course.steps, common_prefix(course.lessons))
    tokens = sum(learning.step(batch) for batch in course.batches())
    save_file(learning.candidate.state(), place / f"{method}.safetensors")
    figures = {
        "night_s": time.perf_counter() - began,
        "planning_s": planned,
        "steps": course.steps,
        "tokens": tokens,
        "lessons": len(course.lessons),
    }
    (place / f"{method}.json").write_text(json.dumps(figures))


def exam(method: str, facts: Sequence[Fact], place: Path) -> dict[str, float]:
    """Ask a model that never saw the conversation, loaded from what the night left."""
    base, chat = loaded()
    if method == "context":
        return {"same_em": in_context(base, chat, facts)}
    kind = Lora if method == "lora" else Pair
    taught = kind(base, 0, tuple(_opening(chat)))
    windows, neutral = ordinary(chat), [prompt_ids(chat, text) for text in NEUTRAL]
    before = loss_of(taught, windows)
    said = write(base, neutral, 24, chat.stop_ids)
    taught.candidate.load(load_file(place / f"{method}.safetensors"))
    taught.candidate.commit()
    turns = [Sample(p, tuple(a), teacher=p) for p, a in zip(neutral, said, strict=True)]
    divergences = [float(taught.losses(turns[i : i + 8])[1]) for i in range(0, len(turns), 8)]
    figures = {
        "ppl_increase": math.exp(loss_of(taught, windows) - before) - 1,
        "neutral_kl": sum(divergences) / len(divergences),
    }
    return figures | matches(taught.model, chat, facts)


def _opening(chat: ChatTokenizer) -> Ids:
    return common_prefix([Sample(prompt_ids(chat, text), ()) for text in ("a?", "b?")])


def matches(model: Any, chat: ChatTokenizer, facts: Sequence[Fact]) -> dict[str, float]:
    wanted = {
        "same_em": [(fact.same, fact.objects) for fact in facts],
        "paraphrase_em": [(q, fact.objects) for fact in facts for q in fact.paraphrases],
        "reversed_em": [(q, fact.subjects) for fact in facts for q in fact.reversed],
    }
    figures = {}
    for name, asked in wanted.items():
        prompts = [prompt_ids(chat, question) for question, _ in asked]
        answers = write(model, prompts, ANSWER_TOKENS, chat.stop_ids)
        right = [
            bare(chat.decode(a)) in map(bare, g) for a, (_, g) in zip(answers, asked, strict=True)
        ]
        figures[name] = sum(right) / len(right)
    return figures


def in_context(base: LoadedModel, chat: ChatTokenizer, facts: Sequence[Fact]) -> float:
    """The upper bound: everything told stands before the question; any mention counts."""
    told = " ".join(fact.told for fact in facts)
    right = 0
    for fact in facts:
        text = f"{told}\n\nAnswer with the name alone: {fact.same}"
        prompt = tuple(chat.encode([Message("user", text)], 1 << 20))
        answer = chat.decode(write(base, [prompt], ANSWER_TOKENS, chat.stop_ids)[0])
        right += any(f" {bare(gold)} " in f" {bare(answer)} " for gold in fact.objects)
    return right / len(facts)


def bare(answer: str) -> str:
    """As SQuAD compares answers (Rajpurkar et al. 2016): small letters, no points, no articles."""
    words = re.sub(r"[^\w\s]", "", answer.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def ordinary(chat: ChatTokenizer) -> list[Sample]:
    """Pieces of Python's manual: the beginning is what the scaffold hears, the rest is foretold."""
    text = " ".join(topics[key] for key in sorted(topics))[:60_000]
    ids = chat.encode_text(text)
    stride = len(ids) // WINDOWS
    starts = range(0, stride * WINDOWS, stride)
    return [
        Sample(tuple(ids[at : at + PREFIX]), tuple(ids[at + PREFIX : at + PREFIX + REST]))
        for at in starts
    ]


def loss_of(taught: "Lora | Pair", windows: Sequence[Sample]) -> float:
    with torch.no_grad():
        parts = [float(taught.losses(windows[i : i + 8])[0]) for i in range(0, len(windows), 8)]
    return sum(parts) / len(parts)


def in_new_process(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benches.learn", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def one_seed(facts: int, seed: int, epochs: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    common = ("--facts", str(facts), "--seed", str(seed), "--epochs", str(epochs))
    with tempfile.TemporaryDirectory(prefix="sovl") as place:
        for method in ("fusion", "lora", "context"):
            row: dict[str, object] = {"method": method, "facts": facts, "seed": seed}
            if method != "context":
                in_new_process("night", "--method", method, "--place", place, *common)
                row |= json.loads((Path(place) / f"{method}.json").read_text())
            row |= json.loads(in_new_process("exam", "--method", method, "--place", place, *common))
            rows.append(row)
    return rows


FIGURES = ("same_em", "paraphrase_em", "reversed_em", "ppl_increase", "neutral_kl")
COLUMNS = ("method", "facts", "seed", *FIGURES, "night_s", "planning_s", "steps", "tokens")


def goals_of(rows: Sequence[dict[str, object]]) -> list[Goal]:
    def of(method: str, figure: str) -> list[float]:
        return [float(r[figure]) for r in rows if r["method"] == method]  # type: ignore[arg-type]

    def over(figure: str) -> float:
        pairs = zip(of("fusion", figure), of("lora", figure), strict=True)
        return median([ours - theirs for ours, theirs in pairs])

    return [
        Goal("same_em", median(of("fusion", "same_em")), ">=", 0.95),
        Goal("paraphrase_em", median(of("fusion", "paraphrase_em")), ">=", 0.85),
        Goal("reversed_em", median(of("fusion", "reversed_em")), ">=", 0.5),
        Goal("ppl_increase", median(of("fusion", "ppl_increase")), "<=", 0.01),
        Goal("paraphrase_minus_lora", over("paraphrase_em"), ">=", 0),
        Goal("ppl_increase_minus_lora", over("ppl_increase"), "<=", 0),
    ]


def run(quick: bool, facts: int = 20, seeds: int = 3) -> Bench:
    count, epochs = (4, 4) if quick else (facts, CurriculumOptions().epochs)
    rows = [row for seed in range(1 if quick else seeds) for row in one_seed(count, seed, epochs)]
    note = (
        f"{count} facts, each told once; asked in a new process without context. Paraphrases and "
        "reversed questions are the bench's own. Perplexity: of Python's manual, from the "
        f"{PREFIX}th token of a piece on, steered by what is before. lora: r 8 on the queries and "
        "values of all layers of the base. context: all facts stand before the question."
    )
    shown = [{column: row.get(column) for column in COLUMNS} for row in rows]
    return Bench("learn", shown, goals_of(rows), note)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("night", "exam"))
    parser.add_argument("--method", required=True, choices=("fusion", "lora", "context"))
    parser.add_argument("--place", required=True, type=Path)
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=9)
    options = parser.parse_args()
    facts = invent(options.facts, options.seed)
    if options.phase == "night":
        night(options.method, facts, options.seed, options.place, options.epochs)
    else:
        print(json.dumps(exam(options.method, facts, options.place)))


if __name__ == "__main__":
    main()
