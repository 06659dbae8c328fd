"""Finds the engine that `model.engine` names, the classifiers, readers and choosers of references, and what a run
trains.

Knows the groups of entry points; refuses to know which engines exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.core.entry_points import Kind

if TYPE_CHECKING:
    from harness.config.schema import ModelEntry
    from harness.engine.choosing import ChooserEngine
    from harness.engine.classifying import ClassifierEngine
    from harness.engine.learning import LearnerEngine
    from harness.engine.protocol import Engine, ModelDescription
    from harness.engine.reading import ReaderEngine


def _is_engine(found: Any) -> bool:
    methods = (getattr(found, name, None) for name in ("describe", "open"))
    return not isinstance(found, type) and all(map(callable, methods))


KIND = Kind("engine", "harness.engines", "my_engine:ENGINE", "an engine (methods describe and open)", _is_engine)


def find_engine(name: str) -> Engine:
    """The engine of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such engine, the module cannot be imported, or it holds none.
    """
    engine: Engine = KIND.find(name)
    return engine


CLASSIFIERS = Kind(
    "classifier", "harness.classifiers", "my_classifier:ENGINE", "a classifier (methods describe and open)", _is_engine
)


def find_classifier(name: str) -> ClassifierEngine:
    """The classifier engine of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such engine, the module cannot be imported, or it holds none.
    """
    engine: ClassifierEngine = CLASSIFIERS.find(name)
    return engine


READERS = Kind("reader", "harness.readers", "my_reader:ENGINE", "a reader (methods describe and open)", _is_engine)


def find_reader(name: str) -> ReaderEngine:
    """The reader engine of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such engine, the module cannot be imported, or it holds none.
    """
    engine: ReaderEngine = READERS.find(name)
    return engine


CHOOSERS = Kind("chooser", "harness.choosers", "my_chooser:ENGINE", "a chooser (methods describe and open)", _is_engine)


def find_chooser(name: str) -> ChooserEngine:
    """The chooser engine of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such engine, the module cannot be imported, or it holds none.
    """
    engine: ChooserEngine = CHOOSERS.find(name)
    return engine


LEARNERS = Kind("learner", "harness.learners", "my_learner:ENGINE", "a learner (methods describe and open)", _is_engine)


def find_learner(name: str) -> LearnerEngine:
    """The learner of a registered name, or at `module:attribute`.

    Raises:
        ConfigError: no such learner, the module cannot be imported, or it holds none.
    """
    engine: LearnerEngine = LEARNERS.find(name)
    return engine


def describe(model: ModelEntry) -> ModelDescription:
    """What the model's engine says of it; see `harness.engine.protocol.Engine.describe`."""
    return find_engine(model.engine).describe(model)
