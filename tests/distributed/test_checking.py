"""What a check of the cluster finds: by rule, and on a real cluster of three nodes with fake GPUs."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.cluster import checking
from harness.cluster.findings import (
    GPU_ALLOWANCE_BYTES,
    Access,
    ClusterReport,
    Demand,
    Device,
    ModelFiles,
    Place,
    Software,
    findings,
    gpu_need_bytes,
)
from harness.config.loading import config_from
from harness.planning.preparation import prepare
from harness.planning.units import choose_shard_size, make_plan
from harness.reporting.status import write_check
from tests.conftest import REPO

GIB = 2**30
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23.0"}
MODEL = ModelFiles("data_in/models/ko-tiny", "files", 3 * 10**9)
FREE = Device("H200", 100 * GIB, 140 * GIB)
DRIVER = Place("driver", False, software=Software(VERSIONS, "source"), access=Access((MODEL,)))
WORKER = Place(
    "worker", True, 8, 1, "H200", 64 * GIB, Software(VERSIONS, "source", devices=(FREE,)), Access((MODEL,))
)  # fmt: skip


def found(*nodes, driver=DRIVER, demand=None, free=8.0, **sections):
    """(places, text, must be mended) of every finding."""
    demand = demand or Demand(len(nodes), 1, 0)
    config = config_from({"out": "/shared", **sections})
    return [(f.places, f.text, f.must_mend) for f in findings(driver, nodes, config, demand, free)]


def with_software(place, **changes):
    return replace(place, software=replace(place.software, **changes))


def with_access(place, **changes):
    return replace(place, access=replace(place.access, **changes))


def with_version(place, name, version):
    return with_software(place, versions={**VERSIONS, name: version})


def only(results):
    assert len(results) == 1, results
    return results[0]


def test_nodes_that_are_like_the_driver_leave_nothing_to_mend():
    assert found(WORKER, replace(WORKER, name="other")) == []


def test_another_version_is_named_with_both():
    places, text, must = only(found(with_version(WORKER, "transformers", "4.0.0")))
    assert (places, must) == (("worker",), True)
    assert "has transformers 4.0.0, the driver has 5.23.0" in text
    assert "not installed" in only(found(with_version(WORKER, "torch", None)))[1]


def test_builds_for_gpus_and_patches_of_python_are_no_other_versions():
    assert found(with_version(WORKER, "torch", "2.13.0+cu130"), with_version(WORKER, "python", "3.11.9")) == []
    assert "has python 3.12.1" in only(found(with_version(WORKER, "python", "3.12.1")))[1]


def test_without_replicas_only_what_ray_itself_needs_must_be_mended():
    head = replace(WORKER, name="head", has_replicas=False, gpus=0)
    for name, must in (("torch", False), ("transformers", False), ("ray", True), ("python", True)):
        assert only(found(WORKER, with_version(head, name, "1.0"), demand=Demand(1, 1, 0)))[2] is must
    unreached = with_access(head, models=(), out_error="read-only", errors=("no task",))
    assert {must for _, _, must in found(WORKER, unreached, demand=Demand(1, 1, 0))} == {False}


def test_a_harness_that_is_missing_or_another_is_told():
    missing = with_software(WORKER, source=None, source_error="ModuleNotFoundError: No module named 'harness'")
    assert "cannot be imported: ModuleNotFoundError" in only(found(replace(missing, access=None)))[1]
    assert "other source files of the harness" in only(found(with_software(WORKER, source="edited")))[1]


def test_a_node_that_does_not_answer_must_be_mended():
    silent = Place("worker", True, 8, 1, silence="gave no answer within 120 s")
    assert only(found(silent)) == (("worker",), "gave no answer within 120 s", True)


def test_a_model_with_other_files_is_told_and_an_unread_one_is_not_compared():
    other = with_access(WORKER, models=(replace(MODEL, identity="others"),))
    assert "has other files than on the driver's node" in only(found(other))[1]
    missing = with_access(WORKER, models=(ModelFiles(MODEL.path, None, None, "no model folder"),))
    assert only(found(missing))[:2] == (("worker",), "no model folder")


def test_the_same_on_many_nodes_is_one_finding_and_nodes_without_replicas_are_left_out_of_it():
    unwritable = with_access(WORKER, out_error="read-only")
    nodes = [replace(unwritable, name=f"w{i}") for i in range(3)]
    head = replace(unwritable, name="head", has_replicas=False)
    places, text, must = only(found(head, *nodes, demand=Demand(3, 1, 0)))
    assert (places, must) == (("w0", "w1", "w2"), True)
    assert "out='/shared' cannot be written: read-only" in text


def test_storage_that_nodes_do_not_share_is_told():
    apart = with_access(WORKER, unseen=("driver", "a", "b", "c", "d"))
    assert "files that driver, a, b and 2 more wrote there are not seen here" in only(found(apart))[1]


def test_a_relative_out_is_noted_where_there_are_several_nodes():
    places, text, must = only(found(WORKER, WORKER, out="data_out"))
    assert (places, must) == (("cluster",), False) and "is relative" in text
    assert found(WORKER, out="data_out") == [] and found(WORKER, WORKER, out="s3://bucket/results") == []


def test_gpus_that_torch_does_not_see_are_told_with_its_reason():
    blind = with_software(WORKER, devices=(), device_error="torch 2.13.0+cpu")
    text = only(found(blind))[1]
    assert "Ray hands out 1 GPU, but torch sees 0 (torch 2.13.0+cpu)" in text


def test_the_memory_that_a_gpu_needs_follows_from_weights_format_and_replicas_on_it():
    model = config_from({}).model
    assert gpu_need_bytes(10**9, model) == 2 * 10**9 + GPU_ALLOWANCE_BYTES
    assert gpu_need_bytes(10**9, replace(model, dtype="float32")) == 4 * 10**9 + GPU_ALLOWANCE_BYTES
    assert gpu_need_bytes(10**9, replace(model, gpus_per_replica=2)) == 10**9 + GPU_ALLOWANCE_BYTES
    assert gpu_need_bytes(10**9, replace(model, gpus_per_replica=0.25)) == 4 * (2 * 10**9 + GPU_ALLOWANCE_BYTES)


def test_a_gpu_without_room_for_the_weights_is_told():
    full = with_software(WORKER, devices=(replace(FREE, free_bytes=GIB),))
    _, text, must = only(found(full))
    assert must and "GPU 0 (H200) has too little free memory: 1.0 GiB free of 140.0 GiB, needed about 7.6 GiB" in text
    small = with_software(WORKER, devices=(Device("T4", 2 * GIB, 3 * GIB),))
    assert "GPU 0 (T4) is too small" in only(found(small))[1]
    unused = with_software(WORKER, devices=(FREE, replace(FREE, free_bytes=0)))
    assert found(unused) == [], "Ray hands out the first GPU only"


def test_replicas_must_fit_onto_single_nodes_not_only_into_the_sum():
    two = (WORKER, replace(WORKER, name="other"))
    places, text, must = only(found(*two, demand=Demand(1, 2, 0), model={"gpus_per_replica": 2}))
    assert (places, must) == (("cluster",), True)
    assert "1 replica of 2 GPUs would start, but single nodes have room for 0" in text
    assert found(*two, demand=Demand(4, 0.5, 0), model={"gpus_per_replica": 0.5}) == []
    shared = replace(with_software(WORKER, devices=(FREE, FREE)), gpus=2)
    assert "have room for 4" in only(found(shared, demand=Demand(5, 0.4, 0), model={"gpus_per_replica": 0.4}))[1]
    uneven = [replace(WORKER, name=str(cpus), gpus=0, cpus=cpus) for cpus in (6, 2)]
    assert "2 replicas of 4 CPUs" in only(found(*uneven, demand=Demand(2, 0, 4)))[1]
    thirds = replace(WORKER, gpus=0, cpus=1)
    assert found(thirds, demand=Demand(3, 0, 1 / 3)) == []


@pytest.mark.parametrize(
    ("sections", "units"),
    [
        ({"grid": {"templates": ["english"], "k": [0], "seeds": [1]}, "task": {"limit": 8}}, 1),
        ({"grid": {"templates": ["english"], "k": [0], "seeds": [1, 2]}, "cluster": {"shard_size": 4}}, 3),
        ({"grid": {"templates": ["english", "good_bad"], "k": [0, 2], "seeds": [1, 2]}}, 4),
        ({"grid": {"templates": ["english"], "k": [2], "seeds": [1, 2]}, "demos": {"policy": "bank"},
          "cluster": {"shard_size": 5}}, 6),
        ({"grid": {"templates": ["english"], "k": [0, 2], "seeds": [1]}, "scoring": {"calibration": ["contextual"]}},
         2),
    ],
)  # fmt: skip
def test_no_more_replicas_are_asked_for_than_a_run_has_units(make_config, monkeypatch, sections, units):
    config = make_config(**{"task": {"limit": 12}, **sections})
    prepared = prepare(config)
    size = choose_shard_size(config, len(prepared.data.samples), 16, prepared.method)
    assert len(make_plan(prepared, size).units) == units
    for nodes, expected in ((16, units), (1, 1)):
        monkeypatch.setattr(checking, "live_nodes", lambda nodes=nodes: {str(i): {"CPU": 8.0} for i in range(nodes)})
        assert checking._demand(config)[0].replicas == expected


def test_taken_gpus_are_noted():
    places, text, must = only(found(WORKER, free=0.0))
    assert (places, must) == (("cluster",), False) and "1 of 1 GPUs are taken" in text


def test_the_question_for_software_needs_no_harness_on_the_node():
    checking.cloudpickle.register_pickle_by_value(checking)
    try:
        packed = checking.cloudpickle.dumps(checking.describe)
    finally:
        checking.cloudpickle.unregister_pickle_by_value(checking)
    code = (
        "import pickle, sys\n"
        "sys.modules['harness'] = None\n"
        "function = pickle.loads(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(pickle.dumps(function(('ray', 'no-such-package'), False)))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=True)
    answer = pickle.loads(done.stdout)
    assert answer["source"] is None and answer["source_error"].startswith("ModuleNotFoundError")
    assert answer["versions"]["ray"] == checking.ray.__version__
    assert answer["versions"]["no-such-package"] is None


def test_torch_is_asked_for_its_gpus():
    import torch

    answer = checking.describe((), True)
    assert len(answer["devices"]) == torch.cuda.device_count()
    if answer["devices"]:
        name, free, total = answer["devices"][0]
        assert name == torch.cuda.get_device_name(0) and 0 < free <= total
    else:
        assert answer["device_error"] == f"torch {torch.__version__}"


def test_files_of_other_places_are_waited_for_and_probes_leave_nothing(tmp_path, make_config):
    config = make_config(out=str(tmp_path / "new" / "out"))
    folder = f"{config.out}/.probe"
    access, made = checking.reach(config, folder, 3)
    assert access.models[0].parameters and not access.errors and not access.out_error
    assert checking.unseen(folder, [3, 4], within_s=0) == (4,)
    checking.clean(folder, made)
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_was_there_is_left_there(tmp_path, make_config):
    _, made = checking.reach(make_config(out=str(tmp_path)), f"{tmp_path}/.probe", 0)
    checking.clean(f"{tmp_path}/.probe", made)
    assert tmp_path.is_dir() and list(tmp_path.iterdir()) == []


def on_a_cluster(folder: str) -> None:
    """Check one cluster three times, and write what was found; runs in a process of its own.

    One node has the metadata of another version before the installed one on its path. Torch is not
    asked for GPUs: it would be imported on every node, which takes long where nodes share processors.
    """
    import ray
    from ray.cluster_utils import Cluster

    from harness.config.loading import load_config

    metadata = Path(folder, "site", "transformers-4.0.0.dist-info", "METADATA")
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    Path(folder, "file").write_text("")
    checking.LIST_GPUS = "raise SystemExit('torch 2.13.0+cpu')"
    size = {"object_store_memory": 80 * 2**20, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size, num_gpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    results = {}

    def check(name: str, *overrides: str) -> None:
        config = load_config("configs/demo.yaml", [f"out={folder}/out", *overrides]) if overrides else None
        report = checking.check_cluster(config, "auto")
        file = io.StringIO()
        write_check(Console(file=file, width=200), report)
        results[name] = {**asdict(report), "is_well": report.is_well, "printed": file.getvalue()}

    check("well", "model.device=cpu", "cluster.replicas=2")
    cluster.add_node(**size, num_gpus=1, env_vars={"PYTHONPATH": str(Path(folder, "site"))})
    check("broken", "model.device=cpu", "cluster.replicas=3", "model.path=/no/model", f"out={folder}/file")
    check("software")
    results["left"] = sorted(path.name for path in Path(folder).iterdir())
    Path(folder, "results.json").write_text(json.dumps(results))
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def cluster_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    code = f"from tests.distributed.test_checking import on_a_cluster; on_a_cluster({str(folder)!r})"
    environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(Path(folder, "results.json").read_text())


def told(result):
    """(places, text, must be mended) of a report's findings."""
    return [(f["places"], f["text"], f["must_mend"]) for f in result["findings"]]


@pytest.mark.slow
def test_a_good_cluster_is_well(cluster_results):
    result = cluster_results["well"]
    assert result["is_well"] and told(result) == []
    assert [node["gpus"] for node in result["nodes"]] == [0, 2], "the head comes first"
    assert all(node["software"]["source"] == result["driver"]["software"]["source"] for node in result["nodes"])
    assert all(node["access"]["models"][0]["identity"] for node in result["nodes"])
    assert result["printed"].endswith("all is well; replicas that a run would start: 2, 1 CPU each\n")


@pytest.mark.slow
def test_another_version_an_unwritable_out_and_a_missing_model_are_found(cluster_results):
    result = cluster_results["broken"]
    names = [node["name"] for node in result["nodes"]]
    other = next(node["name"] for node in result["nodes"] if node["gpus"] == 1)
    expected = {
        "has transformers 4.0.0, the driver has": [other],
        "no model folder '/no/model'": ["driver", *names],
        "cannot be written: NotADirectoryError": ["driver", *names],
    }
    for part, places in expected.items():
        assert only([found for found in told(result) if part in found[1]])[::2] == (places, True)
    assert len(told(result)) == len(expected)
    assert f"mend: {other}: has transformers 4.0.0" in result["printed"]
    assert result["printed"].endswith("3 things to mend\n") and not result["is_well"]


@pytest.mark.slow
def test_without_a_configuration_software_and_gpus_are_checked(cluster_results):
    result = cluster_results["software"]
    assert result["driver"]["access"] is None
    names = {node["gpus"]: node["name"] for node in result["nodes"]}
    assert {(*places, text.split(",")[0], must) for places, text, must in told(result)} == {
        (names[1], "has transformers 4.0.0", True),
        (names[1], "Ray hands out 1 GPU", True),
        (names[2], "Ray hands out 2 GPUs", True),
    }
    assert "but torch sees 0 (torch 2.13.0+cpu)" in result["printed"]


@pytest.mark.slow
def test_the_checks_leave_no_files(cluster_results):
    assert cluster_results["left"] == ["file", "site"]


def test_a_report_with_a_silent_node_is_printed():
    silent = Place("worker", True, 8, 1, silence="gave no answer")
    report = ClusterReport(DRIVER, (silent,), None, findings(DRIVER, (silent,), None, None, 1.0))
    file = io.StringIO()
    write_check(Console(file=file, width=200), report)
    assert "no answer" in file.getvalue() and "mend: worker: gave no answer\n1 thing to mend" in file.getvalue()
