"""Where the time of one run of this project goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.scorer import Scorer
from tests.bench.clock import Clock
from tests.bench.limit import linear_layers
from tests.bench.workloads import Workload

PARTS = (
    "rendering and tokenising",
    "weight matrices",
    "attention",
    "rest of the layers",
    "head",
    "tree, packs, the rest",
)


class Profile:
    """Seconds per part. On a GPU every boundary waits for it, so that the parts are true and the total is larger."""

    def __init__(self, now: Clock) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)

    def timing(self, part: str, function: Any) -> Any:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self.now() - started

        return timed

    def shares(self) -> dict[str, float]:
        """Seconds of each of `PARTS`, which add up to the total."""
        s = self.seconds
        backbone = s["backbone"] - s["weight matrices"] - s["attention"]
        rest = s["total"] - s["rendering and tokenising"] - s["backbone"] - s["head"]
        return {
            **{part: s[part] for part in PARTS},
            "rest of the layers": backbone,
            "tree, packs, the rest": rest,
        }


@contextmanager
def profiled(scorer: Scorer, profile: Profile) -> Iterator[None]:
    """Time the parts of what a scorer does in the block."""
    original = ALL_ATTENTION_FUNCTIONS[NAME]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(scorer, "head", _TimedHead(scorer.head, profile)))
        stack.enter_context(
            mock.patch.object(Workload, "render", profile.timing("rendering and tokenising", Workload.render))
        )
        for part, modules in (
            ("weight matrices", linear_layers(scorer.model)),
            ("backbone", [scorer.model.base_model]),
        ):
            for module in modules:
                stack.enter_context(mock.patch.object(module, "forward", profile.timing(part, module.forward)))
        ALL_ATTENTION_FUNCTIONS.register(NAME, profile.timing("attention", original))
        stack.callback(ALL_ATTENTION_FUNCTIONS.register, NAME, original)
        started = profile.now()
        yield
        profile.seconds["total"] += profile.now() - started


class _TimedHead:
    def __init__(self, head: Any, profile: Profile) -> None:
        self._head = head
        self._call = profile.timing("head", head)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)
