"""Does work units of a reference, which reads the samples themselves, without any prompt.

Takes the same three steps as the worker it derives from; what is asked of a sample is the affair of those that derive
from it. Knows fields of samples; refuses to know templates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from harness.core.task import Sample
from harness.engine.classifying import Texts
from harness.engine.protocol import OpenSettings
from harness.prompts.demonstrations import PoolDraw
from harness.running.asking import Asks, open_settings
from harness.running.messages import ReferenceSpec, WorkerSpec
from harness.running.work import Found, Work
from harness.running.worker import UnitWorker


@dataclass(frozen=True)
class Input:
    """What a reference reads of one sample, in the place of a prompt."""

    sample: Sample
    k: int | None
    texts: Texts


class Questions:
    """Questions that need no preparation, and cost no money: they are asked in this process."""

    def prepare(self, inputs: Sequence[Input]) -> None:
        """Nothing can be worked out before."""

    def paying(self, pay: Callable[[float], None]) -> AbstractContextManager[None]:
        """There is nothing to pay."""
        return nullcontext()


class FieldsWorker(UnitWorker):
    """What asks about fields of samples.

    Attributes:
        fields: of a sample, that are read.
    """

    fields: tuple[str, ...]

    def _input(self, sample: Sample, k: int | None) -> Input:
        return Input(sample, k, tuple(sample.fields[name] for name in self.fields))

    def _prompts(self, work: Work, samples: Sequence[Sample], ks: Sequence[int | None]) -> list[Input]:
        return [self._input(sample, k) for sample in samples for k in ks]

    def _n_tokens(self, found: Found) -> int:
        return int(found.result.n_tokens.sum())


class ReferenceWorker(FieldsWorker):
    """One loaded reference that does work units.

    Args:
        spec: the run's settings, `reference` among them.
        draw: labelled rows of the pool, on which the order of a classifier's classes is checked.

    Raises:
        ModelError: it does not load, or is not what the task asks for.
        BrokenDeviceError: the device is of no use to this process.
    """

    def __init__(self, spec: WorkerSpec, draw: PoolDraw) -> None:
        assert spec.reference is not None
        self._take(spec, draw)
        self.reference: ReferenceSpec = spec.reference
        self.fields = spec.reference.fields
        self.asking = self._open(open_settings(spec.config.engine, spec.longest_prompt, threads=spec.threads))

    @abstractmethod
    def _open(self, settings: OpenSettings) -> Asks:
        """Open what is asked, and say on what (`facts`)."""
