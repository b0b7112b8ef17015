"""The same client for code that is not async."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sovl_daemon.client.connection import AsyncClient
from sovl_daemon.client.target import Target

if TYPE_CHECKING:
    from bus.commands import ReplyT, Request


class Client:
    """A connection to a daemon; see AsyncClient. Its event loop runs in a thread of its own."""

    def __init__(self, target: Target | None = None, *, source: str = "client") -> None:
        self._client = AsyncClient(target, source=source)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal: BlockingPortal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._wrap(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @overload
    def ask(self, request: Request[ReplyT], /) -> ReplyT: ...
    @overload
    def ask(self, request: str, /, **args: Any) -> dict[str, Any]: ...
    def ask(self, request: Any, /, **args: Any) -> Any:
        """Run a command, by a request or by name, and return its reply, by name as it came.

        Raises CommandError.
        """
        return self._portal.call(partial(self._client.ask, request, **args))

    @overload
    def control(self, request: Request[ReplyT], /) -> ReplyT: ...
    @overload
    def control(self, request: str, /, **args: Any) -> dict[str, Any]: ...
    def control(self, request: Any, /, **args: Any) -> Any:
        """Ask the hub itself. Raises CommandError or ClientError."""
        return self._portal.call(partial(self._client.control, request, **args))

    def stream(self, name: str, /, **args: Any) -> Iterator[dict[str, Any]]:
        """Run a command: its progress step by step, then its result. Raises CommandError.

        Leaving the loop early cancels the command.
        """
        with self._wrap(self._portal.call(self._client.call, name, args)) as call:
            steps = call.__aiter__()
            while (step := self._portal.call(partial(anext, steps, None))) is not None:
                yield step
            yield self._portal.call(call.result)

    def _wrap(self, manager: Any) -> AbstractContextManager[Any]:
        return self._portal.wrap_async_context_manager(manager)
