import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sovl_daemon.engine.errors import ModelLoadError, OptionError
from sovl_daemon.engine.model.model import choose_device, load_model
from sovl_daemon.engine.model.precision import choose_dtype
from sovl_daemon.engine.model.product import native_is_faster, native_kernels
from sovl_daemon.limits import MemoryUsage
from tests.unit.engine_tiny import read, save_tiny, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_loaded_model_is_frozen(tmp_path: Path, family: str) -> None:
    model = load_model(save_tiny(tmp_path, family), device="cpu", dtype="float32")
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert (model.layers, model.max_context, model.stop_ids) == (2, 128, frozenset({0}))
    assert model.parameters == sum(p.numel() for p in tiny_model(family).network.parameters())


def test_threads_hold_for_the_process(tmp_path: Path) -> None:
    load_model(save_tiny(tmp_path), device="cpu", threads=2)
    assert torch.get_num_threads() == 2
    load_model(tmp_path, device="cpu", threads=1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_format_decodes_after_warm_up(tmp_path: Path, dtype: str) -> None:
    model = load_model(save_tiny(tmp_path), device="cpu", dtype=dtype)
    model.warm_up()
    cache = model.new_cache()
    read(model, [3, 4], cache)
    one_token = read(model, [5], cache)
    whole = read(model, [3, 4, 5])
    assert one_token.dtype == getattr(torch, dtype)
    torch.testing.assert_close(one_token, whole, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("stored", "times_as_long", "dtype", "reason"),
    [
        (torch.bfloat16, 0.5, torch.bfloat16, "as stored"),
        (torch.float16, 0.5, torch.bfloat16, "tried, fast here"),
        (torch.float32, 1.1, torch.bfloat16, "takes the place of torch.float32"),
        (torch.bfloat16, 2.0, torch.float32, "tried and is slower here"),
    ],
)
def test_the_format_on_a_cpu_is_what_was_faster(
    stored: torch.dtype,
    times_as_long: float,
    dtype: torch.dtype,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: times_as_long}
    monkeypatch.setattr(
        "sovl_daemon.engine.model.precision._times_as_long",
        lambda one, other: seconds[one] / seconds[other],
    )
    choice = choose_dtype("auto", stored, torch.device("cpu"))
    assert choice.dtype == dtype
    assert reason in choice.reason


@pytest.mark.parametrize("emulated", [True, False])
def test_a_network_without_a_lean_pass_is_not_emulated(
    tmp_path: Path, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its products are transformers' own: nothing multiplies them by float32 copies."""
    monkeypatch.setattr("sovl_daemon.engine.model.model.memory", lambda: None)
    seconds = {torch.float32: 1.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(
        "sovl_daemon.engine.model.precision._times_as_long",
        lambda one, other: seconds[one] / seconds[other],
    )
    monkeypatch.setattr("sovl_daemon.engine.model.model.is_emulated", lambda dtype: emulated)
    wanted = torch.float32 if emulated else torch.bfloat16
    for family, dtype in (("gpt2", wanted), ("llama", torch.bfloat16)):
        model = load_model(save_tiny(tmp_path / family, family), device="cpu")
        assert model.precision.dtype == dtype
        assert {each.dtype for each in model.network.parameters()} == {dtype}
        assert read(model, [3, 4, 5]).isfinite().all()


@pytest.mark.parametrize(("total_mb", "dtype"), [(100, torch.float32), (1, torch.bfloat16)])
def test_what_is_emulated_is_float32_where_that_is_small(
    tmp_path: Path, total_mb: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sovl_daemon.engine.model.precision._times_as_long", lambda one, other: 1.0)
    monkeypatch.setattr("sovl_daemon.engine.model.model.is_emulated", lambda dtype: True)
    room = MemoryUsage(50.0, total_mb << 19, total_mb << 20)
    monkeypatch.setattr("sovl_daemon.engine.model.model.memory", lambda: room)
    model = load_model(save_tiny(tmp_path), device="cpu")
    assert model.precision.dtype == dtype
    assert model.lean is not None
    assert model.lean.norm.weight.dtype == dtype
    assert load_model(tmp_path, device="cpu", dtype="bfloat16").precision.dtype == torch.bfloat16


def test_an_accelerator_keeps_the_stored_16_bit_format() -> None:
    device = torch.device("xpu")
    assert choose_dtype("auto", torch.float16, device).dtype == torch.float16
    assert choose_dtype("auto", torch.float32, device).dtype == torch.bfloat16


def test_an_unknown_format_or_device_is_refused() -> None:
    with pytest.raises(OptionError, match="'int3' is unknown: use auto, float32"):
        choose_dtype("int3", torch.float32, CPU)
    for device in ("toaster", "xpu:3"):
        with pytest.raises(OptionError, match=f"device '{device}' cannot be used"):
            choose_device(device)


def without_config(path: Path) -> None:
    (path / "config.json").unlink()


def with_cut_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def with_pickled_weights(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def with_own_code(path: Path) -> None:
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "evil.py").write_text("raise SystemExit('this code was run')")


@pytest.mark.parametrize(
    "damage", [without_config, with_cut_weights, with_pickled_weights, with_own_code]
)
def test_a_folder_that_is_no_model_is_one_clear_line(tmp_path: Path, damage: Any) -> None:
    damage(save_tiny(tmp_path))
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_decode_is_told_at_warm_up() -> None:
    model = tiny_model("gpt2")

    def no_cache(input_ids: torch.Tensor) -> None:
        raise AssertionError("never called")

    model.network.forward = no_cache
    with pytest.raises(ModelLoadError, match="cannot decode with a key-value cache"):
        model.warm_up()


def test_native_kernels_hold_inside_the_block_only() -> None:
    before = torch.backends.mkldnn.enabled
    with native_kernels(True):
        assert not torch.backends.mkldnn.enabled
        with native_kernels(False):
            assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled == before


@pytest.mark.parametrize(("slow_with_onednn", "expected"), [(True, True), (False, False)])
def test_the_kernels_are_chosen_by_time(slow_with_onednn: bool, expected: bool) -> None:
    def work() -> None:
        if torch.backends.mkldnn.enabled == slow_with_onednn:
            torch.randn(300, 300) @ torch.randn(300, 300)

    assert native_is_faster(work) is expected
