"""How many replicas of which size fit a cluster."""

from __future__ import annotations

import pytest

from harness.config import config_from
from harness.distributed.session import choose_shape
from harness.errors import ClusterError

NODE = {"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}


def shape(resources, **sections):
    return choose_shape(config_from(sections), {**NODE, **resources})


def test_one_replica_per_gpu_by_default():
    found = shape({"GPU": 4.0, "CPU": 16.0})
    assert (found.count, found.gpus, found.threads) == (4, 1, None)


def test_large_models_take_several_gpus_and_small_ones_a_fraction():
    assert shape({"GPU": 5.0}, model={"gpus_per_replica": 2}).count == 2
    assert shape({"GPU": 2.0}, model={"gpus_per_replica": 0.5}).count == 4


def test_without_gpus_one_replica_takes_all_processors_of_a_node():
    found = shape({"CPU": 8.0})
    assert (found.count, found.gpus, found.cpus, found.threads) == (1, 0, 8.0, 8)
    found = shape({"CPU": 8.0}, cluster={"replicas": 3})
    assert (found.count, found.cpus, found.threads) == (3, 2.0, 2)


def test_more_gpus_than_the_cluster_has_are_refused():
    with pytest.raises(ClusterError, match="3 replicas of 1 GPUs need 3, but the cluster has 2"):
        shape({"GPU": 2.0}, cluster={"replicas": 3})
    with pytest.raises(ClusterError, match="need 4, but the cluster has 2"):
        shape({"GPU": 2.0}, model={"gpus_per_replica": 4})
    with pytest.raises(ClusterError, match="the cluster has no GPU"):
        shape({"CPU": 8.0}, model={"device": "cuda"})
