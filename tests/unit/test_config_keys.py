"""The catalogue: every key of the manuals, every range, the generated reference."""

import json
import math
import re
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from documents.configuration import DEFAULTS, REFERENCE, defaults, reference

from config import KEYS, ConfigError, Settings, get_value, needs_restart, with_value
from config.keys import bounds, members, range_text, unit

MANUAL = {
    "core_config": "base_model_name scaffold_model_name cross_attn_layers use_dynamic_layers "
    "layer_selection_mode custom_layers valid_split_ratio random_seed quantization",
    "lora_config": "lora_rank lora_alpha lora_dropout lora_target_modules",
    "training_config": "learning_rate train_epochs batch_size max_seq_length sigmoid_scale "
    "sigmoid_shift lifecycle_capacity_factor lifecycle_curve accumulation_steps "
    "exposure_gain_eager exposure_gain_default max_patience dry_run",
    "training_config.dry_run_params": "max_samples max_length validate_architecture skip_training",
    "controls_config": "sleep_conf_threshold sleep_time_factor sleep_log_min dream_swing_var "
    "dream_lifecycle_delta dream_temperament_on dream_noise_scale temp_eager_threshold "
    "temp_sluggish_threshold temp_mood_influence scaffold_weight_cap base_temperature "
    "save_path_prefix dream_memory_weight dream_memory_maxlen dream_prompt_weight "
    "dream_novelty_boost temp_curiosity_boost temp_restless_drop temp_melancholy_noise "
    "conf_feedback_strength temp_smoothing_factor dream_memory_decay dream_prune_threshold "
    "use_scaffold_memory use_token_map_memory memory_decay_rate dynamic_cross_attn_mode has_woken "
    "is_sleeping confidence_history_maxlen temperament_history_maxlen enable_dreaming "
    "enable_temperament enable_confidence_tracking enable_gestation enable_sleep_training "
    "enable_cross_attention enable_dynamic_cross_attention enable_lora_adapters "
    "enable_repetition_check enable_prompt_driven_dreams enable_lifecycle_weighting",
}

# (lowest, highest, example) as the manuals write them.
MANUAL_RANGES = {
    "sleep_conf_threshold": (0.5, 0.9, 0.7),
    "sleep_time_factor": (0.5, 5.0, 1.0),
    "sleep_log_min": (5, 20, 10),
    "dream_swing_var": (0.05, 0.2, 0.1),
    "dream_lifecycle_delta": (0.05, 0.2, 0.1),
    "dream_noise_scale": (0.01, 0.1, 0.05),
    "temp_eager_threshold": (0.7, 0.9, 0.8),
    "temp_sluggish_threshold": (0.4, 0.6, 0.6),
    "temp_mood_influence": (0, 1, 0.0),
    "scaffold_weight_cap": (0.5, 1.0, 0.9),
    "base_temperature": (0.5, 1.5, 0.7),
    "dream_memory_weight": (0, 0.5, 0.1),
    "dream_memory_maxlen": (5, 20, 10),
    "dream_prompt_weight": (0, 1, 0.5),
    "dream_novelty_boost": (0, 0.05, 0.03),
    "temp_curiosity_boost": (0, 0.5, 0.5),
    "temp_restless_drop": (0, 0.5, 0.1),
    "temp_melancholy_noise": (0, 0.05, 0.02),
    "conf_feedback_strength": (0, 1, 0.5),
    "temp_smoothing_factor": (0, 1, 0.0),
    "dream_memory_decay": (0, 1, 0.95),
    "dream_prune_threshold": (0, 1, 0.1),
    "memory_decay_rate": (0, 1, 0.95),
    "lifecycle_capacity_factor": (0.001, 0.1, 0.01),
}

MANUAL_EXAMPLES = {
    "custom_layers": (0, 2, 4),
    "valid_split_ratio": 0.2,
    "random_seed": 42,
    "quantization": "fp16",
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "train_epochs": 3,
    "batch_size": 2,
    "max_seq_length": 512,
    "sigmoid_scale": 0.5,
    "sigmoid_shift": 5.0,
    "accumulation_steps": 4,
    "exposure_gain_eager": 3,
    "exposure_gain_default": 2,
    "max_patience": 2,
    "max_samples": 2,
    "max_length": 128,
    "save_path_prefix": "state",
    "dynamic_cross_attn_mode": None,
    "has_woken": False,
    "is_sleeping": False,
    "confidence_history_maxlen": 5,
    "temperament_history_maxlen": 5,
    "max_new_tokens": 60,
    "top_k": 50,
    "history_messages": 10,
}

RANGED = [key for key in KEYS if bounds(KEYS[key])]
NUMBERS = [key for key in KEYS if {int, float} & set(members(KEYS[key].annotation))]


def test_every_key_of_the_manuals_is_there_and_no_other_in_their_sections() -> None:
    for section, names in MANUAL.items():
        ours = [key.removeprefix(f"{section}.") for key in KEYS if key.startswith(f"{section}.")]
        assert [name for name in ours if "." not in name] == names.split()


@pytest.mark.parametrize("key", MANUAL_RANGES)
def test_ranges_are_those_of_the_manuals(key: str) -> None:
    low, high, example = MANUAL_RANGES[key]
    field = next(field for name, field in KEYS.items() if name.endswith(f".{key}"))
    assert bounds(field) == [Ge(low), Le(high)]
    assert get_value(Settings(), key) == example


@pytest.mark.parametrize("key", MANUAL_EXAMPLES)
def test_defaults_are_the_examples_of_the_manuals(key: str) -> None:
    assert get_value(Settings(), key) == MANUAL_EXAMPLES[key]


def test_switches_of_the_manuals_are_on() -> None:
    switches = [key for key in KEYS if key.rpartition(".")[2].startswith(("enable_", "use_"))]
    off = [key for key in switches if get_value(Settings(), key) is not True]
    assert off == ["core_config.use_dynamic_layers"]


def test_the_eager_threshold_can_only_be_above_the_sluggish_one() -> None:
    eager, _ = bounds(KEYS["controls_config.temp_eager_threshold"])
    _, sluggish = bounds(KEYS["controls_config.temp_sluggish_threshold"])
    assert isinstance(eager, Ge)
    assert isinstance(sluggish, Le)
    assert eager.ge > sluggish.le  # type: ignore[operator]


def test_no_two_keys_share_a_bare_name() -> None:
    leaves = [key.rpartition(".")[2] for key in KEYS]
    assert len(set(leaves)) == len(leaves)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_says_what_it_means(key: str) -> None:
    assert re.fullmatch(r"[A-Z0-9].*\.", KEYS[key].description or "")
    assert "|" not in (KEYS[key].description or "")


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_a_unit_and_a_range(key: str) -> None:
    assert unit(KEYS[key])
    assert len(bounds(KEYS[key])) == 2


def edge_of(limit: Ge | Gt | Le | Lt) -> Any:
    return getattr(limit, type(limit).__name__.lower())


def cases(key: str) -> list[tuple[str, str, bool]]:
    """Texts at each bound of a key and just beyond it: (key, text, accepted)."""
    whole = float not in members(KEYS[key].annotation)
    found: list[tuple[str, str, bool]] = []
    for limit, outward in zip(bounds(KEYS[key]), (-1, 1), strict=True):
        edge = edge_of(limit)
        beyond = edge + outward if whole else math.nextafter(edge, outward * math.inf)
        found.append((key, written(key, edge), isinstance(limit, Ge | Le)))
        found.append((key, written(key, beyond), False))
    return found


def written(key: str, number: float) -> str:
    return f"[{number!r}]" if isinstance(get_value(Settings(), key), tuple) else repr(number)


# The rules that join two keys would refuse a bound that is fine by itself.
COMPANIONS = {
    ("supervision.heartbeat_s", "60"): ("supervision.dead_after_s", "61"),
    ("supervision.dead_after_s", "0.1"): ("supervision.heartbeat_s", "0.05"),
    ("supervision.backoff_initial_s", "60"): ("supervision.backoff_max_s", "61"),
    ("supervision.backoff_max_s", "0.01"): ("supervision.backoff_initial_s", "0.01"),
}


@pytest.mark.parametrize(
    ("key", "text", "accepted"), [case for key in RANGED for case in cases(key)]
)
def test_the_bounds_are_accepted_and_what_is_beyond_is_refused(
    key: str, text: str, accepted: bool
) -> None:
    settings = Settings()
    if (key, text) in COMPANIONS:
        settings = with_value(settings, *COMPANIONS[key, text])
    if accepted:
        value = get_value(with_value(settings, key, text), key)
        assert (list(value) if isinstance(value, tuple) else value) == json.loads(text)
        return
    with pytest.raises(ConfigError) as caught:
        with_value(settings, key, text)
    (fault,) = caught.value.faults
    assert fault.key in (key, f"{key}.0")
    assert fault.problem == (f"{text.strip('[]')} is out of range, allowed {range_text(KEYS[key])}")


def test_what_is_read_once_needs_a_restart_and_knobs_do_not() -> None:
    fixed = "bus.listen bus.runtime_dir store.state_dir store.model_dir core_config.base_model_name"
    fixed += " scaffold_model_name host.device threads destination dry_run is_sleeping"
    for key in fixed.split():
        assert needs_restart(key)
    for key in ("quantization", "base_temperature", "logging.level", "cross_attn_layers"):
        assert not needs_restart(key)


def test_what_a_prompt_gives_is_in_the_unit_that_a_life_is_counted_in() -> None:
    gains = {unit(KEYS[f"training_config.exposure_gain_{name}"]) for name in ("eager", "default")}
    assert gains == {"exposure"}
    assert unit(KEYS["training_config.lifecycle_capacity_factor"]) == "exposure per parameter"


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference()


def test_the_reference_has_a_row_for_every_key() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", reference(), flags=re.MULTILINE)
    assert rows == [key.rpartition(".")[2] for key in KEYS]


def test_the_shipped_file_is_up_to_date() -> None:
    assert DEFAULTS.read_text(encoding="utf-8") == defaults()
