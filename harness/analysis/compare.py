"""The `compare` verb: from run directories to differences between strategies.

Knows where records, clusters and metric names lie; refuses to know how anything is printed or
estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.allocation import allocations
from harness.analysis.calibrated import KEYS, calibrated_records
from harness.analysis.failures import common_samples, failures
from harness.analysis.figures import FIGURES, figure_values
from harness.analysis.intervals import LEVEL, mean_interval
from harness.analysis.paired import Pair, best_of, best_shares, compare_pairs, may_be_best
from harness.analysis.selection import Selection, selection
from harness.analysis.sensitivity import sensitivity_by_strategy
from harness.analysis.strategies import THIS_DRAW, Strategies, by_axes, every_cell
from harness.analysis.summary import sample_clusters
from harness.analysis.table import ACCURACY, BoolArray, ValueTable, value_table
from harness.analysis.variance import Decomposition, decompose
from harness.core.errors import ConfigError, DataError, RunDirError, did_you_mean
from harness.core.hashing import content_hash
from harness.results import manifest as manifests
from harness.results.records import NAMES, load_records
from harness.results.samples import check_known, read_samples
from harness.results.store import RunStore

SEEDS = ("random", "pooled", "fixed")
_WHERE_NONE = "labels that are compared have no answers, generated ones no scores, and failed samples nothing"


@dataclass(frozen=True)
class Comparison:
    """Strategies on the same samples."""

    settings: dict[str, Any]
    """Runs, metric, axes, level, seeds of the random draws: all that is needed to repeat it."""
    strategies: pd.DataFrame
    """Best first: `label`, the axes, `mean`, `low`, `high`, `method`, `n` (samples behind the mean: those that all
    ranked strategies have), `n_scored`, `n_attempted`, `n_units`, `is_ranked` (else it has too few samples in common
    with the others: its mean is over its own, and it comes last), `is_best`, `may_be_best` (the truly best
    is one of these with probability `level`), `share_best` (of bootstrap resamples)."""
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
    table, name = _table(run_dirs, metric, calibrated)
    as_scored = table.only(table.cells[table.cells["calibration"] == ""])
    if calibrated and by:
        by = [*by, "calibration"]
    is_quality = name not in FIGURES or FIGURES[name].is_quality
    strategies = by_axes(table, by) if by else every_cell(table)
    if len(strategies.labels) < 2:
        raise ConfigError("one strategy in these records; comparing needs two (templates, K, seeds, models or runs)")
    if seeds not in SEEDS:
        raise ConfigError(f"no way '{seeds}' to take seeds{did_you_mean(seeds, SEEDS)}")
    fixed, pooled = seeds == "fixed", seeds == "pooled"
    notes = _notes(strategies, table.cells, seeds)
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
        scope=_scope(strategies, best, table.cells, fixed),
        best=labels[best],
        sensitivity=sensitivity_by_strategy(as_scored, seed) if is_quality else pd.DataFrame(),
        variance=_variance(as_scored),
        allocation=allocations(as_scored, level),
        notes=(*notes, *_common_notes(strategies, samples, ranked)),
        warnings=_warnings(strategies, best),
    )


def _selection(common: Strategies, ranked: BoolArray, seed: int, level: float) -> Selection:
    rows = np.flatnonzero(ranked)
    found = selection(common.values[rows], common.clusters, seed, level)
    return replace(found, best=int(rows[found.best]))


def _scope(strategies: Strategies, best: int, cells: pd.DataFrame, fixed_seeds: bool) -> str:
    """What the figure of the best is about: samples, and draws of demonstrations where several were averaged."""
    seeds = len(strategies.seeds)
    if seeds > 1 and not fixed_seeds:
        return "new samples and new draws of demonstrations"
    if seeds > 1:
        return f"new samples, for these {seeds} draws of demonstrations"
    level = strategies.levels.iloc[best]
    drawn = level["k"] > 0 if "k" in level else bool((cells["k"] > 0).any())
    return "new samples, for this draw of demonstrations" if drawn else "new samples"


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


def read_manifest(run_dir: str, *entries: str) -> dict[str, Any]:
    """The manifest of a run directory, with its records' entries and these checked.

    Raises:
        RunDirError: not a run directory, or a damaged one.
    """
    return manifests.read_manifest(RunStore(run_dir), "config", "class_names", "n_samples", *entries)


def _table(run_dirs: Sequence[str], metric: str | None, calibrated: Sequence[str]) -> tuple[ValueTable, str]:
    known = known_metrics(read_manifest(run_dirs[0]))
    name = known[0] if metric is None else metric
    if name not in known:
        raise ConfigError(f"no metric '{name}' of single samples in '{run_dirs[0]}'{did_you_mean(name, known)}")
    values = ["gold", "prediction"] if name == ACCURACY else ["answer_values"]
    if calibrated and name != ACCURACY:
        raise ConfigError(f"calibrated predictions are compared by {ACCURACY}, not by '{name}'")
    names = _run_names(run_dirs)
    frames: list[pd.DataFrame] = []
    clusters: dict[str, str] = {}
    asked: dict[str, tuple[str, str]] = {}
    for run_dir, run in zip(run_dirs, names, strict=True):
        manifest = read_manifest(run_dir)
        found = known_metrics(manifest)
        if name not in found:
            raise ConfigError(
                f"no metric '{name}' in '{run_dir}', which has {', '.join(found)}; compare runs of one task"
            )
        is_own = name in (manifest.get("answer_metrics") or [ACCURACY])
        frame = load_records(run_dir, [*KEYS, *(values if is_own else FIGURES[name].columns)], categories=True)
        if frame.empty:
            raise RunDirError(
                f"'{run_dir}' has no records yet, or none that can be read; run or resume it with `harness run`"
            )
        if not is_own:
            frame = frame.assign(**{name: figure_values(frame, name)})
            if frame[name].isna().all():
                raise ConfigError(f"no record of '{run_dir}' has a value for '{name}'; {_WHERE_NONE}")
        if calibrated:
            plain = frame.assign(calibration="", **{column: frame[column].astype(str) for column in NAMES})
            frame = pd.concat([plain, calibrated_records(run_dir, calibrated)], ignore_index=True)
            frame = frame.assign(**{column: frame[column].astype("category") for column in NAMES})
        frames.append(frame.assign(run=run))
        own = sample_clusters(RunStore(run_dir))
        check_known(RunStore(run_dir), own, frame["sample_id"].cat.categories)
        clusters |= own
        if len(run_dirs) > 1:
            if asked and not asked.keys() & own.keys():
                raise DataError(
                    f"'{run_dir}' has no sample in common with the runs before it; compare runs over the same samples "
                    "(task.limit, task.sample_seed)"
                )
            _check_same_samples(asked, run_dir)
    for column in NAMES if len(frames) > 1 else ():
        known_names = sorted(set().union(*(frame[column].cat.categories for frame in frames)))
        for frame in frames:
            frame[column] = frame[column].cat.set_categories(known_names)
    return value_table(pd.concat(frames, ignore_index=True), name, clusters), name


def known_metrics(manifest: Mapping[str, Any]) -> list[str]:
    """What the strategies of a run can be compared by, what it is judged by first."""
    own = list(manifest.get("answer_metrics") or [ACCURACY])
    further = [name for name in FIGURES if name not in own]
    if manifest.get("answer_metrics"):
        further = [name for name in further if not {"prediction", "off_label_mass"} & set(FIGURES[name].columns)]
    elif len(manifest["class_names"]) != 2:
        further.remove("predicted_positive_share")
    return own + further


def _check_same_samples(asked: dict[str, tuple[str, str]], run_dir: str) -> None:
    """Refuse a run whose samples have other texts or answers than the same ids in a run before it.

    Args:
        asked: sample id to the hash of what was asked and the run directory; the run's are added.
        run_dir: the run.

    Raises:
        DataError: naming the sample.
    """
    for row in read_samples(RunStore(run_dir)).to_pylist():
        sample_id = row.pop("sample_id")
        found = content_hash(row), run_dir
        before = asked.setdefault(sample_id, found)
        if before[0] != found[0]:
            raise DataError(
                f"sample '{sample_id}' of '{run_dir}' has other texts, answers or another cluster than in "
                f"'{before[1]}'; compare runs over the same samples (data files, task.options.clean_text)"
            )


def _run_names(run_dirs: Sequence[str]) -> list[str]:
    """Empty for one run; else the folders' names, or the whole paths where names repeat."""
    if len(run_dirs) == 1:
        return [""]
    names = [PurePosixPath(run_dir.rstrip("/")).name for run_dir in run_dirs]
    return names if len(set(names)) == len(names) else [str(run_dir) for run_dir in run_dirs]


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


def _notes(strategies: Strategies, cells: pd.DataFrame, seeds_as: str) -> tuple[str, ...]:
    notes = list(strategies.notes)
    n = strategies.values.shape[-1]
    if strategies.clusters is not None:
        notes.append(
            f"{n} samples in {len(np.unique(strategies.clusters))} clusters: intervals and tests are by cluster"
        )
    seeds = len(strategies.seeds)
    if seeds > 1 and seeds_as == "fixed":
        notes.append(f"{seeds} seeds averaged; conclusions hold for these seeds only")
    elif seeds > 1:
        notes.append(f"{seeds} seeds averaged, as drawn at random: intervals and tests include their variance")
        if seeds_as == "pooled":
            notes.append(
                "pooled: the seeds' part of every difference is that of all strategies together, which holds if draws "
                "of demonstrations move all of them equally much; means and the figure of the best do not use it"
            )
        elif seeds < 5:
            notes.append(
                f"{seeds} seeds say little about seeds at large: {_conservative(seeds)} "
                "Run 5 or more, take all strategies together (--seeds pooled) or limit to these (--seeds fixed)"
            )
    if "batch" in set(cells["calibration"]):
        notes.append("+batch uses the other test samples (not their labels), so it cannot judge a single sample")
    if strategies.is_one_draw:
        several = cells["seed"].nunique() > 1
        how = "average the draws: --by template,k" if several else "run more (grid.seeds=[1,2,3,4,5]), --by template,k"
        notes.append(
            f"{THIS_DRAW}. Another may turn a verdict round, however small p is; for templates and K at large, {how}"
        )
    return tuple(notes)


def _common_notes(strategies: Strategies, samples: BoolArray, ranked: BoolArray) -> list[str]:
    missing = int((~strategies.scored).any(axis=1).sum())
    if not missing:
        return []
    lack = "1 strategy lacks" if missing == 1 else f"{missing} strategies lack"
    notes = [
        f"{lack} samples: means and the best are over the {int(samples.sum())} that all have, each pair over those "
        "that both have"
    ]
    left_out = [label for label, is_ranked in zip(strategies.labels, ranked, strict=True) if not is_ranked]
    if left_out:
        notes.append(f"too few samples in common with the others to be ranked: {', '.join(left_out)}")
    return notes


def _warnings(strategies: Strategies, best: int) -> tuple[str, ...]:
    """That failure rates differ, and what that could hide."""
    known = strategies.values[np.isfinite(strategies.values)]
    found = failures(strategies, best)
    if found is None:
        return ()
    least, most = int(np.nanargmin(found.shares)), int(np.nanargmax(found.shares))
    labels = strategies.labels
    text = (
        f"failure rates differ, from {found.shares[least]:.1%} ({labels[least]}) to {found.shares[most]:.1%} "
        f"({labels[most]}), and what fails is seldom random"
    )
    if known.min() >= 0 and known.max() <= 1 and np.isfinite(found.lead):
        place = "ahead of" if found.lead > 0 else "behind"
        text += (
            f": if every failure of {labels[best]} were wrong and of {labels[found.rival]} right, the latter would be "
            f"{abs(found.lead):.4f} {place} the best"
        )
    return (text,)


def _conservative(seeds: int) -> str:
    if seeds == 2:
        return "intervals hold the truth in 95 to 99.5% of cases, and tests rarely tell two apart."
    return "tests rarely tell two apart where seeds hardly matter."


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
