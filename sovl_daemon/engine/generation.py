"""One answer while it is made, as its consumer sees it."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sovl_daemon.engine.answering import Answer, Answering
from sovl_daemon.engine.decode import Decoding, Token
from sovl_daemon.engine.errors import JobCancelledError
from sovl_daemon.engine.inbox import Inbox
from sovl_daemon.engine.piece import FinishReason, Piece, Summary
from sovl_daemon.engine.priority import Priority
from sovl_daemon.engine.text_stream import AnswerText


@dataclass(frozen=True, slots=True)
class Request:
    """A decoding and what is needed to show it."""

    decoding: Decoding
    text: AnswerText
    prompt_tokens: int
    priority: Priority


class Generation(AsyncIterator[Piece]):
    """The pieces of one answer; work begins with the first `anext`.

    The last piece has the summary. Leaving early, by cancellation too, ends the work within one
    step and frees the cache: `async with contextlib.aclosing(generation)` makes that prompt.
    """

    def __init__(self, answering: Answering, request: Request) -> None:
        self.prompt_tokens = request.prompt_tokens
        self._answering = answering
        self._request = request
        self._started = time.perf_counter()
        self._answer: Answer | None = None
        self._cancelled = False
        self._pieces = self._make_pieces()

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """End the work and the iteration, without a summary."""
        await self._pieces.aclose()

    def cancel(self) -> None:
        """End the work within one step; the iteration goes on to the summary ("cancelled")."""
        self._cancelled = True
        if self._answer is not None:
            self._answering.cancel(self._answer)

    async def _make_pieces(self) -> AsyncGenerator[Piece]:
        text = self._request.text
        tokens: list[Token] = []
        shown = 0
        async with aclosing(self._tokens()) as arriving:
            async for token in arriving:
                tokens.append(token)
                if token.finish_reason == "stop":
                    break
                if piece := text.push(token.id):
                    yield Piece(piece, len(tokens) - shown)
                    shown = len(tokens)
                if text.stopped:
                    break
        summary = summarise(tokens, self._started, self._request, stopped=text.stopped)
        yield Piece(text.finish(), summary.generated_tokens - shown, summary)

    async def _tokens(self) -> AsyncGenerator[Token]:
        if self._cancelled:
            return
        inbox: Inbox[Token] = Inbox()
        request = self._request
        self._answer = self._answering.start(request.decoding, inbox, request.priority)
        try:
            async for token in inbox:
                yield token
        except JobCancelledError:
            return
        finally:
            self._answering.cancel(self._answer)


def summarise(
    tokens: Sequence[Token], started: float, request: Request, *, stopped: bool = False
) -> Summary:
    """Return the figures of an answer of which `tokens` came; `stopped` by a stop text."""
    last_reason = tokens[-1].finish_reason if tokens else None
    reason: FinishReason = "stop" if stopped else last_reason or "cancelled"
    seconds = tokens[-1].at - tokens[0].at if tokens else 0.0
    return Summary(
        finish_reason=reason,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=request.decoding.cached_tokens,
        generated_tokens=len(tokens) - (last_reason == "stop"),
        seconds_to_first_token=tokens[0].at - started if tokens else None,
        tokens_per_second=(len(tokens) - 1) / seconds if seconds > 0 else 0.0,
        mean_probability=sum(t.probability for t in tokens) / len(tokens) if tokens else None,
    )
