"""The configuration: what can be set, read from every source, and every mistake named.

`load` gives frozen `Settings`; `Paths` tells where things are on disk.
"""

from config.edit import changed, get_value, save, with_value, with_values
from config.faults import ConfigError, Fault
from config.keys import KEYS, needs_restart, resolve_key
from config.loader import load
from config.paths import Paths, default_path
from config.settings import Settings

__all__ = [
    "KEYS",
    "ConfigError",
    "Fault",
    "Paths",
    "Settings",
    "changed",
    "default_path",
    "get_value",
    "load",
    "needs_restart",
    "resolve_key",
    "save",
    "with_value",
    "with_values",
]
