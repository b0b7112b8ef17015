"""The book of commands: whatever happens, each command is closed exactly once."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from bus.envelope import Envelope
from bus.errors import BUSY, DUPLICATE, CommandError
from bus.messages import Command
from bus.pending_commands import PendingCommand, PendingCommands

PER_AGENT, PER_CLIENT = 4, 3
agents = st.sampled_from(["a", "b", "c"])
clients = st.sampled_from(["x", "y", "z"])


def entry(
    name: str, client: str = "x", agent: str = "a", deadline: float = 100.0
) -> PendingCommand:
    return PendingCommand(Envelope.of(Command(name="do"), message_id=name), client, agent, deadline)


class Book(RuleBasedStateMachine):
    """The pending commands beside a plain dictionary of what should be in it."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingCommands(per_agent=PER_AGENT, per_client=PER_CLIENT)
        self.open: dict[str, PendingCommand] = {}
        self.made = 0
        self.closed: Counter[str] = Counter()

    @rule(target=ids, client=clients, agent=agents, deadline=st.integers(0, 20))
    def admit(self, client: str, agent: str, deadline: int) -> str:
        self.made += 1
        new = entry(str(self.made), client, agent, deadline)
        full = self.count(agent=agent) >= PER_AGENT or self.count(client=client) >= PER_CLIENT
        try:
            assert self.pending.admit(new)
        except CommandError as error:
            assert error.code == BUSY
            assert full
        else:
            assert not full
            self.open[new.id] = new
        return new.id

    @rule(command_id=ids, client=clients)
    def admit_again(self, command_id: str, client: str) -> None:
        known = self.open.get(command_id)
        if known is None:
            return
        if known.client == client:
            assert not self.pending.admit(entry(command_id, client))
        else:
            with pytest.raises(CommandError) as caught:
                self.pending.admit(entry(command_id, client))
            assert caught.value.code == DUPLICATE

    @rule(command_id=ids)
    def run(self, command_id: str) -> None:
        if found := self.pending.get(command_id):
            found.running = True

    @rule(command_id=ids, by=st.integers(0, 20))
    def cancel(self, command_id: str, by: int) -> None:
        if found := self.pending.get(command_id):
            found.cancel_by = by

    @rule(command_id=consumes(ids) | ids)
    def close(self, command_id: str) -> None:
        expected = self.open.pop(command_id, None)
        assert self.pending.close(command_id) is expected
        assert self.pending.close(command_id) is None
        if expected is not None:
            self.closed[command_id] += 1

    @rule(now=st.integers(0, 20))
    def expire(self, now: int) -> None:
        late = {
            each.id
            for each in self.open.values()
            if each.deadline <= now or (each.cancel_by is not None and each.cancel_by <= now)
        }
        assert {each.id for each in self.pending.overdue(now)} == late
        for command_id in late:
            self.close(command_id)

    def count(self, **wanted: str) -> int:
        return sum(
            all(getattr(each, name) == value for name, value in wanted.items())
            for each in self.open.values()
        )

    @invariant()
    def the_books_agree(self) -> None:
        assert [each.id for each in self.pending.all()] == list(self.open)
        assert len(self.pending) == len(self.open)
        assert set(self.closed.values()) <= {1}
        assert self.pending.by_agent() == Counter(each.agent for each in self.open.values())
        for client in "xyz":
            mine = [each for each in self.open.values() if each.client == client]
            assert self.pending.of_client(client) == mine
        for agent in "abc":
            theirs = [each for each in self.open.values() if each.agent == agent]
            assert self.pending.of_agent(agent, running=True) == [e for e in theirs if e.running]
            waits = [each for each in theirs if not each.running]
            assert self.pending.of_agent(agent, running=False) == waits

    def teardown(self) -> None:
        for command_id in list(self.open):
            self.close(command_id)
        assert self.pending.by_agent() == {}
        assert self.pending._agents == self.pending._clients == Counter()
        assert len(self.pending) == 0


TestBook = Book.TestCase


def test_the_limits_are_told() -> None:
    pending = PendingCommands(per_agent=2, per_client=1)
    pending.admit(entry("1", "x"))
    with pytest.raises(CommandError, match="this client has 1 commands in flight, allowed 1"):
        pending.admit(entry("2", "x", "b"))
    pending.admit(entry("3", "y"))
    with pytest.raises(CommandError, match="a has 2 commands in flight, allowed 2") as caught:
        pending.admit(entry("4", "z"))
    assert caught.value.detail == {"in_flight": 2, "allowed": 2}


def test_another_clients_id_is_refused_in_words() -> None:
    pending = PendingCommands(per_agent=2, per_client=2)
    pending.admit(entry("1", "x"))
    with pytest.raises(CommandError, match=r"^this command id is in use; ids must be unique$"):
        pending.admit(entry("1", "y"))


def test_a_step_moves_the_deadline_where_there_is_patience() -> None:
    patient, other = entry("1", deadline=5.0), entry("2", deadline=5.0)
    patient.patience_s = 3.0
    for each in (patient, other):
        each.moved(4.0)
    assert (patient.deadline, other.deadline) == (7.0, 5.0)


def test_what_was_cancelled_is_overdue_by_its_own_agents_time() -> None:
    pending = PendingCommands(per_agent=2, per_client=2)
    for name, agent in (("1", "a"), ("2", "b")):
        cancelled = entry(name, agent=agent)
        cancelled.cancel_by = 3.0
        pending.admit(cancelled)
    own_time = {"a": 3.0, "b": 2.9}
    assert [each.id for each in pending.overdue(9.0, lambda agent: own_time[agent])] == ["1"]
    assert [each.id for each in pending.overdue(3.0)] == ["1", "2"]
