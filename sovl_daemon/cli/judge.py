"""`sovl judge`: fit, evaluate, question and simulate what decides in the grey zone."""

from __future__ import annotations

import json
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.table import Table

from config import Paths, load
from sovl_daemon import openmp
from sovl_daemon.cli import render
from sovl_daemon.cli.judge_simulate import simulate
from sovl_daemon.cli.model import shown_progress
from sovl_daemon.client import AsyncClient
from sovl_daemon.client.target import Target
from sovl_daemon.control.decision_log import DecisionLog, Logged
from sovl_daemon.control.task_file import SHIPPED, load_tasks
from sovl_daemon.engine.errors import OptionError
from sovl_daemon.library_caches import use_library_caches
from sovl_daemon.models import ModelStore
from sovl_daemon.models.progress import begin

if TYPE_CHECKING:
    from sovl_daemon.contracts.controller import ExplainedVerdict

app = typer.Typer(
    name="judge",
    help="Fit, evaluate, question and simulate what decides in the grey zone.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelName = Annotated[
    str | None, typer.Argument(help="Model of the store [default: the configured base].")
]
Questions = Annotated[
    float,
    typer.Option(
        "--share", min=0.05, max=10, help="How many times the usual questions; 0.1 is a first look."
    ),
]

app.command()(simulate)


@app.command()
def fit(
    name: ModelName = None,
    layer: Annotated[
        int | None, typer.Option(min=1, help="How many layers to read [default: half of them].")
    ] = None,
    share: Questions = 1.0,
    as_json: Json = False,
) -> None:
    """Fit the judge to a model, in some minutes; a running daemon uses it from then on.

    Nothing is kept of a fit that is interrupted.
    """
    from sovl_daemon.laboratory.extra import require_scikit_learn

    require_scikit_learn()
    settings = load()
    folder = _model(name)
    with shown_progress(as_json) as report:
        begin("starting the engine", report)
        openmp.prepare(settings.host.max_threads())
        from sovl_daemon.judge import shelf  # loads torch: only this command pays
        from sovl_daemon.laboratory.judge import fitting

        study = fitting.Study(folder, device=settings.host.device, threads=settings.host.threads)
        probe = fitting.fit_probe(study, report, layer=layer, share=share)
        path = shelf.probe_path(Paths.of(settings).state_dir, folder)
        fitting.keep(probe, path)
    card = probe.card.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps({"event": "fitted", "path": str(path), **card}))
    else:
        typer.echo(f"{folder.name}: layer {probe.card.layer}, {probe.card.fitted_on} questions")
        _scores({"": probe.card.scores})
        typer.echo(f"written to {path}")


@app.command("eval")
def evaluate(
    name: ModelName = None,
    precision: Annotated[
        str, typer.Option(help="What to hold the weights in; fp16 is as they are.")
    ] = "fp16",
    share: Questions = 1.0,
    as_json: Json = False,
) -> None:
    """Score the judge of a model on simulated questions that it was not fitted on."""
    from sovl_daemon.laboratory.extra import require_scikit_learn

    require_scikit_learn()
    settings = load()
    folder = _model(name)
    with shown_progress(as_json=False) as report:
        begin("starting the engine", report)
        openmp.prepare(settings.host.max_threads())
        from sovl_daemon.cli import evaluation
        from sovl_daemon.judge import shelf
        from sovl_daemon.laboratory.judge import fitting

        probe = shelf.find_probe(Paths.of(settings).state_dir, folder)
        if probe is None:
            raise OptionError(f"{folder.name} has no probe yet: run sovl judge fit {name or ''}")
        study = fitting.Study(folder, device=settings.host.device, threads=settings.host.threads)
        found = {}
        for each in evaluation.parse_precisions(precision):
            plain = study.model.plain
            evaluation.hold(study.model, plain if each == "fp16" else each)
            found[each] = fitting.examine(study, probe, report, share)
    if as_json:
        typer.echo(json.dumps({"model": folder.name, "precisions": found}))
    else:
        _scores(found)


@app.command()
def explain(
    task: Annotated[str, typer.Argument(help="Name of the task, for example memory.")] = "memory",
    as_json: Json = False,
) -> None:
    """Ask the judge now, and show which lines of its prompt moved the verdict."""
    from sovl_daemon.contracts.controller import ExplainVerdict

    async def ask() -> None:
        async with AsyncClient(Target.find(), source="sovl") as client:
            found = await client.ask(ExplainVerdict(task=task))
            render.show(found, as_json=as_json, view=_explained)

    anyio.run(ask)


@app.command()
def why(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID | TIME]",
            help="Number of a decision, or a moment such as 14:30 or 2026-01-31T14:30:00 "
            "[default: now].",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    as_json: Json = False,
) -> None:
    """Say why it acted at a moment, or why it did not. Needs no running daemon."""
    from sovl_daemon.judge.why import explain as told

    settings = load()
    paths = Paths.of(settings)
    file = paths.state_dir / "decisions.db"
    if not file.exists():
        raise OptionError(f"{file}: there is no log of decisions yet")
    tasks = load_tasks((SHIPPED, settings.control.tasks_dir or paths.state_dir / "tasks"))
    with closing(DecisionLog(file)) as log:
        found = _asked_for(log, what, task)
        told_of = [{"id": each.id, "says": told(log, each, tasks)} for each in found]
    if as_json:
        typer.echo(json.dumps({"decisions": told_of}))
    else:
        typer.echo("\n\n".join("\n".join(map(str, each["says"])) for each in told_of))  # type: ignore[call-overload]


def _asked_for(log: DecisionLog, what: str | None, task: str | None) -> list[Logged]:
    if what is not None and what.isdigit():
        found = log.at(int(what))
        if found is None:
            raise OptionError(f"decision {what} is not in the log, or no longer")
        return [found]
    decisions = log.until(_moment(what), task)
    if not decisions:
        raise OptionError(f"nothing was decided{f' on {task}' if task else ''} until then")
    return decisions


def _moment(text: str | None) -> float:
    """Seconds since the epoch of a moment in local time. Raises OptionError."""
    if text is None:
        return time.time()
    today = datetime.now().astimezone().date().isoformat()
    for candidate in (text, f"{today}T{text}"):
        try:
            return datetime.fromisoformat(candidate).astimezone().timestamp()
        except ValueError:
            continue
    raise OptionError(f"{text}: give a decision's number, 14:30, or 2026-01-31T14:30:00")


def _model(name: str | None) -> Path:
    settings = load()
    paths = Paths.of(settings)
    use_library_caches(paths)
    store = ModelStore(paths.model_dir)
    return store.path(name or settings.core_config.base_model_name)


def _scores(found: Any) -> None:
    table = Table("", "questions", "AUC", "ECE", "Brier", "abstains", "errs", "n", box=None)
    for precision, groups in found.items():
        for group, s in groups.items():
            figures = [f"{s[key]:.3f}" for key in ("auc", "ece", "brier", "abstention", "error")]
            table.add_row(precision, group, *figures, f"{s['questions']:.0f}")
    render.console.print(table)


def _explained(verdict: ExplainedVerdict) -> None:
    console = render.console
    said = f"{verdict.answer} ({verdict.p_true:.3f} that an adjustment is needed)"
    console.print(f"[bold]{render.escape(said)}[/] {render.escape(verdict.reason)}")
    table = Table("moves it by", "line", box=None)
    for share in verdict.shares:
        table.add_row(f"{share.logit:+.2f}", render.escape(share.text))
    console.print(table)
    if verdict.recommended:
        render.say(f"recommended: {verdict.recommended} (enough with {verdict.sure:.0%})")
