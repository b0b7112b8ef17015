"""`sovl state`: list, show, compare, save, load, reset and prune what the mind has learned."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import anyio
import typer

from bus.errors import BAD_COMMAND, CommandError
from config import Paths, Settings, load
from sovl_daemon.cli import render, state_views
from sovl_daemon.cli.state_views import (
    GenerationRow,
    ListedRow,
    Removed,
    ShownGeneration,
    StateList,
)
from sovl_daemon.client import AsyncClient, DaemonDown
from sovl_daemon.client.target import Target
from sovl_daemon.models import ModelError, ModelStore
from sovl_daemon.models.identity import identity
from sovl_daemon.state import Generation, Origin, StateStore, StateWriter
from sovl_daemon.state.store import CURRENT

if TYPE_CHECKING:
    from sovl_daemon.contracts.trainer import (
        LoadState,
        ResetState,
        SaveState,
        StateLoaded,
        StateReset,
        StateSaved,
    )

app = typer.Typer(
    name="state",
    help="List, show, compare, save, load, reset and prune what the mind has learned.",
    no_args_is_help=True,
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="Work on this folder, not on the daemon's [default: configured]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[str, typer.Argument(help="Number of a generation, name of a save, current.")]


@app.command("list")
def list_states(state_dir: StateDir = None, as_json: Json = False) -> None:
    """List the generations and saves; a quick look that reads no contents."""
    store = _store(state_dir)
    found = StateList(
        state_dir=str(store.root),
        generations=[ListedRow.of_folder(each) for each in store.history()],
        current=store.current_number(),
        saves=[ListedRow.of_folder(each) for each in store.saved()],
        candidate=store.candidate.is_dir(),
        damaged=[str(path) for path in store.aside()],
    )
    render.show(found, as_json=as_json, view=state_views.listed)


@app.command()
def show(reference: Reference = CURRENT, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Show one generation or save after comparing every byte of it; exit code 1 if damaged."""
    generation = _store(state_dir).find(reference)
    shown = ShownGeneration.of(generation, mind=generation.mind())
    render.show(shown, as_json=as_json, view=state_views.shown)


@app.command()
def diff(
    first: Reference,
    second: Reference = CURRENT,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Compare two: tensors by their relative change, the mind's numbers, what was learned."""
    store = _store(state_dir)
    from sovl_daemon.state.diff import difference  # loads numpy: only this command pays for it

    found = difference(store.find(first), store.find(second))
    render.show(found, as_json=as_json, view=state_views.difference)


@app.command()
def save(
    name: Annotated[
        str | None, typer.Argument(help="Its name [default: controls_config.save_path_prefix].")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a save of that name.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Keep the current state under a name. Without a name the default save is replaced."""
    from sovl_daemon.contracts.trainer import SaveState

    settings = load()
    chosen = name or settings.controls_config.save_path_prefix
    force = force or name is None

    def directly(writer: StateWriter) -> StateChange:
        saved = writer.save(chosen, replacing=force)
        text = f"generation {saved.manifest.number} saved as {chosen}"
        return StateChange(text, "saved", chosen, saved)

    request = SaveState(name=chosen, force=force)
    _carry_out(request, directly, settings, state_dir, as_json)


@app.command("load")
def load_state(
    reference: Annotated[
        str | None,
        typer.Argument(
            help="Name of a save or number of a generation "
            "[default: controls_config.save_path_prefix]."
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Go back to a save or a generation: it becomes a new one, so that this can be undone."""
    from sovl_daemon.contracts.trainer import LoadState

    settings = load()
    chosen = reference or settings.controls_config.save_path_prefix

    def directly(writer: StateWriter) -> StateChange:
        # Another folder's state may be of other models than those that are configured here.
        back = writer.restore(chosen, None if state_dir else _configured(settings))
        text = f"{chosen} loaded: it is generation {back.manifest.number} now{_undo(back)}"
        return StateChange(text, "loaded", chosen, back)

    _carry_out(LoadState(name=chosen), directly, settings, state_dir, as_json)


@app.command()
def reset(state_dir: StateDir = None, as_json: Json = False) -> None:
    """Begin anew as a mind that has learned nothing; `sovl state load NUMBER` undoes it."""
    from sovl_daemon.contracts.trainer import ResetState

    def directly(writer: StateWriter) -> StateChange:
        fresh = writer.reset()
        text = f"generation {fresh.manifest.number} has learned nothing{_undo(fresh)}"
        return StateChange(text, "reset", True, fresh)

    _carry_out(ResetState(), directly, load(), state_dir, as_json)


@app.command()
def prune(
    saves: Annotated[
        list[str] | None, typer.Argument(metavar="[SAVE] ...", help="Saves to remove as well.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Generations to keep [default: state.keep].")
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Also remove damaged ones.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Remove old generations, never the current one; the daemon must be stopped."""
    settings = load()
    store = _store(state_dir, settings)
    with store.writer(keep=settings.state.keep) as writer:
        for name in saves or []:
            writer.remove_save(name)
        removed = Removed(
            generations=writer.prune(keep),
            saves=saves or [],
            damaged=writer.prune_damaged() if damaged else [],
        )
    render.show(removed, as_json=as_json, view=state_views.pruned)


def _configured(settings: Settings) -> Origin:
    """The configured models: their names and, where they have been pulled, what they are."""
    store, core = ModelStore(Paths.of(settings).model_dir), settings.core_config
    names = {"base": core.base_model_name, "scaffold": core.scaffold_model_name}
    digests = {}
    for role, name in names.items():
        with suppress(ModelError):  # what is wrong with it the next start says
            if folder := store.stored(name):
                found = identity(folder)
                digests[f"{role}.weights"] = found.weights
                digests[f"{role}.vocabulary"] = found.vocabulary
    return Origin(**names, memory="", digests=digests)


def _undo(generation: Generation) -> str:
    parent = generation.manifest.parent
    return f"; to undo: sovl state load {parent}" if parent else ""


class StateChange(NamedTuple):
    """What was done on a folder: in words, what it is called, to what, and what came of it."""

    text: str
    done: str
    to: str | bool
    generation: Generation


def _carry_out(
    request: SaveState | LoadState | ResetState,
    directly: Callable[[StateWriter], StateChange],
    settings: Settings,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Have the daemon do it; when it is down, or another folder is meant, do it on the folder."""
    if state_dir is None:
        try:
            reply = anyio.run(_ask, request)
        except DaemonDown:
            if os.environ.get("SOVL_CONNECT"):
                raise  # that daemon's folder may be anywhere
        else:
            render.show(reply, as_json=as_json, view=lambda _: render.say(reply.text))
            return
    with _store(state_dir, settings).writer(keep=settings.state.keep) as writer:
        outcome = directly(writer)
        row = asdict(GenerationRow.of(outcome.generation))
    facts = {"text": outcome.text, outcome.done: outcome.to, **row}
    render.show(facts, as_json=as_json, view=lambda _: render.say(outcome.text))


async def _ask(
    request: SaveState | LoadState | ResetState,
) -> StateSaved | StateLoaded | StateReset:
    async with AsyncClient(Target.find(), source="sovl") as client:
        try:
            return await client.ask(request)
        except CommandError as error:
            if error.code != BAD_COMMAND:
                raise
            advice = "or stop the daemon with sovl stop, and try again"
            raise CommandError(error.code, f"{error.message}; {advice}", error.detail) from None


def _store(state_dir: Path | None, settings: Settings | None = None) -> StateStore:
    if state_dir is None:
        state_dir = Paths.of(settings or load()).state_dir
    return StateStore(state_dir.expanduser().absolute())
