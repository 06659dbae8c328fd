"""The section on a race: what it claims, which strategies survived how long, and what was decided after each round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.analysis.race_result import points
from harness.core.escaping import one_line
from harness.reporting.report.blocks import Cell, Chart, Column, Section, Table
from harness.reporting.report.charts import Spec, safe
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.wording import count

HEIGHT = 320
NAMED = 4
"""Strategies that a table's cell names."""


def race_sections(data: ReportData) -> Iterator[Section]:
    """A section per run that was raced, on the race that went on last."""
    for number, run in enumerate(data.runs):
        if run.race is not None:
            yield _section(run.race, number, run.name)


def _section(race: Mapping[str, Any], number: int, name: str) -> Section:
    result, rounds, labels = race.get("result"), race["rounds"], race["strategies"]
    alive, racing, steps = [len(labels)], [len(labels)], [0]
    for one in rounds:
        steps.append(one["step"])
        alive.append(alive[-1] - len(one["dropped"]))
        racing.append(alive[-1] - len(one["resting"]))
    if result is None:
        lead = f"The race is not over: after {count(rounds[-1]['step'])} steps {count(alive[-1])} strategies are left."
    else:
        lead = result["claim"]
    notes = [
        "Out: bets that the best of the others beat the strategy have won more than chance allows. Resting: shown not "
        "to be better than the candidate by more than epsilon. Both stay true whenever the race is looked at.",
        "The race chose how many samples each strategy got: other sections' means are over the samples that each has, "
        "and their intervals presume samples chosen beforehand.",
    ]
    if result is not None:
        spent = result["spent"]
        notes.insert(
            0,
            f"Spent {count(spent['records'])} of the grid's {count(spent['records_of_grid'])} records "
            f"({spent['records'] / max(1, spent['records_of_grid']):.1%}).",
        )
        if result["held_out"] is not None:
            own = result["held_out"]["winner"]
            notes.insert(
                1,
                f"On {count(own['n'])} samples held out the winner scores {own['value']:.4f} "
                f"({own['low']:.4f} to {own['high']:.4f}).",
            )
    title = f"Strategies left in the race{f', {name}' if name else ''}"
    summary = f"Two falling lines from {count(len(labels))}; all figures are in the table below."
    chart = Chart(
        f"race-{number}", title, summary, _survival(steps, alive, racing), HEIGHT, _table(race, alive, racing)
    )
    return Section(f"race-{number}", "The race", "Race", lead, [chart], notes=notes)


def _survival(steps: list[int], alive: list[int], racing: list[int]) -> Spec:
    """How many strategies were not dropped, and how many were still scored, against the steps of the race."""
    lines = (("not out", alive, "--series-1", "solid"), ("still scored", racing, "--series-2", "dash"))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": safe(name),
                "x": steps,
                "y": counts,
                "line": {"color": f"var({colour})", "width": 2, "dash": dash, "shape": "hv"},
                "hovertemplate": "after %{x} steps: %{y} " + safe(name) + "<extra></extra>",
            }
            for name, counts, colour, dash in lines
        ],
        "layout": {
            "xaxis": {"title": {"text": "steps (samples or whole clusters)"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "strategies"}, "rangemode": "tozero"},
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.12},
        },
    }


def _table(race: Mapping[str, Any], alive: list[int], racing: list[int]) -> Table:
    labels = race["strategies"]
    rows = []
    for place, one in enumerate(race["rounds"], 1):
        epsilon = one["epsilon"]
        rows.append(
            [
                Cell(count(one["step"]), one["step"]),
                Cell(labels[one["candidate"]]),
                Cell(count(alive[place]), alive[place]),
                Cell(count(racing[place]), racing[place]),
                Cell("" if epsilon is None else points(epsilon), epsilon),
                Cell(_names([labels[arm] for arm in one["dropped"]])),
            ]
        )
    columns = [
        Column("Steps"),
        Column("Candidate", False),
        Column("Not out"),
        Column("Still scored"),
        Column("Certified within"),
        Column("Out in this round", False),
    ]
    return Table("What was decided after each round", columns, rows, folded=True)


def _names(labels: list[str]) -> str:
    shown = ", ".join(one_line(label, 60) for label in labels[:NAMED])
    return shown + (f" and {len(labels) - NAMED} more" if labels[NAMED:] else "")
