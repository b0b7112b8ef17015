"""`sovl mind`: watch a mind live without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from config import ConfigError, Fault, Paths, Settings, load
from sovl_daemon.cli import render
from sovl_daemon.models import ModelStore
from sovl_daemon.models.checkpoint import shapes_of

app = typer.Typer(name="mind", help="Watch a mind live without a model.", no_args_is_help=True)

_MAX_HOURS = 24 * 366


@app.callback()
def group() -> None:
    """Watch a mind live without a model."""


@app.command()
def simulate(
    hours: Annotated[
        float, typer.Option(min=0.1, max=_MAX_HOURS, help="How long it lives, in its own time.")
    ] = 24,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same life.")] = 42,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw it into this .png or .svg file.", metavar="FILE"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with a moment for each minute.")
    ] = False,
) -> None:
    """Let a mind with the configured knobs live through imagined visits, and tell what it did."""
    from sovl_daemon.laboratory.mind.plot import draw
    from sovl_daemon.laboratory.mind.simulation import MindSimulation, summary
    from sovl_daemon.laboratory.plot import check, write

    settings = load()
    if plot is not None:
        check(plot)
    simulation = MindSimulation(
        settings.controls_config,
        settings.training_config,
        hours=hours,
        seed=seed,
        parameters=_trainable(settings),
    )
    moments = list(simulation.run())
    if plot is not None:
        write(lambda: draw(moments), plot)
    life = summary(moments, hours=hours, seed=seed)
    if as_json:
        drawn = {"plot": str(plot)} if plot else {}
        render.show({**life, **drawn, "moments": moments}, as_json=True)
        return
    render.facts(life.items())
    if plot:
        render.say(f"drawn in {plot}")


def _trainable(settings: Settings) -> int:
    """The parameters that learn: of the scaffold, or of the default one before it is stored."""
    from sovl_daemon.laboratory.mind.adapters import DEFAULT, trainable

    store = ModelStore(Paths.of(settings).model_dir)
    folder = store.stored(settings.core_config.scaffold_model_name)
    shapes = shapes_of(folder) if folder else DEFAULT
    found = trainable(shapes, settings.lora_config, settings.fusion.adapted_blocks)
    if not found:
        problem = "the scaffold has none of these modules"
        raise ConfigError([Fault("lora_config.lora_target_modules", problem)])
    return found
