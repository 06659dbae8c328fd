"""Run configuration: YAML plus `key=value` overrides in, a frozen `RunConfig` out.

Knows OmegaConf and the names of the keys; refuses to know models, tasks and Ray.
`configs/README.md` documents every key.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import ConfigError, did_you_mean

POLICIES = ("fixed", "bank", "per_sample", "lecture")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
METHODS = ("auto", "likelihood", "generate")
CALIBRATIONS = ("contextual", "domain")
CLEANINGS = ("first_line", "quotes", "particles")
WANDB_MODES = ("disabled", "offline", "online")


@dataclass(frozen=True)
class ModelConfig:
    """Which models, and how they are loaded."""

    path: Any = "data_in/models/ko-tiny"
    """One folder or hub name, or a list of them."""
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    gpus_per_replica: float = 1
    trust_remote_code: bool = False
    max_length: int | None = None
    """Context length in tokens; null takes the model's own."""


@dataclass(frozen=True)
class TaskConfig:
    """Which task, and which of its data."""

    name: str = "nsmc"
    data_dir: str = "data_in/nsmc_demo"
    limit: int | None = None
    sample_seed: int = 1234
    clean_text: bool = True
    templates_file: str | None = None
    """YAML file with further templates; a template of the same name replaces the task's."""
    windows: int = 3
    """Passages of a long document that go into the prompt."""
    window_chars: int = 500
    """Characters of one passage."""


@dataclass(frozen=True)
class GridConfig:
    """The axes of the grid."""

    templates: list[str] = field(default_factory=lambda: ["lecture_1", "lecture_2"])
    k: list[int] = field(default_factory=lambda: [0, 4, 10])
    seeds: list[int] = field(default_factory=lambda: [1234])


@dataclass(frozen=True)
class DemosConfig:
    """How demonstrations are drawn."""

    policy: str = "fixed"
    max_tokens: int | None = 25
    """Longest document, in tokens of the model's tokenizer, that may be a demonstration."""
    balanced: bool = False
    bank_size: int = 256
    context_chars: int | None = None
    """Shorten demonstration contexts to so many characters around the answer."""


@dataclass(frozen=True)
class ScoringConfig:
    """How the model's answer is taken."""

    method: str = "auto"
    """`likelihood` compares labels, `generate` lets the model write; `auto` is the task's own."""
    calibration: list[str] = field(default_factory=list)
    """Arms of `harness calibrate` that need prompts of their own, scored with the run."""


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated: greedily, until a stop string, the end token or the limit."""

    max_new_tokens: int = 32
    stop: list[str] = field(default_factory=lambda: ["\n"])
    clean: list[str] = field(default_factory=list)
    """Named cleanings of the raw answer, applied in the order of `CLEANINGS`."""


@dataclass(frozen=True)
class EngineConfig:
    """How prompts are scored; none of it changes results beyond floating-point noise."""

    share_prefixes: bool = True
    tokens_per_pack: Any = "auto"


@dataclass(frozen=True)
class ClusterConfig:
    """Where the work runs; none of it changes results."""

    address: str = "local"
    replicas: Any = "auto"
    shard_size: Any = "auto"
    accelerator_type: str | None = None
    """Place replicas on GPUs of this type only, by Ray's name for it, such as `A100`."""


@dataclass(frozen=True)
class LimitsConfig:
    """What a run may put up with."""

    max_failed_share: float = 0.05
    """Share of failed records above which a finished run ends with exit status 3."""


@dataclass(frozen=True)
class WandbConfig:
    """Whether and where the driver logs to Weights & Biases."""

    mode: str = "disabled"
    project: str = "prompt-grid-harness"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunConfig:
    """One grid: everything a run needs to know."""

    name: str = "run"
    out: str = "data_out"
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    demos: DemosConfig = field(default_factory=DemosConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    run: LimitsConfig = field(default_factory=LimitsConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    @property
    def run_dir(self) -> str:
        """The run directory, `{out}/{name}`: a local path or a storage URI."""
        base, mark, query = self.out.partition("?") if "://" in self.out else (self.out, "", "")
        return f"{base.rstrip('/')}/{self.name}{mark}{query}"

    @property
    def model_paths(self) -> tuple[str, ...]:
        """The models in the order given."""
        return tuple(self.model.path) if isinstance(self.model.path, list) else (self.model.path,)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as written to the manifest."""
        return dataclasses.asdict(self)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides and check every key and value.

    Args:
        path: YAML file; missing keys take the defaults of `RunConfig`.
        overrides: dotted assignments such as `grid.k=[0,4]`; later ones win.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, wrong type or value.
    """
    if not Path(path).is_file():
        raise ConfigError(f"no configuration file '{path}'; expected a YAML file such as configs/demo.yaml")
    try:
        given = OmegaConf.load(path)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"'{path}' is not valid YAML: {reason}") from None
    if not isinstance(given, DictConfig):
        raise ConfigError(f"'{path}' holds a {type(given).__name__}, expected keys and values")
    merged: Any = given
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"'{override}' is not an override; expected key=value, e.g. task.limit=100")
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([override]))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"override '{override}' cannot be applied: {reason}") from None
    return config_from(merged)


def config_from(values: Any) -> RunConfig:
    """A checked `RunConfig` from nested dictionaries or an OmegaConf container.

    Raises:
        ConfigError: unknown key, wrong type or value.
    """
    container = OmegaConf.create(values) if isinstance(values, dict) else values
    method = container.get("scoring")
    if isinstance(method, str):
        container.scoring = {"method": method}
    _reject_unknown(container, RunConfig, "")
    if "${oc." in OmegaConf.to_yaml(container):
        raise ConfigError(
            "the configuration uses a resolver such as ${oc.env:NAME}; its value would be written to the manifest. "
            "Write the value itself; secrets belong to the environment alone"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), container)
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"configuration key '{error.full_key or '?'}': {reason}") from None
    assert isinstance(plain, dict)
    sections = {f.name: f.default_factory for f in dataclasses.fields(RunConfig)}
    built: dict[str, Any] = {}
    for key, value in plain.items():
        kind = sections[str(key)]
        built[str(key)] = kind(**value) if isinstance(kind, type) else value
    config = RunConfig(**built)
    _check_values(config)
    return config


def _reject_unknown(node: Any, kind: type, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in node:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            raise ConfigError(f"unknown configuration key '{prefix}{key}'{hint}")
        default = fields[key].default_factory
        _check_list(prefix + str(key), node._get_node(key), default)
        if isinstance(default, type) and dataclasses.is_dataclass(default):
            child = node._get_node(key)
            if not isinstance(child, DictConfig) or child._is_none():
                found = OmegaConf.to_container(child) if isinstance(child, ListConfig) else child
                raise ConfigError(f"configuration key '{prefix}{key}' holds {found}, expected keys under it")
            _reject_unknown(child, default, f"{prefix}{key}.")


def _check_list(key: str, node: Any, default: Any) -> None:
    if callable(default) and not isinstance(default, type) and not isinstance(node, ListConfig):
        raise ConfigError(f"configuration key '{key}' holds {node}, expected a list such as {default()}")


def _check_values(config: RunConfig) -> None:
    paths = config.model.path
    listed = paths if isinstance(paths, list) else [paths]
    if not listed or not all(isinstance(path, str) and path for path in listed):
        raise ConfigError(f"model.path is {paths!r}, expected a folder name or a list of them")
    _check_choice("model.dtype", config.model.dtype, DTYPES)
    _check_choice("model.device", config.model.device, DEVICES)
    _check_choice("demos.policy", config.demos.policy, POLICIES)
    _check_choice("scoring.method", config.scoring.method, METHODS)
    _check_choice("wandb.mode", config.wandb.mode, WANDB_MODES)
    for name in config.scoring.calibration:
        _check_choice("scoring.calibration", name, CALIBRATIONS)
    for name in config.generation.clean:
        _check_choice("generation.clean", name, CLEANINGS)
    if not all(config.generation.stop):
        raise ConfigError("generation.stop holds an empty text, which would stop before the first token")
    for key in ("templates", "k", "seeds"):
        axis: list[Any] = getattr(config.grid, key)
        if not axis:
            raise ConfigError(f"grid.{key} is empty, expected at least one value")
        if len(set(axis)) != len(axis):
            raise ConfigError(f"grid.{key} names a value twice: {axis}")
    if len(set(config.model_paths)) != len(config.model_paths):
        raise ConfigError(f"model.path names a model twice: {list(config.model_paths)}")
    for k in config.grid.k:
        _check_at_least("grid.k", k, 0)
    for key, value in (
        ("demos.bank_size", config.demos.bank_size),
        ("task.windows", config.task.windows),
        ("task.window_chars", config.task.window_chars),
        ("generation.max_new_tokens", config.generation.max_new_tokens),
        ("task.limit", config.task.limit),
        ("model.max_length", config.model.max_length),
        ("demos.max_tokens", config.demos.max_tokens),
        ("demos.context_chars", config.demos.context_chars),
    ):
        if value is not None:
            _check_at_least(key, value, 1)
    for key, value in (
        ("cluster.replicas", config.cluster.replicas),
        ("cluster.shard_size", config.cluster.shard_size),
        ("engine.tokens_per_pack", config.engine.tokens_per_pack),
    ):
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{key} is {value!r}, expected 'auto' or a whole number of at least 1")
    if not 0 < config.model.gpus_per_replica < math.inf:
        raise ConfigError(f"model.gpus_per_replica is {config.model.gpus_per_replica}, expected more than 0")
    if not 0 <= config.run.max_failed_share <= 1:
        raise ConfigError(f"run.max_failed_share is {config.run.max_failed_share}, expected a share from 0 to 1")
    if config.name in ("", ".", "..") or "/" in config.name:
        raise ConfigError(f"name is {config.name!r}, expected a folder name without '/'")
    if not config.out:
        raise ConfigError("out is empty, expected a folder or a storage URI")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is '{value}'{did_you_mean(value, choices)}")


def _check_at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} is {value}, expected at least {least}")
