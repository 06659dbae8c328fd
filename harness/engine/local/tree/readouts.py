"""Which sequences are computed for some prompts and their labels, and what is read of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.engine.local.tree.packing import Pack
from harness.engine.local.tree.tree import Fork, Origin, Tree
from harness.engine.protocol import Prompt

Ids = Sequence[int]


class Target(NamedTuple):
    """One later token of one label."""

    prompt: int
    label: int
    place: int
    token: int


Firsts = dict[int, tuple[int, int]]
Laters = dict[int, list[tuple[int, Target]]]


def sequences_of(contexts: Sequence[Ids], labels: Sequence[Sequence[Ids]]) -> tuple[list[list[int]], Firsts, Laters]:
    """The sequences to compute, and what is read from each.

    A prompt whose labels have one token each is one sequence; a label of more tokens adds
    one, all but its last token appended.

    Returns:
        The sequences; sequence to (depth, prompt) where first label tokens are read;
        sequence to (depth, target) for later label tokens.
    """
    sequences: list[list[int]] = []
    firsts: Firsts = {}
    laters: Laters = {}
    for prompt, (context, row) in enumerate(zip(contexts, labels, strict=True)):
        home = len(sequences)
        for index, label in enumerate(row):
            if len(label) > 1:
                targets = [(len(context) + i - 1, Target(prompt, index, i, label[i])) for i in range(1, len(label))]
                laters[len(sequences)] = targets
                sequences.append([*context, *label[:-1]])
        if len(sequences) == home:
            sequences.append(list(context))
        firsts[home] = (len(context) - 1, prompt)
    return sequences, firsts, laters


def forks_of(n_sequences: int, firsts: Firsts, contexts: Sequence[Ids], origins: Sequence[Origin]) -> list[Fork]:
    """The fork of every sequence; those of one prompt follow one another, beginning with its home."""
    result: list[Fork] = []
    for home, (_, prompt) in sorted(firsts.items(), reverse=True):
        fork = Fork(prompt, origins[prompt], len(contexts[prompt]))
        result += [fork] * (n_sequences - len(result) - home)
    return result[::-1]


class Read(NamedTuple):
    """Rows of a pack, and for what each is read."""

    first_rows: list[int]
    prompts: list[int]
    later_rows: list[int]
    targets: list[Target]


class Readouts:
    """Which rows of which path are read, and for what."""

    def __init__(self, tree: Tree, firsts: Firsts, laters: Laters) -> None:
        self.first: dict[int, list[tuple[int, int]]] = {}
        self.later: dict[int, list[tuple[int, Target]]] = {}
        for sequence, targets in laters.items():
            for depth, target in targets:
                path, offset = tree.locate(sequence, depth)
                self.later.setdefault(path, []).append((offset, target))
        for sequence, (depth, prompt) in firsts.items():
            path, offset = tree.locate(sequence, depth)
            self.first.setdefault(path, []).append((offset, prompt))

    def of(self, pack: Pack) -> Read:
        """What is read of a pack."""
        read = Read([], [], [], [])
        for path in range(pack.first_path, pack.last_path):
            base = pack.offsets[path - pack.first_path]
            for offset, prompt in self.first.get(path, ()):
                read.first_rows.append(base + offset)
                read.prompts.append(prompt)
            for offset, target in self.later.get(path, ()):
                read.later_rows.append(base + offset)
                read.targets.append(target)
        return read


def origins(prompts: Sequence[Prompt]) -> list[Origin] | None:
    """The origin of each prompt, so that its scores do not depend on the company it is scored in.

    None where a prompt leaves it to the engine what it shares.
    """
    found = [Origin(prompt.family, prompt.trunk) for prompt in prompts if prompt.trunk is not None]
    return found if len(found) == len(prompts) else None
