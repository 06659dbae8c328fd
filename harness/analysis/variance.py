"""Where differences between single results come from: template, K, seed, sample, interactions.

A crossed random-effects decomposition by the method of moments (ANOVA), over the complete part of
the table. It does not say what the next evaluation should buy: see `allocation`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.table import FloatArray, IntArray, ValueTable

FACTORS = ("template", "k", "seed", "sample")
GROUPS = 50
"""Of samples left out in turn for the standard errors."""
Effect = tuple[str, ...]


@dataclass(frozen=True)
class Decomposition:
    """Variance components of one model's cells."""

    components: pd.DataFrame
    """`effect`, `df`, `component` (may be below zero, as the method gives it), `share` (components
    below zero count as zero) and their standard errors `component_se`, `share_se`."""
    n_samples: int
    """Complete samples, scored in every cell that is used."""
    n_dropped: int
    """Samples left out because some cell has no value for them."""
    levels: dict[str, int]
    """Factor to number of levels."""
    notes: tuple[str, ...]


def decompose(table: ValueTable, model: str, run: str = "") -> Decomposition | None:
    """The decomposition of one model's cells (of one run).

    K = 0 is left out as soon as other K exist: its seeds are copies, so it has no seed variance,
    and the others' would be mixed with nil. Only templates, Ks and seeds that make a full grid
    are used (seeds are dropped first, as far as templates and Ks lack them).

    Args:
        table: of cells.
        model: whose cells.
        run: whose cells, where the table has several.

    Returns:
        None when nothing varies but the samples, or fewer than two samples are complete.
    """
    grid, levels, notes = _full_grid(table, model, run)
    if grid is None:
        return None
    known = np.isfinite(grid).all(axis=(0, 1, 2))
    complete = grid[..., known]
    names = [name for name, size in zip(FACTORS, complete.shape, strict=True) if size > 1]
    if "sample" not in names or len(names) < 2:
        return None
    array = complete.reshape([size for size in complete.shape if size > 1])
    clusters = None if table.clusters is None else table.clusters[known]
    return Decomposition(
        components=_with_errors(array, names, clusters),
        n_samples=int(known.sum()),
        n_dropped=int((~known).sum()),
        levels=levels,
        notes=tuple(notes),
    )


def _full_grid(table: ValueTable, model: str, run: str) -> tuple[FloatArray | None, dict[str, int], list[str]]:
    """Values as (template, k, seed, sample)."""
    cells = table.cells[(table.cells["model"] == model) & (table.cells["run"] == run)]
    notes = []
    if (cells["k"] > 0).any():
        if (cells["k"] == 0).any():
            notes.append("K=0 is left out: it has no seeds")
        cells = cells[cells["k"] > 0]
    keys = cells[["template", "k"]].assign(seed=cells["seed"].fillna(0).astype(int))
    place = {tuple(key): row for row, key in zip(cells.index, keys.to_numpy().tolist(), strict=True)}
    templates, ks = (list(dict.fromkeys(keys[name])) for name in ("template", "k"))
    pairs = list(itertools.product(templates, ks))
    seeds = [s for s in dict.fromkeys(keys["seed"]) if all((t, k, s) in place for t, k in pairs)]
    if not seeds:
        return None, {}, notes
    left = len(cells) - len(pairs) * len(seeds)
    if left:
        notes.append(f"{left} cells are left out: not every template and K has their seed")
    index = np.array([[[place[t, k, s] for s in seeds] for k in ks] for t in templates])
    return table.values[index], {"template": len(templates), "k": len(ks), "seed": len(seeds)}, notes


def effects_of(names: list[str]) -> list[Effect]:
    """Main effects, interactions of two, and the residual (all factors), in this order.

    With two factors the residual is their interaction.
    """
    effects: list[Effect] = [(name,) for name in names]
    if len(names) > 2:
        effects += list(itertools.combinations(names, 2))
    return [*effects, tuple(names)]


def components(array: FloatArray, names: list[str]) -> tuple[FloatArray, IntArray]:
    """Variance components of a full table with one value per combination of levels.

    Mean squares are equated with their expectations, E[MS_u] = sum over v containing u of
    sigma_v^2 times the number of values per level of v (Searle, Casella and McCulloch 1992,
    chapter 4). Interactions of three and more factors are in the residual.

    Args:
        array: one axis per name, each with two levels or more.
        names: of the axes.

    Returns:
        Components and degrees of freedom, as `effects_of(names)`.
    """
    effects = effects_of(names)
    sizes = dict(zip(names, array.shape, strict=True))
    grand = array.mean()
    means, squares, dfs = {}, [], []
    for effect in effects[:-1]:
        axes = tuple(i for i, name in enumerate(names) if name not in effect)
        mean = array.mean(axis=axes, keepdims=True)
        means[effect] = mean
        part = mean - grand if len(effect) == 1 else mean - means[effect[:1]] - means[effect[1:]] + grand
        squares.append(float((part**2).sum()) * math.prod(sizes[n] for n in names if n not in effect))
        dfs.append(math.prod(sizes[n] - 1 for n in effect))
    squares.append(float(((array - grand) ** 2).sum()) - sum(squares))
    dfs.append(array.size - 1 - sum(dfs))
    found = dict(zip(effects, (s / d for s, d in zip(squares, dfs, strict=True)), strict=True))
    for effect in reversed(effects[:-1]):
        above = [other for other in effects if set(effect) < set(other)]
        inner = sum(found[o] * (math.prod(sizes[n] for n in names if n not in o)) for o in above)
        found[effect] = (found[effect] - inner) / math.prod(sizes[n] for n in names if n not in effect)
    return np.array([found[effect] for effect in effects]), np.array(dfs)


def shares(found: FloatArray) -> FloatArray:
    """Parts of the sum, components below zero taken as zero; NaN when nothing varies."""
    positive = np.maximum(found, 0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(found), np.nan)


def _with_errors(array: FloatArray, names: list[str], clusters: IntArray | None) -> pd.DataFrame:
    found, dfs = components(array, names)
    n = array.shape[-1]
    units = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    group = units % min(GROUPS, int(units.max()) + 1)
    n_groups = int(group.max()) + 1
    component_se = share_se = np.full(len(found), np.nan)
    if n_groups > 2:
        left = [components(array[..., group != g], names)[0] for g in range(n_groups)]
        component_se = _jackknife(np.array(left))
        share_se = _jackknife(np.array([shares(row) for row in left]))
    labels = [" x ".join(effect) for effect in effects_of(names)]
    labels[-1] = "residual"
    return pd.DataFrame(
        {
            "effect": labels,
            "df": dfs,
            "component": found,
            "component_se": component_se,
            "share": shares(found),
            "share_se": share_se,
        }
    )


def _jackknife(left_out: FloatArray) -> FloatArray:
    """Standard errors from figures with one group left out each (Efron and Tibshirani 1993, 11)."""
    g = len(left_out)
    errors: FloatArray = np.sqrt((g - 1) / g * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    return errors
