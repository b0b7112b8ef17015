"""Command tables: arguments are checked, and every fault is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from bus.commands import (
    MAX_FAULTS,
    CommandSpec,
    CommandTable,
    Done,
    Reply,
    Request,
    command,
    commands_of,
)
from bus.errors import BAD_ARGUMENT, BAD_COMMAND, CommandError


class Say(Request[Done], command="say"):
    text: str = Field(max_length=5)
    times: int = Field(default=1, ge=1, le=9)


class Rest(Request[Done], command="rest-now"):
    pass


class Parrot:
    name = "parrot"

    @command(Say)
    async def say(self, request: Say, job: object) -> Done:
        """Say it.

        More than one line here.
        """
        return Done()

    @command(Rest, internal=True)
    async def rest(self, request: Rest, job: object) -> Done:
        """Rest."""
        return Done()


class Sum(Reply):
    sum: int
    carried: bool | None = None


class Add(Request[Sum], command="add"):
    a: int
    b: int = 1


TABLE = CommandTable(commands_of(Parrot))
SAY = TABLE.find("say", internal=False)


def fault(spec: CommandSpec, args: dict[str, object]) -> CommandError:
    with pytest.raises(CommandError) as caught:
        spec.parse(args)
    assert caught.value.code == BAD_ARGUMENT
    assert "\n" not in caught.value.message
    return caught.value


def test_a_command_is_what_its_method_says() -> None:
    assert (SAY.agent, SAY.help, SAY.method, SAY.internal) == ("parrot", "Say it.", "say", False)
    described = SAY.describe()
    assert json.loads(json.dumps(described.wire())) == described.wire()
    assert set(described.arguments["properties"]) == {"text", "times"}


def test_clients_are_told_what_a_command_answers() -> None:
    class Adder:
        name = "adder"

        @command(Add)
        async def add(self, request: Add, job: object) -> Sum:
            """Add."""
            return Sum(sum=request.a + request.b)

    (spec,) = commands_of(Adder)
    told = spec.describe().reply
    assert told is not None
    assert (list(told["properties"]), told["required"]) == (["sum", "carried"], ["sum"])


def test_good_arguments_are_typed_and_completed() -> None:
    assert SAY.parse({"text": "hi", "times": "3"}) == Say(text="hi", times=3)
    assert SAY.parse({"text": "hi"}) == Say(text="hi", times=1)


def test_all_faults_are_named_at_once() -> None:
    error = fault(SAY, {"times": 10, "txt": "hi"})
    assert error.message == (
        "say: text: is required; "
        "times: Input should be less than or equal to 9, got 10; "
        "txt: unknown argument, did you mean text?"
    )
    assert error.detail["faults"] == error.message.removeprefix("say: ").split("; ")


def test_a_thousand_faults_are_not_a_long_story() -> None:
    error = fault(SAY, {"times": 0} | {f"a{number}": 1 for number in range(MAX_FAULTS)})
    assert len(error.detail["faults"]) == MAX_FAULTS + 1
    assert error.detail["faults"][-1] == "and 2 more"
    error = fault(SAY, {f"a{number}": 1 for number in range(50_000)})
    assert error.message == "say: 50000 arguments are too many, allowed: text, times"


def test_large_values_and_names_are_not_said_back() -> None:
    error = fault(SAY, {"text": "x" * 1_000_000, "y" * 1_000_000: 1})
    assert len(error.message) < 1000


@given(
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["text", "times"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_any_arguments_are_checked_or_refused(args: dict[str, object]) -> None:
    try:
        checked = SAY.parse(args)
    except CommandError as error:
        assert error.code == BAD_ARGUMENT
        assert "\n" not in error.message
    else:
        assert checked.model_fields_set <= {"text", "times"}


def test_a_request_names_its_command_and_reads_its_reply() -> None:
    assert (Add.command_name, Add.reply_type) == ("add", Sum)
    assert Add(a=1).wire() == {"a": 1}
    assert Add(a=1).read({"sum": 2, "newer": True}) == Sum(sum=2)
    assert Sum(sum=2).wire() == {"sum": 2}


def test_a_reply_of_another_shape_is_an_error_that_says_where() -> None:
    with pytest.raises(CommandError, match="add: the reply does not fit: sum: Field required"):
        Add(a=1).read({"total": 2})


def test_a_handler_takes_what_it_offers() -> None:
    with pytest.raises(TypeError, match="offers Add"):

        class Wrong:
            @command(Add)
            async def add(self, request: Say, job: object) -> Sum:
                """Add."""
                return Sum(sum=0)


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(CommandError, match="did you mean say") as caught:
        TABLE.find("sey", internal=False)
    assert caught.value.code == BAD_COMMAND
    assert caught.value.detail == {"nearest": ["say"], "known": ["say"]}
    with pytest.raises(CommandError, match="there are: say"):
        TABLE.find("zzz", internal=False)


def test_internal_commands_are_for_agents() -> None:
    assert TABLE.find("rest-now", internal=True).method == "rest"
    with pytest.raises(CommandError):
        TABLE.find("rest-now", internal=False)
    assert [spec.name for spec in TABLE.public()] == ["say"]


def test_a_name_offered_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="offered by both parrot and parrot"):
        CommandTable([SAY, SAY])
