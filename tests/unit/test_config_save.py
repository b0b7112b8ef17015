"""Saving settings, and getting the same ones back."""

import json
import stat
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Gt, Lt
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from config import KEYS, ConfigError, Settings, load, save, with_value
from config.keys import bounds, members
from config.sources import place

FITTING = {
    "save_path_prefix": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "listen": st.sampled_from(["tcp://127.0.0.1:1", "tcp://host:65533", "tcp://[::1]:80"]),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:7"]),
}
TEXT = st.text().filter(lambda text: "\0" not in text)
NAME = TEXT.filter(str.strip)
PATHS = st.lists(NAME, max_size=3).map(lambda names: Path("/", *names))


def numbers(kind: Any, field: FieldInfo) -> st.SearchStrategy[Any]:
    low, high = bounds(field)
    least, most = (getattr(limit, type(limit).__name__.lower()) for limit in (low, high))
    if kind is int:
        return st.integers(least, most)
    return st.floats(least, most, exclude_min=isinstance(low, Gt), exclude_max=isinstance(high, Lt))


def of_kind(kind: Any, field: FieldInfo) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        item = members(get_args(kind)[0])[0]
        items = numbers(item, field) if item in (int, float) else NAME
        return st.lists(items, max_size=4, unique=True, min_size=1).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(NAME, NAME, max_size=3)
    if kind in (int, float):
        return numbers(kind, field)
    return {bool: st.booleans(), str: NAME, Path: PATHS, type(None): st.none()}[kind]


def fitting(key: str) -> st.SearchStrategy[Any]:
    """Values of one key, from what its model says about it."""
    if key == "generation.system_prompt":
        return TEXT
    kinds = (of_kind(kind, KEYS[key]) for kind in members(KEYS[key].annotation))
    return FITTING.get(key.rpartition(".")[2], st.one_of(*kinds))


@st.composite
def any_settings(draw: st.DrawFn) -> Settings:
    chosen = draw(st.lists(st.sampled_from(list(KEYS)), unique=True, max_size=12))
    values: dict[str, Any] = {}
    for key in chosen:
        place(values, key, draw(fitting(key)))
    try:
        return Settings(**values)
    except ValidationError as error:
        refused = {details["loc"][-1] for details in error.errors()}
        assert refused <= {"dead_after_s", "backoff_max_s"}  # rules that join two keys
        assume(False)
        raise


@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(settings=any_settings())
def test_what_is_saved_is_loaded_again(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(settings, path)
    assert load(path, environ={}) == settings


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    save(with_value(Settings(), "max_samples", "7"), path)
    assert json.loads(path.read_text()) == {
        "training_config": {"dry_run_params": {"max_samples": 7}}
    }
    save(Settings(), path)
    assert path.read_text() == "{}\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_the_mode_is_kept_and_a_link_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "config.json"
    real.write_text("{}")
    real.chmod(0o640)
    link.symlink_to(real)
    save(with_value(Settings(), "nice", "7"), link)
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"host": {"nice": 7}}
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError) as caught:
        save(Settings(), tmp_path / "config.json")
    assert str(caught.value) == f"{tmp_path}/config.json: cannot be written: Is a directory"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
