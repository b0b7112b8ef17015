"""What is known after each night as a picture. Needs matplotlib, which only this module loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sovl_daemon.laboratory.plot import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DARK = 0.6  # from here on the number in a square is white


def save_plot(matrix: Sequence[Sequence[float]], path: Path) -> None:
    """Write the picture; `path` is one that `plot.check` lets pass."""
    write(lambda: draw(matrix), path)


def draw(matrix: Sequence[Sequence[float]]) -> "Figure":
    """A square for each night and whose facts were asked; later nights' have none yet."""
    from matplotlib.figure import Figure

    count = len(matrix)
    figure = Figure(figsize=(1.1 * count + 2, count + 1.2), layout="constrained")
    panel = figure.subplots()
    squares = [[*row, *[float("nan")] * (count - len(row))] for row in matrix]
    image = panel.imshow(squares, vmin=0, vmax=1, cmap="Blues")
    for after, row in enumerate(matrix):
        for night, share in enumerate(row):
            color = "white" if share > _DARK else "black"
            panel.text(night, after, f"{share:.2f}", ha="center", va="center", color=color)
    names = [str(number) for number in range(1, count + 1)]
    panel.set_xticks(range(count), names)
    panel.set_yticks(range(count), names)
    panel.set_xlabel("facts of night")
    panel.set_ylabel("after night")
    figure.colorbar(image, label="exact match")
    return figure
