"""Scores labels as continuations of prompts: shared over a prefix tree, or prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from harness.engine.local.attention.cache import Kept
from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.collector import Collector
from harness.engine.local.finiteness import check_finite
from harness.engine.local.layers.head import GivenLogits
from harness.engine.local.memory import LOGITS_AT_ONCE
from harness.engine.local.passes import Passes
from harness.engine.local.transfer import to_device
from harness.engine.local.tree.packing import Pack, make_packs
from harness.engine.local.tree.readouts import Firsts, Laters, Readouts, forks_of, sequences_of
from harness.engine.local.tree.tree import Origin, Tree, build_forked_tree, build_tree
from harness.engine.protocol import Scores

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


class Scorer(Passes):
    """Scores prompts with one loaded model; arguments as those of `Passes`."""

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
        collector = Collector(prepared.contexts, prepared.labels, head)
        self.regimes.begin()
        with torch.inference_mode():
            if prepared.tree is not None and prepared.readouts is not None:
                computed = self._shared(prepared, prepared.tree, prepared.readouts, collector)
            else:
                computed = self._unshared(prepared, collector)
            collector.finish()
        check_finite(collector.token_logprobs, self.model.dtype)
        return Scores(collector.token_logprobs.sum(2), collector.argmax, collector.off_label_mass, computed)

    def _shared(self, prepared: Prepared, tree: Tree, readouts: Readouts, collector: Collector) -> int:
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
                    self.told(len(read.prompts))
                    if trunk and pack.first_path == 0:
                        self.trunk.learn(trunk, kept)
            except (RuntimeError, MemoryError) as error:
                self.halve_pack(error)
        return computed

    def _unshared(self, prepared: Prepared, collector: Collector) -> int:
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
            self.told(len(prompts))
        return computed


def _trunk(tree: Tree, sequences: Sequence[Ids]) -> list[int]:
    """The tokens of the first path where it is a trunk that the next unit may begin with."""
    if not tree.fixed or len(tree.paths) < 2 or tree.paths[1].parent != 0:
        return []
    first = tree.paths[0]
    return list(sequences[first.sequence][: first.end]) if first.last > 2 else []
