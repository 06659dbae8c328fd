"""How many labelled examples a trained classifier takes to be as good as the best prompt.

Estimand: the n at which the classifier's expected accuracy, joined by straight lines on log n between the sizes that
were trained, first reaches what the best prompt is worth on new samples. Knows values of cells; refuses to know where
records lie and how anything is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from harness.analysis.intervals import LEVEL, Estimate, mean_interval, paired_interval
from harness.analysis.selection import judged_values, luck_variance, selection
from harness.analysis.table import FloatArray, IntArray, ValueTable

POINTS = 8
"""Places between two sizes at which the difference is tested at first."""
HALVINGS = 10
"""Of the stretch in which an end of the interval lies."""


@dataclass(frozen=True)
class Crossing:
    """One classifier's learning curve against the best prompt."""

    run: str
    model: str
    sizes: tuple[int, ...]
    means: tuple[Estimate, ...]
    """The classifier's, per size, over seeds."""
    prompt: Estimate
    """What the best prompt is worth, the luck of the choice taken off."""
    n_prompts: int
    """That the best was chosen from."""
    n_seeds: int
    n_samples: int
    value: float
    """Where the two are level; 0 where the classifier leads at the smallest size, infinite where it trails at all."""
    low: float
    """0 where the samples do not show that the classifier is behind at the smallest size."""
    high: float
    """From here on the classifier is shown to be better; infinite where it is not at the largest size."""
    level: float
    n_left_out: int = 0
    """Trainings that there are besides: of seeds, or sizes, that not all of the others have."""


def crossings(table: ValueTable, level: float = LEVEL, seed: int = 0) -> tuple[Crossing, ...]:
    """One per classifier that was trained on two sizes or more under the same seeds, beside at least one prompt.

    Args:
        table: of cells with values in 0..1.
        level: of the intervals.
        seed: of the dealing that judges the best prompt.
    """
    cells = table.cells
    plain = cells["calibration"] == ""
    found = []
    for run in cells["run"].unique():
        prompts = cells.index[plain & (cells["run"] == run) & cells["template"].notna()]
        trained = cells[plain & (cells["run"] == run) & cells["template"].isna() & cells["k"].notna()]
        for model, own in trained.groupby("model", sort=False):
            place = {(int(k), int(s)): row for row, k, s in zip(own.index, own["k"], own["seed"], strict=True)}
            sizes, seeds = _whole(set(place))
            if len(sizes) > 1 and len(prompts):
                rows = np.array([[place[n, s] for s in seeds] for n in sizes])
                curve = _crossing(table, rows, prompts.to_numpy(), sizes, (level, seed))
                if curve is not None:
                    left_out = len(place) - len(sizes) * len(seeds)
                    found.append(replace(curve(str(run), str(model)), n_left_out=left_out))
    return tuple(found)


def _whole(trained: set[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """All sizes with the seeds that all of them have; where they share none, the sizes that have most seeds.

    While a run goes on, or where it grew by seeds, some sizes have fewer seeds than others. To leave such a size out
    would end the curve before it.
    """
    sizes, seeds = ({one[place] for one in trained} for place in (0, 1))
    shared = [s for s in sorted(seeds) if all((n, s) in trained for n in sizes)]
    if shared:
        return sorted(sizes), shared
    most = max((sum(n == size for n, _ in trained) for size in sizes), default=0)
    kept = [n for n in sorted(sizes) if sum(n == size for size, _ in trained) == most]
    return kept, [s for s in sorted(seeds) if all((n, s) in trained for n in kept)]


def _crossing(
    table: ValueTable, rows: IntArray, prompts: IntArray, sizes: Sequence[int], settings: tuple[float, int]
) -> Callable[[str, str], Crossing] | None:
    """The crossing of a curve on the samples that all of its cells and all prompts have."""
    level, seed = settings
    curve, own = table.values[rows], table.values[prompts]
    known = np.isfinite(curve).all(axis=(0, 1)) & np.isfinite(own).all(axis=0)
    if known.sum() < 2:
        return None
    curve, own = curve[..., known], own[:, known]
    clusters = None if table.clusters is None else np.unique(table.clusters[known], return_inverse=True)[1]
    value, low, high = crossing_point(curve, own, sizes, clusters, level, seed)
    means = tuple(mean_interval(one, clusters, level) for one in curve)
    prompt = selection(own, clusters, seed, level).expected
    return lambda run, model: Crossing(
        run, model, tuple(sizes), means, prompt, len(prompts), rows.shape[1], int(known.sum()), value, low, high, level
    )  # fmt: skip


def crossing_point(
    curve: FloatArray,
    prompts: FloatArray,
    sizes: Sequence[int],
    clusters: IntArray | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Where a curve reaches the best prompt, and the interval.

    An n is in the interval where the curve at n and the best prompt are not shown to differ, paired on the same
    samples, with the variance of seeds, of samples and of the choice (`paired_interval`, `luck_variance`): the
    interval holds the true n as often as that interval holds the true difference there. What the best prompt makes of a
    sample is judged by samples that did not choose it (`selection`).

    Args:
        curve: (sizes, seeds, samples) in 0..1, without NaN.
        prompts: (prompts, samples).
        sizes: ascending, at least two.
        clusters: (samples,) codes.
        level: of the interval.
        seed: of the dealing.

    Returns:
        The n, its low and its high end; 0 for below the smallest size, infinite for beyond the largest.
    """
    best = prompts[int(prompts.mean(axis=1).argmax())]
    # The mean is judged, the spread is that of one prompt: averages over choices vary less than any of them.
    luck = float(best.mean() - judged_values(prompts, clusters, seed).mean())
    uncertain = luck_variance(prompts, clusters, seed)
    logs = np.log(np.asarray(sizes, dtype=float))
    places = np.linspace(0.0, len(sizes) - 1, POINTS * (len(sizes) - 1) + 1)

    def verdict(place: float) -> int:
        """1 where the curve is shown to be better, -1 where it is shown to be worse, else 0."""
        found = paired_interval(_between(curve, place) - best, clusters, level, added_variance=uncertain)
        return int(found.low + luck > 0) - int(found.high + luck < 0)

    def n_at(place: float) -> float:
        return math.exp(float(np.interp(place, np.arange(len(sizes)), logs)))

    def turn(before: float, after: float, is_over: Callable[[int], bool]) -> float:
        for _ in range(HALVINGS):
            middle = (before + after) / 2
            before, after = (before, middle) if is_over(verdict(middle)) else (middle, after)
        return n_at((before + after) / 2)

    verdicts = [verdict(place) for place in places]
    low, high = 0.0, math.inf
    if verdicts[0] < 0:
        first = next((i for i, one in enumerate(verdicts) if one >= 0), None)
        # Behind at all sizes: the n lies beyond.
        low = float(sizes[-1]) if first is None else turn(places[first - 1], places[first], lambda one: one >= 0)
    if verdicts[-1] > 0:
        last = next((i for i in reversed(range(len(places))) if verdicts[i] <= 0), None)
        high = float(sizes[0]) if last is None else turn(places[last], places[last + 1], lambda one: one > 0)
    return _point(curve.mean(axis=(1, 2)) - best.mean() + luck, logs), low, high


def _between(curve: FloatArray, place: float) -> FloatArray:
    """(seeds, samples) at a place between two sizes."""
    at = min(int(place), len(curve) - 2)
    share = place - at
    mixed: FloatArray = (1 - share) * curve[at] + share * curve[at + 1]
    return mixed


def _point(ahead: FloatArray, logs: FloatArray) -> float:
    if ahead[0] >= 0:
        return 0.0
    for i in range(len(ahead) - 1):
        if ahead[i] < 0 <= ahead[i + 1]:
            share = -ahead[i] / (ahead[i + 1] - ahead[i])
            return math.exp(float(logs[i] + share * (logs[i + 1] - logs[i])))
    return math.inf


def crossing_text(found: Crossing) -> str:
    """A crossing as a sentence."""
    largest, smallest = found.sizes[-1], found.sizes[0]
    if found.value == 0:
        point = f"is level with the best prompt below n = {smallest:,}"
    elif math.isinf(found.value):
        point = f"is not level with the best prompt within n = {largest:,}"
    else:
        point = f"is level with the best prompt at n = {found.value:,.0f} labelled examples"
    start = f"from {found.low:,.0f}" if found.low else f"from below {smallest:,}"
    ends = [start, f"beyond {largest:,}" if math.isinf(found.high) else f"{found.high:,.0f}"]
    if found.low == largest or found.high == smallest:
        ends = [f"beyond {largest:,}" if found.low == largest else f"below {smallest:,}"]
    shown = (
        "not shown to be better at any size"
        if math.isinf(found.high)
        else f"shown to be better from n = {found.high:,.0f} on"
    )
    seeds = "1 draw of examples" if found.n_seeds == 1 else f"{found.n_seeds} draws of examples"
    if found.n_left_out:
        seeds += f", {found.n_left_out} trainings left out that not all sizes or seeds have"
    return f"{found.model} {point} ({100 * found.level:g}%: {' to '.join(ends)}; {seeds}), {shown}"


def curve_rows(found: Sequence[Crossing]) -> pd.DataFrame:
    """One row per classifier and size: `run`, `model`, `n`, `mean`, `low`, `high`."""
    return pd.DataFrame(
        [
            {"run": one.run, "model": one.model, "n": n, "mean": mean.value, "low": mean.low, "high": mean.high}
            for one in found
            for n, mean in zip(one.sizes, one.means, strict=True)
        ]
    )
