"""The keys of a run configuration and their defaults, as data. `configs/README.md` documents every key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
"""The value of a key that leaves the choice to whoever knows more."""
MOVED_OPTIONS = ("clean_text", "windows", "window_chars")
"""Once keys of `task`, now of `task.options`."""


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Where a model answers that an engine reaches by an address, and how much may be asked of it."""

    base_url: str | None = None
    """Address of an OpenAI-compatible server, such as `http://localhost:8000/v1`."""
    served_name: str | None = None
    """What the server calls the model; `path` unless given."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    concurrency: int = 64
    """Requests of a replica under way at a time."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    timeout_s: float = 120.0
    """Seconds that one request may take."""
    input_price: float | None = None
    """Of a million tokens of prompts, in any currency."""
    output_price: float | None = None
    """Of a million generated tokens."""
    max_cost: float | None = None
    """What the run's requests to this model may cost, at these prices."""


@dataclass(frozen=True)
class ModelConfig(ServerKeys):
    """Which models, and how they are loaded."""

    path: Any = "data_in/models/ko-tiny"
    """One folder or hub name, or a list of them."""
    revision: str | None = None
    dtype: str = AUTO
    device: str = AUTO
    gpus_per_replica: float = 1
    trust_remote_code: bool = False
    max_length: int | None = None
    """Context length in tokens; null takes the model's own."""
    engine: str = "local"
    """What computes: a registered name, or `module:attribute`."""
    adapter: str | None = None
    """Folder of a LoRA adapter of the model at `path`."""


@dataclass(frozen=True)
class ModelEntry(ServerKeys):
    """One model of a run: what it is called, where it is, and how it is loaded."""

    path: str
    """Folder, hub name, or whatever the engine calls the place of a model."""
    name: str = ""
    """By which records, tables and reports call it; the path unless another is given."""
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    gpus_per_replica: float = 1
    trust_remote_code: bool = False
    max_length: int | None = None
    engine: str = "local"
    adapter: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path)


@dataclass(frozen=True)
class ReferenceEntry(ModelEntry):
    """A classifier, reader or chooser that needs no prompt, to stand beside the prompts."""

    dtype: str = "float32"
    engine: str = "encoder"
    """What computes: a registered name of the group `harness.classifiers` (of tasks with classes), `harness.readers`
    (whose answers are written) or `harness.choosers` (whose samples bring choices), or `module:attribute`."""
    fields: list[str] = field(default_factory=list)
    """The fields of a sample that it reads, one or a pair; empty: the only one, or `question` and `context`."""
    stride: int = 128
    """Tokens that neighbouring windows of a long context share; for readers alone."""
    max_answer_tokens: int = 30
    """Of a reader's answer."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Classifiers that a run trains itself, on more and more labelled examples of the pool."""

    sizes: list[int] = field(default_factory=list)
    """Labelled examples; empty: nothing is trained."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Of the draw of the examples, and of what is random in training."""
    methods: list[str] = field(default_factory=list)
    """Of `planning.curve.METHODS`; empty: `tfidf`, and with a base `probe` and `finetuned`, without `scratch`."""
    base: str | None = None
    """Folder or hub name of the pre-trained encoder."""
    revision: str | None = None
    fields: list[str] = field(default_factory=list)
    """As `ReferenceEntry.fields`."""
    learning_rate: float = 5e-5
    """The highest, of `finetuned`; `scratch` takes twenty times as much."""
    keep: bool = False
    """Keep the last checkpoints of a training."""


@dataclass(frozen=True)
class TaskConfig:
    """Which task, and which of its data."""

    name: str = "nsmc"
    data_dir: str = "data_in/nsmc_demo"
    limit: int | None = None
    sample_seed: int = 1234
    draw: str = "nested"
    """How `limit` draws: `nested`, or as the `lecture` did."""
    templates_file: str | None = None
    """YAML file with further templates; a template of the same name replaces the task's."""
    options: Any = field(default_factory=dict)
    """The task's own options, by name; the task says which there are."""


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

    method: str = AUTO
    """`likelihood` compares labels, `generate` lets the model write; `auto` is the task's own."""
    calibration: list[str] = field(default_factory=list)
    """Arms of `harness calibrate` that need prompts of their own, scored with the run."""
    metrics: list[str] = field(default_factory=list)
    """Further figures of the cells, by name; worked out from stored records."""
    extract: str | None = None
    """Regular expression: what of a written answer `metrics` see; null for all of it."""


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
    tokens_per_pack: Any = AUTO

    @property
    def chosen_tokens_per_pack(self) -> int | None:
        """What the user chose; None leaves it to the engine."""
        return _chosen(self.tokens_per_pack)


@dataclass(frozen=True)
class ClusterConfig:
    """Where the work runs; none of it changes results."""

    address: str = "local"
    replicas: Any = AUTO
    shard_size: Any = AUTO
    accelerator_type: str | None = None
    """Place replicas on GPUs of this type only, by Ray's name for it, such as `A100`."""

    @property
    def chosen_replicas(self) -> int | None:
        """What the user chose; None takes as many as the cluster has room for."""
        return _chosen(self.replicas)

    @property
    def chosen_shard_size(self) -> int | None:
        """What the user chose; None leaves it to the plan."""
        return _chosen(self.shard_size)


@dataclass(frozen=True)
class LimitsConfig:
    """What a run may put up with."""

    max_failed_share: float = 0.05
    """Share of failed records above which a finished run ends with exit status 3."""
    hang_after_s: float = 600.0
    """The least seconds after which a unit, or a sample by itself, is taken to hang; 0 for never."""


@dataclass(frozen=True)
class WandbConfig:
    """Whether and where the driver logs to Weights & Biases."""

    mode: str = "disabled"
    project: str = "prompt-grid-harness"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RaceConfig:
    """What `harness race` claims, how sure, and on which samples; a run of the full grid has no use for it."""

    epsilon: float = 0.01
    """The winner is at most so much worse than the best; 0 asks for the best itself."""
    confidence: float = 0.95
    holdout: Any = AUTO
    """Samples set aside for the winner and the baseline: `auto` takes 500, at most a fifth."""
    baseline: str | None = None
    """A strategy, as the race calls it, that the winner is compared with on the samples held out."""
    seed: int = 1234
    """Of the order of the samples."""
    seeds: str = "each"
    """`each` draw of demonstrations is a strategy, or a strategy is `averaged` over them."""
    metric: str | None = None
    """Among the task's metrics of generated answers; null takes what it is judged by."""
    pilot: str | None = None
    """A finished run that `harness plan` predicts the cost of a race from."""


@dataclass(frozen=True)
class RunConfig:
    """One grid: everything a run needs to know."""

    name: str = "run"
    out: str = "data_out"
    model: ModelConfig = field(default_factory=ModelConfig)
    models: list[Any] = field(default_factory=list)
    """Models with names of their own in the place of `model.path`, each a `ModelEntry`."""
    references: list[Any] = field(default_factory=list)
    """Classifiers beside the prompts, each a `ReferenceEntry`."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    demos: DemosConfig = field(default_factory=DemosConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    run: LimitsConfig = field(default_factory=LimitsConfig)
    race: RaceConfig = field(default_factory=RaceConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    @property
    def run_dir(self) -> str:
        """The run directory, `{out}/{name}`: a local path or a storage URI."""
        base, mark, query = self.out.partition("?") if "://" in self.out else (self.out, "", "")
        return f"{base.rstrip('/')}/{self.name}{mark}{query}"

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """The models in the order given."""
        if self.models:
            return tuple(self.models)
        common = dataclasses.asdict(self.model)
        path = common.pop("path")
        return tuple(ModelEntry(path=one, **common) for one in (path if isinstance(path, list) else [path]))

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the models are called, in the order given."""
        return tuple(entry.name for entry in self.entries)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as written to the manifest."""
        return dataclasses.asdict(self)


def _chosen(count: Any) -> int | None:
    return None if count == AUTO else int(count)
