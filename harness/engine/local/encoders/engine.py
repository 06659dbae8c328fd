"""The engine `encoder` of references: transformers checkpoints for sequence classification, extractive question
answering and multiple choice, in this process.

Torch is imported when a checkpoint is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.config.schema import ModelEntry, ReferenceEntry
from harness.engine.local.encoders.description import EncoderInfo, Head, read_encoder, read_reader, read_with_head
from harness.engine.local.model_info import ModelInfo
from harness.engine.protocol import OpenSettings

if TYPE_CHECKING:
    from harness.engine.local.encoders.chooser import EncoderChooser
    from harness.engine.local.encoders.classifier import Encoder
    from harness.engine.local.encoders.reader import EncoderReader


class EncoderEngine:
    """See `harness.engine.classifying.ClassifierEngine`."""

    def describe(self, model: ModelEntry) -> EncoderInfo:
        """Read the checkpoint's files; torch does not run."""
        return read_encoder(model)

    def open(self, model: ModelEntry, settings: OpenSettings) -> Encoder:
        """Load the checkpoint and check that all of it, the head too, is trained."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.encoders.classifier import open_encoder

        with naming_device_errors():
            return open_encoder(model, settings)


class EncoderReaderEngine:
    """See `harness.engine.reading.ReaderEngine`."""

    def describe(self, model: ReferenceEntry) -> ModelInfo:
        """Read the checkpoint's files; torch does not run."""
        return read_reader(model)

    def open(self, model: ReferenceEntry, settings: OpenSettings) -> EncoderReader:
        """Load the checkpoint and check that all of it, the head too, is trained."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.encoders.reader import open_reader

        with naming_device_errors():
            return open_reader(model, settings)


class EncoderChooserEngine:
    """See `harness.engine.choosing.ChooserEngine`."""

    def describe(self, model: ModelEntry) -> ModelInfo:
        """Read the checkpoint's files; torch does not run."""
        return read_with_head(model, Head.CHOICES)

    def open(self, model: ModelEntry, settings: OpenSettings) -> EncoderChooser:
        """Load the checkpoint and check that all of it, the head too, is trained."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.encoders.chooser import open_chooser

        with naming_device_errors():
            return open_chooser(model, settings)


ENGINE, READER, CHOOSER = EncoderEngine(), EncoderReaderEngine(), EncoderChooserEngine()
