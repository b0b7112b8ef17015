"""What can go wrong with a model. Every message is one line that says what to do next.

Where the reason passes the class has the `errno` by which the system says the same.
"""

import errno
from typing import ClassVar


class ModelError(Exception):
    """Base of every error of the model store."""


class InvalidModelName(ModelError):
    """A name that cannot be a folder of the store."""


class ModelNotFound(ModelError):
    """The store has no model of that name."""


class ModelExists(ModelError):
    """The store has a model of that name from another source."""


class ModelReplaced(ModelError):
    """The stored files of a model are not those that were pulled."""


class FetchError(ModelError):
    """The model's files could not be fetched or read."""


class SourceUnreachable(FetchError):
    """Nobody who has the model's files can be asked now."""

    errno: ClassVar[int] = errno.EHOSTUNREACH


class WrongHash(FetchError):
    """A fetched file is not the one the catalogue promises."""


class NoSpace(ModelError):
    """The disk has no room for the converted model."""

    errno: ClassVar[int] = errno.ENOSPC


class ConversionError(ModelError):
    """The checkpoint is not one that can become 16-bit safetensors."""


class ManifestError(ModelError):
    """A model's folder has no manifest, or one that cannot be read."""


def later_is_better(status: int) -> bool:
    """Tell whether a server that answers with this HTTP status may give the file later."""
    return status >= 500 or status in (408, 429)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut to 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:300]
