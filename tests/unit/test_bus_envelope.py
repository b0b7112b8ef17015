"""The envelope: what goes in comes out, and what is not one is refused in one line."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.envelope import VERSION, Envelope, Payload, Unknown, decode
from bus.errors import BadMessage
from bus.messages import Command, Progress, Subscribe, Welcome
from bus.publication import read, stamp, write


class Sample(Payload, kind="test.sample"):
    number: int
    text: str = ""


# Text as JSON has it: half of a surrogate pair alone is no character.
texts = st.text(st.characters(exclude_categories=("Cs",)))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
short = texts.filter(lambda text: len(text) <= 100)
payloads = (
    st.builds(Sample, number=st.integers(), text=texts)
    | st.builds(Progress, data=st.dictionaries(texts, values, max_size=4))
    | st.builds(
        Command,
        name=short.filter(bool),
        args=st.dictionaries(texts, values, max_size=4),
        deadline_s=st.none() | st.floats(0.001, 1e9),
    )
    | st.builds(Welcome, epoch=texts, seqs=st.dictionaries(texts, st.integers()))
)


def envelope(**changed: Any) -> bytes:
    known = {"v": VERSION, "kind": "test.sample", "id": "1", "time": 1.0, "payload": {"number": 1}}
    return json.dumps(known | changed).encode()


def refused(data: bytes) -> str:
    with pytest.raises(BadMessage) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@given(payloads, short, st.none() | short)
def test_what_goes_in_comes_out(payload: Payload, source: str, correlation: str | None) -> None:
    sent = Envelope.of(payload, source=source, correlation=correlation)
    assert decode(sent.encode()) == sent


def test_the_wire_is_plain_json() -> None:
    sent = Envelope.of(Sample(number=1, text="ö"), source="me", correlation="c")
    fields = json.loads(sent.encode())
    assert fields["payload"] == {"number": 1, "text": "ö"}
    assert (fields["v"], fields["kind"], fields["source"]) == (1, "test.sample", "me")


def test_another_version_is_refused_by_number() -> None:
    assert refused(envelope(v=2)) == "v: protocol version 2 is not supported, this is 1"
    assert refused(envelope(v=0)) == "v: protocol version 0 is not supported, this is 1"


def test_unknown_fields_are_ignored() -> None:
    found = decode(envelope(new="field", payload={"number": 1, "newer": [1]}))
    assert found.payload == Sample(number=1)


def test_an_unknown_kind_is_kept_as_it_came() -> None:
    found = decode(envelope(kind="from.the.future", payload={"a": {"b": [1, None]}}))
    assert isinstance(found.payload, Unknown)
    assert json.loads(found.encode())["payload"] == {"a": {"b": [1, None]}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"payload": {}}, "payload: number: Field required"),
        ({"payload": 7}, "payload: payload: Input should be a valid dictionary"),
        ({"kind": "command", "payload": {"name": ""}}, "payload: name: String should have"),
        ({"kind": 5}, "kind: Input should be a valid string"),
        ({"kind": "x" * 101}, "kind: String should have at most 100"),
        ({"id": ""}, "id: String should have at least 1"),
        ({"seq": -1}, "seq: Input should be greater"),
        ({"v": "one"}, "v: Input should be a valid integer"),
    ],
)
def test_the_first_fault_is_told_in_words(changed: dict[str, Any], told: str) -> None:
    assert refused(envelope(**changed)).startswith(told)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"{}", b'{"v":1}', b"{" * 100_000],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    refused(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    refused(data)


def test_deep_nesting_is_refused_not_recursed() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    refused(envelope().replace(b'{"number": 1}', b'{"number": 1, "more": %b}' % deep))


@pytest.mark.parametrize("depth", [10, 100, 190, 250])
def test_nesting_that_is_read_can_be_written(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    data = envelope(kind="progress").replace(b'{"number": 1}', b'{"data": {"x": %b}}' % deep)
    try:
        found = decode(data)
    except BadMessage:
        assert depth > 100
    else:
        assert decode(found.encode()) == found


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_time_that_is_no_number_is_refused(time: str) -> None:
    refused(envelope().replace(b'"time": 1.0', b'"time": %b' % time.encode()))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000, "-" + "9" * 400])
def test_odd_numbers_are_refused_or_can_be_written(number: str) -> None:
    data = envelope(kind="progress").replace(
        b'{"number": 1}', b'{"data": {"x": %b}}' % number.encode()
    )
    try:
        found = decode(data)
    except BadMessage:
        return
    json.loads(found.encode())


def test_a_kind_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="already Sample"):

        class Other(Payload, kind="test.sample"):
            pass

    assert decode(envelope()).payload == Sample(number=1)


def test_a_subscription_is_bounded() -> None:
    assert "topics" in refused(envelope(kind="subscribe", payload={"topics": ["a"] * 65}))
    assert "topics" in refused(envelope(kind="subscribe", payload={"topics": ["a" * 201]}))
    assert decode(envelope(kind="subscribe", payload={"topics": []})).payload == Subscribe(
        topics=()
    )


@given(st.from_regex(r"[a-z0-9_.-]{1,200}", fullmatch=True), st.integers(1, 2**63), payloads)
def test_a_stamped_event_is_the_event_with_topic_and_seq(
    topic: str, seq: int, payload: Payload
) -> None:
    sent = Envelope.of(payload, source="me")
    publication = read([write(topic, sent, retain=False)])
    assert publication is not None
    found = decode(stamp(publication.topic, seq, publication.event))
    assert found == sent.model_copy(update={"topic": topic, "seq": seq})


@given(st.booleans(), payloads)
def test_a_publication_is_read_as_written(retain: bool, payload: Payload) -> None:
    sent = Envelope.of(payload)
    found = read([write("a.topic", sent, retain=retain)])
    assert found == (b"a.topic", retain, sent.encode_event())


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_what_is_no_publication_is_none(parts: list[bytes]) -> None:
    assert read(parts) is None
