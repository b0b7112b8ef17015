"""A simulated life as a picture. Needs matplotlib, which is loaded only to draw one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from sovl_daemon.laboratory.mind.simulation import EventKind, MindSnapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HOUR_S = 3600
_SIZE_INCHES = (12, 9)
_HEIGHTS = (3, 2, 2, 2)


def draw(moments: Sequence[MindSnapshot]) -> "Figure":
    """Return a life as a figure.

    On one axis of time in hours: confidence, tiredness and pressure; temperament; exposure; and
    what happened. Sleep is shaded.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    panels: list[Axes] = list(
        figure.subplots(len(_HEIGHTS), sharex=True, height_ratios=_HEIGHTS).flat
    )
    shares, temperament, exposure, events = panels
    hours = [each.time_s / _HOUR_S for each in moments]

    confidence = [float("nan") if each.confidence is None else each.confidence for each in moments]
    shares.plot(hours, confidence, label="confidence")
    shares.plot(hours, [each.tiredness for each in moments], label="tiredness")
    shares.plot(hours, [each.pressure for each in moments], label="pressure", linewidth=0.6)
    shares.set_ylim(0, 1.02)
    shares.legend(loc="lower right", ncols=3)

    temperament.plot(hours, [each.temperament for each in moments], color="tab:purple")
    temperament.set_ylim(-1.02, 1.02)
    temperament.set_ylabel("temperament")

    exposure.plot(hours, [each.exposure for each in moments], color="tab:green")
    exposure.set_ylabel("exposure")

    kinds = get_args(EventKind)
    told = [event for moment in moments for event in moment.events]
    times = [[event.time_s / _HOUR_S for event in told if event.kind == kind] for kind in kinds]
    rows = range(len(kinds), 0, -1)
    events.eventplot(times, lineoffsets=rows, linelengths=0.7, colors=[f"C{row}" for row in rows])
    events.set_yticks(rows, kinds)

    for panel in panels:
        for start, end in _nights(moments):
            panel.axvspan(start, end, color="navy", alpha=0.12, linewidth=0)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("hours")
    return figure


def _nights(moments: Sequence[MindSnapshot]) -> Iterator[tuple[float, float]]:
    """When it slept, in hours. One that is cut off by the end lasts until it."""
    asleep_since = None
    for moment in moments:
        hour = moment.time_s / _HOUR_S
        if moment.asleep and asleep_since is None:
            asleep_since = hour
        elif not moment.asleep and asleep_since is not None:
            yield asleep_since, hour
            asleep_since = None
    if asleep_since is not None:
        yield asleep_since, moments[-1].time_s / _HOUR_S
