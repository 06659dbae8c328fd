"""One nested order of samples, whatever the task: a larger limit takes all that a smaller one takes."""

import dataclasses
import itertools
import random

import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.sampling import choose, nested_order
from harness.core.task import Sample, TaskData, find_task
from harness.core.task_data import load_data
from harness.planning.preparation import prepare
from harness.planning.units import make_plan


def samples(n, clusters=False):
    sizes = random.Random(3)
    names = [f"c{i}" for i in range(n) for _ in range(sizes.randint(1, 5))] if clusters else [""] * n
    return [Sample(f"s{i}", {"text": str(i)}, i % 2, cluster=names[i]) for i in range(n)]


def ids(everyone, limit, **values):
    return [s.id for s in choose(everyone, TaskConfig(limit=limit, **values))[0]]


@pytest.mark.parametrize("clusters", [False, True])
def test_a_larger_limit_takes_all_that_a_smaller_one_takes(clusters):
    everyone = samples(200, clusters)
    taken = [set(ids(everyone, limit)) for limit in (1, 2, 10, 50, 51, 199, 200, 300)]
    assert all(small <= large for small, large in itertools.pairwise(taken))
    assert len(taken[-1]) == 200
    assert [len(found) for found in taken[:6]] == [1, 2, 10, 50, 51, 199] or clusters


def test_the_order_depends_on_the_seed_and_the_ids_alone():
    everyone = samples(60, clusters=True)
    mixed = random.Random(1).sample(everyone, 60)
    changed = [dataclasses.replace(s, fields={"text": "other"}, gold=0) for s in everyone]
    order = [everyone[place].id for place in nested_order(everyone, 5)]
    assert [mixed[place].id for place in nested_order(mixed, 5)] == order
    assert [changed[place].id for place in nested_order(changed, 5)] == order
    assert [everyone[place].id for place in nested_order(everyone, 6)] != order
    assert set(ids(mixed, 20)) == set(ids(everyone, 20))


def test_clusters_are_neighbours_and_stay_whole():
    everyone = samples(200, clusters=True)
    order = [everyone[place].cluster for place in nested_order(everyone, 1)]
    assert sum(a != b for a, b in itertools.pairwise(order)) + 1 == len(set(order))
    for limit in (1, 7, 50):
        chosen, note = choose(everyone, TaskConfig(limit=limit))
        inside = {s.cluster for s in chosen}
        assert len(chosen) == sum(s.cluster in inside for s in everyone)
        assert len(chosen) <= limit or len(inside) == 1
        assert note == (
            f"task.limit={limit}: {len(chosen)} samples, {len(inside)} of {len(set(order))} clusters, which stay whole"
        )


def test_a_cluster_larger_than_the_limit_is_taken():
    everyone = [dataclasses.replace(s, cluster="one") for s in samples(5)]
    assert ids(everyone, 2) == ["s0", "s1", "s2", "s3", "s4"]


def test_the_nested_order_is_a_fair_draw():
    """Each sample is among the first half about as often as not, over seeds."""
    everyone = samples(40)
    counts = dict.fromkeys((s.id for s in everyone), 0)
    for seed in range(400):
        for name in ids(everyone, 20, sample_seed=seed):
            counts[name] += 1
    assert all(140 < count < 260 for count in counts.values())


def test_loaders_are_not_told_of_the_limit_and_one_that_cuts_by_itself_goes_on():
    seen = []

    def load(options):
        seen.append(options.limit)
        return TaskData(samples(30)[: options.limit], samples(4), "text")

    task = dataclasses.replace(find_task("nsmc"), load=load)
    data = load_data(task, TaskConfig(limit=6))
    assert seen == [None]
    assert [s.id for s in data.samples] == ids(samples(30), 6)
    assert [s.id for s in data.pool] == ["s0", "s1", "s2", "s3"]


def test_a_loader_that_completes_other_samples_is_refused():
    def finish(data):
        return dataclasses.replace(data, samples=list(reversed(data.samples)))

    task = dataclasses.replace(find_task("nsmc"), load=lambda options: TaskData(samples(5), [], "text", finish=finish))
    with pytest.raises(DataError, match="completing its samples gave others; expected the same ids"):
        load_data(task, TaskConfig())


@pytest.mark.parametrize("policy", ["fixed", "bank", "per_sample", "lecture"])
def test_shards_are_cut_in_the_nested_order(make_config, policy):
    """Under `bank` set by set, within a set in that order."""
    config = make_config(
        task={"limit": 50}, demos={"policy": policy, "bank_size": 4},
        grid={"templates": ["english"], "k": [0, 2], "seeds": [7]},
    )  # fmt: skip
    prepared = prepare(config)
    plan = make_plan(prepared, 20)
    cut = [sample.id for shard in plan.shards for sample in shard.samples]
    order = [prepared.data.samples[place].id for place in nested_order(prepared.data.samples, 1234)]
    assert sorted(cut) == sorted(order)
    assert (cut == order) == (policy != "bank")
    small = prepare(dataclasses.replace(config, task=dataclasses.replace(config.task, limit=30)))
    first = [sample.id for shard in make_plan(small, 20).shards for sample in shard.samples]
    assert [name for name in cut if name in set(first)] == first
