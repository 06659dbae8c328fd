"""The `compare` verb: from run directories to differences between strategies.

Knows in which order strategies are ranked, paired and judged; refuses to know where records lie
(`compared_runs`), how anything is estimated, put in words (`caveats`) or printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.allocation import allocations
from harness.analysis.caveats import notes_on, notes_on_missing, scope_of, warnings_on
from harness.analysis.cells import of_prompts
from harness.analysis.compared_runs import averaged_apart, values_of_runs
from harness.analysis.crossing import Crossing, crossings
from harness.analysis.failures import common_samples
from harness.analysis.figures import FIGURES
from harness.analysis.intervals import LEVEL, mean_interval
from harness.analysis.paired import Pair, best_of, best_shares, compare_pairs, may_be_best
from harness.analysis.raced import raced_note
from harness.analysis.selection import Selection, selection
from harness.analysis.sensitivity import sensitivity_by_strategy
from harness.analysis.strategies import Strategies, by_axes, every_cell
from harness.analysis.table import ACCURACY, BoolArray, ValueTable
from harness.analysis.variance import Decomposition, decompose
from harness.core.errors import ConfigError, did_you_mean

SEEDS = ("random", "pooled", "fixed")


@dataclass(frozen=True)
class Comparison:
    """Strategies on the same samples."""

    settings: dict[str, Any]
    """Runs, metric, axes, level, seeds of the random draws: all that is needed to repeat it."""
    strategies: pd.DataFrame
    """Best first: `label`, the axes, `mean`, `low`, `high`, `method`, `n` (samples behind the mean: those that all
    ranked strategies have), `n_scored`, `n_attempted`, `n_units`, `is_ranked` (else it has too few samples in common
    with the others: its mean is over its own, and it comes last), `is_best`, `may_be_best` (the truly best
    is one of these with probability `level`), `share_best` (of bootstrap resamples), `tokens` (mean of a
    prompt; NaN where unknown, and for references)."""
    pairs: pd.DataFrame
    """As `analysis.paired.compare_pairs`, with labels."""
    selection: Selection
    """What the best is worth when the luck of the choice is taken off."""
    is_one_draw: bool
    """Whether each strategy with K > 0 is one draw of demonstrations: verdicts hold for this draw."""
    scope: str
    """What that figure is about, such as `new samples, for this draw of demonstrations`."""
    best: str
    sensitivity: pd.DataFrame
    """Over templates; empty when there is one, or where more is not better."""
    variance: pd.DataFrame
    """Components per run and model; empty when nothing but the samples varies."""
    allocation: pd.DataFrame
    """What limits a difference and what to buy, per run and model: `analysis.allocation.Allocation` and `buy`."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    """What could make the choice of the best wrong."""
    members: pd.DataFrame
    """The cells that each strategy is averaged over: `label` of the strategy, and the cell's axes."""
    crossings: tuple[Crossing, ...] = ()
    """Learning curves against the best prompt; only where more is better."""


def compare(
    run_dirs: Sequence[str],
    by: Sequence[str] = (),
    baseline: str | None = None,
    metric: str | None = None,
    *,
    seeds: str = "random",
    calibrated: Sequence[str] = (),
    level: float = LEVEL,
    replicates: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare the strategies of one or several runs of a task.

    Args:
        run_dirs: run directories; several add the axis `run`.
        by: axes whose levels are the strategies, the others averaged; empty: every cell.
        baseline: a strategy that all others are compared with; its label, or `axis=value` pairs
            separated by commas. None: all pairs.
        metric: `accuracy`, a metric of generated answers or one of `analysis.figures.FIGURES`; None: what the task
            is judged by.
        seeds: one of `SEEDS`, where seeds are averaged: `random` concludes about seeds at large; `pooled` too, and
            takes draws to move all strategies equally much; `fixed` concludes about the seeds that were run.
        calibrated: of `calibrated.METHODS`; what so corrected scores predict are further strategies, which the best
            is chosen from as well.
        level: of all intervals; 1 - level is the family-wise error rate.
        replicates: bootstrap resamples.
        seed: of all random draws.

    Raises:
        RunDirError: not a run directory.
        ConfigError: unknown axis, metric or baseline; fewer than two strategies.
        DataError: runs of different tasks or samples.
    """
    table, name = values_of_runs(run_dirs, metric, calibrated)
    is_plain = table.cells["calibration"] == ""
    as_scored = table.only(of_prompts(table.cells[is_plain]))
    if calibrated and by:
        by = [*by, "calibration"]
    is_quality = name not in FIGURES or FIGURES[name].is_quality
    strategies, tokens = (by_axes(one, by) if by else every_cell(one) for one in (table, table.of_tokens))
    if len(strategies.labels) < 2:
        raise ConfigError("one strategy in these records; comparing needs two (templates, K, seeds, models or runs)")
    if seeds not in SEEDS:
        raise ConfigError(f"no way '{seeds}' to take seeds{did_you_mean(seeds, SEEDS)}")
    fixed, pooled = seeds == "fixed", seeds == "pooled"
    notes = notes_on(strategies, table.cells, seeds)
    if fixed:
        strategies = strategies.with_fixed_seeds()
    per_sample = strategies.per_sample
    if not np.isfinite(per_sample).any():
        raise ConfigError("no sample was scored under any strategy; nothing to compare")
    samples, ranked = common_samples(strategies.scored)
    common = strategies.on(samples)
    rows = _strategy_rows(strategies, common, ranked, level)
    all_pairs = compare_pairs(strategies, None, level, seed, pool_seeds=pooled)
    best = best_of(rows["mean"].where(ranked).to_numpy(dtype=float))
    group = may_be_best(all_pairs, len(rows), level) & strategies.scored.any(axis=1)
    pairs = all_pairs
    if baseline is not None:
        base = find_strategy(strategies, baseline)
        against: list[Pair] = [(row, base) for row in range(len(rows)) if row != base]
        pairs = compare_pairs(strategies, against, level, seed, pool_seeds=pooled)
    labels = dict(enumerate(strategies.labels))
    pairs = pairs.assign(first=pairs["first"].map(labels), second=pairs["second"].map(labels))
    rows["is_best"] = [row == best for row in range(len(rows))]
    rows["may_be_best"] = [row == best or bool(inside) for row, inside in enumerate(group)]
    rows["tokens"] = tokens.values.mean(axis=(1, 2))
    rows["share_best"] = 0.0
    rows.loc[ranked, "share_best"] = best_shares(common.per_sample[ranked], common.clusters, replicates, seed)
    return Comparison(
        settings={
            "run_dirs": list(run_dirs),
            "metric": name,
            "is_quality": is_quality,
            "by": list(by),
            "averaged": [*strategies.averaged, *(["seed"] if strategies.seeds else [])],
            "seeds": list(strategies.seeds),
            "seeds_as": seeds,
            "calibrated": list(calibrated),
            "baseline": baseline,
            "level": level,
            "replicates": replicates,
            "seed": seed,
        },
        strategies=rows.sort_values(
            ["is_ranked", "mean", "is_best"], ascending=False, kind="stable", ignore_index=True
        ),
        pairs=pairs,
        selection=_selection(common, ranked, seed, level),
        is_one_draw=strategies.is_one_draw,
        scope=scope_of(strategies, best, table.cells, fixed),
        best=labels[best],
        sensitivity=sensitivity_by_strategy(as_scored, seed) if is_quality else pd.DataFrame(),
        variance=_variance(as_scored),
        allocation=allocations(as_scored, level),
        notes=(*notes, *notes_on_missing(strategies, samples, ranked)),
        warnings=(
            *_warnings_on_races(run_dirs, table),
            *(averaged_apart(run_dirs) if by and "run" not in by else ()),
            *warnings_on(strategies, best),
        ),
        members=_members(strategies, table),
        crossings=crossings(table, level, seed) if name == ACCURACY else (),
    )


def _members(strategies: Strategies, table: ValueTable) -> pd.DataFrame:
    rows = [(label, row) for label, own in zip(strategies.labels, strategies.members, strict=True) for row in own]
    cells = table.cells.iloc[[row for _, row in rows]].reset_index(drop=True)
    cells.insert(0, "label", [label for label, _ in rows])
    return cells


def _warnings_on_races(run_dirs: Sequence[str], table: ValueTable) -> list[str]:
    counts = [table.n_attempted[rows.index].tolist() for _, rows in table.cells.groupby("run", sort=False)]
    notes = [raced_note(run_dir, own) for run_dir, own in zip(run_dirs, counts, strict=True)]
    return [note for note in notes if note is not None]


def _selection(common: Strategies, ranked: BoolArray, seed: int, level: float) -> Selection:
    rows = np.flatnonzero(ranked)
    found = selection(common.values[rows], common.clusters, seed, level)
    return replace(found, best=int(rows[found.best]))


def find_strategy(strategies: Strategies, text: str) -> int:
    """The row that a user's text names: a label, a level of the only axis, or `axis=value,...`.

    Raises:
        ConfigError: none or several.
    """
    if text in strategies.labels:
        return strategies.labels.index(text)
    levels = strategies.levels
    wanted = [part.strip().partition("=") for part in text.split(",")]
    if len(levels.columns) == 1 and len(wanted) == 1 and not wanted[0][1]:
        wanted = [(str(levels.columns[0]), "=", text)]
    found = pd.Series(True, index=levels.index)
    for axis, sign, value in wanted:
        if not sign or axis.lower() not in levels:
            found[:] = False
            break
        found &= levels[axis.lower()].astype(str) == value
    rows = np.flatnonzero(found)
    if len(rows) != 1:
        what = f"{len(rows)} strategies are" if len(rows) else "no strategy is"
        hint = "; name more axes" if len(rows) else did_you_mean(text, strategies.labels)
        raise ConfigError(f"{what} '{text}'; expected a label or axis=value pairs{hint}")
    return int(rows[0])


def _strategy_rows(strategies: Strategies, common: Strategies, ranked: BoolArray, level: float) -> pd.DataFrame:
    rows = []
    counts = zip(strategies.labels, strategies.scored.sum(axis=1), strategies.n_attempted, strict=True)
    for row, (label, scored, attempted) in enumerate(counts):
        judged = common if ranked[row] else strategies
        found = mean_interval(judged.values[row], judged.clusters, level)
        rows.append(
            {
                "label": label,
                "mean": found.value,
                "low": found.low,
                "high": found.high,
                "method": found.method,
                "n": found.n,
                "n_scored": int(scored),
                "n_attempted": int(attempted),
                "n_units": found.n_units,
                "is_ranked": bool(ranked[row]),
            }
        )
    figures = pd.DataFrame(rows)
    return pd.concat([figures[["label"]], strategies.levels, figures.drop(columns="label")], axis=1)


def _variance(table: ValueTable) -> pd.DataFrame:
    frames = []
    for run, model in table.cells[["run", "model"]].drop_duplicates().itertuples(index=False):
        found: Decomposition | None = decompose(table, model, run)
        if found is not None:
            facts = {"run": run, "model": model, "n_samples": found.n_samples, "n_dropped": found.n_dropped}
            frames.append(found.components.assign(**facts, note="; ".join(found.notes)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def selection_facts(found: Selection) -> dict[str, Any]:
    """A selection as plain data."""
    return asdict(found)
