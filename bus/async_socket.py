"""A ZeroMQ socket on the asyncio loop.

zmq.asyncio makes a future for every message and doubles the hub's memory for sockets; a plain
socket and its file descriptor need neither (figures in docs/architecture.md). What is subtle is
kept here: the descriptor signals changes only, and any call on the socket may swallow a signal
that another task waits for.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from zmq.backend import Socket as Bare

from bus.errors import BindProblem
from bus.size import MAX_BYTES, Oversize
from sovl_daemon.opened import Opened

IPC = "ipc://"
BURST = 128  # messages taken in one turn before other tasks get theirs
TURN_S = 0.005  # and no further one is begun after so long
LINGER_S = 0.5  # last words, such as those of an agent that stops, should still get out
_MORE = zmq.NOBLOCK | zmq.SNDMORE


def end_sockets() -> None:
    """Close what is still open, and wait until ZeroMQ's threads have ended.

    What is queued may leave as long as its socket lingers. Call it last, when nobody uses a socket:
    a thread that outlives the interpreter may touch what is no longer there.
    """
    zmq.Context.instance().destroy()


class Unreachable(Exception):
    """The peer that a message was for has gone."""


class AsyncSocket:
    """One socket with bounded queues, used by the tasks of one loop.

    `queue` counts messages for each peer and direction, `unheard` those that were received and not
    taken, where that is less. Of a frame of more than `max_bytes` only an Oversize is received.
    `options` are ZeroMQ socket options by their pyzmq names. Linger is 0: with anything else,
    closing waits on peers that do not read. With `tells_users`, each received message begins with
    the CURVE key of its sender.
    """

    def __init__(
        self,
        kind: int,
        *,
        queue: int = 1000,
        unheard: int = 0,
        max_bytes: int = MAX_BYTES,
        tells_users: bool = False,
        **options: Any,
    ) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set_hwm(queue)
        self.socket.set(zmq.RCVHWM, unheard or queue)
        self.socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.tells_users = tells_users
        self._files: dict[str, tuple[int, Opened]] = {}  # of ipc addresses, with their permissions
        self._max_bytes = max_bytes
        self._fd: int = self.socket.get(zmq.FD)
        # Its base class's own: what zmq.Socket.send and recv_multipart wrap around them doubles the
        # time of a message, for options that are not used here.
        self._send: Callable[..., Any] = partial(Bare.send, self.socket)
        self._receive: Callable[..., Any] = partial(Bare.recv, self.socket, copy=False)
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._pump: Callable[[], None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._looking = False

    def bind(self, address: str, *, mode: int = 0o660) -> AsyncSocket:
        """Bind; an ipc socket file gets exactly the permissions `mode`. Raises BindProblem.

        The caller holds the instance lock: binding a live ipc path would silently steal it.
        """
        before = os.umask(0o777 & ~mode)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            raise BindProblem(
                f"cannot listen on {address}: {zmq.strerror(error.errno or 0)}"
            ) from None
        finally:
            os.umask(before)
        if address.startswith(IPC):
            path = Path(address.removeprefix(IPC))
            path.chmod(mode)
            self._files[address] = mode, Opened(path)
        return self

    @property
    def reachable(self) -> bool:
        """Whether the file of each ipc address is still our own."""
        return not any(file.fault() for _, file in self._files.values())

    def bind_anew(self) -> None:
        """Bind where the socket's file was removed or replaced. Who is connected stays so.

        Raises BindProblem, as `bind`.
        """
        for address, (mode, file) in list(self._files.items()):
            if file.fault():
                file.close()
                # Not unbound first: that would end every connection that was made there.
                self.bind(address, mode=mode)

    def connect(self, address: str) -> AsyncSocket:
        """Connect, now or as soon as somebody binds there."""
        self.socket.connect(address)
        return self

    def close(self, *, linger_s: float | None = None) -> None:
        """Close at once; whoever still waits is cancelled, and who comes later finds no socket.

        With `linger_s`, what is queued may still leave within that time.
        """
        if self.socket.closed:
            return
        if linger_s is not None:
            self.socket.set(zmq.LINGER, int(1000 * linger_s))
        waiting = [*self._readers, *self._writers, *([self._ended] if self._ended else [])]
        if waiting:
            # Now, not when they wake: the number may be another file's by then.
            waiting[0].get_loop().remove_reader(self._fd)
        for waiter in waiting:
            waiter.cancel()
        self.socket.close()
        for _, file in self._files.values():
            if not file.fault():
                file.path.unlink(missing_ok=True)
            file.close()

    async def receive(self) -> list[bytes]:
        """The next message. A cancelled receive takes none."""
        while True:
            message = self.receive_nowait()
            if message is not None:
                return message
            await self._wait(self._readers)

    def receive_nowait(self) -> list[bytes] | None:
        """The next message, or None when there is none yet."""
        try:
            return self._take()
        except zmq.Again:
            return None
        finally:
            if self._writers:
                self._signal()

    async def send(self, *parts: bytes) -> None:
        """Send, waiting for room in the queue."""
        while not self.send_nowait(*parts):
            await self._wait(self._writers)

    def send_nowait(self, *parts: bytes) -> bool:
        """Send; False when the queue is full. Raises Unreachable (only with router_mandatory)."""
        try:
            for part in parts[:-1]:
                self._send(part, _MORE)
            self._send(parts[-1], zmq.NOBLOCK)
        except zmq.Again:
            return False  # at the first part: what has room for that takes the rest, too
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            raise Unreachable from None
        finally:
            if self._readers or self._pump is not None:
                self._look_again()
        return True

    async def drain(self, handle: Callable[[list[bytes]], None]) -> None:
        """Hand every message to `handle`, for ever, in bursts that leave others their turn.

        Raises what `handle` raises.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def pump() -> None:
            if ended.done():
                return
            until = time.monotonic() + TURN_S
            try:
                for _ in range(BURST):
                    message = self.receive_nowait()
                    if message is None:
                        return
                    handle(message)
                    if time.monotonic() >= until:
                        break
            except Exception as error:
                if not ended.done():
                    ended.set_exception(error)
            else:
                self._look_again()  # there may be more

        # Called by the loop itself: a task to wake would double the time a message takes.
        self._pump, self._ended = pump, ended
        loop.add_reader(self._fd, pump)
        pump()
        try:
            await ended
        finally:
            self._pump = self._ended = None
            if not self.socket.closed:
                loop.remove_reader(self._fd)

    def _take(self) -> list[bytes]:
        frame = self._receive(zmq.NOBLOCK)
        parts = [str(frame.get("User-Id")).encode()] if self.tells_users else []
        parts.append(self._read(frame))
        while frame.more:
            frame = self._receive(zmq.NOBLOCK)
            parts.append(self._read(frame))
        return parts

    def _read(self, frame: zmq.Frame) -> bytes:
        if len(frame) > self._max_bytes:
            return Oversize.of(frame.buffer, self._max_bytes)
        return frame.bytes

    async def _wait(self, waiters: list[asyncio.Future[None]]) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        waiters.append(waiter)
        if self._pump is None:
            loop.add_reader(self._fd, self._signal)
        try:
            await waiter
        finally:
            if waiter in waiters:
                waiters.remove(waiter)
            # Left in place, a reader that nobody waits for would spin the loop.
            if not (self._readers or self._writers or self._pump or self.socket.closed):
                loop.remove_reader(self._fd)

    def _look_again(self) -> None:
        """Soon see what else the socket has: a call on it may have swallowed the signal."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self._pump is not None:
            self._pump()
        self._signal()

    def _signal(self) -> None:
        if self.socket.closed or not (self._readers or self._writers):
            return
        events = int(self.socket.get(zmq.EVENTS))
        if events & zmq.POLLIN:
            _wake(self._readers)
            if self._pump is not None:
                self._look_again()
        if events & zmq.POLLOUT:
            _wake(self._writers)


def _wake(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
