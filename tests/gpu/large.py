"""The models that are timed: random weights, drawn on the device, loaded as a replica loads them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from unittest import mock

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.engine.local import opening as factory
from harness.engine.local.attention.choice import shape_of
from harness.engine.local.facts import LocalFacts
from harness.engine.local.loading import ModelSpec
from harness.engine.local.scorer import Scorer
from tests.bench.limit import measure_peak
from tests.bench.models import EMBEDDED, SHAPES, neox_config
from tests.gpu.device import CUDA, DEVICE, SIZES, now
from tests.gpu.kernels import kernels_for
from tests.gpu.steps import SkippedError

LONGEST = 2048
LLAMAS = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 4096},
}  # fmt: skip
ROOM = 1.5
"""Free memory that a model needs, as a multiple of its weights."""


@dataclass(frozen=True)
class Large:
    """A loaded model.

    Attributes:
        plain: as transformers gives it, for other contenders: the engine may change what its scorer holds.
        scorer: as `load_engine` gives it.
        load_s: seconds that took, with the choice of the kernel.
    """

    plain: Any
    scorer: Scorer
    facts: LocalFacts
    tokenizer: Any
    load_s: float

    @cached_property
    def peak(self) -> float:
        """Operations per second of the weights' own products, a pack of tokens at a time."""
        return measure_peak([self.plain], self.facts.tokens_per_pack, 10 if CUDA else 2, now)

    def other_scorers(self) -> Iterator[tuple[str, Scorer | str]]:
        """Kernels that were not chosen: name, and a scorer of its own or why there is none."""
        model, size = self.scorer.model, self.facts.tokens_per_pack
        for name, kernel in kernels_for(model.dtype, shape_of(model).head_size, size).items():
            if name != self.scorer.kernel.name:
                yield name, kernel if isinstance(kernel, str) else Scorer(model, size, True, kernel)

    def describe(self) -> dict[str, Any]:
        """Size, and what the engine says of itself."""
        return {"weights": sum(p.numel() for p in self.plain.parameters()), "load_s": self.load_s,
                "products, TFLOP/s": self.peak / 1e12, **self.facts.as_dict()}  # fmt: skip


@cache
def neox() -> Large:
    """The GPT-NeoX model of this process."""
    return _load(neox_config(SHAPES[SIZES.neox]), copied=True)


@cache
def llama() -> Large:
    """The Llama of this process.

    Raises:
        SkippedError: the device lacks the memory.
    """
    config = AutoConfig.for_model("llama", max_position_embeddings=LONGEST, **LLAMAS[SIZES.llama])
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config, dtype=SIZES.dtype)
    needed = ROOM * sum(p.nbytes for p in weights.parameters())
    if CUDA and torch.cuda.mem_get_info()[0] < needed:
        raise SkippedError(f"the model needs {needed / 2**30:.0f} GiB of free memory")
    return _load(config, copied=False)


def _load(config: Any, copied: bool) -> Large:
    # No token ends an answer: what is decoded then has one length.
    config.eos_token_id = None
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=SIZES.dtype).eval()
    model.generation_config.eos_token_id = None
    # The engine lays weights out anew on a CPU, in place.
    plain = copy.deepcopy(model) if copied or not CUDA else model
    started = time.perf_counter()
    with _given(model):
        spec = ModelSpec("random", dtype=str(SIZES.dtype).removeprefix("torch."), device=DEVICE.type)
        scorer, facts = factory.load_engine(spec, True, SIZES.tokens_per_pack, LONGEST, None)
    load_s = time.perf_counter() - started
    return Large(plain, scorer, facts, AutoTokenizer.from_pretrained(str(EMBEDDED)), load_s)


@contextmanager
def _given(model: Any) -> Iterator[None]:
    """In the block `load_engine` takes this model instead of reading one from a folder."""
    with mock.patch.object(factory, "load_model", lambda spec: model):
        yield
