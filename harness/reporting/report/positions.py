"""The section on positions, of samples that bring choices: where answers stand, and what another order changes.

Knows the figures of cells and the orders of templates; refuses to know how answers came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.choices import BIAS, FOUND, PLACE, RIGHT
from harness.prompts.choices import GIVEN
from harness.reporting.report.blocks import CHARTED, FRAME, Cell, Chart, Column, Section, Table
from harness.reporting.report.charts import DIVERGING, Spec, safe
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import NOTHING, Scale, last_part, plural, probability, share

_ORDER = ("order", "seed")
"""Keys of a template's choices that say in which order they are shown, and nothing else."""


@dataclass(frozen=True)
class Orders:
    """Strategies that differ in nothing but the order of the choices."""

    labels: list[str]
    """The one with the highest score first."""
    means: list[float]

    @property
    def spread(self) -> float:
        """Of the scores."""
        return self.means[0] - self.means[-1]


def position_sections(data: ReportData, scale: Scale) -> Iterator[Section]:
    """One section where samples bring choices and answers have places."""
    if BIAS not in data.strategies or data.strategies[BIAS].isna().all():
        return
    frame = data.strategies[data.strategies[BIAS].notna()]
    worst = frame.iloc[int(frame[BIAS].to_numpy(dtype=float).argmax())]
    places = [name.removeprefix(PLACE) for name in map(str, frame.columns) if name.startswith(PLACE)]
    excess = max(places, key=lambda place: float(worst[PLACE + place]) - float(worst[RIGHT + place]))
    orders = orders_of(data)
    lead = (
        f"Where answers stand among the choices: “{worst['label']}” strays most, with {share(worst[PLACE + excess])} "
        f"of its answers at place {excess}, where {share(worst[RIGHT + excess])} of the right ones stand"
    )
    if orders:
        widest = max(orders, key=lambda one: one.spread)
        lead += (
            f"; the order of the choices alone moves {scale.name} from {scale.value(widest.means[-1])} to "
            f"{scale.value(widest.means[0])}"
        )
    lead += f"{data.draw}."
    top = frame.head(CHARTED)
    chart = Chart(
        "positions",
        f"Share of answers at each place; colour: more or fewer than right answers{data.draw}",
        f"Matrix of strategies and places. {lead}",
        _spec(top, places),
        FRAME + max(26 * len(top), 120),
        _places_table(frame, places, data),
        wide=len(places) > 8,
    )
    notes = [
        "Blue: more answers stand there than right ones do, orange: fewer. Bias is half the sum of these differences: "
        "the least share of answers that stand elsewhere than right ones would have them. Chance alone gives it some.",
        "Found: of the right answers at a place, how many were given. A model without bias finds as many at each.",
    ]
    if (frame["n_draws"] > 1).any():
        notes.append("Of averaged draws, each draw's figures are averaged.")
    if not orders:
        notes.append(
            "Templates that differ in `choices: {order: ...}` alone (given, shuffled, or by how many places to "
            "rotate) show here what the order changes."
        )
    tables = [_orders_table(orders, data, scale)] if orders else []
    yield Section("positions", "Positions of the answers", "Positions", lead, [chart], tables, notes)


def orders_of(data: ReportData) -> list[Orders]:
    """Groups of at least two strategies whose templates differ in the order of the choices alone."""
    groups: dict[tuple[Any, ...], list[tuple[float, str]]] = {}
    for row in data.strategies.to_dict("records"):
        wording = data.wording_of(row)
        if wording is not None and wording.get("choices") and math.isfinite(row["mean"]):
            rest = {key: value for key, value in wording["choices"].items() if key not in _ORDER}
            same = json.dumps({**wording, "choices": rest, "name": ""}, sort_keys=True)
            key = (row["run"], row["model"], row["k"], str(row["seed"]), same)
            groups.setdefault(key, []).append((float(row["mean"]), str(row["label"])))
    found = []
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda one: -one[0])
            found.append(Orders([label for _, label in group], [mean for mean, _ in group]))
    return found


def _spec(frame: pd.DataFrame, places: list[str]) -> Spec:
    labels = [safe(str(label)) for label in frame["label"]]
    answers = [[float(row[PLACE + place]) for place in places] for row in frame.to_dict("records")]
    extra = [[100 * (row[PLACE + p] - row[RIGHT + p]) for p in places] for row in frame.to_dict("records")]
    most = max((abs(value) for row in extra for value in row if math.isfinite(value)), default=1.0) or 1.0
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [f"place {place}" for place in places],
                "y": labels,
                "z": [[round(value, 6) if math.isfinite(value) else None for value in row] for row in extra],
                "text": [[share(value) for value in row] for row in answers],
                "texttemplate": "%{text}",
                "hovertemplate": "%{y}, %{x}: %{text} of the answers, %{z:+.1f} points<extra></extra>",
                "colorscale": DIVERGING,
                "zmin": -most,
                "zmax": most,
                "colorbar": {"thickness": 10, "outlinewidth": 0},
                "xgap": 2,
                "ygap": 2,
            }
        ],
        "layout": {
            "xaxis": {"side": "top", "showgrid": False, "type": "category"},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        },
    }


def _places_table(frame: pd.DataFrame, places: list[str], data: ReportData) -> Table:
    rows = []
    for row in frame.to_dict("records"):
        cells = [Cell(str(row["label"])), Cell(_order(row, data)), _share(row[BIAS])]
        for place in places:
            cells += [_share(row[name + place]) for name in (PLACE, RIGHT, FOUND)]
        rows.append(cells)
    columns = [Column("Strategy", False), Column("Order", False), Column("Bias")]
    for place in places:
        columns += [Column(f"Answers at {place}"), Column(f"Right at {place}"), Column(f"Found at {place}")]
    return Table(f"Places of the answers{data.draw}", columns, rows, folded=True)


def _orders_table(orders: list[Orders], data: ReportData, scale: Scale) -> Table:
    pairs = data.comparison.pairs.to_dict("records") if data.comparison is not None else []
    tested = {frozenset((row["first"], row["second"])): row for row in pairs}
    rows = []
    for one in sorted(orders, key=lambda found: -found.spread):
        ends = one.labels[0], one.labels[-1]
        test = tested.get(frozenset(ends))
        p = math.nan if test is None else float(test["p_holm"])
        rows.append(
            [
                Cell(ends[0]),
                Cell(scale.value(one.means[0]), one.means[0]),
                Cell(ends[1]),
                Cell(scale.value(one.means[-1]), one.means[-1]),
                Cell(str(len(one.labels))),
                Cell(scale.difference(one.spread), one.spread),
                Cell(probability(p)),
            ]
        )
    titles = ("Orders", "Spread", "p of the pair (Holm)")
    columns = [Column("Highest", False), Column("Score"), Column("Lowest", False), Column("Score")]
    caption = f"What the order of the choices alone changes: {plural(len(orders), 'wording')} in several orders"
    return Table(caption, [*columns, *map(Column, titles)], rows)


def _order(row: Mapping[Any, Any], data: ReportData) -> str:
    wording = data.wording_of(row)
    if wording is None:
        return NOTHING
    choices = wording["choices"]
    order = choices.get("order", GIVEN)
    if isinstance(order, int):
        return f"rotated by {order}"
    return str(order) if order == GIVEN else f"{last_part(str(order))}, seed {choices.get('seed', 0)}"


def _share(value: float) -> Cell:
    return Cell(share(value), float(value)) if math.isfinite(value) else Cell(NOTHING)
