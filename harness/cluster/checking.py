"""Asks every node of a cluster what a run would find there.

Each question is a small task that is pinned to its node and takes no resources, so that a busy
cluster answers too. Knows Ray and files; what the answers mean is `harness.cluster.findings`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.cluster.findings import (
    PACKAGES,
    Access,
    ClusterReport,
    Demand,
    Device,
    Finding,
    ModelFiles,
    Place,
    Software,
    findings,
)
from harness.cluster.session import TYPE_PREFIX, choose_shape, live_nodes, ray_session
from harness.config.schema import RunConfig
from harness.core.errors import ClusterError, HarnessError, UserError
from harness.core.task import find_task
from harness.engine.protocol import ModelDescription, Resources
from harness.engine.registry import describe as describe_model
from harness.planning.preparation import Prepared, prepare
from harness.planning.units import choose_shard_size, units_of_a_model
from harness.results.store import RunStore

log = logging.getLogger(__name__)
DRIVER = "driver"
ANSWER_S = 120.0
"""How long a node may take for one question; starting a process and importing torch are in it."""
VISIBLE_WITHIN_S = 10.0
"""How long a file of one node may take to appear on the others."""
HEAD = "node:__internal_head__"
LIST_GPUS = (
    "import json, torch\n"
    "n = torch.cuda.device_count()\n"
    "if not n: raise SystemExit(f'torch {torch.__version__}')\n"
    "print(json.dumps([[torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)] for i in range(n)]))"
)
"""Runs in a process of its own: a GPU driver that hangs holds nothing up, and the memory of CUDA's
context is given back at once."""


def check_cluster(config: RunConfig | None, address: str | None = None) -> ClusterReport:
    """Ask all nodes, and say what must be mended before a run.

    Args:
        config: the run; None checks the nodes' software alone.
        address: `auto`, `host:port` or `ray://...` joins a cluster; `local` starts a Ray here. None
            takes the configuration's when it names a cluster, else `auto`.

    Raises:
        ClusterError: no cluster there.
    """
    named = config.cluster.address if config is not None else "auto"
    with ray_session(address or ("auto" if named in ("local", "inline") else named)):
        demand, refused = _demand(config)
        places = _places(demand, config)
        log.info("nodes to ask: %d", len(places))
        driver = Place(DRIVER, False, software=_software(describe(PACKAGES, False)))
        places = _with_software(places, config is None or any(entry.device != "cpu" for entry in config.entries))
        if config is not None:
            driver, places = _with_access(driver, places, config)
        nodes, free = tuple(places.values()), ray.available_resources().get("GPU", 0.0)
        return ClusterReport(driver, nodes, demand, (*refused, *findings(driver, nodes, config, demand, free)))


def describe(packages: Sequence[str], with_gpus: bool) -> dict[str, Any]:
    """What this process runs with, as plain data.

    Travels to the nodes by its code and uses the standard library alone, so that a node without the
    harness can answer.

    Args:
        packages: names of the packages to tell the versions of.
        with_gpus: ask torch for GPUs as well.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    source, source_error = None, ""
    try:
        folder = Path(str(importlib.import_module("harness").__file__)).parent
        digest = hashlib.blake2b(digest_size=8)
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
        source = digest.hexdigest()
    except Exception as error:
        source_error = f"{type(error).__name__}: {error}"
    devices, device_error = None, ""
    if with_gpus:
        try:
            done = subprocess.run([sys.executable, "-c", LIST_GPUS], capture_output=True, text=True, timeout=90)
            said = (done.stderr.strip().splitlines() or [""])[-1][:200]
            devices, device_error = (json.loads(done.stdout), "") if done.returncode == 0 else ([], said)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            devices, device_error = [], str(error)[:200]
    return {
        "versions": versions,
        "source": source,
        "source_error": source_error,
        "devices": devices,
        "device_error": device_error,
    }


def reach(config: RunConfig, folder: str, index: int) -> tuple[Access, tuple[str, ...]]:
    """Read the models' files, import the task, write a file under `out`.

    Args:
        config: the run.
        folder: of the probe files, a path or URI.
        index: this place's number.

    Returns:
        What was reached, and the local folders that had to be made for the file.
    """
    models = []
    for entry in config.entries:
        try:
            info = describe_model(entry)
            models.append(_with_needs(ModelFiles(entry.name, info.quick_identity, info.parameters), info, config))
        except UserError as error:
            models.append(ModelFiles(entry.name, None, None, str(error)))
    errors = []
    try:
        find_task(config.task.name)
    except UserError as error:
        errors.append(str(error))
    made: list[str] = []
    out_error = ""
    try:
        store = RunStore(folder)
        if store.is_local:
            made = [str(p) for p in (Path(store.root), *Path(store.root).parents) if not p.exists()]
        store.fs.create_dir(store.root, recursive=True)
        store.write_bytes(str(index), b"")
    except (HarnessError, OSError) as error:
        out_error = _line(error)
    return Access(tuple(models), tuple(errors), out_error), tuple(made)


def _with_needs(files: ModelFiles, info: ModelDescription, config: RunConfig) -> ModelFiles:
    """The files with what a replica is predicted to need."""
    on_gpu, on_cpu = (info.least_memory(config.engine, device) for device in ("cuda", "cpu"))
    if on_gpu is None or on_cpu is None:
        return files
    return replace(files, rest_bytes=on_gpu.total - on_gpu.weights, cpu_bytes=on_cpu.total)


def unseen(folder: str, indices: Sequence[int], within_s: float) -> tuple[int, ...]:
    """Which of the files of all places do not appear here within the time."""
    store, deadline = RunStore(folder), time.monotonic() + within_s
    while True:
        missing = tuple(index for index in indices if not store.exists(str(index)))
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def clean(folder: str, made: Sequence[str]) -> None:
    """Remove the probe files, and what `reach` had to make for them if nothing else is in it."""
    with suppress(OSError, HarnessError):
        store = RunStore(folder)
        store.fs.delete_dir(store.root)
    for path in made:
        with suppress(OSError):
            Path(path).rmdir()


def _demand(config: RunConfig | None) -> tuple[Demand | None, tuple[Finding, ...]]:
    if config is None:
        return None, ()
    try:
        prepared = prepare(config)
    except UserError:
        # Told elsewhere; replicas are counted as the configuration asks for them.
        prepared = None
    wanted = [setup.info.resources for setup in prepared.models] if prepared is not None else _configured(config)
    nodes = list(live_nodes().values())
    try:
        shape = max((choose_shape(config, one, nodes) for one in wanted), key=lambda shape: (shape.gpus, shape.count))
    except ClusterError as error:
        return None, (Finding(("cluster",), str(error), True),)
    count = shape.count if prepared is None else min(shape.count, _useful(prepared, shape.count))
    return Demand(count, shape.gpus, shape.cpus), ()


def _configured(config: RunConfig) -> list[Resources]:
    return [Resources(entry.device, entry.gpus_per_replica) for entry in config.entries]


def _useful(prepared: Prepared, replicas: int) -> int:
    """The most replicas that find work, as a run counts them."""
    config, n_samples = prepared.config, len(prepared.data.samples)
    return units_of_a_model(config, n_samples, choose_shard_size(config, n_samples, replicas, prepared.method))


def _places(demand: Demand | None, config: RunConfig | None) -> dict[str, Place]:
    """Node id to what Ray says of the node; the head first, the others by name."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = sorted(alive, key=lambda n: (HEAD not in n["Resources"], n["NodeManagerHostname"], n["NodeID"]))
    hosts = [node["NodeManagerHostname"] for node in nodes]
    on_gpus = demand.gpus > 0 if demand is not None else any("GPU" in node["Resources"] for node in nodes)
    wanted = config.cluster.accelerator_type if config is not None else None
    places = {}
    for node, host in zip(nodes, hosts, strict=True):
        key, resources = node["NodeID"], node["Resources"]
        kinds = [name.removeprefix(TYPE_PREFIX) for name in resources if name.startswith(TYPE_PREFIX)]
        places[key] = Place(
            host if hosts.count(host) == 1 else f"{host}/{key[:6]}",
            resources.get("GPU" if on_gpus else "CPU", 0.0) > 0 and (wanted is None or wanted in kinds),
            resources.get("CPU", 0.0),
            resources.get("GPU", 0.0),
            ", ".join(kinds) or None,
            resources.get("memory", 0.0),
        )
    return places


def _with_software(places: Mapping[str, Place], with_gpus: bool) -> dict[str, Place]:
    """The places with what each runs with, or why it does not say."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        asked = {key: (PACKAGES, with_gpus and place.gpus > 0) for key, place in places.items()}
        answers = _collect(_send(describe, asked))
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    return {
        key: replace(place, silence=answers[key])
        if isinstance(answers[key], str)
        else replace(place, software=_software(answers[key]))
        for key, place in places.items()
    }


def _with_access(driver: Place, places: Mapping[str, Place], config: RunConfig) -> tuple[Place, dict[str, Place]]:
    """Driver and places with what each reaches; all write first, then all look for all files."""
    able = [key for key, place in places.items() if place.software and place.software.source]
    folder = f"{config.out.rstrip('/')}/.harness-check-{uuid.uuid4().hex[:12]}"
    sent = _send(reach, {key: (config, folder, index) for index, key in enumerate(able, 1)})
    reached = {DRIVER: reach(config, folder, 0), **_collect(sent)}
    names = [driver.name, *(places[key].name for key in able)]
    access: dict[str, Access] = {}
    made: dict[str, tuple[str, ...]] = {}
    for key, answer in reached.items():
        access[key], made[key] = (Access(errors=(answer,)), ()) if isinstance(answer, str) else answer
    try:
        silent = {key for key, answer in reached.items() if isinstance(answer, str)}
        wrote = [i for i, key in enumerate(reached) if key not in silent and not access[key].out_error]
        looking = [key for i, key in enumerate(able, 1) if i in wrote]
        sent = _send(unseen, dict.fromkeys(looking, (folder, wrote, VISIBLE_WITHIN_S)))
        missing = {DRIVER: unseen(folder, wrote, VISIBLE_WITHIN_S) if 0 in wrote else (), **_collect(sent)}
    finally:
        _collect(_send(clean, {key: (folder, made[key]) for key in able}))
        clean(folder, made[DRIVER])
    for key, answer in missing.items():
        if isinstance(answer, str):
            access[key] = replace(access[key], errors=(*access[key].errors, answer))
        else:
            access[key] = replace(access[key], unseen=tuple(names[i] for i in answer))
    done = {key: replace(place, access=access.get(key)) for key, place in places.items()}
    return replace(driver, access=access[DRIVER]), done


def _software(answer: Mapping[str, Any]) -> Software:
    devices = answer["devices"]
    return Software(
        answer["versions"],
        answer["source"],
        answer["source_error"],
        None if devices is None else tuple(Device(*device) for device in devices),
        answer["device_error"],
    )


def _send(function: Callable[..., Any], arguments: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Node id to the handle of a call on that node."""
    task = ray.remote(function)
    return {
        key: task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)
        ).remote(*given)
        for key, given in arguments.items()
    }


def _collect(handles: Mapping[str, Any]) -> dict[str, Any]:
    """Node id to the answer, or to a text that says why there is none."""
    if not handles:
        return {}
    ray.wait(list(handles.values()), num_returns=len(handles), timeout=ANSWER_S)
    answers: dict[str, Any] = {}
    for key, handle in handles.items():
        try:
            answers[key] = ray.get(handle, timeout=0)
        except GetTimeoutError:
            ray.cancel(handle, force=True)
            answers[key] = f"gave no answer within {ANSWER_S:.0f} s; look at its load and at Ray's logs there"
        except RayError as error:
            answers[key] = f"could not answer: {_line(getattr(error, 'cause', None) or error)}"
    return answers


def _line(error: BaseException) -> str:
    """An error in one line; of a long one the end, where the cause is."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
