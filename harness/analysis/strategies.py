"""What is compared: cells, or the levels of some axes with the others averaged out.

Averaging is balanced. Every strategy is averaged over the same combinations of the other axes, each
with the same weight, per sample; combinations that some strategy lacks are left out and named. A
sample that failed in one of the averaged cells has no value. Seeds that are averaged over stay
apart as an axis of the values, since their variance belongs into the intervals. A reference is always a
strategy of its own: it has no template and no K to be averaged over.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.cells import of_prompts
from harness.analysis.table import AXES, BoolArray, FloatArray, IntArray, ValueTable
from harness.core.errors import ConfigError, did_you_mean

Levels = tuple[Any, ...]
THIS_DRAW = "K > 0: this demonstration draw"
"""What figures of cells with demonstrations of one seed are about, beside samples."""


@dataclass(frozen=True)
class Strategies:
    """Values of the strategies that are compared, over the same samples."""

    levels: pd.DataFrame
    """One row per strategy, the axes that define it; `seed` null: K = 0, seeds do not matter."""
    labels: tuple[str, ...]
    """The axes that differ, as people read them."""
    values: FloatArray
    """(strategies, seeds, samples); one seed where seeds are not averaged over."""
    attempted: BoolArray
    """(strategies, samples) there is a record in all cells that are averaged."""
    clusters: IntArray | None
    seeds: tuple[int, ...] = ()
    """Seeds that are averaged over."""
    averaged: tuple[str, ...] = ()
    """Other axes that are averaged over, with fixed weights."""
    notes: tuple[str, ...] = ()
    """What was left out to keep the comparison balanced."""
    references: frozenset[int] = frozenset()
    """Rows of the strategies that are no prompts."""
    members: tuple[tuple[int, ...], ...] = ()
    """Rows of the table's cells that each strategy is averaged over."""

    @property
    def scored(self) -> BoolArray:
        """(strategies, samples) there is a value under every seed."""
        return np.asarray(np.isfinite(self.values).all(axis=1))

    @property
    def is_one_draw(self) -> bool:
        """Whether each strategy stands for one draw of demonstrations, so that other draws may differ."""
        prompts = self.levels.drop(index=list(self.references))
        drawn = bool((prompts["k"] > 0).any()) if "k" in prompts else bool(self.seeds)
        return len(self.seeds) <= 1 and drawn

    @property
    def n_attempted(self) -> IntArray:
        """(strategies,) samples with a record in all cells that are averaged."""
        counts: IntArray = self.attempted.sum(axis=1)
        return counts

    @property
    def per_sample(self) -> FloatArray:
        """(strategies, samples) means over seeds; NaN where any is missing."""
        means: FloatArray = self.values.mean(axis=1)
        return means

    def with_fixed_seeds(self) -> Strategies:
        """The same strategies, conclusions limited to these very seeds."""
        return replace(self, values=self.per_sample[:, None, :])

    def on(self, samples: BoolArray) -> Strategies:
        """The same strategies on some of the samples."""
        return replace(
            self,
            values=self.values[..., samples],
            attempted=self.attempted[:, samples],
            clusters=None if self.clusters is None else self.clusters[samples],
        )


def every_cell(table: ValueTable) -> Strategies:
    """Each cell (model, template, K, seed) as a strategy of its own."""
    return Strategies(
        levels=table.cells,
        labels=labels_of(table.cells),
        values=table.values[:, None, :],
        attempted=table.attempted,
        clusters=table.clusters,
        references=frozenset(np.flatnonzero(table.cells["template"].isna()).tolist()),
        members=tuple((row,) for row in range(len(table.cells))),
    )


def by_axes(table: ValueTable, axes: Sequence[str]) -> Strategies:
    """The combined levels of some axes as strategies, the other axes averaged out; and every reference.

    K = 0 counts once under every seed when seeds are averaged. When seeds are compared and K is
    not, K = 0 is left out: seeds cannot differ there.

    Args:
        table: of cells.
        axes: names among `AXES`.

    Raises:
        ConfigError: an unknown axis, fewer than two strategies, or no common cells.
    """
    known = [axis for axis in AXES if axis not in ("run", "calibration") or table.cells[axis].nunique() > 1]
    for axis in axes:
        if axis not in known:
            raise ConfigError(f"no axis '{axis}' to compare by{did_you_mean(axis, known)}")
    chosen = [axis for axis in AXES if axis in axes]
    others = [axis for axis in AXES if axis not in axes and axis != "seed"]
    notes: list[str] = []
    cells = of_prompts(table.cells)
    if "seed" in chosen and "k" not in chosen and cells["seed"].isna().any():
        cells = cells[cells["seed"].notna()]
        notes.append("K=0 is left out: it has no demonstrations for seeds to draw")
    rows = _index(cells, chosen, others, "seed" in chosen)
    levels = list(dict.fromkeys(level for level, _, _ in rows))
    references = table.cells[table.cells["template"].isna()]
    if len(levels) + (len(references) if levels else 0) < 2:
        raise ConfigError(f"{len(levels)} level of {', '.join(chosen)} in these records; comparing needs two")
    rest, seeds = _common(rows, levels)
    if not rest or not seeds:
        names = ", ".join(o for o in known if o not in chosen)
        raise ConfigError(f"no combination of {names} that every {', '.join(chosen)} has; compare by more axes")
    used = {rows[key] for key in itertools.product(levels, rest, seeds)}
    if len(used) < len(cells):
        notes.append(f"{len(cells) - len(used)} of {len(cells)} cells are left out: not every strategy has their like")
    index = np.array([[[rows[level, other, seed] for other in rest] for seed in seeds] for level in levels])
    values = np.empty((*index.shape[:2], table.values.shape[1]))
    for place in np.ndindex(*index.shape[:2]):
        values[place] = table.values[index[place]].mean(axis=0)
    frame = pd.DataFrame(levels, columns=chosen)
    if "seed" in chosen:
        frame["seed"] = frame["seed"].astype("Int64")
    varied = [name for place, name in enumerate(others) if len({other[place] for other in rest}) > 1]
    prompts = Strategies(
        levels=frame,
        labels=labels_of(frame),
        values=values,
        attempted=np.array([table.attempted[np.unique(i)].all(axis=0) for i in index]),
        clusters=table.clusters,
        seeds=tuple(seed for seed in seeds if seed is not None),
        averaged=tuple(varied),
        notes=tuple(notes),
        members=tuple(tuple(np.unique(i).tolist()) for i in index),
    )
    return _with_references(prompts, table, references) if len(references) else prompts


def _with_references(prompts: Strategies, table: ValueTable, cells: pd.DataFrame) -> Strategies:
    """The strategies and the references, each with its values under the seeds that are averaged over.

    One that came trained has the same under each; one that was trained under seeds needs all of these.

    Args:
        prompts: levels of axes.
        table: of all cells.
        cells: those of references.
    """
    drawn: Sequence[int | None] = prompts.seeds or [None]
    averages = len(drawn) > 1
    runs = ["run"] if table.cells["run"].nunique() > 1 else []
    labels, rows, left_out = [], [], []
    found: list[IntArray] = []
    keys = ["run", "model", "k", *([] if averages else ["seed"])]
    for _, own in cells.groupby(keys, sort=False, dropna=False):
        places = {None if pd.isna(seed) else int(seed): row for row, seed in zip(own.index, own["seed"], strict=True)}
        of_seed = {seed: places.get(seed, places.get(None)) for seed in drawn} if averages else {None: own.index[0]}
        row = {str(name): value for name, value in own.iloc[0].items()} | ({"seed": pd.NA} if averages else {})
        label = " ".join(_words_of_reference(row, [*runs, "model"], short=True))
        if None in of_seed.values():
            left_out.append(label)
        else:
            labels.append(label)
            rows.append({name: row[str(name)] for name in prompts.levels})
            found.append(np.array(list(of_seed.values()), dtype=np.int64))
    note = f"{', '.join(left_out)}: left out, not trained under the seeds that are averaged over"
    levels = pd.concat([prompts.levels.astype(object), pd.DataFrame(rows, dtype=object)], ignore_index=True)
    n = len(prompts.labels)
    attempted = [np.asarray(table.attempted[index].all(axis=0))[None] for index in found]
    return replace(
        prompts,
        levels=levels.astype({name: "Int64" for name in ("k", "seed") if name in levels}),
        labels=(*prompts.labels, *labels),
        values=np.concatenate([prompts.values, *(table.values[index][None] for index in found)]),
        attempted=np.concatenate([prompts.attempted, *attempted]),
        notes=(*prompts.notes, *([note] if left_out else [])),
        references=frozenset(range(n, n + len(labels))),
        members=(*prompts.members, *(tuple(np.unique(index).tolist()) for index in found)),
    )


def _index(
    cells: pd.DataFrame, chosen: Sequence[str], others: Sequence[str], seeds_compared: bool
) -> dict[tuple[Levels, Levels, int | None], int]:
    """(level, other axes, seed) to the row of the table; K = 0 under every seed."""
    drawn = [] if seeds_compared else sorted(int(s) for s in cells["seed"].dropna().unique())
    all_seeds: Sequence[int | None] = drawn or [None]
    found: dict[tuple[Levels, Levels, int | None], int] = {}
    for row, cell in zip(cells.index, cells.to_dict("records"), strict=True):
        level = tuple(None if pd.isna(cell[a]) else cell[a] for a in chosen)
        other = tuple(cell[a] for a in others)
        seeds: Sequence[int | None] = all_seeds if seeds_compared or pd.isna(cell["seed"]) else [int(cell["seed"])]
        found |= {(level, other, seed): row for seed in seeds}
    return found


def _common(
    rows: dict[tuple[Levels, Levels, int | None], int], levels: Sequence[Levels]
) -> tuple[list[Levels], list[int | None]]:
    """The other axes' combinations that all strategies have, then the seeds that all of those have."""
    pairs = {(level, other) for level, other, _ in rows}
    rest = [o for o in dict.fromkeys(other for _, other, _ in rows) if all((level, o) in pairs for level in levels)]
    seeds = list(dict.fromkeys(seed for _, _, seed in rows))
    wanted = list(itertools.product(levels, rest))
    return rest, [seed for seed in seeds if all((level, other, seed) in rows for level, other in wanted)]


def labels_of(levels: pd.DataFrame) -> tuple[str, ...]:
    """One short text per row, naming the axes that differ."""
    is_prompt = levels["template"].notna() if "template" in levels else pd.Series(True, index=levels.index)
    prompts = levels[is_prompt]
    names = [n for n in levels.columns if len(prompts) == 1 or prompts[n].nunique(dropna=False) > 1]
    order = [n for n in ("run", "model", "template", "k", "seed", "calibration") if n in names]
    several_runs = ["run"] if "run" in levels and levels["run"].nunique() > 1 else []
    cells = levels.to_dict("records")
    for short in (True, False):
        labels = tuple(
            " ".join(
                _words(cell, order, short) if is_one else _words_of_reference(cell, [*several_runs, "model"], short)
            )
            for cell, is_one in zip(cells, is_prompt, strict=True)
        )
        if len(set(labels)) == len(labels):
            break
    return labels


def _words_of_reference(cell: Mapping[Any, Any], names: Sequence[str], short: bool) -> list[str]:
    """Its name, on how many labelled examples it was trained, and under which seed these were drawn."""
    words = _words(dict(cell), names, short)
    words += [] if pd.isna(cell["k"]) else [f"n={cell['k']}"]
    return words + ([] if pd.isna(cell["seed"]) else [f"seed={cell['seed']}"])


def _words(cell: dict[Any, Any], names: Sequence[str], short: bool) -> list[str]:
    """Texts of the axes; `short` gives models and runs by the last part of their paths."""
    words = []
    for name in names:
        if name == "seed":
            if not pd.isna(cell[name]):
                words.append(f"seed={cell[name]}")
        elif name == "calibration":
            words += [f"+{cell[name]}"] if cell[name] else []
        elif name == "k":
            words.append(f"K={cell[name]}")
        elif name in ("model", "run") and short:
            words.append(str(cell[name]).rstrip("/").rsplit("/", 1)[-1])
        else:
            words.append(str(cell[name]))
    return words
