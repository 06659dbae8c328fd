"""Opens what does a run's units in this process: a worker for prompts, for a reference, or for a learning curve."""

from __future__ import annotations

from harness.planning.references import Purpose
from harness.prompts.demonstrations import PoolDraw
from harness.running.chooser_worker import ChooserWorker
from harness.running.classifier_worker import ClassifierWorker
from harness.running.learning_worker import LearningWorker
from harness.running.messages import WorkerSpec
from harness.running.reader_worker import ReaderWorker
from harness.running.reference_worker import ReferenceWorker
from harness.running.worker import UnitWorker, Worker


def open_worker(spec: WorkerSpec, draw: PoolDraw) -> UnitWorker:
    """The worker that the spec asks for.

    Args:
        spec: the run's settings.
        draw: demonstrations, or labelled rows for a reference.

    Raises:
        ModelError: the model does not load, or is not what the run takes it for.
        BrokenDeviceError: the device is of no use to this process.
    """
    if spec.learning is not None:
        return LearningWorker(spec, draw)
    if spec.reference is None:
        return Worker(spec, draw)
    workers: dict[Purpose, type[ReferenceWorker]] = {
        Purpose.CLASSIFY: ClassifierWorker,
        Purpose.READ: ReaderWorker,
        Purpose.CHOOSE: ChooserWorker,
    }
    return workers[spec.reference.purpose](spec, draw)
