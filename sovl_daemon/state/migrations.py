"""From each format of a generation to the next.

A migration has two halves: of the manifest in memory, so that old generations can be listed, and of
the other files in a copy of the folder. What is on disk in an old format stays as it is.

Format 1 had the temperament as a bare number `temperament` in mind.json, listed the interactions it
had learned one by one, and did not hash its manifest. Format 2 knew the models by their names
alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

_IDS = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True)
class Migration:
    """From one format to the next: the manifest but for its number, and the files beside it.

    Without `files` these are the same in both.
    """

    manifest: Callable[[dict[str, JsonValue]], dict[str, JsonValue]]
    files: Callable[[Path], None] | None = None


def upgraded(manifest: dict[str, JsonValue], version: int) -> dict[str, JsonValue]:
    """Return a manifest of format `version` with the fields of the newest.

    Raises:
        KeyError, ValueError: it was no manifest of that format.

    """
    for migration in MIGRATIONS[version - 1 :]:
        manifest = migration.manifest(manifest)
    return manifest


def upgrade_files(folder: Path, version: int) -> None:
    """Bring the files beside the manifest from format `version` to the newest.

    Raises:
        KeyError, TypeError, ValueError, OSError: they were not of that format.

    """
    for migration in MIGRATIONS[version - 1 :]:
        if migration.files is not None:
            migration.files(folder)


def _runs_of_interactions(manifest: dict[str, JsonValue]) -> dict[str, JsonValue]:
    changed = dict(manifest)
    ids = _IDS.validate_python(changed.pop("interactions"))
    number = changed["number"]
    return changed | {"learned": [[id_, id_, number] for id_ in sorted(set(ids))]}


def _temperament_of_its_own(folder: Path) -> None:
    path = folder / "mind.json"
    mind = dict(json.loads(path.read_bytes()))
    if "temperament" in mind:
        mind["temperament"] = {"score": mind["temperament"]}
    path.write_text(json.dumps(mind, indent=2) + "\n", encoding="utf-8")


MIGRATIONS = (
    Migration(_runs_of_interactions, _temperament_of_its_own),
    Migration(lambda manifest: {**manifest, "digests": {}}),
)
FORMAT_VERSION = len(MIGRATIONS) + 1
