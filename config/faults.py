"""What is wrong with a configuration, one line for each fault."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        key: Dotted key, or the path of the file when the file as a whole is wrong.
        problem: What is wrong and what is allowed.
        origin: Where the value came from; empty for the configuration file and the defaults.

    """

    key: str
    problem: str
    origin: str = ""

    def __str__(self) -> str:
        origin = f" ({self.origin})" if self.origin else ""
        text = f"{self.key}: {self.problem}{origin}"
        # What would break the line or the terminal is escaped, lone surrogates included.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(ValueError):
    """A configuration was refused; `str()` has one line for each of its `faults`."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))
