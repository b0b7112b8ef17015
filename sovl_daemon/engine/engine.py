"""The engine: a model, its tokenizer and the thread that owns them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from sovl_daemon.engine.errors import ModelLoadError, OptionError
from sovl_daemon.engine.judging.judging import (
    JudgeMethod,
    JudgeRunner,
    LineAttribution,
    PromptParts,
    TokenizedPrompt,
    TruthProbabilities,
    tokenize_prompt,
)
from sovl_daemon.engine.judging.probe import Probe
from sovl_daemon.engine.model.model import Fingerprint, LoadedModel, load_model
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.serving.answer_stream import AnswerRequest, AnswerStream, Repetition
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.serving.prefix_cache import PrefixCache
from sovl_daemon.engine.serving.scheduler import Scheduler
from sovl_daemon.engine.serving.token_sequence import TokenSequence
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.text.message import Message
from sovl_daemon.engine.thread.cores import keep_to_cores
from sovl_daemon.engine.thread.inbox import call
from sovl_daemon.engine.thread.tensor_thread import Priority, TensorThread

if TYPE_CHECKING:  # peft takes seconds to load: conversations need not wait for it
    import torch

    from sovl_daemon.engine.fusion.architecture import Architecture
    from sovl_daemon.engine.fusion.fusion import DreamStates, Fusion
    from sovl_daemon.engine.fusion.scaffold import FusionOptions
    from sovl_daemon.engine.fusion.steering import Steering

# Read once beside the scaffold, to see whether that goes.
_TRIAL = "What do you see, déjà vu? The capital of France is Paris."
T = TypeVar("T")

# The part of the context a long answer may claim from the prompt, at most.
_ANSWER_SHARE = 4
_MIN_CONTEXT = 16
_LONGEST_DREAM = 64  # tokens
_BITS: dict[Precision, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts that may be a step of the tensor thread apart from each other.

    Attributes:
        precision: What the weights are held in, by the name of the setting: fp16, int8 or int4.
        offloaded: Whether they stay in their file instead, for now.
        bits: Bits of a weight in memory.
        switchable: Whether they can be held otherwise.
        cores: Cores that the process keeps to; 0 for all that it was given.
        threads: CPU threads of each kind of work that there was, where they are not fixed.
        parameters: Weights of the base.
        max_concurrent: Answers that may advance together.
        running: Answers that do.
        waiting: Answers that wait for their turn.
        max_prefix_bytes: Bytes that may be kept of ended answers.
        prefix_bytes: Bytes that are.

    """

    precision: str
    offloaded: bool
    bits: int
    switchable: bool
    cores: int
    threads: dict[str, int]
    parameters: int
    max_concurrent: int
    running: int
    waiting: int
    max_prefix_bytes: int
    prefix_bytes: int


class Engine:
    """Answers conversations with one loaded model.

    Other tensor work (a judge, a trainer) goes to `thread` and uses `model` on it alone.
    `context_length` bounds prompt and answer together, in tokens.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: ChatTokenizer,
        thread: TensorThread,
        *,
        context_length: int,
        max_concurrent: int = 8,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.thread = thread
        self.fusion: Fusion | None = None
        self.context_length = min(context_length, model.max_context or context_length)
        self._caches = PrefixCache(model)
        self._scheduler = Scheduler(model, self._caches, thread, max_concurrent)
        self._judge_runner = JudgeRunner(model, tokenizer)
        self._parameters = model.parameters
        self._precision = model.plain
        self._offloaded = False
        self._cores = 0
        self._switching = anyio.Lock()
        # One prompt is made into tokens at a time: more would take the cores from those who answer.
        self._reading = anyio.CapacityLimiter(1)

    @property
    def precision(self) -> Precision:
        """What the weights are held in; "fp16" is whichever 16-bit format they were loaded in."""
        return self._precision

    @classmethod
    async def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 1,
        context_length: int = 2048,
        max_concurrent: int = 8,
    ) -> "Engine":
        """Load the model in the folder `path` and warm it up, without blocking the event loop.

        `max_concurrent` conversations advance together, the others wait. `threads` CPU threads
        work on a step, 0 for what is fastest at each time.

        Raises:
            ModelLoadError: the folder holds no model that can be run.
            OptionError: an option is not allowed here.
            EngineOutOfMemoryError: the model does not fit.

        """
        if context_length < _MIN_CONTEXT or max_concurrent < 1:
            raise OptionError(
                f"context_length {context_length} and max_concurrent {max_concurrent}: "
                f"give at least {_MIN_CONTEXT} and 1"
            )
        # Not on the tensor thread: a long load would look like a hung step.
        load = partial(_load, path, device, dtype, threads)
        model, tokenizer = await anyio.to_thread.run_sync(_in_a_passing_thread, load)
        thread = TensorThread()
        engine = cls(
            model,
            tokenizer,
            thread,
            context_length=context_length,
            max_concurrent=max_concurrent,
        )
        try:
            await call(thread, model.warm_up, Priority.JUDGE)
        except BaseException:
            await engine.close()
            raise
        return engine

    def generate(
        self,
        messages: Sequence[Message],
        options: SamplingOptions | None = None,
        *,
        priority: Priority = Priority.CONVERSATION,
        stop_repetition: bool = False,
    ) -> AnswerStream:
        """Answer the last message; iterate the result for the chunks of the answer.

        A history that is too long loses its oldest turns. With `stop_repetition` the answer ends
        where it begins to say the same again. Iterating it raises:

        Raises:
            OptionError: there is no user message, or the chat template refuses the messages.
            PromptTooLongError: the system prompt and the last message do not fit.
            EngineError: out of memory, stopped, or a model that gives NaN.

        """
        options = options or SamplingOptions()

        def request() -> AnswerRequest:
            prompt = self.tokenizer.encode(messages, self._prompt_limit(options))
            sequence = TokenSequence(
                self._caches,
                prompt,
                options,
                stop_ids=self.tokenizer.stop_ids,
                context_length=self.context_length,
            )
            text = self.tokenizer.answer_text()
            repetition = Repetition() if stop_repetition else None
            return AnswerRequest(sequence, text, prompt, priority, repetition)

        prepare = partial(_in_thread, request, limiter=self._reading)  # off the loop
        return AnswerStream(self._scheduler, prepare)

    def check(self, messages: Sequence[Message], options: SamplingOptions) -> None:
        """Refuse at once what is too long however it is read; see ChatTokenizer.check."""
        self.tokenizer.check(messages, self._prompt_limit(options))

    async def set_precision(self, precision: Precision) -> None:
        """Hold the weights in another precision; conversations go on, a token every few layers.

        Back in the precision the model was loaded in, every bit is as it was. A switch that fails
        or is cancelled leaves the precision as it was.

        Raises:
            OptionError: the model cannot be held so here.
            EngineOutOfMemoryError: there is no memory for the switch.
            EngineStoppedError: the engine was closed.

        """
        async with self._switching:
            await self._hold(precision, offloaded=self._offloaded)
            self._precision = precision

    async def offload(self, offloaded: bool) -> None:
        """Leave the weights in their file, or hold them again; conversations go on meanwhile.

        Offloaded, they are read for each token: that takes next to no memory, and time. What they
        are held in later may be changed meanwhile. Raises as `set_precision`.
        """
        async with self._switching:
            await self._hold(self._precision, offloaded=offloaded)
            self._offloaded = offloaded

    async def keep_to_cores(self, count: int) -> None:
        """Let this process, with all its threads, run on so many cores from now on, 0 for all.

        Raises:
            OptionError: the system gives none of them any more.
            EngineStoppedError: the engine was closed.

        """
        await call(self.thread, partial(keep_to_cores, count), Priority.JUDGE)
        self._cores = count

    async def resize_prefix_cache(self, max_bytes: int) -> None:
        """Keep up to so many bytes of what ended answers have read, for prompts that begin alike.

        Raises:
            EngineStoppedError: the engine was closed.

        """
        await call(self.thread, partial(self._caches.resize, max_bytes), Priority.JUDGE)

    async def admit(self, max_concurrent: int) -> None:
        """Let so many answers advance together from now on; those that run already go on.

        Raises:
            OptionError: less than 1.

        """
        if max_concurrent < 1:
            raise OptionError(f"max_concurrent {max_concurrent}: give at least 1")
        self._scheduler.max_concurrent = max_concurrent

    async def answer_bytes(self) -> int:
        """Count the bytes of keys and values of running answers, between two steps.

        Raises:
            EngineStoppedError: the engine was closed.

        """
        return await call(self.thread, lambda: self._scheduler.nbytes, Priority.JUDGE)

    async def drop_prefixes(self) -> None:
        """Forget what ended answers have read; the next prompts are read from their start.

        Raises:
            EngineStoppedError: the engine was closed.

        """
        await call(self.thread, self._caches.clear, Priority.JUDGE)

    async def judge(
        self, parts: PromptParts, by: JudgeMethod = "probe", task: str = ""
    ) -> TruthProbabilities:
        """Ask the plain base for true or false; what it read of the prefix is kept for the next.

        A probe, where there is one, reads no further than it must, and compares with the centre of
        the `task`. By "words", or without a probe, true and false are asked for.

        Raises:
            OptionError: the chat template refuses the prompt, or it has no metric.
            PromptTooLongError: it does not fit into the context.
            EngineError: out of memory, stopped, or a model that gives NaN.

        """
        prompt = await self._tokenized(parts)
        return await call(
            self.thread, partial(self._judge_runner.judge, prompt, by, task), Priority.JUDGE
        )

    async def explain(
        self, parts: PromptParts, task: str = ""
    ) -> tuple[TruthProbabilities, list[LineAttribution]]:
        """Judge by the probe, and say what each line adds to the logit. Raises as `judge`."""
        prompt = await self._tokenized(parts)
        return await call(
            self.thread, partial(self._judge_runner.explain, prompt, task), Priority.JUDGE
        )

    async def centre(self, task: str, prompts: Sequence[PromptParts]) -> None:
        """Give the probe the centre of typical prompts of a task, unless it has one."""
        if not self._judge_runner.knows(task):
            typical = [await self._tokenized(each) for each in prompts]
            work = partial(self._judge_runner.centre, task, typical)
            await call(self.thread, work, Priority.CURIOSITY)

    async def use_probe(self, probe: Probe | None) -> None:
        """Judge by a probe from now on, or by words. Raises EngineError: it does not fit."""
        await call(self.thread, partial(self._judge_runner.use, probe), Priority.JUDGE)

    async def fingerprint(self) -> Fingerprint:
        """Return digests of the weights as they are held, and of the base's logits after a text.

        Raises:
            EngineStoppedError: the engine was closed.

        """
        ids = self.tokenizer.encode_text(_TRIAL)[: self.context_length]
        async with self._switching:
            work = partial(self.model.fingerprint, self.precision, ids)
            return await call(self.thread, work, Priority.JUDGE)

    async def fuse(self, scaffold: Path, options: "FusionOptions") -> str:
        """Put the model in the folder `scaffold` beside the base; fresh, it changes nothing yet.

        Returns what was decided for the user on the way, empty if nothing. Conversations go on.

        Raises:
            ModelLoadError: the folder holds no model that can be run.
            OptionError: the adapters do not fit on it.
            EngineOutOfMemoryError: it does not fit.

        """
        from sovl_daemon.engine.fusion.fusion import Fusion
        from sovl_daemon.engine.fusion.scaffold import load_scaffold

        load = partial(load_scaffold, scaffold, options, self.model, self.tokenizer)
        made, tokens = await anyio.to_thread.run_sync(load)
        make = partial(Fusion, self.model, made, tokens, **options.shape())
        self.fusion = await call(self.thread, make, Priority.JUDGE)
        return made.note

    def fused(self) -> "Fusion":
        """Return the scaffold and how it steers. Raises OptionError where there is none."""
        if self.fusion is None:
            raise OptionError("there is no scaffold beside the base: fuse one first")
        return self.fusion

    async def examine(self, layers: Sequence[int]) -> "Architecture":
        """Try whether base and scaffold fit together with `layers` fused; see architecture.examine.

        Raises:
            OptionError: nothing is fused, or the base has no such layer.
            ModelLoadError: the scaffold cannot read what the base reads.
            NonFiniteLogitsError: the fused model gives no distribution.
            EngineStoppedError: the engine was closed.

        """
        from sovl_daemon.engine.fusion.architecture import examine

        prompt = self.tokenizer.encode_text(_TRIAL)[: self.context_length]
        work = partial(examine, self.model, self.fused(), layers, prompt)
        return await call(self.thread, work, Priority.JUDGE)

    async def steer(self, steering: "Steering") -> None:
        """Choose the fused layers and how strongly they steer; holds from the next token on.

        Raises:
            OptionError: the base has no such layer, or the weights do not fit; nothing changes.
            EngineStoppedError: the engine was closed.

        """
        if self.fusion is not None:
            await call(self.thread, partial(self.fusion.apply, steering), Priority.JUDGE)

    async def reinforce(
        self, prompt: Sequence[int], confidence: float, *, strength: float, decay: float
    ) -> None:
        """Let the token map, where there is one, learn from an answer; see TokenMap.reinforce."""
        if self.fusion is not None and (tokens := self.fusion.tokens) is not None:
            learn = partial(tokens.reinforce, prompt, confidence, strength=strength, decay=decay)
            await call(self.thread, learn, Priority.JUDGE)

    async def dream(self, text: str, *, noise: float, seed: int) -> "torch.Tensor | None":
        """Return the scaffold's hidden states over a text, blurred; None where nothing is fused."""
        if self.fusion is None:
            return None
        ids = self.tokenizer.encode_beginning(text, _LONGEST_DREAM)
        read = partial(self.fusion.dream, ids, noise=noise, seed=seed)
        hidden: torch.Tensor = await call(self.thread, read, Priority.CURIOSITY)
        return hidden

    async def remember(self, dreams: Sequence["DreamStates"]) -> None:
        """Let every conversation look at these dreams too."""
        if self.fusion is not None:
            await call(self.thread, partial(self.fusion.remember, dreams), Priority.JUDGE)

    def info(self) -> dict[str, str | int]:
        """Describe what is loaded and how."""
        return {
            "parameters": self._parameters,
            "layers": self.model.layers,
            "dtype": str(self.model.precision.dtype).removeprefix("torch."),
            "dtype_reason": self.model.precision.reason,
            "precision": self.precision,
            "device": str(self.model.device),
            "context_length": self.context_length,
            "chat": "; ".join(self.tokenizer.adaptations) or "as its template has it",
        }

    def usage(self) -> Usage:
        """Count what is held and done now, without waiting for the step that is running."""
        plain = self.precision == self.model.plain
        return Usage(
            precision="fp16" if plain else self.precision,
            offloaded=self._offloaded,
            bits=0 if self._offloaded else _BITS[self.precision],
            switchable=self.model.is_switchable,
            cores=self._cores,
            threads=self.model.threads.now(),
            parameters=self._parameters,
            max_concurrent=self._scheduler.max_concurrent,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            max_prefix_bytes=self._caches.max_bytes,
            prefix_bytes=self._caches.nbytes,
        )

    def stalled_for(self) -> float:
        """Return how many seconds the current step has been running, 0.0 when idle."""
        return self.thread.stalled_for()

    async def close(self) -> None:
        """Stop after the current step; answers under way end with EngineStoppedError."""
        # Shielded, or a cancelled owner would leave the thread running.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.thread.stop)

    async def _hold(self, precision: Precision, *, offloaded: bool) -> None:
        choose = partial(self.model.switch, precision, offloaded=offloaded)
        switch = await anyio.to_thread.run_sync(choose)
        if switch is not None:
            await switch.complete(self.thread)

    async def _tokenized(self, parts: PromptParts) -> TokenizedPrompt:
        # Not behind the prompts of conversations: what it is about may be urgent.
        return await _in_thread(
            partial(tokenize_prompt, self.tokenizer, parts, self.context_length - 1)
        )

    def _prompt_limit(self, options: SamplingOptions) -> int:
        return self.context_length - min(
            options.max_new_tokens, self.context_length // _ANSWER_SHARE
        )


async def _in_thread(work: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run what takes some tens of milliseconds at most, and changes nothing; cancel it at will."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


def _in_a_passing_thread(work: Callable[[], T]) -> T:
    """Run in a thread that ends with the work.

    OpenMP keeps workers for each thread that computes, and once they are more than the cores it no
    longer lets them wait awake between two operators: the tensor thread's would be slow for ever.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _load(path: Path, device: str, dtype: str, threads: int) -> tuple[LoadedModel, ChatTokenizer]:
    model = load_model(path, device=device, dtype=dtype, threads=threads)
    if model.max_context is not None and model.max_context < _MIN_CONTEXT:
        raise ModelLoadError(
            f"the model in {path} knows {model.max_context} positions, too few to talk: choose one "
            f"with {_MIN_CONTEXT} or more"
        )
    return model, ChatTokenizer.load(path, stop_ids=model.stop_ids)
