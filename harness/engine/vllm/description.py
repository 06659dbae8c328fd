"""What is known of a model before vLLM loads it: the same as of one that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.config.schema import ModelEntry
from harness.engine.protocol import ModelDescription, Resources, refuse_adapter
from harness.engine.registry import find_engine


@dataclass(frozen=True)
class VllmDescription(ModelDescription):
    """A checkpoint for vLLM."""

    files: ModelDescription | None = None
    """What the engine `local` says of it."""

    @property
    def _files(self) -> ModelDescription:
        assert self.files is not None
        return self.files

    @property
    def identity(self) -> str:
        """Of the content of all files."""
        return self._files.identity

    @property
    def told_identity(self) -> str | dict[str, str]:
        """See `ModelDescription.told_identity`."""
        return self._files.told_identity

    @property
    def quick_identity(self) -> str:
        """See `ModelDescription.quick_identity`."""
        return self._files.quick_identity

    def is_known_as(self, told: object) -> bool:
        """See `ModelDescription.is_known_as`."""
        return self._files.is_known_as(told)

    @property
    def fixed(self) -> ModelEntry:
        """See `ModelDescription.fixed`."""
        return replace(self.model, revision=self._files.fixed.revision)

    @property
    def resources(self) -> Resources:
        """vLLM runs on GPUs; above one, the model is split over them."""
        return Resources("cpu" if self.model.device == "cpu" else "cuda", self.model.gpus_per_replica)

    @property
    def parameters(self) -> int | None:
        """See `ModelDescription.parameters`."""
        return self._files.parameters

    @property
    def loaded(self) -> dict[str, Any]:
        """See `ModelDescription.loaded`."""
        return self._files.loaded

    @property
    def loaded_words(self) -> str:
        """See `ModelDescription.loaded_words`."""
        return f"{self._files.loaded_words}, by vLLM"

    @property
    def notes(self) -> Sequence[str]:
        """See `ModelDescription.notes`."""
        return self._files.notes


def describe_for_vllm(model: ModelEntry) -> VllmDescription:
    """Read a model's files.

    Raises:
        ModelError: as of the engine `local`.
    """
    refuse_adapter(model)
    files = find_engine("local").describe(replace(model, engine="local"))
    return VllmDescription(model, files.tokenizer, files.context_length, files.vocabulary, files=files)
