"""A socket on the loop: nothing is lost, nobody hangs, nothing spins."""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
import zmq

from bus.async_socket import BURST, TURN_S, AsyncSocket, Unreachable
from bus.size import Oversize
from sovl_daemon.testing import PATIENCE_S


@pytest.fixture
def address(runtime: Path) -> str:
    return f"ipc://{runtime}/port"


@pytest.fixture
def opened() -> Iterator[Callable[..., AsyncSocket]]:
    """Ports that are closed at the end, whatever happens."""
    ports: list[AsyncSocket] = []

    def make(kind: int, **options: object) -> AsyncSocket:
        ports.append(AsyncSocket(kind, **options))  # type: ignore[arg-type]
        return ports[-1]

    yield make
    for port in ports:
        port.close()


@pytest.fixture
def pipe(opened: Callable[..., AsyncSocket], address: str) -> tuple[AsyncSocket, AsyncSocket]:
    """A sender and a receiver."""
    receiver = opened(zmq.PULL).bind(address)
    return opened(zmq.PUSH).connect(address), receiver


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancelled_receive_loses_nothing(
    pipe: tuple[AsyncSocket, AsyncSocket], ticks: int
) -> None:
    sender, receiver = pipe
    for number in range(50):
        wanted = str(number).encode()
        waiting = asyncio.create_task(receiver.receive())
        await asyncio.sleep(0)
        await sender.send(wanted)
        time.sleep(0.001)  # the loop stands still, so the message and the cancel come together
        for _ in range(ticks):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            found = await waiting
        except asyncio.CancelledError:
            found = await asyncio.wait_for(receiver.receive(), PATIENCE_S)
        assert found == [wanted]
        assert receiver.receive_nowait() is None


async def test_a_receive_that_ran_out_of_time_loses_nothing(
    pipe: tuple[AsyncSocket, AsyncSocket],
) -> None:
    sender, receiver = pipe
    for number in range(50):
        with anyio.move_on_after(0.0):
            await receiver.receive()
        await sender.send(str(number).encode())
        found = None
        while found is None:
            with anyio.move_on_after(0.0005):
                found = await receiver.receive()
        assert found == [str(number).encode()]


async def test_one_task_receives_while_another_sends(
    opened: Callable[..., AsyncSocket], address: str
) -> None:
    """The socket's one signal must reach both, however often the other swallows it."""
    count = 20_000
    near = opened(zmq.DEALER, queue=10).bind(address)
    far = opened(zmq.DEALER, queue=10).connect(address)

    async def send(port: AsyncSocket) -> None:
        for number in range(count):
            await port.send(b"%d" % number)

    async def receive(port: AsyncSocket) -> None:
        for number in range(count):
            assert await port.receive() == [b"%d" % number]

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for port in (near, far):
                tasks.start_soon(send, port)
                tasks.start_soon(receive, port)


async def test_send_waits_while_the_queue_is_full(
    opened: Callable[..., AsyncSocket], address: str
) -> None:
    receiver = opened(zmq.PULL, queue=5).bind(address)
    sender = opened(zmq.PUSH, queue=5).connect(address)
    large = b"x" * 100_000  # more than the kernel's buffer takes
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        for number in range(100):
            await sender.send(b"%d" % number, large)
            sent += 1

    sending = asyncio.create_task(send_all())
    await asyncio.sleep(0.3)
    assert 0 < sent < 50
    assert not sender.send_nowait(b"no room")
    for number in range(100):
        assert (await receiver.receive())[0] == b"%d" % number
    await asyncio.wait_for(sending, PATIENCE_S)
    assert sent == 100


async def test_close_cancels_whoever_waits(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    _, receiver = pipe
    lonely = AsyncSocket(zmq.PUSH)  # connected to nobody, so it has room for nothing
    tasks = (receiver.receive(), lonely.send(b""))
    waiting = [asyncio.create_task(task) for task in tasks]
    await asyncio.sleep(0.01)
    receiver.close()
    lonely.close()
    done, pending = await asyncio.wait(waiting, timeout=PATIENCE_S)
    assert not pending
    assert all(task.cancelled() for task in done)
    receiver.close()  # twice does no harm


async def test_close_ends_a_drain(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    _, receiver = pipe
    draining = asyncio.create_task(receiver.drain(lambda message: None))
    await asyncio.sleep(0.01)
    receiver.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(draining, PATIENCE_S)


async def test_closing_one_leaves_the_next_on_the_same_descriptor_alone(address: str) -> None:
    """The kernel gives the number of a closed descriptor to the next one opened."""
    for number in range(100):
        old = AsyncSocket(zmq.PULL).bind(f"{address}{number}")
        waiting = asyncio.create_task(old.receive())
        await asyncio.sleep(0)
        old.close()
        new = AsyncSocket(zmq.PULL).bind(f"{address}{number}b")
        sender = AsyncSocket(zmq.PUSH).connect(f"{address}{number}b")
        receiving = asyncio.create_task(new.receive())
        await asyncio.gather(waiting, return_exceptions=True)
        await sender.send(b"hello")
        assert await asyncio.wait_for(receiving, PATIENCE_S) == [b"hello"]
        new.close()
        sender.close()


@pytest.mark.parametrize("waited_before", [False, True])
async def test_a_message_that_nobody_waits_for_does_not_spin_the_loop(
    pipe: tuple[AsyncSocket, AsyncSocket], waited_before: bool
) -> None:
    sender, receiver = pipe
    if waited_before:
        with anyio.move_on_after(0.01):
            await receiver.receive()
    await sender.send(b"hello")
    await asyncio.sleep(0.05)
    began = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - began < 0.25
    assert await receiver.receive() == [b"hello"]


async def test_an_idle_drain_does_not_spin_the_loop(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    sender, receiver = pipe
    found: list[list[bytes]] = []
    draining = asyncio.create_task(receiver.drain(found.append))
    await sender.send(b"hello")
    await asyncio.sleep(0.05)
    began = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - began < 0.25
    assert found == [[b"hello"]]
    draining.cancel()


async def test_drain_hands_out_everything_in_order(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    sender, receiver = pipe
    count = 20 * BURST
    found: list[bytes] = []
    draining = asyncio.create_task(receiver.drain(lambda message: found.append(message[0])))
    for number in range(count):
        await sender.send(b"%d" % number)
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            await asyncio.sleep(0.01)
    assert found == [b"%d" % number for number in range(count)]
    draining.cancel()


async def test_drain_leaves_other_tasks_their_turn(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    sender, receiver = pipe
    for _ in range(1000):
        await sender.send(b"")
    await asyncio.sleep(0.05)
    seen: list[int] = []
    draining = asyncio.create_task(receiver.drain(lambda message: seen.append(0)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(seen) < 1000
    draining.cancel()


async def test_drain_raises_what_its_handler_raises(pipe: tuple[AsyncSocket, AsyncSocket]) -> None:
    sender, receiver = pipe

    def fail(message: list[bytes]) -> None:
        raise ZeroDivisionError

    await sender.send(b"")
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(receiver.drain(fail), PATIENCE_S)
    await sender.send(b"still usable")
    assert await asyncio.wait_for(receiver.receive(), PATIENCE_S) == [b"still usable"]


async def test_a_port_that_drains_can_also_send(
    opened: Callable[..., AsyncSocket], address: str
) -> None:
    listener = opened(zmq.ROUTER, router_mandatory=1).bind(address)
    serving = asyncio.create_task(
        listener.drain(lambda parts: listener.send_nowait(*parts) and None)
    )
    client = opened(zmq.DEALER).connect(address)
    for number in range(1000):
        await client.send(b"%d" % number)
    for number in range(1000):
        assert await asyncio.wait_for(client.receive(), PATIENCE_S) == [b"%d" % number]
    serving.cancel()


async def test_a_peer_that_is_not_there_is_unreachable(
    opened: Callable[..., AsyncSocket], address: str
) -> None:
    listener = opened(zmq.ROUTER, router_mandatory=1).bind(address)
    with pytest.raises(Unreachable):
        listener.send_nowait(b"nobody", b"hello")


async def test_of_a_message_over_the_limit_only_the_head_arrives(
    opened: Callable[..., AsyncSocket], address: str
) -> None:
    receiver = opened(zmq.PULL, max_bytes=1000).bind(address)
    rude, polite = opened(zmq.PUSH).connect(address), opened(zmq.PUSH).connect(address)
    await rude.send(b'{"id":"big","payload":{"id":"other"}}' + b"x" * 10_000)
    (head,) = await asyncio.wait_for(receiver.receive(), PATIENCE_S)
    assert isinstance(head, Oversize)
    assert (head.size, head.allowed, len(head)) == (10_037, 1000, 1024)
    assert head.refusal().asked == "big"
    for port in (polite, rude):  # both are connected still
        await port.send(b"y" * 1000)
        assert await asyncio.wait_for(receiver.receive(), PATIENCE_S) == [b"y" * 1000]


async def test_messages_that_take_long_leave_others_their_turn(
    pipe: tuple[AsyncSocket, AsyncSocket],
) -> None:
    sender, receiver = pipe
    for _ in range(20):
        await sender.send(b"slow")
    seen: list[int] = []
    handled = 0

    def handle(message: list[bytes]) -> None:
        nonlocal handled
        handled += 1
        time.sleep(2 * TURN_S)

    async def other() -> None:
        while True:
            seen.append(handled)
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE_S):
        tasks = [asyncio.create_task(each) for each in (receiver.drain(handle), other())]
        while handled < 20:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    assert len(set(seen)) > 10


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_file_has_exactly_the_mode(runtime: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        port = AsyncSocket(zmq.PULL).bind(f"ipc://{runtime}/here", mode=mode)
        assert os.umask(0o022) == 0o022
        assert stat.S_IMODE((runtime / "here").stat().st_mode) == mode
        port.close()
    finally:
        os.umask(before)
