"""A probe is fitted, calibrated, kept and refused as it should be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sovl_daemon.control.task_file import load_tasks
from sovl_daemon.engine.errors import ArtifactError
from sovl_daemon.engine.judging.probe import (
    PooledStates,
    Probe,
    ProbeCard,
    load_probe,
    save_probe,
    soft_threshold,
)
from sovl_daemon.judge.shelf import SHIPPED, find_probe, identity, probe_path
from sovl_daemon.judge.typical import typical_key
from sovl_daemon.laboratory.judge.fit import Fit, Lessons, band, fit
from sovl_daemon.laboratory.scores import scores

torch.set_num_threads(1)

CARD = ProbeCard(model="tiny", identity="abc", layer=2, band=0.1, fitted_on=7)


def clouds(count: int = 900, seed: int = 3) -> Lessons:
    """Questions in eight dimensions, a third of which a line decides, and a second one never.

    In a direction of its own each task is far away from the others, across the truth.
    """
    rng = torch.Generator().manual_seed(seed)
    truths = torch.randint(0, 2, (count,), generator=rng).float()
    by_numbers = torch.arange(count) % 3 > 0
    tasks = torch.arange(count) % 7 % 3
    metrics = torch.randn(count, 8, generator=rng)
    metrics[:, 0] += 1.5 * (2 * truths - 1) * by_numbers
    metrics[:, 1] += 5.0 * tasks
    lines = torch.randn(2 * count, 8, generator=rng)
    owners = torch.arange(2 * count) // 2
    groups = [str(place) for place in range(count)]
    telling = (torch.arange(2 * count) % 2 == 0) & ~by_numbers[owners]
    lines[:, 2] += 4.0 * (2 * truths[owners] - 1) * telling
    return Lessons(metrics, lines, owners, truths, by_numbers, groups)


def chances(line: Fit, lessons: Lessons) -> list[float]:
    """P(true) of each, as the engine says it."""
    own = Probe(CARD, line.weight, line.bias, line.quiet, {"": torch.zeros(2, 8)})
    metrics, lines = lessons.metrics, lessons.lines
    heading = torch.zeros(1, 8)
    reads = [
        PooledStates(torch.cat([metrics[n, None], heading, lines[lessons.owners == n]]), [1] * 4, 1)
        for n in range(len(metrics))
    ]
    return [own.probability(read) for read in reads]


def test_what_is_fitted_is_found_and_calibrated() -> None:
    line, others = fit(clouds()), clouds(seed=4)
    truths = [bool(truth) for truth in others.truths]
    found = scores(chances(line, others), truths)
    assert found.auc > 0.93
    assert found.ece < 0.08
    alone, beside, lines = line.weight.abs()
    assert alone[0] > 4 * alone[1:].max()
    assert lines[2] > 4 * lines[3:].max()
    assert beside.max() < 0.7 * alone.max()  # where lines speak, these metrics say nothing


def test_lines_that_say_little_say_nothing() -> None:
    lessons = clouds()
    line = fit(lessons)
    quiet = ((lessons.lines @ line.weight[2]).abs() <= line.quiet).view(-1, 2).all(1)
    assert 0.2 < float(quiet[lessons.by_numbers].float().mean()) < 0.9
    alone = lessons.metrics @ line.weight[0] + line.bias[0]
    said = torch.tensor(chances(line, lessons))
    assert torch.allclose(said[quiet], torch.sigmoid(alone[quiet]), atol=1e-5)


def test_numbers_are_learned_from_those_that_they_decide_alone() -> None:
    lessons = clouds()
    turned = replace(lessons, truths=torch.where(lessons.by_numbers, lessons.truths, 0.0))
    one, other = (fit(each).weight[0] for each in (lessons, turned))
    assert float(torch.cosine_similarity(one, other, 0)) > 0.999


def test_one_truth_cannot_be_fitted() -> None:
    lessons = clouds(30)
    with pytest.raises(ValueError, match="both truths"):
        fit(replace(lessons, truths=torch.ones(30)))


def test_the_band_is_as_wide_as_the_worst_group_needs() -> None:
    good = ([0.9] * 20, [True] * 20)
    bad = ([0.55] * 5 + [0.9] * 15, [False] * 5 + [True] * 15)
    assert band([good[0]], [good[1]], 0.1) == 0
    width = band([good[0], bad[0]], [good[1], bad[1]], 0.1)
    assert width == pytest.approx(0.05)
    wrong = sum(abs(p - 0.5) > width and (p > 0.5) != t for p, t in zip(*bad, strict=True))
    assert wrong <= 0.1 * 20
    assert band([[0.9] * 5], [[True] * 5], 0.1) == 0.5  # too few to promise anything


def probe(card: ProbeCard | None = None) -> Probe:
    bias, centres = torch.tensor([0.5, -0.5]), {"": torch.zeros(2, 4), "task a": torch.ones(2, 4)}
    return Probe(card or CARD, torch.randn(3, 4), bias, 0.25, centres)


def test_lines_and_bias_are_the_logit() -> None:
    own = probe()
    for task, loud in (("task a", 9.0), ("", 9.0), ("", 0.0)):
        read = PooledStates(
            torch.cat([torch.randn(2, 4), loud * torch.randn(2, 4)]), [3, 2, 1, 5], 1
        )
        centre = own.centres[task]
        says = soft_threshold((read.lines() - centre[1]) @ own.weight[2], own.quiet)
        k = 1 if loud else 0
        assert bool(says.any()) is bool(k)
        wanted = float(own.weight[k] @ (read.metric() - centre[0]) + says.sum() + own.bias[k])
        assert own.logit(read, task or "never seen") == pytest.approx(wanted, abs=1e-4)
        expected = 1 / (1 + math.exp(-wanted))
        assert own.probability(read, task) == pytest.approx(expected, abs=1e-4)
        assert len(own.by_line(read, task)) == 5


def test_what_is_shrunk_is_nearer_to_nothing() -> None:
    assert soft_threshold(torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]), 0.75).tolist() == [
        -1.25,
        0,
        0,
        0,
        1.25,
    ]


def test_a_probe_comes_back_as_it_was(tmp_path: Path) -> None:
    own, path = probe(), tmp_path / "probes" / "tiny.safetensors"
    save_probe(own, path)
    again = load_probe(path, "abc")
    assert again.card == own.card
    assert torch.equal(again.weight, own.weight)
    assert torch.equal(again.bias, own.bias)
    assert again.quiet == own.quiet
    assert all(torch.equal(again.centres[key], own.centres[key]) for key in own.centres)
    assert sorted(each.name for each in path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_another_models_probe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_probe(probe(), path)
    with pytest.raises(
        ArtifactError, match=r"fitted on another model \(tiny\): run sovl judge fit"
    ):
        load_probe(path, "def")


def test_one_of_an_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_probe(probe(), path)
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"format_version": 3', '"format_version": 2'))
    with pytest.raises(ArtifactError, match="format 2, where 3 is read: run sovl judge fit"):
        load_probe(path)


def test_damage_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_probe(probe(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        load_probe(path)
    path.write_bytes(whole)
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"layer": 2', '"layer": 1'))
    with pytest.raises(ArtifactError, match="not the pair of its JSON"):
        load_probe(path)
    card.write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read as a probe's card"):
        load_probe(path)


def test_the_shipped_ones_know_every_shipped_task() -> None:
    """Else each start of the daemon would read what it could know."""
    keys = {typical_key(each) for each in load_tasks().values()}
    for path in SHIPPED.glob("*.safetensors"):
        assert keys <= load_probe(path).centres.keys()


def test_the_users_own_goes_before_the_shipped(tmp_path: Path) -> None:
    model = tmp_path / "some-model"
    model.mkdir()
    with pytest.raises(ArtifactError, match="no weights"):
        identity(model)
    (model / "model.safetensors").write_bytes(b"weights")
    assert find_probe(tmp_path, model) is None
    card = ProbeCard(model="some-model", identity=identity(model), layer=2, band=0.1)
    save_probe(probe(card), probe_path(tmp_path, model))
    found = find_probe(tmp_path, model)
    assert found is not None
    assert found.card == card
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ArtifactError, match="another model"):
        find_probe(tmp_path, model)
