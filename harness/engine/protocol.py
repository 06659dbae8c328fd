"""What an engine is: describes a model before anything is loaded, opens it, and scores or continues prompts.

Knows prompts, scores and answers as plain data; refuses to know transformers, torch, tasks and where replicas run.
An engine is found by name, see `harness.engine.registry`; docs/adding_an_engine.md shows a complete one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.config.schema import EngineConfig, ModelEntry
from harness.core.errors import ModelError
from harness.engine.needs import Asked as Asked
from harness.engine.needs import Expense as Expense
from harness.engine.needs import Load as Load
from harness.engine.needs import MemoryNeed as MemoryNeed
from harness.engine.needs import ReplicaMemory as ReplicaMemory

LIKELIHOOD, GENERATE = "likelihood", "generate"
"""Ways to an answer: labels are compared, or the model writes."""


class Prompt(Protocol):
    """One prompt; an engine takes of it what it needs."""

    @property
    def text(self) -> str:
        """The whole text, without the tokens that the tokenizer adds by itself."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """The whole as token ids; at least one."""
        ...

    @property
    def label_ids(self) -> Sequence[Sequence[int]]:
        """Token ids of each label as the prompt's continuation; none where answers are generated."""
        ...

    @property
    def messages(self) -> Sequence[Mapping[str, str]] | None:
        """The chat that the text renders, each message with `role` and `content`; None of plain text."""
        ...

    @property
    def family(self) -> str:
        """Prompts of one family are always computed together: those of one sample."""
        ...

    @property
    def trunk(self) -> int | None:
        """How many of the first ids other families may share; None where the engine may look for more itself."""
        ...


@dataclass(frozen=True)
class Scores:
    """Results for some prompts, in their order.

    Attributes:
        logprobs: `(n_prompts, n_labels)` sum of each label's token log-probabilities, nats.
        argmax: `(n_prompts,)` most likely token at the first label position.
        off_label_mass: `(n_prompts,)` probability there outside the labels' first tokens.
        tokens_computed: tokens that went through the model, padding of batches included.
        argmax_texts: what those tokens read; None where the tokenizer says that of their ids.
    """

    logprobs: npt.NDArray[np.float64]
    argmax: npt.NDArray[np.int64]
    off_label_mass: npt.NDArray[np.float64]
    tokens_computed: int
    argmax_texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Generations:
    """Generated tokens of some prompts, in their order.

    Attributes:
        tokens: generated ids of each prompt, the ones that ended it included.
        reasons: why each ended: `end` (an end token), `stop` (a stop text), `length`.
        prompt_tokens_computed: prompt tokens that went through the model, padding included.
        tokens_decoded: tokens that went through it after that.
    """

    tokens: list[list[int]]
    reasons: list[str]
    prompt_tokens_computed: int
    tokens_decoded: int

    @property
    def tokens_computed(self) -> int:
        """All tokens that went through the model."""
        return self.prompt_tokens_computed + self.tokens_decoded


@dataclass(frozen=True)
class Ending:
    """Where an answer ends, whatever comes first."""

    max_new_tokens: int
    """At least 1."""
    end_tokens: frozenset[int]
    """Beside those that the model itself names."""
    stop_texts: tuple[str, ...]
    holds_stop_text: Callable[[list[int]], bool]
    """The same test for engines that decode in this process: asked after every token, with all generated ones."""


@dataclass(frozen=True)
class Resources:
    """What one replica takes of a node."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto` for GPUs where there are any."""
    gpus: float = 1
    """Below 1 several replicas share a GPU."""


@dataclass(frozen=True)
class ModelDescription:
    """What an engine says of a model before it is loaded. An engine that knows more overrides more."""

    model: ModelEntry
    tokenizer: Any
    """A Hugging Face tokenizer."""
    context_length: int | None = None
    """Most tokens of a prompt with its label or answer; None for no limit."""
    vocabulary: int | None = None
    """Token ids are below this; None where it is not known."""
    methods: frozenset[str] = frozenset({LIKELIHOOD, GENERATE})
    """What the engine can do with the model."""

    @property
    def name(self) -> str:
        """By which records and tables call the model."""
        return self.model.name

    @property
    def identity(self) -> str:
        """Equal where the model computes the same: records of one identity are never computed again."""
        return f"{self.model.engine}:{self.model.path}"

    @property
    def told_identity(self) -> str | dict[str, str]:
        """The identity as a run directory keeps it; by part, where a difference can then be named."""
        return self.identity

    @property
    def quick_identity(self) -> str:
        """Tells most copies of a model on different nodes apart, at once."""
        return self.identity

    def as_recorded(self, identity: object) -> ModelDescription:
        """The model under the identity that an earlier session gave it, where that still holds.

        Args:
            identity: from the run directory, if any.
        """
        return self

    def is_known_as(self, told: object) -> bool:
        """Whether a `told_identity` that a run directory keeps is this model's, wherever it lies now."""
        return told == self.told_identity

    @property
    def fixed(self) -> ModelEntry:
        """The model as replicas open it: a revision that moves is replaced by where it is now."""
        return self.model

    @property
    def resources(self) -> Resources:
        """What a replica takes."""
        return Resources(self.model.device, self.model.gpus_per_replica)

    @property
    def parameters(self) -> int | None:
        """Number of weights, where it is known."""
        return None

    @property
    def loaded(self) -> dict[str, Any]:
        """What will be loaded, for the manifest."""
        return {}

    @property
    def loaded_words(self) -> str:
        """The same for the log."""
        return f"engine {self.model.engine}"

    @property
    def takes_rendered_chats(self) -> bool:
        """Whether chats reach the model as their text; else as messages, which say less."""
        return True

    @property
    def notes(self) -> Sequence[str]:
        """What was passed over in the model's files."""
        return ()

    def memory(self, settings: EngineConfig, loads: Sequence[Load]) -> tuple[ReplicaMemory, ...]:
        """Predicted peak of a replica on each device and in each number format that it may end up with.

        Args:
            settings: of the run.
            loads: one per template; the largest need counts.
        """
        return ()

    def expense(self, asked: Sequence[Asked]) -> Expense | None:
        """What a grid asks of a server; None of an engine that asks none.

        Args:
            asked: one per template.
        """
        return None

    def least_memory(self, settings: EngineConfig, device: str) -> MemoryNeed | None:
        """What a replica on `cpu` or `cuda` needs at least, whatever the data; None where it is not known."""
        return None


@dataclass(frozen=True)
class OpenSettings:
    """How a model is opened on a replica."""

    share_prefixes: bool = True
    """Compute what prompts share once, where the model allows it."""
    tokens_per_pack: int | None = None
    """Most tokens of one forward pass; None leaves it to the engine."""
    longest_prompt: int = 1
    """Tokens, of the whole grid."""
    threads: int | None = None
    """CPU threads of the replica; None leaves it to the engine."""
    method: str = LIKELIHOOD
    """What will be asked: `likelihood` or `generate`."""
    spent: float = 0.0
    """What earlier sessions of the run have paid for this model."""
    tokens: int | None = None
    """Of the whole grid, shared ones counted once per shard; None where that is not known."""


@dataclass(frozen=True)
class EngineFacts:
    """What an opened engine says of itself, for log and manifest. An engine that knows more adds fields."""

    device: str
    """`cpu`, or what computes. Where it is not `cpu`, units overlap."""
    dtype: str
    shares_prefixes: bool = False

    @property
    def notices(self) -> Sequence[str]:
        """What differs from what was asked for, and why: warnings for the log."""
        return ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def change_since(self, before: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """What of an earlier session's facts no longer holds, so that records would not belong together.

        Args:
            before: what `as_dict` gave then; a key may be missing.

        Returns:
            What it was, what it is, and what to do; None where nothing differs.
        """
        if before.get("dtype", self.dtype) == self.dtype:
            return None
        remedy = f"set model.dtype={before['dtype']} under another name=..., or resume on a machine of the same kind"
        return str(before["dtype"]), f"this machine would go on in {self.dtype}", remedy


class LoadedEngine(ABC):
    """One opened model. Errors of one prompt may be raised for all that were asked together: they are halved.

    What it remembers between calls (trunks, caches) changes no result.
    """

    facts: EngineFacts
    cost: float = 0.0
    """What its requests have cost so far, where they are paid for."""

    def watch(self, told: Callable[[int], None]) -> None:
        """Call this with numbers of prompts as they go through; of an engine that does not, bars show whole units."""
        del told

    def prepare(self, prompts: Sequence[Prompt]) -> Any:
        """What can be worked out about prompts to be scored without the device, while it computes others."""
        return None

    @abstractmethod
    def score(self, prompts: Sequence[Prompt], prepared: Any = None) -> Scores:
        """Log-probabilities of each prompt's labels.

        Args:
            prompts: at least one, each with the same number of labels.
            prepared: what `prepare` gave for the same prompts; None where it was not asked.

        Raises:
            NotFiniteError: a log-probability is NaN or infinite.
            BrokenDeviceError: nothing can be computed in this process any more.
        """

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], ending: Ending) -> Generations:
        """The greedy continuation of each prompt. Raises what `score` does."""


def refuse_adapter(model: ModelEntry) -> None:
    """For engines that take none: passed over, it would change results without a word.

    Raises:
        ModelError: the model has an adapter.
    """
    if model.adapter is not None:
        raise ModelError(
            f"model.adapter is '{model.adapter}', but engine '{model.engine}' takes none; serve or save the merged "
            "model, or set model.engine=local"
        )


class Engine(Protocol):
    """A way to compute."""

    def describe(self, model: ModelEntry) -> ModelDescription:
        """Look at a model; nothing is loaded but its tokenizer.

        Raises:
            ModelError: in one line, whatever is wrong with it.
        """
        ...

    def open(self, model: ModelEntry, settings: OpenSettings) -> LoadedEngine:
        """Load a model in this process, or connect to where it is.

        Raises:
            ModelError: it does not load.
            BrokenDeviceError: the device is of no use to this process.
        """
        ...
