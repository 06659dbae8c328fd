"""The learning curve of a run: classifiers that it trains itself, on nested subsets of the labelled pool.

Knows rows, sizes and seeds; refuses to know how anything is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.schema import FinetuneConfig, ModelEntry, RunConfig
from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line
from harness.core.hashing import rows_hash
from harness.core.sampling import draw_order
from harness.core.task import Sample, Task, TaskData
from harness.engine.protocol import ModelDescription
from harness.engine.registry import LEARNERS, find_learner
from harness.planning.references import fields_of, note_on_length, texts_of
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import draw_of

HELD_OUT = 5
"""Of so many examples one is held out, to tell when to stop."""


@dataclass(frozen=True)
class CurveSetup:
    """One way to learn, and what from."""

    info: ModelDescription
    """Of the base; named as the method."""
    fields: tuple[str, ...]
    """Of a sample, that it reads."""
    rows: PoolDraw
    """Rows of the pool that may be learned from."""
    settings: FinetuneConfig

    @property
    def name(self) -> str:
        """What records call it: the method."""
        return self.info.name

    @property
    def identity(self) -> dict[str, Any]:
        """What its records depend on besides the examples, in plain data."""
        return {
            "method": self.info.model.engine,
            "base": self.info.told_identity if self.settings.base is not None else None,
            "fields": list(self.fields),
            "learning_rate": self.settings.learning_rate,
        }

    def examples_hash(self, n: int, seed: int) -> str:
        """Identity of the examples of one training."""
        pool = self.rows.pool
        return rows_hash(row.row() for row in nested_subset(pool.samples, pool.n_classes, n, seed))


def set_up_curve(config: RunConfig, task: Task, data: TaskData) -> tuple[tuple[CurveSetup, ...], tuple[str, ...]]:
    """The ways to learn that a configuration asks for, and notes for the log.

    Raises:
        ConfigError: an unknown method, no base where one is needed, or more examples than the pool has.
        ModelError: the base is no encoder.
    """
    given = config.finetune
    if not given.sizes:
        return (), ()
    if not task.class_names or task.choices:
        what = "its samples bring choices of their own" if task.choices else "its answers are written"
        raise ConfigError(
            f"finetune.sizes trains classifiers, but task '{task.name}' has no classes: {what}; drop it, or take "
            "a task with classes"
        )
    known = LEARNERS.registered()
    for name in given.methods:
        if name not in known:
            raise ConfigError(f"finetune.methods names '{name}'{did_you_mean(name, known)}")
    fields = fields_of(given.fields, data, "finetune")
    rows, note = _usable(data, fields)
    notes = [note] if note else []
    pool = Pool(tuple(rows), len(task.class_names), data.length_field)
    _check_sizes(given, task, rows)
    found = []
    for method in given.methods or (["tfidf", "probe", "finetuned"] if given.base else ["tfidf", "scratch"]):
        learner = find_learner(method)
        if learner.needs_base and given.base is None:
            raise ConfigError(
                f"finetune.methods names '{method}', which begins with a pre-trained encoder; set finetune.base, or "
                "take methods that need none: finetune.methods=[tfidf,scratch]"
            )
        entry = ModelEntry(
            given.base if learner.needs_base and given.base else method, method, given.revision,
            device=config.model.device, engine=method,
        )  # fmt: skip
        settings = given if learner.needs_base else _without_base(given)
        info = learner.describe(entry)
        found.append(CurveSetup(info, fields, PoolDraw(pool, draw_of(config.demos)), settings))
        asked = [[texts_of(sample, fields)] for sample in data.samples]
        if cut := note_on_length(info, f"finetune: {method}", asked):
            notes.append(cut)
    return tuple(found), tuple(notes)


def _without_base(given: FinetuneConfig) -> FinetuneConfig:
    return FinetuneConfig(given.sizes, given.seeds, learning_rate=given.learning_rate, keep=given.keep)


def _usable(data: TaskData, fields: Sequence[str]) -> tuple[list[Sample], str]:
    """The labelled rows of the pool whose texts are none of the test samples'."""
    asked = {tuple(sample.fields[name] for name in fields) for sample in data.samples}
    kept = [row for row in data.pool if row.gold >= 0 and tuple(row.fields[name] for name in fields) not in asked]
    left_out = len(data.pool) - len(kept)
    return (
        kept,
        f"finetune: {left_out:,} rows of the pool have the texts of a test sample and are left out" if left_out else "",
    )


def _check_sizes(given: FinetuneConfig, task: Task, rows: Sequence[Sample]) -> None:
    most, least = max(given.sizes), min(given.sizes)
    twice = next((name for name, count in Counter(row.id for row in rows).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(
            f"finetune.sizes draws labelled examples by their ids, but the pool of task '{task.name}' has "
            f"'{one_line(twice, 60)}' more than once; expected an id of its own for each row"
        )
    if most > len(rows):
        raise ConfigError(
            f"finetune.sizes asks for {most:,} labelled examples, but the pool has {len(rows):,} that are no test "
            "texts; lower it, or give more training data"
        )
    for seed in given.seeds:
        train, _ = split(nested_subset(rows, len(task.class_names), least, seed))
        if {row.gold for row in train} != set(range(len(task.class_names))):
            raise ConfigError(
                f"finetune.sizes has {least}, too few for examples of all {len(task.class_names)} classes to train "
                "on; raise it"
            )


def nested_subset(rows: Sequence[Sample], n_classes: int, n: int, seed: int) -> list[Sample]:
    """The first n of one order of the rows: each smaller subset is part of each larger one, and each has the classes in
    their shares of all rows, as far as whole rows can.

    Args:
        rows: labelled, ids unique.
        n_classes: of the task.
        n: at most as many as there are rows.
        seed: of the order.
    """
    places = {row.id: row for row in rows}
    queues: list[list[Sample]] = [[] for _ in range(n_classes)]
    for key in reversed(draw_order(places, seed)):
        queues[places[key].gold].append(places[key])
    shares = [len(queue) / len(rows) for queue in queues]
    found: list[Sample] = []
    taken = [0] * n_classes
    for size in range(1, n + 1):
        # The class that lags most behind its share.
        label = max((c for c in range(n_classes) if queues[c]), key=lambda c: (shares[c] * size - taken[c], -c))
        found.append(queues[label].pop())
        taken[label] += 1
    return found


def split(rows: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """What is trained on, and what is held out: of each class every so manieth, never the first."""
    train: list[Sample] = []
    held_out: list[Sample] = []
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.gold] = counts.get(row.gold, 0) + 1
        (held_out if counts[row.gold] % HELD_OUT == 0 else train).append(row)
    if not held_out:
        held_out.append(train.pop())
    return train, held_out
