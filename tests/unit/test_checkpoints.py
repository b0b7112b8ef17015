"""How far a night or a training was, written down and taken up again, without a daemon."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from agents.shared_engine import shared_engine
from agents.training.checkpoints import Checkpoints
from agents.training.night import UnfinishedNight
from agents.training.pairs import UnfinishedTraining
from agents.training.trainer import Trainer
from bus.errors import CommandError, FatalError
from config import Paths, Settings, with_value
from sovl_daemon.contracts.scribe import Unlearned, UnlearnedPage
from sovl_daemon.contracts.trainer import ResetState, SaveState
from sovl_daemon.state import Generation, StateStore

NIGHT = UnfinishedNight(step=20, ids=[1, 2])
TRAINING = {"counts": torch.tensor([20, 0])}
BEST = {"attention.0.output.weight": torch.ones(2, 2), "adapter.a": torch.zeros(3)}
NOBODY: Any = None


class Alone(Trainer):
    """A trainer whose scribe has nothing to learn."""

    async def ask(self, request: Any, /, **args: Any) -> Any:
        assert isinstance(request, Unlearned)
        return UnlearnedPage(interactions=[], count=0, memory="m")


def trainer_in(folder: Path, *, dry: bool = False) -> Alone:
    settings = with_value(Settings(), "store.state_dir", str(folder))
    settings = with_value(settings, "training_config.dry_run", str(dry).lower())
    return Alone(settings, Paths.of(settings), "host")


@pytest.fixture
async def checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Checkpoints]:
    monkeypatch.setattr(shared_engine, "names", {"base": "b", "scaffold": "s"})
    trainer = trainer_in(tmp_path)
    await trainer.start()
    yield trainer._checkpoints
    await trainer.stop()


async def test_how_far_it_was_is_read_back(checkpoints: Checkpoints, tmp_path: Path) -> None:
    await checkpoints.keep_unfinished(
        TRAINING, of="a night", progress=NIGHT, memory="m", interactions=NIGHT.ids
    )
    manifest = Generation.sound(StateStore(tmp_path).candidate).manifest
    assert manifest.metrics == {"of": "a night", "step": 20, "ids": [1, 2]}
    found = await checkpoints.unfinished("a night", UnfinishedNight)
    assert found is not None
    assert found.progress == NIGHT
    assert await found.best() == {}


async def test_a_training_keeps_its_best_epoch(checkpoints: Checkpoints, tmp_path: Path) -> None:
    progress = UnfinishedTraining(best=None, epochs=2, waited=1)
    await checkpoints.keep_unfinished(
        TRAINING, of="pairs", progress=progress, memory="m", best=BEST
    )
    manifest = Generation.sound(StateStore(tmp_path).candidate).manifest
    assert manifest.metrics == {"of": "pairs", "best": None, "epochs": 2, "waited": 1}
    found = await checkpoints.unfinished("pairs", UnfinishedTraining)
    assert found is not None
    best = await found.best()
    assert {name: each.tolist() for name, each in best.items()} == {
        name: each.tolist() for name, each in BEST.items()
    }


@pytest.mark.parametrize(
    ("of", "kind", "reason"),
    [
        ("pairs", UnfinishedTraining, "it was of a night"),
        ("a night", UnfinishedTraining, "best: Field required"),
    ],
)
async def test_what_does_not_go_on_is_forgotten_and_why_is_logged(
    checkpoints: Checkpoints, tmp_path: Path, of: str, kind: Any, reason: str
) -> None:
    await checkpoints.keep_unfinished(TRAINING, of="a night", progress=NIGHT, memory="m")
    with capture_logs() as logs:
        assert await checkpoints.unfinished(of, kind) is None
    assert [(each["event"], each["reason"]) for each in logs] == [("state.begun_anew", reason)]
    assert not StateStore(tmp_path).candidate.exists()


async def test_a_dry_run_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, dry=True)
    await trainer.start()
    assert trainer._checkpoints.is_dry
    await trainer._checkpoints.keep_unfinished(TRAINING, of="a night", progress=NIGHT, memory="m")
    assert await trainer._checkpoints.unfinished("a night", UnfinishedNight) is None
    async with trainer._checkpoints.changing:  # it is said at once, whatever is learned
        with pytest.raises(CommandError, match="a dry run keeps nothing"):
            await trainer.save(SaveState(), NOBODY)
        with pytest.raises(CommandError, match="a dry run keeps nothing"):
            await trainer.reset(ResetState(), NOBODY)
    assert list(tmp_path.iterdir()) == []


async def test_one_writes_at_a_time(checkpoints: Checkpoints, tmp_path: Path) -> None:
    other = trainer_in(tmp_path)
    with pytest.raises(FatalError, match="another process writes"):
        await other.start()
    await other.stop()
