"""Where modules come from: our own from beside this one, no other from where somebody stands.

It imports only what Python has loaded by then, lest it falls for what it is there to prevent.
"""

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
OURS = ("agents", "bus", "config")
SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")  # by our children and by libraries

left_out: list[str] = []
"""Entries of PYTHONPATH that are not followed."""


class _Ours:
    """Finds our packages, whoever else calls something `config`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT]) if name in OURS else None


def keep_our_names() -> None:
    """Take our packages from beside this one, whatever else the import path holds."""
    sys.meta_path.insert(0, _Ours)


def leave_out_the_current_folder() -> None:
    """Import nothing from the current folder, here and in every child.

    It gets onto the path by `python -m`, and by an entry of PYTHONPATH that is relative or empty,
    as of `PYTHONPATH=$PYTHONPATH:/some/folder` where there was none before.
    """
    left_out[:] = [each for each in _entries("PYTHONPATH") if not os.path.isabs(each)]  # noqa: PTH117
    current = {os.path.abspath(each) for each in left_out}  # noqa: PTH100
    if sys.argv[0] == "-m" and not sys.flags.safe_path:
        current.add(sys.path[0])
    sys.path[:] = [each for each in sys.path if each == ROOT or each not in current]
    for name in SEARCHED:
        entries = _entries(name)
        absolute = [each for each in entries if os.path.isabs(each)]  # noqa: PTH117
        if entries != absolute:
            os.environ[name] = os.pathsep.join(absolute)


def _entries(name: str) -> list[str]:
    text = os.environ.get(name, "")
    return text.split(os.pathsep) if text else []
