"""The learners on encoders: `probe`, `finetuned` and `scratch`. Torch is imported when one is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.local.model_info import read_model_info
from harness.engine.protocol import ModelDescription, OpenSettings

if TYPE_CHECKING:
    from harness.engine.learning import Learner

_EXPECTED = "expected an encoder such as BERT, RoBERTa or ELECTRA"


class EncoderLearner:
    """See `harness.engine.learning.LearnerEngine`.

    Args:
        method: `probe`, `finetuned` or `scratch`.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.needs_base = method != "scratch"

    def describe(self, base: ModelEntry) -> ModelDescription:
        """Read the base's files; torch does not run."""
        if self.needs_base:
            return read_model_info(base, check_is_encoder)
        from harness.engine.local.encoders.characters import LONGEST

        return ModelDescription(base, None, LONGEST)

    def open(self, base: ModelEntry, settings: OpenSettings) -> Learner:
        """Load the base, where it is not trained itself."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.encoders.probe import open_probe
        from harness.engine.local.encoders.training import Trainee, open_trainee

        with naming_device_errors():
            if self.method == "probe":
                return open_probe(base, settings)
            return open_trainee(base, settings, Trainee(self.method))


def check_is_encoder(path: str, config: Any) -> None:
    """Refuse a base that reads in one direction only, or writes, or has learned to classify already.

    Args:
        path: of the base.
        config: transformers' configuration.

    Raises:
        ModelError: naming what it is.
    """
    from harness.engine.local.transformers_internals import CAUSAL_ARCHITECTURES, MASKED_ARCHITECTURES

    named = [str(name) for name in getattr(config, "architectures", None) or []]
    kind = getattr(config, "model_type", "")
    shown = named[0] if named else f"model type '{kind}'"
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"finetune.base '{path}' ({shown}) has an encoder and a decoder; {_EXPECTED}")
    if any(name.endswith("ForSequenceClassification") for name in named):
        raise ModelError(
            f"finetune.base '{path}' ({shown}) has learned to classify already: a curve that begins with it does not "
            "say what labelled examples teach; expected the encoder as it was pre-trained, or this one under references"
        )
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named) or getattr(
        config, "is_decoder", False
    )
    if writes or (kind in CAUSAL_ARCHITECTURES and kind not in MASKED_ARCHITECTURES):
        raise ModelError(f"finetune.base '{path}' ({shown}) is a decoder, which reads in one direction; {_EXPECTED}")


PROBE, FINETUNED, SCRATCH = EncoderLearner("probe"), EncoderLearner("finetuned"), EncoderLearner("scratch")
