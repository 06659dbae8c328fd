"""Trains an encoder with a new head by transformers' Trainer, with early stopping on examples that were held out.

A training that was cut off goes on at its last checkpoint, with the same result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from harness.config.schema import ModelEntry
from harness.engine.learning import Example, Learner, Lesson
from harness.engine.local.encoders.characters import LONGEST, character_tokenizer
from harness.engine.local.encoders.checkpoints import encoded, longest_input, open_base
from harness.engine.local.encoders.classifier import Encoder
from harness.engine.local.loading import choose_device
from harness.engine.protocol import EngineFacts, OpenSettings

log = logging.getLogger(__name__)
BATCH = 16
MOST_EPOCHS = 20
STEPS = 2000
"""Fewer epochs where there are more examples, so that all take about so many steps at most; but at least three."""
PATIENCE = 3
"""Epochs without a lower loss on the held-out examples after which training ends."""
SCRATCH_RATE = 20.0
"""Times the learning rate for weights that begin at random."""
SCRATCH: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": LONGEST,
}  # fmt: skip


class Trainee(StrEnum):
    """What is trained."""

    FINETUNED = "finetuned"
    """A pre-trained encoder."""
    SCRATCH = "scratch"
    """A tiny one that reads characters and knows nothing."""


class TrainingLearner(Learner):
    """Trains one model per lesson.

    Args:
        base: where the pre-trained encoder is.
        device: to train on.
        trainee: what is trained.
    """

    def __init__(self, base: ModelEntry, device: torch.device, trainee: Trainee) -> None:
        self.base, self.device, self.trainee = base, device, trainee
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.facts = EngineFacts(name, "float32")

    def learn(self, lesson: Lesson) -> Encoder:
        """See `Learner.learn`."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        set_seed(lesson.seed)
        model, tokenizer = self._begin(lesson)
        longest = longest_input(model, tokenizer, self.base.max_length)
        rate = lesson.learning_rate * (SCRATCH_RATE if self.trainee is Trainee.SCRATCH else 1.0)
        trainer = Trainer(
            model,
            self._arguments(lesson, rate),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=_rows(tokenizer, lesson.train, longest),
            eval_dataset=_rows(tokenizer, lesson.held_out, longest),
            callbacks=[EarlyStoppingCallback(PATIENCE)],
        )
        trainer.remove_callback(PrinterCallback)
        last = get_last_checkpoint(str(lesson.folder)) if lesson.folder.is_dir() else None
        if last is not None:
            log.info("training goes on at %s, where it was cut off", Path(last).name)
        trainer.train(resume_from_checkpoint=last)
        return Encoder(model.eval().to(self.device), tokenizer, longest)

    def _begin(self, lesson: Lesson) -> tuple[Any, Any]:
        """The model with a new head, and its tokenizer."""
        if self.trainee is Trainee.SCRATCH:
            texts = [text for example in lesson.train for text in example.texts]
            tokenizer = character_tokenizer(texts, LONGEST)
            config: Any = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SCRATCH)
            config.num_labels = lesson.n_classes
            return BertForSequenceClassification(config), tokenizer
        model, tokenizer = open_base(self.base, AutoModelForSequenceClassification, num_labels=lesson.n_classes)
        return model, tokenizer

    def _arguments(self, lesson: Lesson, rate: float) -> TrainingArguments:
        steps = math.ceil(len(lesson.train) / BATCH)
        on_gpu = self.device.type == "cuda"
        return TrainingArguments(
            output_dir=str(lesson.folder),
            num_train_epochs=max(3, min(MOST_EPOCHS, STEPS // steps)),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=2 * BATCH,
            learning_rate=rate,
            weight_decay=0.01,
            warmup_steps=0.1,
            lr_scheduler_type="linear",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            restore_callback_states_from_checkpoint=True,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=lesson.seed,
            data_seed=lesson.seed,
            bf16=on_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
        )


def _rows(tokenizer: Any, examples: Sequence[Example], longest: int | None) -> list[dict[str, Any]]:
    inputs = encoded(tokenizer, [example.texts for example in examples], longest)
    return [{**one, "labels": example.gold} for one, example in zip(inputs, examples, strict=True)]


def open_trainee(base: ModelEntry, settings: OpenSettings, trainee: Trainee) -> TrainingLearner:
    """Make ready to train; the base is loaded anew for every lesson."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return TrainingLearner(base, choose_device(base.device), trainee)
