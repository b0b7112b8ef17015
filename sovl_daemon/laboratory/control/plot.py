"""A simulated hour as a picture. Needs matplotlib, which is loaded only to draw one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, get_args

from sovl_daemon.control.guard import Limit
from sovl_daemon.laboratory.control.recorder import Happening, Kind, Observation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MINUTE_S = 60
_SIZE_INCHES = (12, 9)
_HEIGHTS = (4, 1, 1.5, 2.5)


class Picture(NamedTuple):
    """What is drawn: `demand` is what would be in use at each second if nobody acted."""

    title: str
    moments: Sequence[Observation]
    happenings: Sequence[Happening]
    ooms: Sequence[float]
    demand: Sequence[float]
    limit: Limit
    actions: Sequence[str]


def draw(picture: Picture) -> Figure:
    """Return an hour as a figure.

    On one axis of time in minutes: memory in use, as it would be if nobody acted, and its limits;
    pressure; the settings in force; and what was decided and done.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    panels: list[Axes] = list(
        figure.subplots(len(_HEIGHTS), sharex=True, height_ratios=_HEIGHTS).flat
    )
    figure.suptitle(picture.title)
    memory, pressure, settings, happenings = panels

    _draw_memory(memory, picture)

    felt = [float("nan") if each.pressure is None else each.pressure for each in picture.moments]
    pressure.plot(_minutes(picture.moments), felt, color="tab:purple")
    pressure.set_ylabel("pressure, %")

    rows = range(len(picture.actions), 0, -1)
    for row, action in zip(rows, picture.actions, strict=True):
        spans = [(start, end - start) for start, end in _spans(picture.moments, action)]
        settings.broken_barh(spans, (row - 0.35, 0.7), color=f"C{row}")
    settings.set_ylim(0.4, len(picture.actions) + 0.6)
    settings.set_yticks(rows, picture.actions)

    kinds = get_args(Kind)
    times = [
        [each.time_s / _MINUTE_S for each in picture.happenings if each.kind == kind]
        for kind in kinds
    ]
    rows = range(len(kinds), 0, -1)
    colors = [f"C{row}" for row in rows]
    happenings.eventplot(times, lineoffsets=rows, linelengths=0.7, colors=colors)
    happenings.set_yticks(rows, kinds)

    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("minutes")
    return figure


def _draw_memory(panel: Axes, picture: Picture) -> None:
    minutes = _minutes(picture.moments)
    demand_minutes = [second / _MINUTE_S for second in range(len(picture.demand))]
    panel.plot(demand_minutes, picture.demand, label="if nobody acted", color="tab:gray", alpha=0.6)
    panel.plot(minutes, [each.used for each in picture.moments], label="in use", color="tab:blue")
    for value, label, color in (
        (picture.limit.hard, "hard limit", "tab:red"),
        (picture.limit.grey, "grey zone", "tab:orange"),
    ):
        if value is not None:
            panel.axhline(value, label=label, color=color, linestyle="--", linewidth=1)
    for time_s in picture.ooms:
        panel.axvline(time_s / _MINUTE_S, color="black", linewidth=2)
    panel.set_ylim(
        min(each.used for each in picture.moments) - 2, max(102, max(picture.demand) + 2)
    )
    panel.set_ylabel("memory, %")
    panel.legend(loc="upper left", ncols=2)


def _spans(moments: Sequence[Observation], action: str) -> Iterator[tuple[float, float]]:
    """When a setting was in force, in minutes."""
    since = None
    for moment in moments:
        minute = moment.time_s / _MINUTE_S
        if action in moment.settings and since is None:
            since = minute
        elif action not in moment.settings and since is not None:
            yield since, minute
            since = None
    if since is not None:
        yield since, moments[-1].time_s / _MINUTE_S


def _minutes(moments: Sequence[Observation]) -> list[float]:
    return [each.time_s / _MINUTE_S for each in moments]
