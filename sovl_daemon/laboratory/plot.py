"""How all pictures are written. Needs matplotlib, which is loaded only to draw one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from config import Paths, load
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.library_caches import use_library_caches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_DOTS_PER_INCH = 120
_SALT = "sovl"  # the same run is the same SVG, byte for byte


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


def write(draw: Callable[[], Figure], path: Path) -> None:
    """Write what is drawn to a path that `check` lets pass.

    Raises:
        PlotError: the file cannot be written.

    """
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": _SALT, "svg.fonttype": "none"}):
        figure = draw()
        try:
            date = {"Date": None} if path.suffix.lower() == ".svg" else {}
            figure.savefig(path, dpi=_DOTS_PER_INCH, metadata=date)
        except OSError as error:
            raise PlotError(f"--plot {path}: {error.strerror}; give another place") from error
