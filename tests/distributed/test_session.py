"""How many replicas of which size fit a cluster."""

from __future__ import annotations

import socket

import pytest

from harness.cluster.session import Head, ReplicaShape, can_hold, choose_shape
from harness.config.loading import config_from
from harness.core.errors import ClusterError, ClusterLostError
from harness.engine.protocol import Resources

NODE = {"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}


def shape(resources, **sections):
    return shape_of({**NODE, **resources}, **sections)


def shape_of(*nodes, **sections):
    config = config_from(sections)
    return choose_shape(config, Resources(config.model.device, config.model.gpus_per_replica), nodes)


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


def test_the_gpus_of_a_replica_are_all_of_one_node():
    single = {"GPU": 1.0}
    with pytest.raises(ClusterError, match="1 replicas of 2 GPUs need 2, but the cluster has 2, room for 0"):
        shape_of(single, single, model={"gpus_per_replica": 2})
    assert shape_of(single, {"GPU": 5.0}, model={"gpus_per_replica": 2}).count == 2
    assert shape_of(single, {"GPU": 2.0}, model={"gpus_per_replica": 0.1}).count == 30


def test_only_nodes_of_the_asked_type_count():
    big, small = {"GPU": 2.0, "accelerator_type:H100": 1.0}, {"GPU": 4.0, "accelerator_type:L4": 1.0}
    assert shape_of(big, small).count == 6
    assert shape_of(big, small, cluster={"accelerator_type": "L4"}).count == 4
    with pytest.raises(ClusterError, match="3 replicas of 1 GPUs need 3, but the cluster has 2 of type H100"):
        shape_of(big, small, cluster={"accelerator_type": "H100", "replicas": 3})
    with pytest.raises(ClusterError, match=r"no node has cluster.accelerator_type 'A100'"):
        shape_of(big, small, cluster={"accelerator_type": "A100"})


def test_a_node_of_another_type_cannot_hold_a_replica():
    config = config_from({"cluster": {"accelerator_type": "H100"}})
    one = ReplicaShape(1, 1, 0, None)
    assert can_hold(config, one, {"GPU": 1.0, "accelerator_type:H100": 1.0})
    assert not can_hold(config, one, {"GPU": 8.0, "accelerator_type:L4": 1.0})
    assert not can_hold(config_from({}), one, {"CPU": 8.0})


def test_on_processors_every_replica_fits_onto_its_node():
    uneven = shape_of({"CPU": 6.0}, {"CPU": 2.0})
    assert (uneven.count, uneven.cpus) == (2, 3.0), "both on the larger one"
    assert shape_of({"node:head": 1.0}, {"CPU": 4.0}, {"CPU": 4.0}).count == 2, "the head offers no processors"
    thirds = shape_of({"CPU": 1.0}, cluster={"replicas": 3})
    assert (thirds.cpus, thirds.threads) == (1 / 3, 1)
    assert shape_of({"CPU": 1.0}, {"CPU": 1.0}, cluster={"replicas": 3}).cpus == 0.5


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_head_that_is_away_for_long_ends_the_run_and_one_that_restarts_does_not():
    clock = Clock()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head = Head(address, 30, clock)
        assert head.answers()
    clock.now = 29
    assert not head.answers() and not head.is_lost
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        assert head.answers()
    clock.now = 58
    assert not head.answers()
    clock.now = 60
    with pytest.raises(
        ClusterLostError, match=rf"head at {address} has not answered for 31 s .*committed work is kept"
    ):
        head.answers()
    assert head.is_lost


def test_a_raylet_that_is_gone_ends_the_run_at_once():
    with socket.create_server(("127.0.0.1", 0)) as head_server:
        with socket.create_server(("127.0.0.1", 0)) as server:
            raylet = f"127.0.0.1:{server.getsockname()[1]}"
            head = Head(f"127.0.0.1:{head_server.getsockname()[1]}", raylet=raylet)
            assert head.answers()
        with pytest.raises(
            ClusterLostError, match=rf"raylet on this node \({raylet}\) is gone.*committed work is kept"
        ):
            head.answers()
    assert head.is_lost


def test_a_head_that_was_never_seen_is_not_missed():
    clock = Clock()
    head = Head("127.0.0.1:1", 30, clock)
    clock.now = 1000
    assert head.answers()
