"""The classifier engine `encoder`: a transformers checkpoint for sequence classification, in this process.

Torch is imported when a checkpoint is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.config.schema import ModelEntry
from harness.engine.local.encoders.description import EncoderInfo, read_encoder
from harness.engine.protocol import OpenSettings

if TYPE_CHECKING:
    from harness.engine.local.encoders.classifier import Encoder


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


ENGINE = EncoderEngine()
