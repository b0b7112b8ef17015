"""What a task's file declares: frozen values, checked when they are made, by a file or by code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=80)]
Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\n\r]*\S[^\n\r]*$")]
Seconds = Annotated[float, Field(gt=0)]

Mistake = tuple[tuple[str | int, ...], str]
"""The key that has to change, and what is wrong with it."""

BETWEEN_KEYS = "between_keys"
"""The type of pydantic's error for a mistake that no key makes alone."""


class Declared(BaseModel):
    """Base of what a task declares: no other keys, no other types, no infinity.

    Raises:
        ValidationError: all mistakes that were found, each with its key; a ValueError.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong between keys; the form of each alone is already checked."""
        return iter(())

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        found = [
            InitErrorDetails(
                type=PydanticCustomError(BETWEEN_KEYS, "{problem}", {"problem": problem}),
                loc=key,
                input=None,
            )
            for key, problem in self.mistakes()
        ]
        if found:
            raise ValidationError.from_exception_data(type(self).__name__, found)
        return self
