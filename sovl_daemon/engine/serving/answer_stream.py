"""One answer while it is made, as its consumer sees it."""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from sovl_daemon.engine.errors import JobCancelledError, OptionError
from sovl_daemon.engine.serving.scheduler import ScheduledSequence, Scheduler
from sovl_daemon.engine.serving.token_sequence import FinishReason, Token, TokenSequence
from sovl_daemon.engine.text.text_stream import AnswerText
from sovl_daemon.engine.thread.inbox import Inbox
from sovl_daemon.engine.thread.tensor_thread import Priority


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one finished answer.

    `cached_tokens` of the prompt were not read, because an earlier answer had read them.
    `generated_tokens` leaves out the stop token. `seconds_to_first_token` counts from the request,
    waiting included; None if there was no token. `tokens_per_second` is the pace after the first
    token, 0.0 with fewer than two. `probabilities` are, for each step, the likeliest token's in the
    model's own distribution.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    seconds_to_first_token: float | None
    tokens_per_second: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AnswerChunk:
    """Some text of an answer and how many tokens it came from; the last has a summary."""

    text: str
    tokens: int
    summary: Summary | None = None


class Repetition:
    """Notices that an answer has begun to say the same again.

    The rule is SOVL's: two adjacent equal n-grams, of three tokens by default. It goes by token ids
    alone and looks at nothing but the answer, so a prompt may be repeated, and so may any words
    that others stand between. What says the same twice in a row on purpose is met by it all the
    same, such as the zeros of 1000000 where each digit is a token, or the dashes of a table; the
    setting `enable_repetition_check` is there to turn it off.

    It follows one answer, a token at a time, in constant time and memory.

    Raises:
        OptionError: `n` is below 1.

    """

    def __init__(self, n: int = 3) -> None:
        if n < 1:
            raise OptionError(f"n {n} is not allowed: give an n-gram's length, 1 or more")
        self._last: deque[int] = deque(maxlen=n)
        self._n = n
        self._repeated = 0

    @property
    def repeated(self) -> int:
        """How many tokens at the end of the answer equal those `n` before them.

        After `push` said True, that many are to be dropped, so that what was said twice stands
        once; `n` of them if the answer is stopped at once. Below `n` they are tokens that the next
        ones may show to be a repetition: a stream that must not take back a word holds them.
        """
        return self._repeated

    def push(self, token_id: int) -> bool:
        """Add the answer's next token; tell whether the last `n` equal the `n` before them."""
        same = len(self._last) == self._n and self._last[0] == token_id
        self._repeated = self._repeated + 1 if same else 0
        self._last.append(token_id)
        return self._repeated >= self._n


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A sequence and what is needed to show it."""

    sequence: TokenSequence
    text: AnswerText
    prompt: Sequence[int]
    priority: Priority
    repetition: Repetition | None = None


class AnswerStream(AsyncIterator[AnswerChunk]):
    """The chunks of one answer; work begins with the first `anext`, which prepares the request.

    `prompt` are its token ids from then on. The last chunk has the summary. Leaving early, by
    cancellation too, ends the work within one step and frees the cache: `async with
    contextlib.aclosing(generation)` makes that prompt.
    """

    def __init__(
        self, scheduler: Scheduler, prepare: Callable[[], Awaitable[AnswerRequest]]
    ) -> None:
        self.prompt: Sequence[int] = ()
        self._scheduler = scheduler
        self._prepare = prepare
        self._started = time.perf_counter()
        self._scheduled: ScheduledSequence | None = None
        self._cancelled = False
        self._chunks = self._make_chunks()

    def __anext__(self) -> Awaitable[AnswerChunk]:
        return anext(self._chunks)

    async def aclose(self) -> None:
        """End the work and the iteration, without a summary."""
        await self._chunks.aclose()

    def cancel(self) -> None:
        """End the work within one step; the iteration goes on to the summary ("cancelled")."""
        self._cancelled = True
        if self._scheduled is not None:
            self._scheduler.cancel(self._scheduled)

    async def _make_chunks(self) -> AsyncGenerator[AnswerChunk]:
        request = await self._prepare()
        self.prompt = request.prompt
        writer = ChunkWriter(request.text, request.repetition)
        if not self._cancelled:
            inbox: Inbox[Token] = Inbox()
            self._scheduled = self._scheduler.start(request.sequence, inbox, request.priority)
            try:
                async for token in inbox:
                    if chunk := writer.push(token):
                        yield chunk
                    if writer.stopped:
                        break
            except JobCancelledError:
                pass  # what was written by then is told
            finally:
                self._scheduler.cancel(self._scheduled)
        cached = request.sequence.cached_tokens
        yield writer.finish(self._started, len(self.prompt), cached)


class ChunkWriter:
    """Makes chunks of tokens, and notices what ends an answer besides its stop token."""

    def __init__(self, text: AnswerText, repetition: Repetition | None) -> None:
        self.stopped: FinishReason | None = None
        self._text = text
        self._repetition = repetition
        self._tokens: list[Token] = []
        self._held: list[int] = []  # may turn out to be said for the second time
        self._shown = 0

    def push(self, token: Token) -> AnswerChunk | None:
        """Take a token; return what may be shown now, if anything."""
        self._tokens.append(token)
        if token.finish_reason == "stop":
            self.stopped = "stop"
            return None
        self._held.append(token.id)
        if self._repetition is not None:
            if self._repetition.push(token.id):
                self.stopped = "repetition"
                self._held.clear()
                return None
            if self._repetition.repeated:
                return None
        text = self._release()
        if not text:
            return None
        count = len(self._tokens) - self._shown
        self._shown = len(self._tokens)
        return AnswerChunk(text, count)

    def finish(self, started: float, prompt_tokens: int, cached_tokens: int = 0) -> AnswerChunk:
        """Return what is left to show, with the figures."""
        rest = self._release() + self._text.finish()
        reason = self.stopped
        summary = summarise(self._tokens, started, prompt_tokens, cached_tokens, reason=reason)
        return AnswerChunk(rest, summary.generated_tokens - self._shown, summary)

    def _release(self) -> str:
        text = "".join(self._text.push(id_) for id_ in self._held)
        self._held.clear()
        if self._text.stopped:
            self.stopped = "stop"
        return text


def summarise(
    tokens: Sequence[Token],
    started: float,
    prompt_tokens: int,
    cached_tokens: int,
    *,
    reason: FinishReason | None = None,
) -> Summary:
    """Return the figures of an answer of which `tokens` came, ended for `reason` if one is known.

    The tokens that a repetition dropped from the text count as generated.
    """
    last_reason = tokens[-1].finish_reason if tokens else None
    seconds = tokens[-1].at - tokens[0].at if tokens else 0.0
    return Summary(
        finish_reason=reason or last_reason or "cancelled",
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        generated_tokens=len(tokens) - (last_reason == "stop"),
        seconds_to_first_token=tokens[0].at - started if tokens else None,
        tokens_per_second=(len(tokens) - 1) / seconds if seconds > 0 else 0.0,
        probabilities=tuple(token.probability for token in tokens),
    )
