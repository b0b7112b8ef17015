"""The one envelope that everything travels in: one JSON object, described in docs/protocol.md."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from bus.errors import BadMessage
from bus.size import Oversize

VERSION = 1
_LARGE = 1 << 16  # bytes; so much JSON can make objects enough to be worth a pause

_kinds: dict[str, type[Payload]] = {}


def new_id() -> str:
    """A fresh id for a message: 32 hexadecimal digits of randomness."""
    return os.urandom(16).hex()


class Payload(BaseModel):
    """The typed content of an envelope. A subclass registers itself under its `kind`.

    Fields that a newer peer added are ignored, so versions can be mixed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if not kind:
            return
        known = _kinds.get(kind)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"payload kind {kind!r} is already {known.__qualname__}")
        cls.kind = kind
        _kinds[kind] = cls


class Unknown(Payload):
    """A payload of a kind that this process has no class for, kept as it came."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Envelope(BaseModel):
    """One message. `time` is seconds since the epoch; `seq` counts the events of one topic.

    `correlation` is the id of the command that a message belongs to.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: int = VERSION
    kind: str = Field(max_length=100)
    id: str = Field(default_factory=new_id, min_length=1, max_length=100)
    source: str = Field(default="", max_length=100)
    correlation: str | None = Field(default=None, max_length=100)
    topic: str = Field(default="", max_length=200)
    seq: int = Field(default=0, ge=0)
    time: float = Field(default_factory=time.time, allow_inf_nan=False)
    payload: SerializeAsAny[Payload]

    @field_validator("v")
    @classmethod
    def _supported(cls, version: int) -> int:
        if version != VERSION:
            raise ValueError(f"protocol version {version} is not supported, this is {VERSION}")
        return version

    @field_validator("payload", mode="before")
    @classmethod
    def _typed(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Payload):
            return value
        try:
            return _kinds.get(info.data.get("kind", ""), Unknown).model_validate(value)
        except ValidationError as error:
            raise ValueError(_first_fault(error, "payload")) from None

    @classmethod
    def of(
        cls,
        payload: Payload,
        *,
        source: str = "",
        correlation: str | None = None,
        message_id: str = "",
    ) -> Envelope:
        """Wrap `payload`; `message_id` is made up when it is empty."""
        return cls(
            kind=payload.kind,
            id=message_id or new_id(),
            source=source,
            correlation=correlation,
            payload=payload,
        )

    def encode(self) -> bytes:
        """The envelope as one JSON object in UTF-8."""
        return self.model_dump_json().encode()

    def encode_event(self) -> bytes:
        """The same without topic and seq, which the broker puts in (see bus/publication.py)."""
        return self.model_dump_json(exclude={"topic", "seq"}).encode()


def decode(data: bytes) -> Envelope:
    """Read one envelope. Raises BadMessage with the first fault in words."""
    if isinstance(data, Oversize):
        raise data.refusal()
    try:
        with _collecting(len(data) < _LARGE):
            return Envelope.model_validate_json(data)
    except ValidationError as error:
        raise BadMessage(_first_fault(error, "message")) from None


@contextmanager
def _collecting(wanted: bool) -> Iterator[None]:
    """Without it, a list of 300,000 lists takes a fifth of the time: all of them are needed."""
    if wanted or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _first_fault(error: ValidationError, whole: str) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100] or whole
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
