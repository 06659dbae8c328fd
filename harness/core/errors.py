"""Every error the harness raises on purpose.

HarnessError
|-- UserError            the user can mend it; printed without a traceback, exit status 2
|   |-- ConfigError      a configuration key or value
|   |-- DataError        a data file
|   |-- TemplateError    a prompt template or its label boundary
|   |-- ContextError     a prompt that does not fit the model's context
|   |-- ModelError       a model folder that cannot be loaded
|   |-- ClusterError     resources the cluster does not have
|   |-- RunDirError      a run directory that cannot be used
|   `-- BudgetError      the next request would cost more than the run may
|-- EngineError          the engine met a model or a state it cannot handle
|   |-- OutOfMemoryError memory ran out for one prompt by itself
|   |-- NotFiniteError   results are NaN or infinite
|   |-- RequestError     a server gave no usable answer to one prompt
|   `-- SharingError     this model cannot be scored with shared prefixes
|-- BrokenDeviceError    a device fails until the process that uses it ends
|-- ClusterLostError     the cluster went away during the run
|-- ServerLostError      a server that computes went away during the run
|-- ScheduleError        a schedule of units breaks its protocol
|-- StorageError         storage failed for longer than the harness waits for it
`-- ReplicaError         replicas died more often than the retry policy allows

Interrupted, a KeyboardInterrupt: the user asked the run to stop
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Interrupted(KeyboardInterrupt):
    """The user asked the run to stop; committed work stays. Its argument is the signal's number."""


class HarnessError(Exception):
    """Base of all errors of the harness."""


class UserError(HarnessError):
    """A mistake the user can mend: says what was found, what was expected and what to do."""


class ConfigError(UserError):
    """A configuration key or value is wrong."""


class DataError(UserError):
    """A data file is missing or does not follow its format."""


class TemplateError(UserError):
    """A template is malformed, unknown, or its labels do not tokenise cleanly."""


class ContextError(UserError):
    """A prompt is longer than the model's context."""


class ModelError(UserError):
    """A model folder has no usable weights, configuration or tokenizer."""


class ClusterError(UserError):
    """The cluster cannot be reached or lacks the requested resources."""


class RunDirError(UserError):
    """A run directory is unwritable, in use, or belongs to another configuration."""


class BudgetError(UserError):
    """What is left of `model.max_cost` does not pay for the next request."""


class EngineError(HarnessError):
    """The engine met a model or a state that it cannot handle."""


class OutOfMemoryError(EngineError):
    """Memory ran out for one prompt by itself: another time there may be more."""


class NotFiniteError(EngineError):
    """Log-probabilities or logits are NaN or infinite; says what helps."""


class RequestError(EngineError):
    """A server gave no usable answer to one prompt, whatever was tried: another time it may."""


class SharingError(EngineError):
    """The model's attention cannot be computed over a prefix tree."""


class BrokenDeviceError(HarnessError):
    """A device fails whatever it is given, until the process that uses it ends."""


class ScheduleError(HarnessError):
    """A schedule gives a unit twice, one of another run, or waits although nothing is under way."""


class ClusterLostError(HarnessError):
    """The cluster's head went away during the run."""


class ServerLostError(HarnessError):
    """A server that computes does not answer any more, or refuses everything; committed work stays."""


ENDS_THE_RUN = (BrokenDeviceError, ServerLostError, BudgetError)
"""What one prompt is not to blame for: nothing is gained by asking for the others."""


class StorageError(HarnessError):
    """Storage failed for longer than the harness waits for it."""


class ReplicaError(HarnessError):
    """Replicas died more often than the retry policy allows."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'templates'?`, or the known words when none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(choices)}"
