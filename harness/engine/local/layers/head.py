"""The language-model head: hidden states that are read to logits, more precise than the model itself gives them."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from harness.engine.local import memory
from harness.engine.local.device_errors import breaks_the_device
from harness.engine.local.tree.packing import LEAST_ROWS


class Head:
    """A model's output embeddings, one step more precise than the model where that costs little.

    Logits of a bfloat16 head come in steps of 1/16 and tie; a float32 logit of 10 is rounded to 1e-6. So a model of
    16 bits has logits in float32, and a float32 model on a CPU has them in float64, up to
    `memory.CONVERTED_AT_ONCE` weights. A larger head stays in float32: its logits are off by some 1e-6, while
    `log_sum_exp` still adds in float64. A GPU multiplies 16 bits exactly and adds in float32: nothing is converted.

    Args:
        module: a linear map to logits, with or without a bias.
    """

    def __init__(self, module: Any) -> None:
        self.weight: torch.Tensor = module.weight.detach()
        bias = getattr(module, "bias", None)
        self.vocabulary = int(self.weight.shape[0])
        size, on_cpu = self.weight.element_size(), self.weight.device.type == "cpu"
        is_large = self.weight.numel() > memory.CONVERTED_AT_ONCE
        self.dtype = torch.float64 if size == 4 and on_cpu and not is_large else torch.float32
        self.bias: torch.Tensor | None = None if bias is None else bias.detach().to(self.dtype)
        self.widens = size == 2 and not on_cpu and _multiplies_into_float32(self.weight)
        if not self.widens and memory.keeps_converted(self.weight.numel(), size, self.weight.device.type):
            self.weight = self.weight.to(self.dtype)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `(rows, vocabulary)` on the head's device; a very large head is converted part by part."""
        if self.widens:
            logits = torch.mm(hidden.to(self.weight.device), self.weight.T, out_dtype=torch.float32)
        else:
            hidden = hidden.to(self.weight.device, self.dtype)
            # Products of few rows take another routine, with other last bits.
            missing = max(0, LEAST_ROWS - len(hidden)) if self.dtype == self.weight.dtype == torch.float32 else 0
            rows = torch.cat([hidden, hidden[:1].expand(missing, -1)]) if missing and len(hidden) else hidden
            parts = [rows @ part.to(self.dtype).T for part in self._parts()]
            logits = (parts[0] if len(parts) == 1 else torch.cat(parts, -1))[: len(hidden)]
        return logits if self.bias is None else logits + self.bias

    def _parts(self) -> list[torch.Tensor]:
        if self.weight.dtype == self.dtype:
            return [self.weight]
        return list(self.weight.split(max(1, memory.CONVERTED_AT_ONCE // self.weight.shape[1])))


def log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of exponentials of each row, `(rows, 1)`.

    Over a large vocabulary on a CPU the exponentials of float32 logits are added in float64.
    """
    if logits.dtype != torch.float32 or logits.device.type != "cpu" or logits.shape[-1] < memory.LARGE_VOCABULARY:
        return logits.logsumexp(-1, keepdim=True)
    most = logits.max(-1, keepdim=True).values
    return (logits - most).exp_().sum(-1, keepdim=True, dtype=torch.float64).log() + most


def last_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The model's own logits `(vocabulary,)` after the last of some tokens `(1, n_tokens)`.

    Where the model can leave out those of the others, it does: over a large vocabulary they take longer than all else.
    """
    can_choose = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": 1} if can_choose else {}
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, **options).logits[0, -1]
    return logits


def _multiplies_into_float32(weight: torch.Tensor) -> bool:
    """Whether this build of torch multiplies matrices of 16 bits into float32."""
    try:
        torch.mm(weight[:1], weight[:1].T, out_dtype=torch.float32)
    except (RuntimeError, TypeError) as error:
        if breaks_the_device(error):
            raise
        return False
    return True


class GivenLogits:
    """Stands for the head where the model itself has given logits."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits, float32."""
        return logits.float()


@torch.inference_mode()
def logits_are_plain(model: Any, head: Head) -> bool:
    """Whether a model's logits are its head applied to its backbone's output, and nothing more.

    Some models scale or cap their logits (Gemma 2, Cohere, Granite).
    """
    ids = torch.arange(1, 9, device=model.get_input_embeddings().weight.device)[None] % head.vocabulary
    try:
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        plain = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]).float()
    except (AttributeError, RuntimeError) as error:
        if breaks_the_device(error):
            raise
        return False
    allowed = 1e-3 if model.dtype == torch.float32 else 0.1
    return bool((plain - own).pow(2).mean().sqrt() <= allowed * own.std())
