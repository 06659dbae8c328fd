"""Tables of figures for people and programs."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

FORMATS = ("table", "json", "csv", "md")


def write_cells(console: Console, cells: pd.DataFrame, seeds: pd.DataFrame, fmt: str) -> None:
    """Print the cells in one of `FORMATS`; json, csv and md carry full precision.

    Args:
        console: standard output.
        cells: from `harness.analysis.cells.cell_figures`.
        seeds: from `harness.analysis.cells.over_seeds`, shown with the table.
        fmt: one of `FORMATS`.
    """
    if fmt == "json":
        console.file.write(json.dumps(json_rows(cells), ensure_ascii=False, indent=2) + "\n")
    elif fmt == "csv":
        console.file.write(cells.to_csv(index=False))
    elif fmt == "md":
        console.file.write(_markdown(cells))
    else:
        _table(console, cells)
        if (seeds["n_seeds"] > 1).any():
            _seeds_table(console, seeds)


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data; figures without observations are null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def new_table(console: Console, title: str | None = None) -> Table:
    """A table that fits 80 columns on a terminal, and plain characters in a pipe."""
    style = box.SIMPLE_HEAD if console.is_terminal else box.ASCII
    return Table(box=style, title=title, title_justify="left", padding=(0, 1, 0, 0), collapse_padding=True)


def _table(console: Console, cells: pd.DataFrame) -> None:
    table = new_table(console)
    several = [name for name in ("model", "task") if cells[name].nunique() > 1]
    for name in several:
        table.add_column(name, overflow="fold")
    table.add_column("template", no_wrap=True)
    failed = bool((cells["n_failed"] > 0).any())
    names = ["K", "seed", "scored", *(["failed"] if failed else []), "accuracy", "95% interval", "macro F1"]
    for name in (*names, "positive", "off-label"):
        table.add_column(name, justify="right", no_wrap=True)
    best = cells["accuracy"].max()
    for row in cells.to_dict("records"):
        style = "bold" if row["accuracy"] == best else ""
        table.add_row(
            *(str(row[name]) for name in several),
            str(row["template"]),
            str(row["k"]),
            str(row["seed"]),
            f"{row['n_scored']}/{row['n_attempted']}",
            *([str(row["n_failed"])] if failed else []),
            f"{row['accuracy']:.4f}",
            f"{row['low']:.4f}-{row['high']:.4f}",
            f"{row['macro_f1']:.4f}",
            f"{row['predicted_positive_share']:.3f}",
            f"{row['off_label_mass']:.3f}",
            style=style,
        )
    console.print(table)


def _seeds_table(console: Console, seeds: pd.DataFrame) -> None:
    table = new_table(console, "Accuracy over demonstration seeds")
    several = seeds["model"].nunique() > 1
    for name in (["model"] if several else []) + ["template"]:
        table.add_column(name, no_wrap=not several)
    for name in ("K", "seeds", "mean", "least", "most", "spread"):
        table.add_column(name, justify="right")
    for row in seeds.to_dict("records"):
        table.add_row(
            *([str(row["model"])] if several else []),
            str(row["template"]),
            str(row["k"]),
            str(row["n_seeds"]),
            *(f"{row[name]:.4f}" for name in ("mean", "least", "most", "spread")),
        )
    console.print(table)


def _markdown(frame: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    for row in frame.itertuples(index=False):
        cells = [repr(cell) if isinstance(cell, float) else str(cell).replace("|", "\\|") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
