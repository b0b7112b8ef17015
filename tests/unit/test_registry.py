"""Agents are found by entry point, in an order that the supervisor relies on."""

import pytest

from config import load
from sovl_daemon import registry
from sovl_daemon.registry import RegistryError, command_table, find_agents, groups


def settings(**overrides: str):
    return load(None, {key.replace("__", "."): value for key, value in overrides.items()}, {})


def test_shipped_agents_in_start_order() -> None:
    found = groups(settings(), find_agents(settings()))
    assert [(group.title, group.process, group.critical) for group in found] == [
        ("mind", "hub", True),
        ("scribe", "hub", True),
        ("host", "host", True),
        ("controller", "hub", False),
        ("curiosity", "hub", False),
        ("gestation", "hub", False),
        ("health", "hub", False),
    ]


def test_agents_of_one_process_are_one_group() -> None:
    together = settings(agents__placement='{"health": "host"}')
    found = groups(together, find_agents(together))
    assert [(group.title, group.agents) for group in found] == [
        ("mind", ("mind",)),
        ("scribe", ("scribe",)),
        ("host", ("dreamer", "generator", "health", "judge", "trainer")),
        ("controller", ("controller",)),
        ("curiosity", ("curiosity",)),
        ("gestation", ("gestation",)),
    ]


def test_disabled_agents_are_left_out() -> None:
    assert "health" not in find_agents(settings(agents__disabled='["health"]'))


@pytest.mark.parametrize("key", ["agents__disabled", "agents__placement"])
def test_unknown_agents_are_named(key: str) -> None:
    value = '["ghost"]' if key.endswith("disabled") else '{"ghost": "host"}'
    with pytest.raises(RegistryError, match=r"no agent 'ghost' is installed; there are: .*scribe"):
        find_agents(settings(**{key: value}))


class _Point:
    name = value = "broken"

    def __init__(self, outcome: object) -> None:
        self._outcome = outcome

    def load(self) -> object:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        (ImportError("no module named x"), "cannot load broken: no module named x"),
        (type("Odd", (), {"name": "odd"}), "calls itself 'odd'"),
        (type("Nameless", (), {}), "calls itself None"),
    ],
)
def test_agents_that_do_not_load_are_named(
    monkeypatch: pytest.MonkeyPatch, outcome: object, complaint: str
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [_Point(outcome)])
    with pytest.raises(RegistryError, match=complaint):
        find_agents(settings(agents__placement="{}", agents__disabled="[]"))


def test_command_offered_twice_names_both() -> None:
    shipped = find_agents(settings())
    twin = type("Twin", (shipped["scribe"],), {"name": "twin"})
    with pytest.raises(RegistryError, match=r"offered by both (twin and scribe|scribe and twin)"):
        command_table({**shipped, "twin": twin})
