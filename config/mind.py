"""Sections about the models and their training: core, LoRA, training, dry run."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from config.section import Layers, Name, Section, key, refuse


class CoreConfig(Section):
    """Which models are joined, at which layers and in which precision."""

    base_model_name: Name = key(
        "smollm2-135m", "Base model: the frozen language model that answers.", restart=True
    )
    scaffold_model_name: Name = key(
        "smollm2-135m",
        "Scaffold model: the trainable model that guides the base through cross-attention.",
        restart=True,
    )
    cross_attn_layers: Layers = key(
        (),
        "Fixed base layers that get cross-attention; none named: five, spread over the upper half. "
        "Ignored if use_dynamic_layers is true.",
        unit="layer index",
        lenient=True,
    )
    use_dynamic_layers: bool = key(False, "If true, layers are chosen by layer_selection_mode.")
    layer_selection_mode: Literal["early", "late", "balanced", "custom"] = key(
        "balanced", "Which third of the base gets cross-attention, or custom_layers for custom."
    )
    custom_layers: Layers = key(
        (0, 2, 4), "Layers for the custom mode.", unit="layer index", lenient=True
    )
    valid_split_ratio: float = key(
        0.2,
        "Share of the training data held back for validation; with 0, and where all pairs have one "
        "prompt, what is trained is kept unseen.",
        unit="ratio",
        ge=0,
        lt=1,
    )
    random_seed: int = key(
        42,
        "Seed of training, splits and dreams. What has learned nothing yet begins by that of the "
        "last start.",
        unit="seed",
        ge=0,
        le=2**32 - 1,
    )
    quantization: Literal["fp16", "int8", "int4"] = key(
        "fp16", "Precision of the base; fp16 is whichever 16-bit format the device has."
    )

    @field_validator("custom_layers")
    @classmethod
    def _custom_names_a_layer(cls, layers: Layers, info: ValidationInfo) -> Layers:
        custom = info.data.get("layer_selection_mode") == "custom"
        if custom and info.data.get("use_dynamic_layers") and not layers:
            raise refuse(
                'names no layer, but layer_selection_mode is "custom"',
                because="layer_selection_mode",
            )
        return layers


class LoraConfig(Section):
    """The low-rank adapters through which the scaffold learns."""

    lora_rank: int = key(
        8,
        "Rank of the adapters: their capacity to learn.",
        unit="dimensions",
        restart=True,
        ge=1,
        le=1024,
    )
    lora_alpha: int = key(
        16,
        "Scale of the adapters; they are multiplied by alpha / rank.",
        unit="scale",
        restart=True,
        ge=1,
        le=4096,
    )
    lora_dropout: float = key(
        0.1,
        "Share of adapter inputs dropped while training.",
        unit="probability",
        restart=True,
        ge=0,
        lt=1,
    )
    lora_target_modules: tuple[Name, ...] = key(
        ("q_proj", "v_proj"),
        "Names of the modules that get an adapter.",
        restart=True,
        lenient=True,
    )

    @field_validator("lora_target_modules")
    @classmethod
    def _names_a_module(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        if not modules:
            raise refuse("names no module")
        return modules


class DryRunParams(Section):
    """How small a dry run is."""

    max_samples: int = key(2, "Most samples used in a dry run.", unit="samples", ge=1, le=100_000)
    max_length: int = key(128, "Longest sample in a dry run.", unit="tokens", ge=8, le=131_072)
    validate_architecture: bool = key(
        True,
        "If true, a dry run starts only if base and scaffold fit together, and logs how.",
        restart=True,
    )
    skip_training: bool = key(True, "If true, a dry run makes no full training pass.")


class TrainingConfig(Section):
    """How training on pairs proceeds, and how a life is counted.

    A night lays itself out. Of these keys it heeds learning_rate, max_seq_length and those of the
    life, but neither epochs, batches, accumulation nor patience; how long it lasts is
    controls_config.sleep_time_factor, and what it has to reach is the section night.
    """

    learning_rate: float = key(
        8e-3,
        "Step size of the optimizer; a night takes half of it, and less with age.",
        unit="per step",
        gt=0,
        le=1,
    )
    train_epochs: int = key(3, "Passes over the training data.", unit="epochs", ge=1, le=1000)
    batch_size: int = key(2, "Samples in one micro-batch.", unit="samples", ge=1, le=1024)
    max_seq_length: int = key(
        512,
        "Longest sample of a training or a night; the rest is cut.",
        unit="tokens",
        ge=8,
        le=131_072,
    )
    sigmoid_scale: float = key(
        0.5, "Steepness of the sigmoid_linear life curve.", unit="per tenth of a life", gt=0, le=100
    )
    sigmoid_shift: float = key(
        5.0, "Middle of the sigmoid_linear life curve.", unit="tenths of a life", ge=0, le=1000
    )
    lifecycle_capacity_factor: float = key(
        0.01,
        "Exposure a life can take for each trainable LoRA parameter.",
        unit="exposure per parameter",
        ge=0.001,
        le=0.1,
    )
    lifecycle_curve: Literal["sigmoid_linear", "exponential"] = key(
        "sigmoid_linear", "Curve by which the scaffold's influence grows with exposure."
    )
    accumulation_steps: int = key(
        4, "Micro-batches for one optimizer step.", unit="micro-batches", ge=1, le=1024
    )
    exposure_gain_eager: int = key(
        3,
        "Exposure gained from an unseen prompt when eager.",
        unit="exposure",
        ge=0,
        le=1000,
    )
    exposure_gain_default: int = key(
        2,
        "Exposure gained from an unseen prompt otherwise.",
        unit="exposure",
        ge=0,
        le=1000,
    )
    max_patience: int = key(
        2, "Epochs without a better validation loss before stopping.", unit="epochs", ge=1, le=1000
    )
    dry_run: bool = key(
        False,
        "If true, all is a dry run: nothing is kept, and training is within dry_run_params.",
        restart=True,
    )
    dry_run_params: DryRunParams = DryRunParams()
