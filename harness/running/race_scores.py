"""The strategies of a race and what each made of each sample, read from the parts of a run directory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harness.analysis.table import ACCURACY, FloatArray
from harness.config.schema import RaceConfig
from harness.core.errors import ConfigError, did_you_mean
from harness.planning.race_order import RaceOrder
from harness.planning.units import Cell, Plan
from harness.results.store import RunStore

COLUMNS = ["model", "task", "template", "k", "seed", "sample_id", "gold", "prediction", "answer_values", "error_type"]


@dataclass(frozen=True)
class Strategy:
    """One that races."""

    label: str
    keys: tuple[str, ...]
    """What the records of its cells depend on, see `WorkUnit.keys`; several where seeds are averaged."""


def labelled(cells: Sequence[Cell], settings: RaceConfig) -> dict[str, list[Cell]]:
    """What the strategies of a grid are called, and their cells; references, which have no template, do not race.

    Args:
        cells: of the grid.
        settings: `seeds` says whether each draw of demonstrations is a strategy, or their average is.

    Raises:
        ConfigError: fewer than two.
    """
    prompts = [cell for cell in cells if cell.template is not None]
    several_models = len({cell.model for cell in prompts}) > 1
    several_seeds = len({cell.seed for cell in prompts}) > 1 and settings.seeds == "each"
    found: dict[str, list[Cell]] = {}
    for cell in prompts:
        label = f"{cell.template} K={cell.k}"
        label += f" seed={cell.seed}" if several_seeds and cell.k else ""
        found.setdefault(f"{cell.model} {label}" if several_models else label, []).append(cell)
    if len(found) < 2:
        raise ConfigError("a race needs two strategies or more; name more in grid.templates, grid.k or grid.seeds")
    return found


def strategies_of(plan: Plan, settings: RaceConfig) -> tuple[Strategy, ...]:
    """The strategies of a plan; see `labelled`."""
    return tuple(
        Strategy(label, tuple(dict.fromkeys(plan.keys[cell] for cell in cells)))
        for label, cells in labelled(plan.cells, settings).items()
    )


def find_strategy(labels: Sequence[str], label: str) -> int:
    """The place of the strategy that a user's text names.

    Raises:
        ConfigError: there is none.
    """
    if label not in labels:
        raise ConfigError(f"race.baseline is '{label}', which is no strategy of this grid{did_you_mean(label, labels)}")
    return labels.index(label)


def metric_place(settings: RaceConfig, answer_metrics: Sequence[str]) -> int | None:
    """Place of the metric that decides the race among those of generated answers; None for accuracy.

    Raises:
        ConfigError: no such metric.
    """
    known = list(answer_metrics) or [ACCURACY]
    name = settings.metric or known[0]
    if name not in known:
        raise ConfigError(f"race.metric is '{name}', which this task has not{did_you_mean(name, known)}")
    return known.index(name) if answer_metrics else None


class RaceScores:
    """Scores of all strategies on the race's samples, in its order, as far as they are committed.

    Args:
        order: of the race.
        plan: of the grid.
        strategies: that race.
        metric: place among the metrics of generated answers; None for accuracy.
    """

    def __init__(self, order: RaceOrder, plan: Plan, strategies: Sequence[Strategy], metric: int | None) -> None:
        self._order, self._strategies, self._metric = order, strategies, metric
        names = [sample.id for sample in (*order.samples, *order.holdout)]
        self._places = {name: place for place, name in enumerate(names)}
        self._keys: Mapping[Cell, str] = plan.keys
        rows = list(dict.fromkeys(key for strategy in strategies for key in strategy.keys))
        self._rows = {key: row for row, key in enumerate(rows)}
        self._values = np.full((len(rows), len(names)), np.nan)
        """(keys, samples), failed ones -1, those held out last."""
        self._n_race = len(names) - len(order.holdout)
        self._starts = np.concatenate([[0], np.cumsum(order.sizes)[:-1]]).astype(np.int64)
        self._of = [[self._rows[key] for key in strategy.keys] for strategy in strategies]
        self._seen: set[str] = set()

    def read(self, store: RunStore, part_ids: Collection[str]) -> None:
        """Take in parts that were not read before; damaged ones are left to whoever resumes the run.

        Raises:
            ConfigError: a score that is not in 0..1.
        """
        new = set(part_ids) - self._seen
        for part_id, part in store.read_parts(new, COLUMNS):
            if isinstance(part, pa.Table):
                self._seen.add(part_id)
                self._take(part)

    def _take(self, part: pa.Table) -> None:
        frame = part.to_pandas()
        for cell, rows in frame.groupby(["model", "task", "template", "k", "seed"], sort=False):
            model, task, template, k, seed = cell
            row = self._rows.get(self._keys.get(Cell(model, task, template, int(k), int(seed)), ""))
            if row is None:
                continue
            known = [self._places.get(name, -1) for name in rows["sample_id"]]
            places = np.array(known, dtype=np.int64)
            if self._metric is None:
                values = (rows["prediction"] == rows["gold"]).to_numpy(dtype=float)
            else:
                lists = rows["answer_values"]
                values = np.array([np.nan if one is None else one[self._metric] for one in lists], dtype=float)
            failed = rows["error_type"].notna().to_numpy()
            good = values[~failed]
            if not ((good >= 0) & (good <= 1)).all():
                raise ConfigError(
                    f"the race's metric is {np.nanmax(np.abs(good))} on a sample, expected 0 to 1; set race.metric to "
                    "one that is a share"
                )
            values[failed] = -1.0
            inside = places >= 0
            self._values[row, places[inside]] = values[inside]

    def bounds(self, n_steps: int) -> tuple[FloatArray, FloatArray]:
        """Scores in the units of `martingales.Steps`.

        Args:
            n_steps: of the race, from its beginning.

        Returns:
            (strategies, steps) with failed samples as 0, and as 1; NaN where samples have no record.
        """
        values = self._values[:, : int(self._order.sizes[:n_steps].sum())]
        low = self._by_steps(np.maximum(values, 0.0), n_steps)
        failed = values < 0
        return low, self._by_steps(np.where(failed, 1.0, values), n_steps) if failed.any() else low

    def _by_steps(self, values: FloatArray, n_steps: int) -> FloatArray:
        """(keys, samples) as means over each strategy's keys and sums over each step, in units of the mean step."""
        if self._of != [[row] for row in range(len(values))]:
            values = np.stack([values[rows].mean(axis=0) for rows in self._of])
        if len(self._starts) < self._n_race:
            values = np.add.reduceat(values, self._starts[:n_steps], axis=1) / self._order.sizes.mean()
        return values

    def held_out(self, strategy: int) -> FloatArray:
        """(samples held out,) of a strategy; NaN where it failed or has no record."""
        values = self._values[self._of[strategy], self._n_race :]
        mean: FloatArray = np.where(values < 0, np.nan, values).mean(axis=0)
        return mean

    def n_failed(self, strategy: int) -> int:
        """Samples of the race that failed under a strategy."""
        return int((self._values[self._of[strategy], : self._n_race] < 0).any(axis=0).sum())
