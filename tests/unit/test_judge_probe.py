"""A probe is fitted, calibrated, kept and refused as it should be."""

import math
from pathlib import Path

import pytest
import torch

from sovl_daemon.control.simulator.scores import scores
from sovl_daemon.engine.errors import StateError
from sovl_daemon.engine.probe import Card, Probe, Read, load_probe, save_probe
from sovl_daemon.judge.fit import band, fit
from sovl_daemon.judge.shelf import find_probe, identity, probe_path

torch.set_num_threads(1)


def clouds(count: int = 600, noise: float = 1.0) -> tuple[torch.Tensor, list[bool], list[str]]:
    """Two clouds in eight dimensions; tasks are shifted against each other across the truth."""
    chance = torch.Generator().manual_seed(3)
    truths = [place % 2 == 0 for place in range(count)]
    tasks = ["abc"[place % 3] for place in range(count)]
    x = noise * torch.randn(count, 8, generator=chance)
    x[:, 0] += torch.tensor([1.5 if truth else -1.5 for truth in truths])
    x[:, 1] += torch.tensor([5.0 * "abc".index(task) for task in tasks])
    return x, truths, tasks


def test_what_is_fitted_is_found_and_calibrated() -> None:
    features, truths, tasks = clouds()
    line = fit(features[:400], truths[:400], tasks[:400])
    chances = torch.sigmoid(line.logits(features[400:])).tolist()
    found = scores(chances, truths[400:])
    assert found.auc > 0.95
    assert found.ece < 0.08
    assert abs(line.weight[0]) > 4 * line.weight[1:].abs().max()


def test_one_truth_cannot_be_fitted() -> None:
    features, _, tasks = clouds(10)
    with pytest.raises(ValueError, match="both truths"):
        fit(features, [True] * 10, tasks)


def test_the_band_is_as_wide_as_the_worst_group_needs() -> None:
    good = ([0.9] * 20, [True] * 20)
    bad = ([0.55] * 5 + [0.9] * 15, [False] * 5 + [True] * 15)
    assert band([good[0]], [good[1]], 0.1) == 0
    width = band([good[0], bad[0]], [good[1], bad[1]], 0.1)
    assert width == pytest.approx(0.05)
    wrong = sum(abs(p - 0.5) > width and (p > 0.5) != t for p, t in zip(*bad, strict=True))
    assert wrong <= 0.1 * 20
    assert band([[0.9] * 5], [[True] * 5], 0.1) == 0.5  # too few to promise anything


def probe(card: Card | None = None) -> Probe:
    card = card or Card(model="tiny", identity="abc", layer=2, band=0.1, fitted_on=7)
    return Probe(card, torch.randn(2, 4), 0.5, {"": torch.zeros(2, 4), "task a": torch.ones(2, 4)})


def test_lines_and_bias_are_the_logit() -> None:
    own = probe()
    read = Read(torch.randn(4, 4), [3, 2, 1, 5], 1)
    features = read.features()
    centre = torch.stack([own.centres["task a"][0], 2 * own.centres["task a"][1]])
    wanted = float((own.weight * (features - centre)).sum()) + own.bias
    assert own.logit(read, "task a") == pytest.approx(wanted, abs=1e-5)
    assert own.probability(read, "task a") == pytest.approx(1 / (1 + math.exp(-wanted)), abs=1e-5)
    assert own.logit(read, "never seen") == pytest.approx(
        float((own.weight * features).sum()) + own.bias, abs=1e-5
    )


def test_a_probe_comes_back_as_it_was(tmp_path: Path) -> None:
    own, path = probe(), tmp_path / "probes" / "tiny.safetensors"
    save_probe(own, path)
    again = load_probe(path, "abc")
    assert again.card == own.card
    assert torch.equal(again.weight, own.weight)
    assert again.bias == own.bias
    assert all(torch.equal(again.centres[key], own.centres[key]) for key in own.centres)
    assert sorted(each.name for each in path.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_another_models_probe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_probe(probe(), path)
    with pytest.raises(StateError, match=r"fitted on another model \(tiny\): run sovl judge fit"):
        load_probe(path, "def")


def test_damage_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_probe(probe(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StateError, match="damaged"):
        load_probe(path)
    path.write_bytes(whole)
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"layer": 2', '"layer": 1'))
    with pytest.raises(StateError, match="not the pair of its JSON"):
        load_probe(path)
    card.write_text("{")
    with pytest.raises(StateError, match="cannot be read as a probe's card"):
        load_probe(path)


def test_the_users_own_goes_before_the_shipped(tmp_path: Path) -> None:
    model = tmp_path / "some-model"
    model.mkdir()
    with pytest.raises(StateError, match="no weights"):
        identity(model)
    (model / "model.safetensors").write_bytes(b"weights")
    assert find_probe(tmp_path, model) is None
    card = Card(model="some-model", identity=identity(model), layer=2, band=0.1)
    save_probe(probe(card), probe_path(tmp_path, model))
    found = find_probe(tmp_path, model)
    assert found is not None
    assert found.card == card
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(StateError, match="another model"):
        find_probe(tmp_path, model)
