"""The engine `local`: a transformers model in this process.

Joins what files tell (`model_info`), loading (`opening`), scoring and generating behind the protocol. Torch is
imported when a model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.config.schema import ModelEntry
from harness.core.errors import ModelError
from harness.engine.local.model_info import ModelInfo, read_model_info
from harness.engine.local.tree.readouts import origins
from harness.engine.protocol import Ending, Generations, LoadedEngine, OpenSettings, Prompt, Scores

if TYPE_CHECKING:
    from harness.engine.local.facts import LocalFacts
    from harness.engine.local.scorer import Prepared, Scorer


class LocalEngine:
    """See `harness.engine.protocol.Engine`."""

    def describe(self, model: ModelEntry) -> ModelInfo:
        """Read the model's files; torch does not run."""
        if model.base_url is not None:
            raise ModelError(
                f"model.base_url is '{model.base_url}', but model.engine is 'local', which loads the model itself; set "
                "model.engine=server, or drop model.base_url"
            )
        return read_model_info(model)

    def open(self, model: ModelEntry, settings: OpenSettings) -> LoadedModel:
        """Load the model, check it, and warm up."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.loading import ModelSpec
        from harness.engine.local.opening import load_engine

        spec = ModelSpec(
            model.path,
            model.revision,
            model.dtype,
            model.device,
            model.trust_remote_code,
            model.gpus_per_replica,
            model.adapter,
        )
        with naming_device_errors():
            scorer, facts = load_engine(
                spec,
                settings.share_prefixes,
                settings.tokens_per_pack,
                settings.longest_prompt,
                settings.threads,
                settings.tokens,
            )
        return LoadedModel(scorer, facts)


class LoadedModel(LoadedEngine):
    """A model that is loaded.

    Args:
        scorer: holds it.
        facts: what it runs on.
    """

    def __init__(self, scorer: Scorer, facts: LocalFacts) -> None:
        self.scorer = scorer
        self.facts = facts

    def watch(self, told: Callable[[int], None]) -> None:
        """See `LoadedEngine.watch`."""
        self.scorer.told = told

    def prepare(self, prompts: Sequence[Prompt]) -> Prepared:
        """Lay out the prefix tree and what is read of it."""
        return self.scorer.prepare([p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts))

    def score(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores:
        """See `LoadedEngine.score`."""
        from harness.engine.local.device_errors import naming_device_errors

        with naming_device_errors():
            return self.scorer.compute(self.prepare(prompts) if prepared is None else prepared)

    def generate(self, prompts: Sequence[Prompt], ending: Ending) -> Generations:
        """See `LoadedEngine.generate`."""
        from harness.engine.local.device_errors import naming_device_errors
        from harness.engine.local.generator import Generator

        with naming_device_errors():
            generator = Generator(self.scorer, ending.end_tokens)
            return generator.generate([p.ids for p in prompts], ending.max_new_tokens, ending.holds_stop_text)


ENGINE = LocalEngine()
