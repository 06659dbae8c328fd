"""What the nodes of a cluster say of themselves, and what of it must be mended before a run.

Pure: facts in, findings out; refuses to know Ray and how the facts were collected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.config.schema import ModelConfig, RunConfig

PACKAGES = ("ray", "torch", "transformers", "tokenizers")
"""Packages whose versions must be the driver's: the others do not decide results or messages."""
GPU_ALLOWANCE_BYTES = 2 * 2**30
"""What a replica may need on each of its GPUs beside weights: CUDA's context and workspaces, keys and
values, activations. An assumption, for models whose configuration does not tell their sizes."""


@dataclass(frozen=True)
class Device:
    """A GPU as a process on its node sees it."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Software:
    """What a process on a node runs with."""

    versions: Mapping[str, str | None]
    """`python` and `PACKAGES`; None where a package is not installed."""
    source: str | None
    """Hash of the harness's source files; None where it cannot be imported."""
    source_error: str = ""
    devices: tuple[Device, ...] | None = None
    """GPUs that torch sees; None where it was not asked."""
    device_error: str = ""


@dataclass(frozen=True)
class ModelFiles:
    """One model of the configuration as a node finds it."""

    path: str
    identity: str | None
    parameters: int | None
    """Number of weights; None for hub models, and where the folder cannot be read."""
    error: str = ""
    rest_bytes: int | None = None
    """Predicted need of a replica on a GPU beside its weights; None where its sizes are not known."""
    cpu_bytes: int | None = None
    """Predicted need of a replica on a CPU."""


@dataclass(frozen=True)
class Access:
    """What a process on a node reaches of what a run needs."""

    models: tuple[ModelFiles, ...] = ()
    errors: tuple[str, ...] = ()
    """What else went wrong: the task cannot be imported, a package is missing."""
    out_error: str = ""
    unseen: tuple[str, ...] = ()
    """Places whose files in `out` are not seen here."""


@dataclass(frozen=True)
class Place:
    """Where code of a run executes: the driver's process, or a node of the cluster."""

    name: str
    has_replicas: bool
    """Whether replicas may be placed here; other nodes need neither model nor storage."""
    cpus: float = 0.0
    gpus: float = 0.0
    gpu_type: str | None = None
    memory_bytes: float = 0.0
    """Main memory that Ray gives to processes."""
    software: Software | None = None
    access: Access | None = None
    """None where no configuration was given, or the harness cannot be imported."""
    silence: str = ""
    """Why the node did not answer."""


@dataclass(frozen=True)
class Demand:
    """The replicas that a run would start."""

    replicas: int
    gpus: float
    """Of each; 0 for replicas on CPUs."""
    cpus: float


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    places: tuple[str, ...]
    text: str
    """What was found, what was expected, what to do."""
    must_mend: bool
    """Whether a run would fail or wait; else it is worth knowing only."""


@dataclass(frozen=True)
class ClusterReport:
    """All that a check found."""

    driver: Place
    nodes: tuple[Place, ...]
    demand: Demand | None
    """None without a configuration, or when the cluster cannot meet it."""
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing must be mended."""
        return not any(finding.must_mend for finding in self.findings)


Found = tuple[str, str, bool]
"""Name of the place, text, whether it must be mended."""


def findings(
    driver: Place,
    nodes: Sequence[Place],
    config: RunConfig | None,
    demand: Demand | None,
    gpus_free: float,
) -> tuple[Finding, ...]:
    """What is not as it should be; the same on several nodes is one finding.

    Args:
        driver: the process that asks; the nodes are held against it.
        nodes: all nodes of the cluster.
        config: the run; None checks versions and the harness alone.
        demand: its replicas, as far as the cluster can meet them.
        gpus_free: GPUs of the cluster that nobody has taken.
    """
    found: list[Found] = []
    for node in nodes:
        if node.software is None:
            found.append((node.name, node.silence, True))
        else:
            found += _of_software(node, node.software, driver)
    for place in (driver, *nodes):
        if config is not None and place.access is not None:
            found += _of_access(place, place.access, driver, config)
    if demand is not None and config is not None:
        found += _of_places(nodes, demand, config)
        if not demand.gpus:
            found += _of_memory(driver, nodes, demand)
        if demand.gpus:
            found += _of_gpus(driver, nodes, config.model, demand)
            wanted, total = demand.replicas * demand.gpus, sum(node.gpus for node in nodes)
            if wanted > gpus_free:
                text = f"{total - gpus_free:g} of {total:g} GPUs are taken; replicas wait until they are free"
                found.append(("cluster", text, False))
    if config is not None and len(nodes) > 1 and "://" not in config.out and not config.out.startswith("/"):
        text = f"out='{config.out}' is relative, and every process takes it from its own folder; give an absolute path"
        found.append(("cluster", text, False))
    return _grouped(found)


def _grouped(found: Sequence[Found]) -> tuple[Finding, ...]:
    """One finding per text; where some must mend it, the others need not be told."""
    grouped: dict[str, tuple[list[str], list[str]]] = {}
    for name, text, must_mend in found:
        grouped.setdefault(text, ([], []))[must_mend].append(name)
    return tuple(Finding(tuple(mending or noting), text, bool(mending)) for text, (noting, mending) in grouped.items())


def gpu_need_bytes(parameters: int, model: ModelConfig, rest: int = GPU_ALLOWANCE_BYTES) -> int:
    """Memory that the replicas of one GPU need: their weights, and what each needs beside them.

    Args:
        parameters: number of weights.
        model: number format and GPUs per replica; `auto` is 16 bits on a GPU.
        rest: bytes beside the weights, of each replica on each of its GPUs.
    """
    weights = parameters * (4 if model.dtype == "float32" else 2)
    share = model.gpus_per_replica
    if share >= 1:
        return int(weights / share) + rest
    return int(1 // share) * (weights + rest)


def _of_software(node: Place, found: Software, driver: Place) -> Iterator[Found]:
    """Versions and source against the driver's, and whether torch can use what Ray hands out."""
    assert driver.software is not None
    for name in ("python", *PACKAGES):
        here, there = found.versions.get(name), driver.software.versions.get(name)
        if _comparable(name, here) != _comparable(name, there):
            # Without replicas nothing but Ray itself runs there.
            must = node.has_replicas or name in ("python", "ray")
            text = f"has {name} {here or 'not installed'}, the driver has {there}; install the driver's version there"
            yield node.name, text, must
    if found.source is None:
        text = (
            f"the harness cannot be imported: {found.source_error}; "
            "install it there, or let it travel in the job's working directory"
        )
        yield node.name, text, node.has_replicas
    elif found.source != driver.software.source:
        text = "runs other source files of the harness than the driver; install the same version on both"
        yield node.name, text, node.has_replicas
    if found.devices is not None and len(found.devices) < int(node.gpus):
        because = f" ({found.device_error})" if found.device_error else ""
        text = (
            f"Ray hands out {_several(node.gpus, 'GPU')}, but torch sees {len(found.devices)}{because}; "
            "mend the GPU driver or torch there, or start Ray with the right --num-gpus"
        )
        yield node.name, text, node.has_replicas


def _comparable(name: str, version: str | None) -> str | None:
    """What of a version must agree: of Python the minor version; builds for CPU and GPU may differ."""
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.split("+")[0]


def _of_access(place: Place, found: Access, driver: Place, config: RunConfig) -> Iterator[Found]:
    """Model, task and storage."""
    must = place.has_replicas or place is driver
    identities = {m.path: m.identity for m in driver.access.models if m.identity} if driver.access else {}
    for model in found.models:
        if model.error:
            yield place.name, model.error, must
        elif model.identity != identities.get(model.path, model.identity):
            text = f"model '{model.path}' has other files than on the driver's node; copy the same files to both"
            yield place.name, text, must
    for error in found.errors:
        yield place.name, error, must
    if found.out_error:
        text = (
            f"out='{config.out}' cannot be written: {found.out_error}; "
            "mount it there, allow writing, or set out=... to a folder or storage that all nodes share"
        )
        yield place.name, text, must
    elif found.unseen:
        others = ", ".join(found.unseen[:3]) + (f" and {len(found.unseen) - 3} more" if found.unseen[3:] else "")
        text = (
            f"out='{config.out}' is not one storage: files that {others} wrote there are not seen here; "
            "mount the same folder on all nodes, or set out=... to a storage URI"
        )
        yield place.name, text, must


def _of_places(nodes: Sequence[Place], demand: Demand, config: RunConfig) -> Iterator[Found]:
    """Whether replicas fit onto single nodes, not only into the cluster's sum."""
    fit = 0
    for node in nodes:
        if node.has_replicas and 0 < demand.gpus < 1:
            fit += int(node.gpus) * int(1 // demand.gpus)
        elif node.has_replicas:
            # A share of the processors such as 1/3 must fit three times.
            fit += int((node.gpus / demand.gpus if demand.gpus else node.cpus / demand.cpus) + 1e-6)
    if fit < demand.replicas:
        kind = f" of type {config.cluster.accelerator_type}" if config.cluster.accelerator_type else ""
        each = _several(demand.gpus, "GPU") + kind if demand.gpus else _several(demand.cpus, "CPU")
        remedy = "lower cluster.replicas or model.gpus_per_replica" if demand.gpus else "raise cluster.replicas"
        text = (
            f"{_several(demand.replicas, 'replica')} of {each} would start, but single nodes have room for {fit} of "
            f"them; the others would wait for ever: {remedy}, or start other nodes"
        )
        yield "cluster", text, True


def _of_gpus(driver: Place, nodes: Sequence[Place], model: ModelConfig, demand: Demand) -> Iterator[Found]:
    """Free memory of the GPUs that Ray hands out: of those that torch sees, the first ones."""
    found = [m for m in driver.access.models if m.parameters] if driver.access else []
    rests = [GPU_ALLOWANCE_BYTES if m.rest_bytes is None else m.rest_bytes for m in found]
    needs = [gpu_need_bytes(m.parameters or 0, model, rest) for m, rest in zip(found, rests, strict=True)]
    need, rest = max(zip(needs, rests, strict=True), default=(0, 0))
    for node in nodes:
        if not node.has_replicas or node.software is None or node.software.devices is None:
            continue
        for index, device in enumerate(node.software.devices[: int(node.gpus)]):
            if device.free_bytes < need:
                what = "is too small" if device.total_bytes < need else "has too little free memory"
                text = (
                    f"GPU {index} ({device.name}) {what}: {gibibytes(device.free_bytes)} free of "
                    f"{gibibytes(device.total_bytes)}, needed about {gibibytes(need)} (weights, and "
                    f"{gibibytes(rest)} a replica for the rest); end what else runs there, "
                    "or change model.gpus_per_replica"
                )
                yield node.name, text, True


def _of_memory(driver: Place, nodes: Sequence[Place], demand: Demand) -> Iterator[Found]:
    """Main memory of nodes whose processors hold replicas."""
    need = max((m.cpu_bytes or 0 for m in driver.access.models), default=0) if driver.access else 0
    for node in nodes:
        # A share of the processors such as 1/3 must fit three times.
        count = min(int(node.cpus / demand.cpus + 1e-6), demand.replicas) if node.has_replicas else 0
        if count and node.memory_bytes < count * need:
            text = (
                f"has {gibibytes(node.memory_bytes)} of memory for processes, and {_several(count, 'replica')} would "
                f"need about {gibibytes(count * need)}; lower cluster.replicas or engine.tokens_per_pack"
            )
            yield node.name, text, False


def gibibytes(size: float) -> str:
    """Bytes as people read them: `3.1 GiB`."""
    return f"{size / 2**30:.1f} GiB"


def _several(count: float, noun: str) -> str:
    return f"{count:g} {noun}" if count == 1 else f"{count:g} {noun}s"
