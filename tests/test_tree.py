"""The prefix tree and its packs, against brute force."""

import random

import pytest

from harness.core.prefixes import count_unique_tokens, shared_prefix_lengths
from harness.engine.local.tree.packing import ALONE_FROM, LEAST_RUN, make_packs
from harness.engine.local.tree.tree import Fork, Origin, build_forked_tree, build_tree


def random_sequences(seed):
    """Prompt-like sequences: trunks with branches, duplicates, prefixes of each other, strangers."""
    rng = random.Random(seed)
    vocabulary = rng.choice([2, 3, 10, 5000])

    def run(low, high):
        return [rng.randrange(vocabulary) for _ in range(rng.randrange(low, high))]

    trunks = [run(0, 200) for _ in range(rng.randrange(1, 4))]
    sequences = []
    for _ in range(rng.randrange(1, 60)):
        trunk = rng.choice(trunks)
        sequences.append(trunk[: rng.choice([0, 1, len(trunk) // 2, len(trunk)])] + run(1, 30))
        if rng.random() < 0.2:
            sequences.append(list(rng.choice(sequences)))
        if rng.random() < 0.2 and len(sequences[-1]) > 1:
            sequences.append(sequences[-1][: rng.randrange(1, len(sequences[-1]))])
        if rng.random() < 0.2:
            sequences.append(sequences[-1] + run(1, 4))
    rng.shuffle(sequences)
    return sequences


def prompt_grid(seed):
    """One trunk of demonstrations, queries at each K, two labels of three tokens each."""
    rng = random.Random(seed)
    demonstrations = [[rng.randrange(100) for _ in range(rng.randrange(5, 30))] for _ in range(8)]
    queries = [[7, 7, *(rng.randrange(100) for _ in range(rng.randrange(1, 25)))] for _ in range(15)]
    labels = [[200, 201], [200, 202]]
    trunk = {k: [t for d in demonstrations[:k] for t in d] for k in (0, 1, 2, 4, 8)}
    return [trunk[k] + q + label for k in trunk for q in queries for label in labels]


CASES = [random_sequences(seed) for seed in range(40)] + [prompt_grid(seed) for seed in range(4)]
SMALL = CASES[:12] + CASES[40:42]


def trie_size(sequences):
    trie, nodes = {}, 0
    for sequence in sequences:
        here = trie
        for token in sequence:
            if token not in here:
                here[token] = {}
                nodes += 1
            here = here[token]
    return nodes


def path_tokens(tree, sequences, index):
    path = tree.paths[index]
    return list(sequences[path.sequence][path.start : path.end])


def test_a_hand_made_tree_has_the_paths_that_the_eye_sees():
    """Trunk 1 2 3 4 5 6; one branch leaves after 2, one after 4; both save at least 1 token."""
    sequences = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9], [1, 2, 8]]
    tree = build_tree(sequences, least_saved=1)
    assert [(p.start, p.end, p.parent) for p in tree.paths] == [(0, 6, -1), (4, 5, 0), (2, 3, 0)]
    assert [path_tokens(tree, sequences, i) for i in range(3)] == [[1, 2, 3, 4, 5, 6], [9], [8]]
    assert (tree.n_tokens, count_unique_tokens(sequences)) == (8, 8)
    assert tree.locate(1, 3) == (0, 3)
    assert tree.locate(1, 4) == (1, 0)


def test_a_branch_that_saves_too_little_is_repeated():
    """Sharing 1 2 saves two tokens: with least_saved=3 both sequences stand alone."""
    sequences = [[1, 2, 3], [1, 2, 4]]
    assert build_tree(sequences, least_saved=2).n_tokens == 4
    assert build_tree(sequences, least_saved=3).n_tokens == 6


def test_a_sequence_that_ends_inside_another_has_no_path_of_its_own():
    sequences = [[5, 6, 7, 8], [5, 6], [5, 6, 7, 8]]
    tree = build_tree(sequences)
    assert len(tree.paths) == 1
    assert tree.path_of == [0, 0, 0]
    assert tree.locate(1, 1) == (0, 1)


def test_no_sequences_make_an_empty_tree():
    tree = build_tree([])
    assert (tree.paths, tree.path_of, tree.n_tokens, count_unique_tokens([])) == ([], [], 0, 0)
    assert list(make_packs(tree, [], 16)) == []


def test_shared_prefix_lengths_compare_neighbours():
    import numpy as np

    rows = [np.array(x, dtype=np.int32) for x in ([1, 2, 3], [1, 2, 4], [1, 2], [1, 2, 9, 9], [3])]
    assert shared_prefix_lengths(rows) == [0, 2, 2, 2, 0]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_unique_tokens_are_the_nodes_of_a_dictionary_trie(case):
    assert count_unique_tokens(CASES[case]) == trie_size(CASES[case])


@pytest.mark.parametrize("least_saved", [1, 4, 50])
def test_following_its_paths_gives_back_every_sequence(least_saved):
    for sequences in CASES:
        tree = build_tree(sequences, least_saved)
        for index, sequence in enumerate(sequences):
            places = [tree.locate(index, depth) for depth in range(len(sequence))]
            assert [path_tokens(tree, sequences, path)[offset] for path, offset in places] == list(sequence)
            # Walking up: each path hangs off its parent at the depth where it starts.
            path, end = tree.path_of[index], len(sequence)
            rebuilt = []
            while path >= 0:
                here = tree.paths[path]
                rebuilt = path_tokens(tree, sequences, path)[: end - here.start] + rebuilt
                assert here.start < end <= here.end
                path, end = here.parent, here.start
            assert rebuilt == list(sequence)


def test_with_nothing_too_small_to_save_every_unique_token_is_computed_once():
    for sequences in CASES:
        assert build_tree(sequences, least_saved=1).n_tokens == trie_size(sequences)


def test_repeating_weak_branches_costs_at_most_the_tokens_it_gave_up():
    for sequences in CASES:
        tree = build_tree(sequences, least_saved=4)
        assert trie_size(sequences) <= tree.n_tokens <= trie_size(sequences) + 3 * len(sequences)


def test_subtrees_are_contiguous_in_layout_order():
    for sequences in CASES:
        tree = build_tree(sequences)
        for index, path in enumerate(tree.paths):
            below = {index}
            for other in range(index + 1, len(tree.paths)):
                if tree.paths[other].parent in below:
                    below.add(other)
            assert below == set(range(index, path.last))


@pytest.mark.parametrize("budget", [1, 7, 64, 500, 10**6])
def test_packs_hold_every_token_once_at_its_position(budget):
    for sequences in CASES:
        tree = build_tree(sequences)
        packs = list(make_packs(tree, sequences, budget))
        assert [p for pack in packs for p in range(pack.first_path, pack.last_path)] == list(range(len(tree.paths)))
        for pack in packs:
            assert len(pack.tokens) <= budget or pack.last_path - pack.first_path == 1
            for path in range(pack.first_path, pack.last_path):
                first, last = pack.offsets[path - pack.first_path], pack.offsets[path - pack.first_path + 1]
                assert pack.tokens[first:last].tolist() == path_tokens(tree, sequences, path)
                here = tree.paths[path]
                assert pack.positions[first:last].tolist() == list(range(here.start, here.end))
        assert sum(len(pack.tokens) for pack in packs) == tree.n_tokens


@pytest.mark.parametrize("budget", [1, 40, 300])
def test_packs_can_go_on_from_any_path_with_another_budget(budget):
    sequences = CASES[-1]
    tree = build_tree(sequences)
    for first in (0, 1, len(tree.paths) // 2, len(tree.paths) - 1):
        packs = list(make_packs(tree, sequences, budget, first))
        assert [p for pack in packs for p in range(pack.first_path, pack.last_path)] == list(
            range(first, len(tree.paths))
        )


def visible_from_each_row(pack, tree):
    """For every row, the list of (path, offset) that its attention calls let it see."""
    places = {}
    for path in range(pack.first_path, pack.last_path):
        first = pack.offsets[path - pack.first_path]
        for offset in range(tree.paths[path].end - tree.paths[path].start):
            places[first + offset] = (path, offset)
    seen = {row: [] for row in places}
    paths = [
        range(run.first + i * run.length, run.first + (i + 1) * run.length)
        for run in pack.runs
        for i in range(run.n_paths)
    ]
    paths += [rows for bucket in pack.buckets for rows in bucket.tolist()]
    for rows in paths:
        for place, row in enumerate(rows):
            seen[row] += [places[r] for r in rows[: place + 1]]
    for edge in pack.ancestors:
        for row in range(edge.first, edge.last):
            seen[row] += [(edge.path, offset) for offset in range(edge.n_keys)]
    return places, seen


def own_prefix(tree, place):
    """A token's ancestors and itself, found by walking up the tree."""
    path, offset = place
    prefix = [(path, i) for i in range(offset + 1)]
    while tree.paths[path].parent >= 0:
        parent, start = tree.paths[path].parent, tree.paths[path].start
        prefix += [(parent, i) for i in range(start - tree.paths[parent].start)]
        path = parent
    return prefix


@pytest.mark.parametrize("least_saved", [1, 4, 30])
@pytest.mark.parametrize("budget", [3, 64, 257, 10**6])
def test_a_token_sees_its_own_prefix_once_and_nothing_else(budget, least_saved):
    for sequences in SMALL:
        tree = build_tree(sequences, least_saved)
        for pack in make_packs(tree, sequences, budget):
            places, seen = visible_from_each_row(pack, tree)
            for row, place in places.items():
                expected = own_prefix(tree, place)
                assert len(expected) == tree.paths[place[0]].start + place[1] + 1
                assert sorted(seen[row]) == sorted(expected)


@pytest.mark.parametrize("budget", [1, 64, 257])
def test_what_later_packs_attend_to_was_kept_by_the_pack_before(budget):
    """Keys that a pack takes from earlier ones must be in the chain that the last pack kept."""
    for sequences in SMALL:
        tree = build_tree(sequences)
        kept = {}
        for pack in make_packs(tree, sequences, budget):
            for edge in pack.ancestors:
                if edge.path < pack.first_path:
                    assert kept[edge.path] >= edge.n_keys
            for path, n_tokens in pack.keep:
                assert path >= pack.first_path or kept[path] >= n_tokens
            kept = dict(pack.keep)
        assert kept == {}


def test_runs_and_gathered_paths_both_occur_in_the_cases():
    """Otherwise the visibility test would have left out one of the two ways."""
    packs = [pack for sequences in SMALL for pack in make_packs(build_tree(sequences), sequences, 257)]
    runs = [run for pack in packs for run in pack.runs]
    assert any(run.n_paths == 1 for run in runs)
    assert any(run.n_paths > 1 for run in runs)
    assert all(run.length >= ALONE_FROM or run.n_paths >= LEAST_RUN for run in runs)
    assert any(len(bucket) > 1 for pack in packs for bucket in pack.buckets)
    assert any(edge.path < pack.first_path for pack in packs for edge in pack.ancestors)


def forked_grid(n_samples, seed=0, ks=(0, 1, 2, 4), labels=((200, 201), (202,), (203, 204, 205))):
    """Prompts of some samples as the scorer lays them out, with a fork per sequence.

    The second sample has demonstrations of its own.
    """
    rng = random.Random(seed)
    header = [7, 8, 9]
    common = [[*header, *(rng.randrange(100) for _ in range(6 + i))] for i in range(4)]
    own = [[*header, *(rng.randrange(100) for _ in range(9))] for _ in range(4)]
    sequences, forks = [], []
    for sample in range(n_samples):
        query = [1000 + sample, *(rng.randrange(100) for _ in range(rng.randrange(1, 9)))]
        for k in ks:
            trunk = [t for d in (own if sample == 1 else common)[:k] for t in d] + header
            fork = Fork(len({f.prompt for f in forks}), Origin(sample, len(trunk)), len(trunk) + len(query))
            for label in labels:
                if len(label) > 1 or label == labels[0]:
                    sequences.append([*trunk, *query, *label[:-1]])
                    forks.append(fork)
    return sequences, forks


def cuts(tree, sequence, length):
    """Depths at which the paths of a sequence begin, and the length of the first path."""
    path, found = tree.path_of[sequence], []
    while path >= 0:
        found.append(tree.paths[path].start)
        first = tree.paths[path]
        path = first.parent
    return found, first.end - first.start


def test_a_forked_tree_holds_every_sequence_and_nothing_twice_of_a_trunk():
    sequences, forks = forked_grid(6)
    tree = build_forked_tree(sequences, forks)
    for index, sequence in enumerate(sequences):
        places = [tree.locate(index, depth) for depth in range(len(sequence))]
        assert [path_tokens(tree, sequences, path)[offset] for path, offset in places] == list(sequence)
    trunks = [path for path in tree.paths if path.parent < 0]
    assert len(trunks) == 2
    own = sum(fork.stem - fork.origin.trunk for fork in {f.prompt: f for f in forks}.values())
    labels = sum(len(sequence) - fork.stem for sequence, fork in zip(sequences, forks, strict=True))
    assert tree.n_tokens == sum(path.end for path in trunks) + own + labels


def test_where_a_prompt_is_cut_does_not_depend_on_other_samples():
    sequences, forks = forked_grid(6)
    together = build_forked_tree(sequences, forks)
    for sample in range(6):
        chosen = [i for i, fork in enumerate(forks) if fork.origin.family == sample]
        alone = build_forked_tree([sequences[i] for i in chosen], [forks[i] for i in chosen])
        for place, index in enumerate(chosen):
            length = len(sequences[index])
            assert cuts(alone, place, length) == cuts(together, index, length)


@pytest.mark.parametrize("budget", [3, 64, 10**6])
def test_a_token_of_a_forked_tree_sees_its_own_prefix_once(budget):
    sequences, forks = forked_grid(12)
    tree = build_forked_tree(sequences, forks)
    for pack in make_packs(tree, sequences, budget):
        places, seen = visible_from_each_row(pack, tree)
        for row, place in places.items():
            assert sorted(seen[row]) == sorted(own_prefix(tree, place))


def test_the_first_trunk_is_kept_whole_when_asked_for():
    sequences, forks = forked_grid(12)
    tree = build_forked_tree(sequences, forks)
    packs = list(make_packs(tree, sequences, 40, whole_trunk=True))
    assert packs[0].keep[0] == (0, tree.paths[0].end)
    assert tree.paths[0].last > 2
