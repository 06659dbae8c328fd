"""What the engine `vllm` uses of vLLM 0.33.0, with its signatures, over the embedded model on a CPU.

`vllm.LLM`, `vllm.SamplingParams`, `vllm.TokensPrompt`, `vllm.outputs.RequestOutput`, `CompletionOutput` and
`vllm.logprobs.Logprob` as that version documents them; parameters of other names are refused as there.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypedDict

import torch

from tests.servers.model import Model

__version__ = "0.33.0"


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass(kw_only=True)
class SamplingParams:
    max_tokens: int | None = 16
    temperature: float = 1.0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    flat_logprobs: bool = False

    def __post_init__(self):
        if self.logprob_token_ids is not None and len(self.logprob_token_ids) > 128:
            raise ValueError("logprob_token_ids takes at most 128 ids")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class EngineDeadError(Exception):
    """Of `vllm.v1.engine.exceptions`."""


class LLM:
    dies_after = None

    def __init__(
        self, model, *, revision=None, trust_remote_code=False, dtype="auto", max_model_len=None,
        tensor_parallel_size=1, gpu_memory_utilization=0.9, enable_prefix_caching=None, max_num_seqs=None,
        max_num_batched_tokens=None, disable_log_stats=False, seed=0, distributed_executor_backend=None,
    ):  # fmt: skip
        self.options = {"tensor_parallel_size": tensor_parallel_size, "enable_prefix_caching": enable_prefix_caching}
        self.model_config = SimpleNamespace(dtype=torch.float32)
        self._model = Model(model)
        self._seen = []

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        if LLM.dies_after == 0:
            raise EngineDeadError("EngineCore encountered an issue")
        LLM.dies_after = LLM.dies_after and LLM.dies_after - 1
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _one(self, ids, parameters):
        """Prefixes of the last request are cached in blocks of 16 tokens."""
        common = next((i for i, (a, b) in enumerate(zip(ids, self._seen, strict=False)) if a != b), 0)
        self._seen = ids
        model, wanted = self._model, parameters.logprob_token_ids
        tokens, reason, stop = [], "length", None
        while len(tokens) < parameters.max_tokens:
            token = int(model.next([*ids, *tokens]).argmax())
            tokens.append(token)
            if token in (model.tokenizer.eos_token_id, *(parameters.stop_token_ids or ())) and wanted is None:
                reason = "stop"
                break
            text = model.tokenizer.decode(tokens)
            stop = next((one for one in parameters.stop or () if one in text), None)
            if stop is not None:
                reason = "stop"
                break
        row = model.next(ids)
        logprobs = None
        if wanted is not None:
            logprobs = [{token: Logprob(float(row[token])) for token in dict.fromkeys([tokens[0], *wanted])}]
        output = SimpleNamespace(index=0, text="", token_ids=tokens, logprobs=logprobs, finish_reason=reason,
                                 stop_reason=stop)  # fmt: skip
        return SimpleNamespace(prompt_token_ids=ids, outputs=[output], num_cached_tokens=common // 16 * 16)
