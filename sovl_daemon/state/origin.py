"""What a generation is made from, and whether it fits on what there is now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from sovl_daemon.state.manifest import GenerationManifest

ROLES = ("base", "scaffold")
_PARTS = ("weights", "vocabulary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a generation is made from: two models, and the store whose ids interactions have.

    `base` and `scaffold` are names, for people; what the models are say `digests`, by such keys as
    `base.weights` and `scaffold.vocabulary`.
    """

    base: str
    scaffold: str
    memory: str
    digests: Mapping[str, str] = field(default_factory=dict)


def misfit(manifest: GenerationManifest, origin: Origin) -> str:
    """Say why what a generation has learned does not fit on the models, empty if it does.

    By their digests; only where one of the two knows none, by their names. A mind that has learned
    nothing names no models, and fits on any.
    """
    for role in ROLES:
        was, now = getattr(manifest, role), getattr(origin, role)
        if was and (changed := _changed(role, manifest, origin)):
            advice = f"set core_config.{role}_model_name back to {was}"
            if _short(was) == _short(now):
                advice = f"get the {role} back that it was learned on"
            return (
                f"it was learned on another {role}, {was}{_digits(manifest.digests, changed)}; the "
                f"{role} is {now}{_digits(origin.digests, changed)} now: {advice}, load a state of "
                "this one (sovl state list), or begin anew with: sovl state reset"
            )
    return ""


def is_known_by_name(manifest: GenerationManifest) -> bool:
    """Whether an older SOVL wrote it, which noted no more of the models than their names."""
    return bool(manifest.base) and not manifest.digests


def _changed(role: str, manifest: GenerationManifest, origin: Origin) -> str:
    """Return what is not the same: the key of a digest, or the role where names had to do."""
    keys = [f"{role}.{part}" for part in _PARTS]
    both = [key for key in keys if key in manifest.digests and key in origin.digests]
    if both:
        differ = (key for key in both if manifest.digests[key] != origin.digests[key])
        return next(differ, "")
    same = _short(getattr(manifest, role)) == _short(getattr(origin, role))
    return "" if same else role


def _short(name: str) -> str:
    """The name in the store of what may be a path to a folder or a file."""
    return PurePath(name).name.removesuffix(".gguf")


def _digits(digests: Mapping[str, str], key: str) -> str:
    part = key.rpartition(".")[2]
    return f" ({part} {digests[key][:8]})" if key in digests else ""
