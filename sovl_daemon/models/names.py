"""Names of models: which are allowed as folders of the store, and which come close to a typo."""

import difflib
import re
from collections.abc import Iterable

from sovl_daemon.models.errors import InvalidModelName

_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def checked_name(name: str) -> str:
    """Return the name of a folder of the store if it is allowed as one.

    Raises:
        InvalidModelName: it could leave the store or hide in it.

    """
    if not _STORE_NAME.fullmatch(name) or ".." in name:
        raise InvalidModelName(
            f"{name!r} cannot name a model; allowed are up to 128 letters, digits, '.', '_' and "
            "'-', beginning with a letter or digit, without '..'"
        )
    return name


def local_name(name: str) -> str:
    """Return the folder for a file's or folder's name: what is not allowed becomes one `-`.

    Raises:
        InvalidModelName: nothing of it is left.

    """
    return checked_name(re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", name).strip("-._")[:128])


def store_name(name: str) -> str:
    """Return the folder for a name: `owner/name` of a model hub becomes `owner--name`.

    Raises:
        InvalidModelName: the name is neither a folder's nor a hub's.

    """
    hub_name = _HUB_NAME.fullmatch(name)
    return checked_name(name.replace("/", "--") if hub_name else name)


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that look like this one, the nearest first."""
    return difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Return ` (nearest: a, b)`, or nothing when no known name is near."""
    near = nearest_names(name, known)
    return f" (nearest: {', '.join(near)})" if near else ""
