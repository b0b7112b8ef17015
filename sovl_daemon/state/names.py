"""What a user may call a state: the number of a generation, or the name of a save."""

import re

from sovl_daemon.models.names import nearest_hint
from sovl_daemon.state.errors import InvalidSaveName

__all__ = ["checked_name", "folder_name", "nearest_hint", "parse_number"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_name(name: str) -> str:
    """Return the name of a save if it is allowed as one.

    Raises:
        InvalidSaveName: it could leave the folder of saves, hide in it, or be taken for a number.

    """
    if not _NAME.fullmatch(name) or name.isdigit():
        raise InvalidSaveName(
            f"{name!r} cannot name a save; allowed are up to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, not digits alone"
        )
    return name


def folder_name(number: int) -> str:
    """Return the folder of a generation: its number with six digits or more."""
    return f"{number:06d}"


def parse_number(text: str) -> int | None:
    """Return the number of a generation, or None for what is no number."""
    return int(text) if text.isascii() and text.isdigit() else None
