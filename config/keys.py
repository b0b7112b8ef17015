"""The catalogue of keys: names, ranges, and the nearest name to a mistyped one."""

import difflib
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.faults import ConfigError, Fault
from config.settings import Settings

# The manuals also write this section at the top level.
MOVED = {"dry_run_params": "training_config.dry_run_params"}


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section a field holds, None if the field is a key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from _walk(section, f"{prefix}{name}.")


KEYS: dict[str, FieldInfo] = dict(_walk(Settings, ""))
"""Every dotted key with its field, in the order of the reference."""

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(key.rpartition(".")[0] for key in KEYS))
"""Every dotted section, nested ones after the section they are in."""


def needs_restart(key: str) -> bool:
    """Tell whether a new value of `key` takes effect only at the next start.

    Raises:
        ConfigError: There is no such key.

    """
    return _extra(KEYS[resolve_key(key)]).restart


def unit(field: FieldInfo) -> str:
    """Return what the number counts or measures, empty for what is not a number."""
    return _extra(field).unit


class _Extra(NamedTuple):
    """What a key is declared with beside its type and its limits."""

    unit: str = ""
    restart: bool = False


def _extra(field: FieldInfo) -> _Extra:
    extra = field.json_schema_extra
    if not isinstance(extra, dict):
        return _Extra()
    return _Extra(str(extra["unit"]), bool(extra["restart"]))


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the plain types an annotation allows, unions and Annotated taken apart."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for member in get_args(annotation) for kind in members(member))
    return (annotation,)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words a field allows, empty if it is not a choice."""
    literals = (kind for kind in members(field.annotation) if get_origin(kind) is Literal)
    return tuple(word for literal in literals for word in get_args(literal))


def is_text(field: FieldInfo) -> bool:
    """Tell whether a field holds text: a string, a path or one of several words."""
    return bool(choices(field)) or not {str, Path}.isdisjoint(members(field.annotation))


def allows_null(field: FieldInfo) -> bool:
    """Tell whether null is a value of the field."""
    return type(None) in members(field.annotation)


def bounds(field: FieldInfo) -> list[Ge | Gt | Le | Lt]:
    """Return the limits of a field's number, or of each number in its list; lower ones first."""
    items = (get_args(item) for item in get_args(field.annotation) if get_origin(item) is Annotated)
    limits = [*field.metadata, *(each for item in items for each in item[1:])]
    found = [limit for limit in limits if isinstance(limit, Ge | Gt | Le | Lt)]
    return sorted(found, key=lambda limit: isinstance(limit, Le | Lt))


def range_text(field: FieldInfo) -> str:
    """Return the allowed range in words, such as `0.5 to 1.5`; empty if there is none."""
    return " to ".join(map(_limit_text, bounds(field)))


def _limit_text(limit: Ge | Gt | Le | Lt) -> str:
    match limit:
        case Ge(ge):
            return str(ge)
        case Gt(gt):
            return f"above {gt}"
        case Le(le):
            return str(le)
        case Lt(lt):
            return f"below {lt}"


def resolve_key(name: str) -> str:
    """Return the dotted key for a dotted or bare name.

    A bare name stands for the one key of that name, and a section of its own at the top level
    (`dry_run_params.max_samples`) for the section it was moved to.

    Raises:
        ConfigError: No key, or more than one, has that name; the fault names the nearest.

    """
    found = matches(name, KEYS)
    if len(found) == 1:
        return found[0]
    raise ConfigError([Fault(name, ambiguous(found) if found else unknown(name, "key"))])


def matches(name: str, keys: Collection[str]) -> list[str]:
    """Return the keys a dotted or bare name may stand for; a full dotted key only for itself."""
    return [name] if name in keys else [key for key in keys if key.endswith("." + name)]


def ambiguous(found: Collection[str]) -> str:
    """Return the problem of a bare name that several keys share."""
    return f"stands for several keys, write {' or '.join(found)}"


def unknown(name: str, noun: str) -> str:
    """Return the problem of a name that does not exist, with the nearest that does.

    Args:
        name: Dotted name as written.
        noun: What it was meant to be: `key` or `section`.

    """
    if name in SECTIONS or name in MOVED:
        return "is a section, name a key in it"
    section, _, leaf = name.rpartition(".")
    if section in KEYS:
        return f"unknown {noun}, {section} takes its whole value at once"
    owners = [key.rpartition(".")[0] for key in matches(leaf, KEYS)]
    if owners and section not in owners:
        return f"unknown {noun}, {leaf} belongs in {' or '.join(owners)}"
    return f"unknown {noun}, {_nearest(section, leaf)}"


def _nearest(section: str, leaf: str) -> str:
    here = {key.removeprefix(section + "."): key for key in KEYS if key.startswith(section + ".")}
    # Further dots would offer the keys of a nested section as if they were in this one.
    near = _closest(leaf, [name for name in here if "." not in name])
    if near:
        return f"did you mean {near}?"
    anywhere = {key.rpartition(".")[2]: key for key in KEYS} | {
        section.rpartition(".")[2]: section for section in SECTIONS
    }
    near = _closest(leaf, list(anywhere))
    return f"did you mean {anywhere[near]}?" if near else "docs/configuration.md lists them all"


def _closest(name: str, candidates: list[str]) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), candidates, n=1)), "")
