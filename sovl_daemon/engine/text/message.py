"""One turn of a conversation."""

from dataclasses import dataclass
from typing import Literal, get_args

from sovl_daemon.engine.errors import OptionError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """Who said what.

    Raises:
        OptionError: the role is not one of system, user, assistant.

    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise OptionError(f"message role {self.role!r} is unknown: use system, user, assistant")
