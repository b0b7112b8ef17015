"""The controls: every knob of sleep, dreams, temperament and memory."""

import re
from typing import Annotated, Literal

from config.section import Section, Text, key, matching

_is_file_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
FileName = Annotated[
    Text, matching(_is_file_name, "a plain file name: letters, digits, dot, _ and -, at most 64")
]


class ControlsConfig(Section):
    """Knobs that may be turned while it lives."""

    sleep_conf_threshold: float = key(
        0.7,
        "Gestation starts when the mean confidence exceeds this.",
        unit="confidence",
        ge=0.5,
        le=0.9,
    )
    sleep_time_factor: float = key(
        1.0, "Scales how long gestation lasts.", unit="factor", ge=0.5, le=5.0
    )
    sleep_log_min: int = key(
        10, "Fewest logged interactions before gestation.", unit="entries", ge=5, le=20
    )
    dream_swing_var: float = key(
        0.1, "A dream starts when confidence varies more.", unit="variance", ge=0.05, le=0.2
    )
    dream_lifecycle_delta: float = key(
        0.1, "A dream starts when temperament shifts more.", unit="temperament", ge=0.05, le=0.2
    )
    dream_temperament_on: bool = key(True, "If true, temperament may start a dream.")
    dream_noise_scale: float = key(
        0.05, "Noise added to what is dreamt.", unit="standard deviation", ge=0.01, le=0.1
    )
    temp_eager_threshold: float = key(
        0.8, "Eager temperament threshold: above it, curious.", unit="confidence", ge=0.7, le=0.9
    )
    temp_sluggish_threshold: float = key(
        0.6, "Sluggish threshold: below it, restless.", unit="confidence", ge=0.4, le=0.6
    )
    temp_mood_influence: float = key(
        0.0, "How far the mood moves the sampling temperature.", unit="weight", ge=0, le=1
    )
    scaffold_weight_cap: float = key(
        0.9, "Largest influence of the scaffold.", unit="weight", ge=0.5, le=1.0
    )
    base_temperature: float = key(
        0.7, "Sampling temperature before the mood.", unit="temperature", ge=0.5, le=1.5
    )
    save_path_prefix: FileName = key("state", "Name under which a state is saved by default.")
    dream_memory_weight: float = key(
        0.1, "How much past dreams blend into the scaffold's context.", unit="weight", ge=0, le=0.5
    )
    dream_memory_maxlen: int = key(10, "Most dreams remembered.", unit="dreams", ge=5, le=20)
    dream_prompt_weight: float = key(
        0.5, "Similarity against recency when picking a dream.", unit="weight", ge=0, le=1
    )
    dream_novelty_boost: float = key(
        0.03, "Extra noise for an unseen prompt.", unit="standard deviation", ge=0, le=0.05
    )
    temp_curiosity_boost: float = key(
        0.5, "How far youth lifts the temperament.", unit="temperament", ge=0, le=0.5
    )
    temp_restless_drop: float = key(
        0.1, "How far restlessness lowers the temperature.", unit="temperature", ge=0, le=0.5
    )
    temp_melancholy_noise: float = key(
        0.02, "Noise added when melancholic.", unit="standard deviation", ge=0, le=0.05
    )
    conf_feedback_strength: float = key(
        0.5, "How strongly confidence moves the temperament.", unit="weight", ge=0, le=1
    )
    temp_smoothing_factor: float = key(
        0.0, "Smoothing of the temperament: 1 holds it still.", unit="weight", ge=0, le=1
    )
    dream_memory_decay: float = key(
        0.95, "Factor on older dreams' weights at each dream.", unit="factor", ge=0, le=1
    )
    dream_prune_threshold: float = key(
        0.1, "Dreams below this weight are forgotten.", unit="weight", ge=0, le=1
    )
    use_scaffold_memory: bool = key(
        True,
        "If true, the scaffold remembers its dreams of past prompts and responses beside the "
        "conversation it reads.",
    )
    use_token_map_memory: bool = key(True, "If true, the token map learns from answers.")
    memory_decay_rate: float = key(
        0.95, "Factor on the token map's weights at each update.", unit="factor", ge=0, le=1
    )
    dynamic_cross_attn_mode: Literal["confidence", "temperament"] | None = key(
        None, "What weighs cross-attention while answering; null for a steady weight."
    )
    has_woken: bool = key(False, "If true, it counts as woken and does not wake again.")
    is_sleeping: bool = key(False, "If true, it starts in gestation.", restart=True)
    confidence_history_maxlen: int = key(
        5, "Confidences remembered; dreams need at least 5.", unit="answers", ge=5, le=1000
    )
    temperament_history_maxlen: int = key(
        5, "Temperaments remembered.", unit="updates", ge=2, le=1000
    )
    enable_dreaming: bool = key(True, "If true, it dreams.")
    enable_temperament: bool = key(True, "If true, it has a temperament.")
    enable_confidence_tracking: bool = key(True, "If true, confidence is tracked.")
    enable_gestation: bool = key(True, "If true, it goes into gestation by itself.")
    enable_sleep_training: bool = key(True, "If true, it trains while it sleeps.")
    enable_cross_attention: bool = key(
        True, "If true, the scaffold steers the base through cross-attention; else nothing does."
    )
    enable_dynamic_cross_attention: bool = key(True, "If true, dynamic_cross_attn_mode has effect.")
    enable_lora_adapters: bool = key(True, "If true, the scaffold's LoRA adapters are used.")
    enable_repetition_check: bool = key(True, "If true, a repeating answer is stopped.")
    enable_prompt_driven_dreams: bool = key(True, "If true, dreams follow the last prompt.")
    enable_lifecycle_weighting: bool = key(
        True, "If true, the scaffold's influence follows the life curve."
    )
