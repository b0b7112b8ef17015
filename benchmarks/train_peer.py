"""The peer of our training: PEFT's LoRA on the base, with transformers' own Trainer."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainingArguments

from benchmarks.default_model import default_model
from benchmarks.peers import network
from config import Settings
from sovl_daemon.engine.learning.sample import Sample

IGNORED = -100
RATE = 1e-3


class Peer:
    """Trains for one epoch over samples in their order; loss is on the answers, as ours is."""

    def __init__(self, dtype: torch.dtype, settings: Settings, place: Path) -> None:
        lora, self.training = settings.lora_config, settings.training_config
        base = network(default_model(), dtype)
        base.config.use_cache = False
        config = LoraConfig(
            r=lora.lora_rank,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=list(lora.lora_target_modules),
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(base, config)
        self.place = place

    def train(self, samples: Sequence[Sample]) -> float:
        """Seconds of the training alone."""
        trainer = Trainer(
            self.model,
            self._arguments(),
            data_collator=padded,
            train_dataset=[labelled(sample) for sample in samples],
        )
        trainer.remove_callback(PrinterCallback)  # standard output is for the result
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began

    def _arguments(self) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(self.place),
            per_device_train_batch_size=self.training.batch_size,
            gradient_accumulation_steps=self.training.accumulation_steps,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            use_cpu=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )


def labelled(sample: Sample) -> dict[str, list[int]]:
    return {
        "input_ids": [*sample.prompt, *sample.answer],
        "labels": [*[IGNORED] * len(sample.prompt), *sample.answer],
    }


def padded(samples: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """A batch as long as its longest sample."""
    ids = [torch.tensor(each["input_ids"]) for each in samples]
    labels = [torch.tensor(each["labels"]) for each in samples]
    return {
        "input_ids": pad_sequence(ids, True, 0),
        "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], True, 0),
        "labels": pad_sequence(labels, True, IGNORED),
    }
