"""Does units of a learning curve: trains a classifier on labelled examples, then asks it as a reference.

Each unit is one training and all samples. Knows examples and folders; refuses to know how anything is trained.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.engine.learning import Example, Lesson
from harness.engine.registry import find_learner
from harness.planning.curve import nested_subset, split
from harness.planning.units import WorkUnit
from harness.prompts.demonstrations import PoolDraw
from harness.results.store import RunStore
from harness.running.asking import open_settings
from harness.running.classifier_worker import ClassesWorker, Classification
from harness.running.messages import Handling, WorkerSpec
from harness.running.work import Work

log = logging.getLogger(__name__)
FOLDER = "training"
"""In a run directory: checkpoints of trainings that are under way."""


class LearningWorker(ClassesWorker):
    """One learner that does work units.

    Args:
        spec: the run's settings, `learning` among them.
        draw: labelled rows of the pool.

    Raises:
        ModelError: the base does not load.
        BrokenDeviceError: the device is of no use to this process.
    """

    def __init__(self, spec: WorkerSpec, draw: PoolDraw) -> None:
        assert spec.learning is not None
        self._take(spec, draw)
        self.learning = spec.learning
        self.fields = spec.learning.fields
        settings = open_settings(spec.config.engine, spec.longest_prompt, threads=spec.threads)
        self.learner = find_learner(spec.model.engine).open(spec.model, settings)
        self.facts = self.learner.facts
        self.order = np.arange(draw.pool.n_classes)
        self.asking = Classification(None, draw.pool.n_classes)

    def compute(self, work: Work) -> None:
        """Train, then classify; see `UnitWorker.compute`."""
        if work.report is None:
            with work.working(), work.scoring(), training_folder(self.store, work.unit, self.learning.keep) as folder:
                lesson = self._lesson(work.unit, folder)
                log.info("%s learns from %d examples, seed %d", work.unit.model, len(lesson.examples), lesson.seed)
                classifier = self.learner.learn(lesson)
            self.asking = Classification(classifier, lesson.n_classes)
        super().compute(work)

    def _compute_alone(self, work: Work, handling: Handling) -> None:
        """Try each sample by itself first, then ask all together: what a classifier says of a sample depends in its
        last bits on what shares its batch, and a training that was cut off has the records of one that was not."""
        super()._compute_alone(work, handling)
        work.records, work.n_prompts, work.prompt_tokens = [], 0, 0
        work.batches = self._together(work, handling)

    def _lesson(self, unit: WorkUnit, folder: Path) -> Lesson:
        (n,), seed, pool = unit.ks, unit.seed, self.draw.pool
        assert n is not None and seed is not None, "a unit of a learning curve"
        train, held_out = (
            [Example(self._input(row, None).texts, row.gold) for row in rows]
            for rows in split(nested_subset(pool.samples, pool.n_classes, n, seed))
        )
        return Lesson(train, held_out, pool.n_classes, seed, self.learning.learning_rate, folder)


@contextmanager
def training_folder(store: RunStore, unit: WorkUnit, keep: bool) -> Iterator[Path]:
    """A folder for the checkpoints of one training, found again after a kill and gone when training is done.

    Where another process trains the same unit, or the run directory is no local folder, one that nobody finds again.

    Args:
        store: of the run directory.
        unit: that is trained.
        keep: whether the folder stays.
    """
    if store.is_local:
        root = Path(store.path(FOLDER))
        root.mkdir(exist_ok=True)
        with (root / f"{unit.id}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                log.info("unit %s is trained by another process too", unit.id)
            else:
                yield root / unit.id
                if not keep:
                    shutil.rmtree(root / unit.id, ignore_errors=True)
                    Path(lock.name).unlink()
                return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
