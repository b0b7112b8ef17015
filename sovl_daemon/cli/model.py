"""`sovl model`: pull, list, verify, evaluate and remove models."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from config import Paths, load
from sovl_daemon import openmp
from sovl_daemon.cli import exits, render
from sovl_daemon.cli.progress import bar, moves
from sovl_daemon.engine.errors import TemplateError
from sovl_daemon.library_caches import use_library_caches
from sovl_daemon.models import (
    DEFAULT_MODEL,
    ModelManifest,
    ModelStore,
    ProgressCallback,
    StageProgress,
    ignore_progress,
)
from sovl_daemon.models.progress import begin

app = typer.Typer(
    name="model",
    help="Pull, list, verify, evaluate and remove language models.",
    no_args_is_help=True,
)

_REFRESH_SECONDS = 0.1

ModelDir = Annotated[
    Path | None, typer.Option("--model-dir", help="Folder of the models [default: configured].")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="Short name, folder, .gguf file, or owner/name on the hub.")
    ] = DEFAULT_MODEL,
    force: Annotated[bool, typer.Option(help="Replace a stored model of that name.")] = False,
    model_dir: ModelDir = None,
    as_json: Json = False,
) -> None:
    """Fetch a model and keep it as 16-bit safetensors; does nothing when it is there already."""
    store = _store(model_dir)
    with shown_progress(as_json) as report:
        manifest = store.pull(name, force=force, progress=report)
    if as_json:
        typer.echo(json.dumps({"event": "pulled", "manifest": _as_dict(manifest)}))
    else:
        typer.echo(f"{manifest.name}: {_summary(manifest)}, in {store.path(manifest.name)}")


@app.command("list")
def list_models(model_dir: ModelDir = None, as_json: Json = False) -> None:
    """List the models of the store."""
    store = _store(model_dir)
    manifests = store.list()
    if as_json:
        typer.echo(json.dumps([_as_dict(manifest) for manifest in manifests]))
    elif manifests:
        Console().print(_table(manifests))
        for manifest in manifests:
            _print_chat(manifest.name, store.path(manifest.name))
    else:
        typer.echo(f"no models in {store.root}; run: sovl model pull {DEFAULT_MODEL}")


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Model [default: all].")] = None,
    model_dir: ModelDir = None,
    as_json: Json = False,
) -> None:
    """Compare models with their manifests; exit code 1 when a file is damaged."""
    store = _store(model_dir)
    names = [name] if name else store.names()
    with _silence() if as_json else shown_progress(as_json=False) as report:
        faults = {each: store.verify(each, report) for each in names}
    if as_json:
        typer.echo(json.dumps(faults))
    else:
        _print_faults(faults)
    if any(faults.values()):
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    name: Annotated[
        str | None, typer.Argument(help="Model [default: the configured base].")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="What to hold the weights in; fp16 is as they are.")
    ] = "fp16,int8,int4",
    text: Annotated[
        Path | None, typer.Option(help="Text file to read [default: Python's help topics].")
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, max=100_000, help="At most so many windows of 512 tokens.")
    ] = 16,
    model_dir: ModelDir = None,
    as_json: Json = False,
) -> None:
    """Measure what each precision of a model costs in perplexity, and its weights in memory."""
    settings = load()
    folder = _store(model_dir).path(name or settings.core_config.base_model_name)
    with shown_progress(as_json=False) as report:
        begin("starting the engine", report)
        openmp.prepare(settings.host.max_threads())
        from sovl_daemon.cli import evaluation  # loads torch: only this command pays for it

        found = evaluation.evaluate(
            folder,
            evaluation.parse_precisions(precision),
            evaluation.read_text(text, windows),
            windows=windows,
            device=settings.host.device,
            threads=settings.host.threads,
            report=report,
        )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        evaluation.show(found)
    if found.failed:
        raise typer.Exit(exits.FAILED)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Model to remove.")],
    model_dir: ModelDir = None,
    as_json: Json = False,
) -> None:
    """Remove a model from the store."""
    _store(model_dir).remove(name)
    typer.echo(json.dumps({"removed": name}) if as_json else f"{name} removed")


def _store(model_dir: Path | None) -> ModelStore:
    paths = Paths.of(load())
    use_library_caches(paths)
    return ModelStore((model_dir or paths.model_dir).expanduser().absolute())


@contextmanager
def shown_progress(as_json: bool) -> Iterator[ProgressCallback]:
    """Choose how progress shows: JSON lines, a bar on a terminal, else one line a stage."""
    if as_json:
        yield _throttled(_print_json)
    elif moves(render.errors):
        with _bar() as report:
            yield report
    else:
        yield _once_a_stage(lambda step: typer.echo(f"{step.stage} ...", err=True))


@contextmanager
def _silence() -> Iterator[ProgressCallback]:
    yield ignore_progress


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    with bar(render.errors) as move:

        def show(step: StageProgress) -> None:
            move(step.stage, step.done, step.total, step.amount())

        yield _throttled(show)


def _throttled(show: ProgressCallback) -> ProgressCallback:
    """Pass on a stage's first and last step, and of the others ten a second."""
    stage, shown_at = "", 0.0

    def report(step: StageProgress) -> None:
        nonlocal stage, shown_at
        now = time.monotonic()
        due = now - shown_at >= _REFRESH_SECONDS
        if due or step.stage != stage or step.done == step.total:
            stage, shown_at = step.stage, now
            show(step)

    return report


def _once_a_stage(show: ProgressCallback) -> ProgressCallback:
    stage = ""

    def report(step: StageProgress) -> None:
        nonlocal stage
        if step.stage != stage:
            stage = step.stage
            show(step)

    return report


def _print_json(step: StageProgress) -> None:
    typer.echo(json.dumps({"event": "progress", **asdict(step)}))


def _as_dict(manifest: ModelManifest) -> dict[str, object]:
    return manifest.model_dump(mode="json")


def _summary(manifest: ModelManifest) -> str:
    return (
        f"{manifest.parameters / 1e6:.1f} M parameters, {manifest.dtype}, "
        f"{manifest.total_bytes / 1e6:.0f} MB"
    )


def _table(manifests: list[ModelManifest]) -> Table:
    table = Table("name", "parameters", "dtype", "size", "source", box=None)
    for manifest in manifests:
        parameters = f"{manifest.parameters / 1e6:.1f} M"
        size = f"{manifest.total_bytes / 1e6:.0f} MB"
        table.add_row(manifest.name, parameters, manifest.dtype, size, manifest.source)
    return table


def _print_chat(name: str, folder: Path) -> None:
    """Say what is done for a chat template that cannot take all that SOVL says."""
    from sovl_daemon.engine.text.chat_template import template_in  # loads jinja2

    try:
        adapted = template_in(folder).adaptations
    except TemplateError as error:
        typer.echo(f"{name}: its chat template cannot be used: {error}")
        return
    if adapted:
        typer.echo(f"{name}: {'; '.join(adapted)}")


def _print_faults(faults: dict[str, list[str]]) -> None:
    for name, found in faults.items():
        typer.echo(f"{name}: {'sound' if not found else f'{len(found)} faults'}")
        for fault in found:
            typer.echo(f"  {fault}")
