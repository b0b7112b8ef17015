"""What every section of the configuration shares: strictness, and how one key is declared."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A frozen group of keys that refuses unknown keys, loose types, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


def key(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    restart: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    lenient: bool = False,
) -> Any:
    """Declare one key.

    Args:
        default: The value when no source says otherwise.
        meaning: One sentence for the reference.
        unit: What a number counts or measures; empty for what is not a number.
        restart: Whether a new value waits for the next start.
        ge: Smallest allowed value.
        gt: Value that must be exceeded.
        le: Largest allowed value.
        lt: Value that must not be reached.
        lenient: Accept the JSON form of a type JSON does not have (list for tuple, text for path).

    """
    return Field(
        default,
        description=meaning,
        json_schema_extra={"unit": unit, "restart": restart},
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        strict=False if lenient else None,
    )


def refuse(problem: str, because: str = "") -> PydanticCustomError:
    """Build the error a validator raises; the fault's line is key, value, problem.

    Args:
        problem: What is wrong and what is allowed. Braces are safe.
        because: The other key of the same section that takes part in a cross-field rule.

    """
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "because": because})


def _encodable(text: str) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise refuse("contains a character that is not valid Unicode text") from error
    if b"\0" in encoded:
        raise refuse("contains a zero byte")
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise refuse("must not be empty")
    return text


def _absolute(path: Path) -> Path:
    _encodable(str(path))
    if not (path.is_absolute() or path.parts[:1] == ("~",)):
        raise refuse("is a relative path, write it from / or from ~/")
    return path


def _distinct(layers: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(layers)) != len(layers):
        raise refuse("names a layer twice")
    return layers


def matching(accepts: Callable[[str], object], allowed: str) -> AfterValidator:
    """Validate text by a predicate; `allowed` finishes the sentence '"x" is not ...'."""

    def check(text: str) -> str:
        if not accepts(text):
            raise refuse(f"is not {allowed}")
        return text

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Text, AfterValidator(_filled)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
LayerIndex = Annotated[int, Ge(0), Le(1023)]
Layers = Annotated[tuple[LayerIndex, ...], AfterValidator(_distinct)]
