"""Load the configuration from all of its sources."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import InitSettingsSource

from config.explain import explain
from config.faults import ConfigError
from config.paths import default_path
from config.settings import Settings
from config.size import oversize
from config.sources import ConfigSource, command_line, environment, json_file


def load(
    path: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    required: bool = True,
) -> Settings:
    """Load the configuration: overrides beat the environment, it the file, it the defaults.

    Args:
        path: The JSON file; None for the default one, if it is there.
        overrides: Dotted (or unique bare) key to text, as given on the command line.
        environ: The environment; None for that of the process.
        required: Whether the file at `path` must exist.

    Raises:
        ConfigError: One fault for each mistake in any of the sources.

    """
    environ = os.environ if environ is None else environ
    file = json_file(path or default_path(environ), required=required and path is not None)
    sources = [command_line(overrides or {}), environment(environ), file]
    faults = [fault for source in sources for fault in source.faults]
    layers = tuple(InitSettingsSource(Settings, source.values) for source in sources)
    try:
        settings = Settings(_build_sources=(layers, {}))  # merged, the strongest first
        faults += oversize(settings)
    except ValidationError as error:
        faults += explain(error, lambda location: _origin(sources, location))
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return settings


def _origin(sources: Sequence[ConfigSource], location: Sequence[str | int]) -> str:
    return next((source.origin(location) for source in sources if source.provides(location)), "")
