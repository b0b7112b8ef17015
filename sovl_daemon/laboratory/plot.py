"""What all pictures need: a kind of file that can be drawn, and matplotlib."""

from pathlib import Path

from config import Paths, load
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.library_caches import use_library_caches

SUFFIXES = (".png", ".svg")


class PlotError(OptionError):
    """There can be no picture; the message says why and what to do."""


def check(path: Path) -> None:
    """Raise PlotError if `path` is of no known kind, or there is no matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"--plot {path}: give a file that ends in {' or '.join(SUFFIXES)}")
    use_library_caches(Paths.of(load()))
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        raise PlotError(
            "--plot needs matplotlib: run pip install 'sovl-daemon[plots]', or leave --plot out"
        ) from None
