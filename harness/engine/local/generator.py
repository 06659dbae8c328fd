"""Greedy generation: prompts that share a prefix compute it once and keep it in memory once.

The prompts of a group are computed over their prefix tree, as in scoring, with all keys and
values kept; then every step adds one token to each sequence that is not finished. Models that
cannot share run through transformers' own `generate`, in padded batches sorted by length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from harness.core.prefixes import shared_prefix_lengths, sort_key
from harness.engine.local.attention.cache import WholeTree
from harness.engine.local.attention.cascade import VarlenAttention, flash_varlen, why_not_flash
from harness.engine.local.attention.choice import shape_of
from harness.engine.local.attention.decoding import DecodingState, place
from harness.engine.local.attention.rules import has_rules
from harness.engine.local.attention.stepping import Record, Stepper, record_cuda_graph
from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.finiteness import FiniteLogits, check_tokens, finite_tokens
from harness.engine.local.scorer import Scorer
from harness.engine.local.transfer import to_device
from harness.engine.local.transformers_internals import text_config
from harness.engine.local.tree.packing import make_packs
from harness.engine.local.tree.tree import Tree, build_tree
from harness.engine.protocol import Generations

log = logging.getLogger(__name__)
Ids = Sequence[int]
MOST_ROWS = 256
"""Sequences that are continued together."""
CPU_CACHE_BYTES = 2**31
GPU_CACHE_SHARE = 0.4
"""Of the free memory that keys and values may take."""
LEAST_LEFT = 0.5
"""On a GPU finished sequences are dropped when no more than this share goes on: until then steps stay alike."""
END, STOP, LENGTH = "end", "stop", "length"


class Generator:
    """Continues prompts greedily with one loaded model.

    Args:
        scorer: holds the model, and whether it can share prefixes.
        end_tokens: that end an answer beside those of the model's generation settings and configuration.
    """

    def __init__(self, scorer: Scorer, end_tokens: Iterable[int] = ()) -> None:
        self.scorer = scorer
        self.model = scorer.model
        self.end_tokens = _end_tokens(self.model) | frozenset(end_tokens)
        on_gpu = scorer.device.type == "cuda"
        shape = shape_of(self.model)
        flash = why_not_flash(scorer.device, shape.dtype, shape.head_size) is None
        self.varlen: VarlenAttention | None = flash_varlen if flash else None
        self.record: Record | None = record_cuda_graph if flash else None
        self.least_left = LEAST_LEFT if on_gpu else 1

    def generate(
        self, contexts: Sequence[Ids], max_new_tokens: int, is_complete: Callable[[list[int]], bool]
    ) -> Generations:
        """The most likely continuation of each prompt, token by token.

        Args:
            contexts: non-empty token ids of each prompt.
            max_new_tokens: most tokens of an answer, at least 1.
            is_complete: asked after every token, with what was generated so far.
        """
        if any(not context for context in contexts):
            raise ValueError("a context has no tokens")
        batch = _Batch(contexts, max_new_tokens, is_complete, self.end_tokens, self.scorer.told)
        self.scorer.regimes.begin()
        with torch.inference_mode():
            longest = max(map(len, contexts), default=0) + max_new_tokens
            if self.scorer.can_share(longest) and not has_rules(self.scorer.model, longest):
                for group in self.groups(contexts):
                    self._shared(group, batch)
            else:
                self._unshared(batch)
        return Generations(batch.tokens, batch.reasons, batch.prompt_tokens_computed, batch.tokens_decoded)

    def groups(self, contexts: Sequence[Ids]) -> list[list[int]]:
        """Prompts whose keys and values fit into memory together; neighbours share prefixes."""
        room = self.cache_tokens()
        arrays = [np.asarray(context, dtype=np.int32) for context in contexts]
        order = sorted(range(len(contexts)), key=lambda i: sort_key(arrays[i]))
        shared = shared_prefix_lengths([arrays[i] for i in order]) if order else []
        groups: list[list[int]] = []
        used = 0
        for index, common in zip(order, shared, strict=True):
            new = len(arrays[index]) - common
            if not groups or used + new > room or len(groups[-1]) >= MOST_ROWS:
                groups.append([])
                used, new = 0, len(arrays[index])
            groups[-1].append(index)
            used += new
        return groups

    def cache_tokens(self) -> int:
        """Tokens whose keys and values may be in memory at a time."""
        config = text_config(self.model.config)
        # Models without attention (state spaces) keep less than this.
        all_heads = getattr(config, "num_attention_heads", 1)
        heads = getattr(config, "num_key_value_heads", None) or all_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // all_heads
        device = self.scorer.device
        exact = device.type == "cpu" and self.model.dtype == torch.float32
        per_token = 2 * config.num_hidden_layers * heads * size * (8 if exact else self.model.dtype.itemsize)
        room = CPU_CACHE_BYTES
        if device.type == "cuda":
            room = int(torch.cuda.mem_get_info(device)[0] * GPU_CACHE_SHARE)
        return max(1, int(room // per_token))

    def _shared(self, group: list[int], batch: _Batch) -> None:
        try:
            self._group(group, batch)
        except (RuntimeError, MemoryError) as error:
            self.scorer.halve_pack(error)
            middle = len(group) // 2
            for part in (group[:middle], group[middle:]):
                if part:
                    batch.restart(part)
                    self._shared(part, batch)

    def _group(self, group: list[int], batch: _Batch) -> None:
        sequences = [batch.contexts[i] for i in group]
        tree = build_tree(sequences)
        self.scorer.set_attention(NAME)
        kept, ends = self._prefill(tree, sequences, batch)
        tokens: list[int] = finite_tokens(self.scorer.head(ends)).tolist()
        check_tokens(tokens, self.model.dtype)
        batch.take(group, tokens)
        rows = sorted(range(len(group)), key=lambda i: tree.locate(i, len(sequences[i]) - 1))
        rows = [row for row in rows if not batch.reasons[group[row]]]
        if not rows:
            return
        state = DecodingState(
            [place(tree, row, len(sequences[row])) for row in rows], kept, batch.max_new_tokens, self.varlen
        )
        prompts = [group[row] for row in rows]
        latest, positions = [batch.tokens[i][-1] for i in prompts], [len(batch.contexts[i]) for i in prompts]
        stepper = Stepper(self.model, self.scorer.head, state, latest, positions, self.record)
        going = list(range(len(prompts)))
        while going:
            tokens = self.step(stepper)
            batch.tokens_decoded += len(prompts)
            batch.take([prompts[row] for row in going], [tokens[row] for row in going])
            going = [row for row in going if not batch.reasons[prompts[row]]]
            if going and len(going) <= self.least_left * (len(prompts) - 1):
                stepper.keep_rows(going)
                prompts = [prompts[row] for row in going]
                going = list(range(len(prompts)))

    def _prefill(self, tree: Tree, sequences: list[Ids], batch: _Batch) -> tuple[WholeTree, torch.Tensor]:
        """Keys and values of all tokens, and the hidden state at each sequence's end."""
        at: dict[int, list[tuple[int, int]]] = {}
        for index, sequence in enumerate(sequences):
            path, offset = tree.locate(index, len(sequence) - 1)
            at.setdefault(path, []).append((index, offset))
        kept = WholeTree(tree)
        ends: torch.Tensor | None = None
        for pack in make_packs(tree, sequences, self.scorer.tokens_per_pack):
            read = [
                (index, pack.offsets[path - pack.first_path] + offset)
                for path in range(pack.first_path, pack.last_path)
                for index, offset in at.get(path, ())
            ]
            hidden, _ = self.scorer.forward_pack(pack, kept, [row for _, row in read])
            if ends is None:
                ends = hidden.new_empty(len(sequences), hidden.shape[1])
            if read:
                indices, rows = (to_device(list(places), hidden.device) for places in zip(*read, strict=True))
                ends[indices] = hidden[rows]
            batch.prompt_tokens_computed += len(pack.tokens)
        assert ends is not None
        return kept, ends

    def step(self, stepper: Stepper) -> list[int]:
        """The next token of every sequence; here the host waits for the device, once a step."""
        tokens: list[int] = stepper.step().tolist()
        check_tokens(tokens, self.model.dtype)
        return tokens

    def _unshared(self, batch: _Batch) -> None:
        self.scorer.set_attention(self.scorer.plain_attention)
        order = sorted(range(len(batch.contexts)), key=lambda i: -len(batch.contexts[i]))
        room = self.cache_tokens()
        while order:
            length = len(batch.contexts[order[0]])
            size = min(self.scorer.tokens_per_pack // length, room // (length + batch.max_new_tokens), MOST_ROWS)
            part = order[: max(1, size)]
            regimes, new = self.scorer.regimes, batch.max_new_tokens
            part = [i for i in part if regimes.of(len(batch.contexts[i]), new) == regimes.of(length, new)]
            regimes.begin()
            try:
                self.padded(part, length, batch)
            except (RuntimeError, MemoryError) as error:
                self.scorer.halve_pack(error)
                batch.restart(part)
                continue
            order = order[len(part) :]

    def padded(self, part: list[int], length: int, batch: _Batch) -> None:
        """transformers' own greedy search over one left-padded batch."""
        ids = torch.zeros(len(part), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(part):
            context = batch.contexts[index]
            ids[row, length - len(context) :] = torch.tensor(context)
            mask[row, length - len(context) :] = 1
        settings = GenerationConfig(
            max_new_tokens=batch.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(self.end_tokens) or None,
            pad_token_id=0,
        )
        device = self.scorer.device
        own = self.model.generation_config
        # What `settings` does not name would be taken from the model's own: penalties, sampling.
        self.model.generation_config = GenerationConfig()
        try:
            found = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_Complete(length, batch.is_complete)]),
                logits_processor=LogitsProcessorList([FiniteLogits(self.model.dtype)]),
            )
        finally:
            self.model.generation_config = own
        for row, index in enumerate(part):
            for token in found[row, length:].tolist():
                if not batch.reasons[index]:
                    batch.take([index], [token])
        batch.prompt_tokens_computed += length * len(part)
        batch.tokens_decoded += (found.shape[1] - length - 1) * len(part)


class _Complete(StoppingCriteria):
    """The caller's test, row by row."""

    def __init__(self, length: int, is_complete: Callable[[list[int]], bool]) -> None:
        self.length = length
        self.is_complete = is_complete

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = [self.is_complete(row) for row in input_ids[:, self.length :].tolist()]
        return torch.tensor(done, device=input_ids.device)


class _Batch:
    """What was generated so far."""

    def __init__(
        self,
        contexts: Sequence[Ids],
        max_new_tokens: int,
        is_complete: Callable[[list[int]], bool],
        end_tokens: frozenset[int],
        told: Callable[[int], object],
    ) -> None:
        self.told = told
        self.contexts = contexts
        self.max_new_tokens = max_new_tokens
        self.is_complete = is_complete
        self.end_tokens = end_tokens
        self.tokens: list[list[int]] = [[] for _ in contexts]
        self.reasons = [""] * len(contexts)
        self.prompt_tokens_computed = 0
        self.tokens_decoded = 0

    def take(self, prompts: list[int], tokens: list[int]) -> None:
        """Add a token to each of some prompts, and see which are finished."""
        for prompt, token in zip(prompts, tokens, strict=True):
            generated = self.tokens[prompt]
            generated.append(token)
            if token in self.end_tokens:
                self.reasons[prompt] = END
            elif self.is_complete(generated):
                self.reasons[prompt] = STOP
            elif len(generated) >= self.max_new_tokens:
                self.reasons[prompt] = LENGTH
        self.told(sum(bool(self.reasons[prompt]) for prompt in prompts))

    def restart(self, prompts: list[int]) -> None:
        """Forget what was generated for some prompts."""
        for prompt in prompts:
            self.tokens[prompt] = []
            self.reasons[prompt] = ""


def _end_tokens(model: Any) -> frozenset[int]:
    """Those of the generation settings and of the configuration together."""
    configs = (getattr(model, "generation_config", None), model.config, text_config(model.config))
    named = (getattr(config, "eos_token_id", None) for config in configs)
    return frozenset(
        token for found in named if found is not None for token in ([found] if isinstance(found, int) else found)
    )
