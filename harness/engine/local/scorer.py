"""Scores labels as continuations of prompts: shared over a prefix tree, or prompt by prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.choice import PARTS, Kernel
from harness.engine.local.attention.tree_attention import NAME, Needed, attending
from harness.engine.local.attention.trunks import TrunkMemory
from harness.engine.local.device_errors import give_memory_back, is_out_of_memory
from harness.engine.local.finiteness import check_finite
from harness.engine.local.layers.compiled import NOT_COMPILED, CompiledLayers
from harness.engine.local.layers.first_layer import FirstLayer
from harness.engine.local.layers.head import GivenLogits, Head, log_sum_exp, logits_are_plain
from harness.engine.local.layers.last_layer import reading
from harness.engine.local.layers.modules import Parts, find_parts
from harness.engine.local.memory import LOGITS_AT_ONCE
from harness.engine.local.rope_regimes import Regimes
from harness.engine.local.transfer import to_device
from harness.engine.local.transformers_internals import attention_of, text_config
from harness.engine.local.tree.packing import Pack, make_packs, whole_steps
from harness.engine.local.tree.readouts import Firsts, Laters, Readouts, Target, forks_of, sequences_of
from harness.engine.local.tree.tree import Origin, Tree, build_forked_tree, build_tree
from harness.engine.protocol import Scores

log = logging.getLogger(__name__)
Ids = Sequence[int]


@dataclass(frozen=True)
class Prepared:
    """Prompts and labels laid out for the model: everything about them that can be known without it.

    Attributes:
        contexts: token ids of each prompt.
        labels: for each prompt, each label's token ids.
        sequences: what is computed; see `harness.engine.local.tree.readouts.sequences_of`, as for the next two.
        firsts: where first label tokens are read.
        laters: where later label tokens are read.
        tree: of the sequences; None where every prompt is computed by itself.
        readouts: what is read of which path of the tree.
        packs: of the tree, without its trunk where it has one: the unit before most likely leaves that in memory.
        tokens_per_pack: that the packs were cut for.
    """

    contexts: Sequence[Ids]
    labels: Sequence[Sequence[Ids]]
    sequences: list[list[int]]
    firsts: Firsts
    laters: Laters
    tree: Tree | None = None
    readouts: Readouts | None = None
    packs: Sequence[Pack] = ()
    tokens_per_pack: int = 0


class _Collector:
    """Turns hidden states at chosen places into scores."""

    def __init__(self, contexts: Sequence[Ids], labels: Sequence[Sequence[Ids]], head: Head | GivenLogits) -> None:
        n_labels = len(labels[0]) if labels else 0
        longest = max((len(label) for row in labels for label in row), default=1)
        self.token_logprobs = np.zeros((len(contexts), n_labels, longest))
        self.argmax = np.zeros(len(contexts), dtype=np.int64)
        self.off_label_mass = np.zeros(len(contexts))
        self.labels = labels
        self.head = head
        self._firsts: list[tuple[Any, ...]] = []
        self._laters: list[tuple[Any, ...]] = []

    def first_tokens(self, hidden: torch.Tensor, prompts: list[int]) -> None:
        """Score the first token of every label; `hidden` is `(len(prompts), hidden_size)`."""
        for rows, part in self._chunks(hidden, prompts):
            first = to_device([[label[0] for label in self.labels[p]] for p in part], rows.device)
            found = (rows.gather(1, first) - log_sum_exp(rows)).double()
            self._firsts.append((part, found, rows.argmax(-1)))

    def later_tokens(self, hidden: torch.Tensor, targets: list[Target]) -> None:
        """Score one later label token per row of `hidden`."""
        for rows, part in self._chunks(hidden, targets):
            tokens = to_device([[t.token] for t in part], rows.device)
            found = (rows.gather(1, tokens) - log_sum_exp(rows)).double()
            self._laters.append((part, found[:, 0]))

    def finish(self) -> None:
        """Fetch what the device computed: the one place that waits for it."""
        for part, found, argmax in _fetched(self._firsts):
            self.token_logprobs[part, :, 0] = found
            self.argmax[part] = argmax
            tokens = np.asarray([[label[0] for label in self.labels[p]] for p in part])
            repeated = np.zeros(tokens.shape, dtype=bool)
            for column in range(1, tokens.shape[1]):
                repeated[:, column] = (tokens[:, :column] == tokens[:, column : column + 1]).any(1)
            on_labels = np.where(repeated, 0.0, np.exp(found)).sum(1)
            self.off_label_mass[part] = np.clip(1.0 - on_labels, 0.0, 1.0)
        for part, found in _fetched(self._laters):
            places = [(target.prompt, target.label, target.place) for target in part]
            self.token_logprobs[tuple(zip(*places, strict=True))] = found

    def _chunks(self, hidden: torch.Tensor, items: list[Any]) -> Any:
        size = max(1, LOGITS_AT_ONCE // self.head.vocabulary)
        for start in range(0, len(items), size):
            yield self.head(hidden[start : start + size]), items[start : start + size]


def _fetched(results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Items and tensors of all chunks as one tuple, the tensors joined on the device and copied once."""
    if not results:
        return []
    items, *columns = zip(*results, strict=True)
    return [([item for part in items for item in part], *(torch.cat(column).cpu().numpy() for column in columns))]


class Scorer:
    """Scores prompts with one loaded model.

    Args:
        model: a transformers causal language model in evaluation mode.
        tokens_per_pack: most tokens of one forward pass; halved when memory runs out.
        share_prefixes: compute every shared token once; needs a model that passes
            `harness.engine.local.parity.sharing_error`.
        kernel: how packs attend.
        compiled: layers of the model that are compiled, for packs.
    """

    def __init__(
        self,
        model: Any,
        tokens_per_pack: int,
        share_prefixes: bool,
        kernel: Kernel = PARTS,
        compiled: CompiledLayers = NOT_COMPILED,
    ) -> None:
        self.model = model
        self.tokens_per_pack = tokens_per_pack
        self.share_prefixes = share_prefixes
        self.kernel = kernel
        self.compiled = compiled
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.head = Head(model.get_output_embeddings())
        attention = attention_of(model)
        self.plain_attention = "sdpa" if attention == NAME else attention
        self.set_attention(self.plain_attention)
        self.plain_logits = logits_are_plain(model, self.head)
        self.regimes = Regimes(model)
        self.trunk = TrunkMemory(self.device)
        parts = find_parts(model) if share_prefixes else Parts({}, [])
        self.first_layer = FirstLayer(parts.by_token, model.get_input_embeddings().weight, tokens_per_pack)
        self.after_attention = parts.after_attention

    def score(
        self, contexts: Sequence[Ids], labels: Sequence[Sequence[Ids]], origins: Sequence[Origin] | None = None
    ) -> Scores:
        """Log-probabilities of each prompt's labels.

        Args:
            contexts: non-empty token ids of each prompt.
            labels: for each prompt, each label's token ids, none empty; the number of labels
                is the same throughout.
            origins: for each prompt, which of its tokens it may share; less than all. Prompts are
                then cut there, and scores do not depend on which families of prompts are scored
                together. None shares whatever is equal.

        Raises:
            NotFiniteError: a log-probability of one of these prompts is NaN or infinite.
        """
        return self.compute(self.prepare(contexts, labels, origins))

    def prepare(
        self, contexts: Sequence[Ids], labels: Sequence[Sequence[Ids]], origins: Sequence[Origin] | None = None
    ) -> Prepared:
        """What `compute` needs; arguments as those of `score`.

        Touches neither the model nor its device, so one thread may prepare while another computes.
        """
        if any(not context for context in contexts) or any(not x for row in labels for x in row):
            raise ValueError("a context or a label has no tokens")
        sequences, firsts, laters = sequences_of(contexts, labels)
        if not contexts or not self.can_share(max(map(len, sequences))):
            return Prepared(contexts, labels, sequences, firsts, laters)
        if origins is None:
            tree = build_tree(sequences)
        else:
            tree = build_forked_tree(sequences, forks_of(len(sequences), firsts, contexts, origins))
        readouts, size = Readouts(tree, firsts, laters), self.tokens_per_pack
        packs = list(make_packs(tree, sequences, size, 1 if _trunk(tree, sequences) else 0))
        return Prepared(contexts, labels, sequences, firsts, laters, tree, readouts, packs, size)

    def can_share(self, longest: int) -> bool:
        """Whether sequences of up to so many tokens may share prefixes."""
        return self.share_prefixes and not self.regimes.differ_within(longest)

    def compute(self, prepared: Prepared) -> Scores:
        """Scores of what `prepare` laid out, by this scorer.

        Raises:
            NotFiniteError: a log-probability of one of the prompts is NaN or infinite.
        """
        head = self.head if self.plain_logits else GivenLogits(self.head.vocabulary)
        collector = _Collector(prepared.contexts, prepared.labels, head)
        self.regimes.begin()
        with torch.inference_mode():
            if prepared.tree is not None and prepared.readouts is not None:
                computed = self._shared(prepared, prepared.tree, prepared.readouts, collector)
            else:
                computed = self._unshared(prepared, collector)
            collector.finish()
        check_finite(collector.token_logprobs, self.model.dtype)
        return Scores(collector.token_logprobs.sum(2), collector.argmax, collector.off_label_mass, computed)

    def _shared(self, prepared: Prepared, tree: Tree, readouts: Readouts, collector: _Collector) -> int:
        self.set_attention(NAME)
        sequences = prepared.sequences
        kept: Kept = {}
        computed = first_path = 0
        trunk = _trunk(tree, sequences)
        known = self.trunk.recall(trunk)
        if known is not None:
            kept, first_path = known, 1
        while first_path < len(tree.paths):
            try:
                packs: Iterable[Pack] = prepared.packs
                if (first_path, self.tokens_per_pack) != (prepared.packs[0].first_path, prepared.tokens_per_pack):
                    packs = make_packs(tree, sequences, self.tokens_per_pack, first_path, bool(trunk))
                for pack in packs:
                    read = readouts.of(pack)
                    hidden, kept = self.forward_pack(pack, kept, [*read.first_rows, *read.later_rows])
                    if read.prompts:
                        collector.first_tokens(hidden[to_device(read.first_rows, hidden.device)], read.prompts)
                    if read.targets:
                        collector.later_tokens(hidden[to_device(read.later_rows, hidden.device)], read.targets)
                    computed += len(pack.tokens)
                    first_path = pack.last_path
                    if trunk and pack.first_path == 0:
                        self.trunk.learn(trunk, kept)
            except (RuntimeError, MemoryError) as error:
                self.halve_pack(error)
        return computed

    def forward_pack(self, pack: Pack, kept: Kept, rows: Sequence[int]) -> tuple[torch.Tensor, Kept]:
        """Compute a pack.

        Args:
            pack: the layout.
            kept: of earlier packs.
            rows: tokens of the pack whose hidden states will be read.

        Returns:
            Hidden states `(n_tokens, hidden_size)`, of which only those rows are whole, and what later packs
            need of the caches.
        """
        read = sorted(set(rows))
        last = text_config(self.model.config).num_hidden_layers - 1
        state = self.kernel.begin(pack, kept, Needed(last, np.asarray(read, dtype=np.int64)))
        n_tokens = len(pack.tokens)
        # The other kernels are for GPUs.
        fill = whole_steps(n_tokens) - n_tokens if self.kernel is PARTS and self.device.type == "cpu" else 0
        tokens, positions = (np.pad(x, (0, fill), mode="edge") for x in (pack.tokens, pack.positions))
        with (
            attending(state),
            self.first_layer.remembering(tokens),
            reading(self.after_attention, read, len(tokens)),
            self.compiled.for_rows(len(tokens)),
        ):
            output = self.model.base_model(
                input_ids=to_device(tokens, self.device)[None],
                position_ids=to_device(positions, self.device)[None],
                use_cache=False,
            )
        return output.last_hidden_state[0, :n_tokens], state.keep

    def _unshared(self, prepared: Prepared, collector: _Collector) -> int:
        sequences, firsts, laters = prepared.sequences, prepared.firsts, prepared.laters
        self.set_attention(self.plain_attention)
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        computed = start = 0
        while start < len(order):
            length = len(sequences[order[start]])
            tokens = self.tokens_per_pack
            if not self.plain_logits:
                tokens = min(tokens, LOGITS_AT_ONCE // self.head.vocabulary)
            batch = order[start : start + max(1, tokens // length)]
            batch = [i for i in batch if self.regimes.of(len(sequences[i])) == self.regimes.of(length)]
            self.regimes.begin()
            try:
                hidden = self.forward_batch([sequences[i] for i in batch])
            except (RuntimeError, MemoryError) as error:
                self.halve_pack(error)
                continue
            places = [(row, *firsts[i]) for row, i in enumerate(batch) if i in firsts]
            rows, depths, prompts = (list(column) for column in zip(*places, strict=True)) if places else ([], [], [])
            if prompts:
                collector.first_tokens(hidden[rows, depths], prompts)
            more = [(row, *later) for row, i in enumerate(batch) for later in laters.get(i, ())]
            if more:
                rows, depths, targets = (list(column) for column in zip(*more, strict=True))
                collector.later_tokens(hidden[rows, depths], targets)
            computed += length * len(batch)
            start += len(batch)
        return computed

    def forward_batch(self, sequences: list[Ids]) -> torch.Tensor:
        """Hidden states `(batch, length, hidden_size)` of right-padded sequences.

        Of a model that changes its logits after the head, its own logits `(batch, length, vocabulary)`.
        """
        length = max(len(s) for s in sequences)
        ids = torch.zeros(len(sequences), length, dtype=torch.long)
        mask = torch.zeros(len(sequences), length, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        equal = all(len(s) == length for s in sequences)
        inputs = {"input_ids": ids.to(self.device), "attention_mask": None if equal else mask.to(self.device)}
        if not self.plain_logits:
            logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
            return logits
        hidden: torch.Tensor = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden

    def set_attention(self, name: str) -> None:
        """Switch the model to an attention implementation: `NAME`, or its own."""
        if attention_of(self.model) != name:
            self.model.set_attn_implementation(name)

    def halve_pack(self, error: BaseException) -> None:
        """Go on with half the tokens per pack after running out of memory; else raise."""
        if not is_out_of_memory(error) or self.tokens_per_pack < 64:
            raise error
        self.tokens_per_pack //= 2
        self.first_layer.make_room(self.tokens_per_pack)
        log.warning("out of memory: going on with %d tokens per pack", self.tokens_per_pack)
        give_memory_back(error)


def _trunk(tree: Tree, sequences: Sequence[Ids]) -> list[int]:
    """The tokens of the first path where it is a trunk that the next unit may begin with."""
    if not tree.fixed or len(tree.paths) < 2 or tree.paths[1].parent != 0:
        return []
    first = tree.paths[0]
    return list(sequences[first.sequence][: first.end]) if first.last > 2 else []
