"""The engine `vllm`: all prompts of a unit in one call, ordered so that those which begin alike meet in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.config.schema import ModelEntry
from harness.core.errors import BrokenDeviceError, EngineError, ModelError
from harness.core.escaping import one_line
from harness.engine.label_nodes import label_logprobs, mass_outside, nodes_of
from harness.engine.protocol import Ending, EngineFacts, Generations, LoadedEngine, OpenSettings, Prompt, Scores
from harness.engine.vllm.description import VllmDescription, describe_for_vllm

AT_ONCE = 128
"""Tokens that vLLM scores in one request."""
INSTALL = "install it on every node: pip install 'prompt-grid-harness[vllm]'"
SEQUENCES, BATCHED_TOKENS = 1024, 16384
MEMORY_SHARE = 0.9
"""Of a GPU's memory, or of a replica's share of it."""


@dataclass(frozen=True)
class VllmFacts(EngineFacts):
    """See `EngineFacts`."""

    version: str = ""
    tensor_parallel: int = 1

    def __str__(self) -> str:
        sharing = "prefixes cached" if self.shares_prefixes else "every prompt by itself"
        return f"vLLM {self.version}, {self.tensor_parallel} GPU(s), {self.dtype}, {sharing}"


class VllmEngine:
    """See `harness.engine.protocol.Engine`."""

    def describe(self, model: ModelEntry) -> VllmDescription:
        """Read the model's files; vLLM is left alone."""
        return describe_for_vllm(model)

    def open(self, model: ModelEntry, settings: OpenSettings) -> VllmModel:
        """Load the model."""
        try:
            import vllm
        except ImportError as error:
            raise ModelError(f"model.engine is 'vllm', which cannot be imported ({error}); {INSTALL}") from None
        gpus = model.gpus_per_replica
        if gpus > 1 and gpus != int(gpus):
            raise ModelError(f"model.gpus_per_replica is {gpus:g}; vLLM splits a model over whole GPUs: expected 2, 4")
        parallel = max(1, int(gpus))
        options: dict[str, Any] = {"distributed_executor_backend": "mp"} if parallel > 1 else {}
        try:
            llm = vllm.LLM(
                model=model.path,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,
                max_model_len=model.max_length,
                tensor_parallel_size=parallel,
                gpu_memory_utilization=MEMORY_SHARE * min(1.0, gpus),
                enable_prefix_caching=settings.share_prefixes,
                max_num_seqs=SEQUENCES,
                max_num_batched_tokens=settings.tokens_per_pack or BATCHED_TOKENS,
                disable_log_stats=True,
                seed=0,
                **options,
            )
        except Exception as error:
            reason = one_line(str(error), 300)
            raise ModelError(
                f"model '{model.path}' cannot be loaded by vLLM: {type(error).__name__}: {reason}; expected a model "
                "that this vLLM knows and that fits the GPU"
            ) from None
        return VllmModel(llm, vllm, parallel, settings.share_prefixes)


class VllmModel(LoadedEngine):
    """A model that vLLM has loaded.

    Args:
        llm: `vllm.LLM`.
        vllm: the package.
        parallel: GPUs that it is split over.
        caches: whether prefixes are cached.
    """

    def __init__(self, llm: Any, vllm: Any, parallel: int, caches: bool) -> None:
        self._llm, self._vllm = llm, vllm
        dtype = str(llm.model_config.dtype).removeprefix("torch.")
        self.facts = VllmFacts("cuda", dtype, caches, str(vllm.__version__), parallel)

    def score(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores:
        """See `LoadedEngine.score`: each beginning of a label is one request for the tokens that may follow."""
        asked: list[tuple[int, tuple[int, ...], list[int]]] = []
        for place, prompt in enumerate(prompts):
            for node, wanted in nodes_of(prompt.label_ids).items():
                asked += [(place, node, wanted[i : i + AT_ONCE]) for i in range(0, len(wanted), AT_ONCE)]
        parameters = [
            self._vllm.SamplingParams(
                max_tokens=1, temperature=0.0, logprob_token_ids=wanted, detokenize=False, flat_logprobs=True
            )
            for _, _, wanted in asked
        ]
        answers, computed = self._answers([[*prompts[place].ids, *node] for place, node, _ in asked], parameters)
        found: list[dict[tuple[int, ...], dict[int, float]]] = [{} for _ in prompts]
        argmax = np.zeros(len(prompts), dtype=np.int64)
        for (place, node, wanted), answer in zip(asked, answers, strict=True):
            first = answer.outputs[0].logprobs[0]
            missing = [token for token in wanted if token not in first]
            if missing:
                raise EngineError(f"vLLM gave no log-probability of token {missing[0]}, which it was asked for")
            found[place].setdefault(node, {}).update({token: float(first[token].logprob) for token in wanted})
            if not node:
                argmax[place] = answer.outputs[0].token_ids[0]
        return Scores(
            np.array([label_logprobs(p.label_ids, one) for p, one in zip(prompts, found, strict=True)]),
            argmax,
            np.array([mass_outside(one[()]) for one in found]),
            computed,
        )

    def generate(self, prompts: Sequence[Prompt], ending: Ending) -> Generations:
        """See `LoadedEngine.generate`."""
        parameters = self._vllm.SamplingParams(
            max_tokens=ending.max_new_tokens,
            temperature=0.0,
            stop=list(ending.stop_texts),
            stop_token_ids=sorted(ending.end_tokens),
            include_stop_str_in_output=True,
        )
        answers, computed = self._answers([list(p.ids) for p in prompts], [parameters] * len(prompts))
        written = [answer.outputs[0] for answer in answers]
        for one in written:
            if one.finish_reason not in ("stop", "length"):
                raise EngineError(
                    f"vLLM ended an answer with '{one.finish_reason}', so that it is not the whole answer"
                )
        tokens = [list(one.token_ids) for one in written]
        decoded = sum(map(len, tokens))
        return Generations(tokens, [_reason(one) for one in written], max(0, computed - decoded), decoded)

    def _answers(self, ids: list[list[int]], parameters: list[Any]) -> tuple[list[Any], int]:
        """One output per request, in their order, and the tokens that went through the model."""
        order = sorted(range(len(ids)), key=ids.__getitem__)
        given = [self._vllm.TokensPrompt(prompt_token_ids=ids[i]) for i in order]
        try:
            found = self._llm.generate(given, [parameters[i] for i in order], use_tqdm=False)
        except Exception as error:
            if any(kind.__name__ == "EngineDeadError" for kind in type(error).__mro__):
                raise BrokenDeviceError(f"vLLM's engine is dead: {one_line(str(error), 300)}") from None
            raise
        answers: list[Any] = [None] * len(ids)
        for i, answer in zip(order, found, strict=True):
            answers[i] = answer
        computed = sum(
            len(one.prompt_token_ids) - (one.num_cached_tokens or 0) + len(one.outputs[0].token_ids) for one in answers
        )
        return answers, computed


def _reason(written: Any) -> str:
    if written.finish_reason == "length":
        return "length"
    return "stop" if isinstance(written.stop_reason, str) else "end"


ENGINE = VllmEngine()
