"""What replicas tell Ray's metrics: counters and latencies per model and replica.

Ray exports them to Prometheus on every node; `docs/running_on_a_cluster.md` shows them in Grafana.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from harness.results.schema import UnitStatistics

TAGS = ("model", "replica")
SECONDS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]


class ReplicaMetrics:
    """The metrics of one replica.

    Args:
        model: tag of all of them.
        replica: the replica's name, likewise.
    """

    def __init__(self, model: str, replica: str) -> None:
        def counter(name: str, description: str) -> Counter:
            made = Counter(name, description, TAGS)
            made.set_default_tags({"model": model, "replica": replica})
            return made

        self._prompts = counter("harness_prompts", "Prompts that went through the model.")
        self._tokens = counter("harness_unique_tokens", "Tokens that the model computed.")
        self._units = counter("harness_units", "Work units committed.")
        self._failures = counter("harness_failures", "Records that failed.")
        self._seconds = Histogram("harness_unit_seconds", "Wall time of a work unit.", SECONDS, TAGS)
        self._seconds.set_default_tags({"model": model, "replica": replica})

    def count(self, unit: UnitStatistics) -> None:
        """Add a finished unit."""
        self._units.inc()
        self._seconds.observe(unit.seconds)
        for metric, amount in (
            (self._prompts, unit.n_prompts),
            (self._tokens, unit.tokens_computed),
            (self._failures, unit.n_failed),
        ):
            if amount:
                metric.inc(amount)
