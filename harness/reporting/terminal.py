"""Tables of figures for people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.cells import REASONING, is_zero_shot, main_figure, of_prompts
from harness.analysis.choices import BIAS, PLACE, PREFIX
from harness.analysis.named_metrics import CLASS_METRICS
from harness.analysis.strategies import THIS_DRAW
from harness.core.escaping import csv_text, visible
from harness.reporting.console import PlainTable, say, write

FORMATS = ("table", "json", "csv", "md")
INTERVAL = "95% interval"
"""The column that goes last where a terminal is narrow."""


def write_cells(
    console: Console, cells: pd.DataFrame, seeds: pd.DataFrame, fmt: str, notes: Sequence[str] = ()
) -> None:
    """Print the cells in one of `FORMATS`; json, csv and md carry full precision.

    Args:
        console: standard output.
        cells: from `harness.analysis.cells.cell_figures`.
        seeds: from `harness.analysis.cells.over_seeds`, shown with the table.
        fmt: one of `FORMATS`.
        notes: lines below the table; the other formats are for programs.
    """
    if fmt == "json":
        write(console, json.dumps(json_rows(cells), ensure_ascii=False, indent=2) + "\n")
    elif fmt == "csv":
        write(console, csv_text(cells))
    elif fmt == "md":
        write(console, markdown(cells))
    else:
        shown = _any_seed(cells)
        _table(console, shown)
        if (_drawn(seeds)["n_seeds"] > 1).any():
            _seeds_table(console, seeds, main_figure(cells))
        for note in _reading(shown, seeds):
            say(console, note)
        for note in notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)


def _any_seed(cells: pd.DataFrame) -> pd.DataFrame:
    """K = 0 has no demonstrations for seeds to draw: its copies under several seeds as one row, seed `any`."""
    frame = cells.assign(seed=cells["seed"].astype(object))
    for _, copies in frame[is_zero_shot(frame)].groupby(["model", "task", "template"], observed=True):
        # Copies that differ are of a damaged or unfinished run; they stay as they are.
        if len(copies.drop(columns="seed").drop_duplicates()) == 1:
            frame.loc[copies.index[0], "seed"] = "any"
            frame = frame.drop(index=copies.index[1:])
    return frame


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Those whose figure is about one or several draws, of demonstrations or of examples to train on."""
    return rows[(rows["k"] > 0).fillna(False).astype(bool)]


def _reading(cells: pd.DataFrame, seeds: pd.DataFrame) -> list[str]:
    """What a reader of the table should know."""
    notes = []
    if len(cells) > 1:
        notes.append(
            f"- the highest of {len(cells)} figures is too high on average; harness compare says what to expect of it"
        )
    drawn = _drawn(seeds)
    if len(_drawn(of_prompts(cells))):
        more = "compare --by template,k averages draws" if (drawn["n_seeds"] > 1).any() else "run more in grid.seeds"
        notes.append(f"- {THIS_DRAW}, of the row's seed; {more}")
    return notes


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data; figures without observations are null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def new_table(console: Console, title: str | None = None) -> Table:
    """An empty table, with plain characters in a pipe; `print_table` fits it to the terminal."""
    style = box.SIMPLE_HEAD if console.is_terminal else box.ASCII
    text = None if title is None else Text(visible(title), style="table.title")
    return PlainTable(box=style, title=text, title_justify="left", padding=(0, 1, 0, 0), collapse_padding=True)


def print_table(console: Console, table: Table, spare: Iterable[str]) -> None:
    """Print a table, without some columns where the console is too narrow for all.

    Args:
        console: standard output.
        table: from `new_table`.
        spare: titles of columns that may be left out, the first to go first; of columns with one
            title the last goes. A line names what was left out.
    """
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(text)) for text in (column.header, *column.cells))
    wide = console.options.update_width(10 * console.width)
    left_out = []
    for title in spare:
        if console.measure(table, options=wide).minimum <= console.width:
            break
        places = [place for place, column in enumerate(table.columns) if str(column.header) == title]
        if places:
            del table.columns[places[-1]]
            left_out.append(title)
    console.print(table)
    if left_out:
        say(console, f"- not shown for want of width: {', '.join(left_out)}")


def with_short_names(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose models and runs are named by the last parts of their paths, as in labels, where these differ."""
    for column in {"model", "run"} & set(frame):
        names = frame[column].astype(str)
        short = names.str.rstrip("/").str.rsplit("/", n=1).str[-1]
        frame = frame.assign(**{column: short if short.nunique() == names.nunique() else names})
    return frame


def _table(console: Console, cells: pd.DataFrame) -> None:
    table = new_table(console)
    several = [name for name in ("model", "task") if cells[name].nunique() > 1]
    for name in several:
        table.add_column(name, overflow="fold")
    table.add_column("template", no_wrap=True)
    failed = bool((cells["n_failed"] > 0).any())
    main = main_figure(cells)
    names, figures = _class_figures(cells) if main == "accuracy" else _answer_figures(cells)
    if REASONING in cells:
        names.append("thought chars")
        for texts, length in zip(figures, cells[REASONING], strict=True):
            texts.append("" if pd.isna(length) else f"{length:.1f}")
    for name in ("K", "seed", "scored", *(["failed"] if failed else []), *names):
        table.add_column(name, justify="right", no_wrap=True)
    best = cells[main].max()
    for row, texts in zip(with_short_names(cells).to_dict("records"), figures, strict=True):
        table.add_row(
            *(str(row[name]) for name in several),
            *(_text(row[name]) for name in ("template", "k", "seed")),
            f"{row['n_scored']}/{row['n_attempted']}",
            *([str(row["n_failed"])] if failed else []),
            *texts,
            style="bold" if row[main] == best else "",
        )
    # Of two intervals the second goes with its figure, the first only when all else is gone.
    whole = [] if failed else ["scored"]
    print_table(console, table, [*_spare(names), *whole, INTERVAL])


def _spare(names: Sequence[str]) -> list[str]:
    """Columns of figures that may be left out, the first to go first; never the first figure and its interval."""
    return [name for place, name in reversed([*enumerate(names)]) if place > names.index(INTERVAL)]


def _class_figures(cells: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Column names, and each cell's texts."""
    if BIAS in cells:
        return _choice_figures(cells)
    names = ["accuracy", INTERVAL, "macro F1"]
    shares = [("positive", "predicted_positive_share"), ("off-label", "off_label_mass")]
    shares = [(title, column) for title, column in shares if cells[column].notna().any()]
    named = _named(cells)
    rows = [
        [
            f"{row['accuracy']:.4f}",
            f"{row['low']:.4f}-{row['high']:.4f}",
            f"{row['macro_f1']:.4f}",
            *(_with_interval(row, name) for name in named),
            *("" if pd.isna(row[column]) else f"{row[column]:.3f}" for _, column in shares),
        ]
        for row in cells.to_dict("records")
    ]
    return [*names, *(name.replace("_", " ") for name in named), *(title for title, _ in shares)], rows


def _named(cells: pd.DataFrame) -> list[str]:
    """Metrics by name that the table shows; those of single classes are in the other formats."""
    return [name for name in CLASS_METRICS if f"{name}_low" in cells]


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return ""
    return f"{row[name]:.4f} ({row[f'{name}_low']:.4f}-{row[f'{name}_high']:.4f})"


def _choice_figures(cells: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Accuracy by the templates' scores, by each score, and where the answers stand."""
    scores = [str(name) for name in cells if str(name).startswith(PREFIX)]
    places = [str(name) for name in cells if str(name).startswith(PLACE)]
    names = ["accuracy", INTERVAL, "bias", "answers by place"]
    names += [name.replace("_", " ") for name in _named(cells)]
    names += [name.removeprefix(PREFIX).replace("_", " ") for name in scores]
    rows = [
        [
            f"{row['accuracy']:.4f}",
            f"{row['low']:.4f}-{row['high']:.4f}",
            "" if pd.isna(row[BIAS]) else f"{row[BIAS]:.3f}",
            " ".join(f"{row[name]:.2f}" for name in places if not pd.isna(row[name])),
            *(_with_interval(row, name) for name in _named(cells)),
            *("" if pd.isna(row[name]) else f"{row[name]:.4f}" for name in scores),
        ]
        for row in cells.to_dict("records")
    ]
    return names, rows


def _answer_figures(cells: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The first two metrics with their intervals, then the rest."""
    metrics = [str(name) for name in cells if f"{name}_low" in cells]
    names: list[str] = []
    for place, name in enumerate(metrics):
        names += [name.replace("_", " "), *([INTERVAL] if place < 2 else [])]
    names += ["chars", "empty", "truncated"]
    rows = []
    for row in cells.to_dict("records"):
        texts: list[str] = []
        for place, name in enumerate(metrics):
            texts.append(f"{row[name]:.4f}" if place < 2 else f"{row[name]:.3f}")
            if place < 2:
                texts.append(f"{row[f'{name}_low']:.4f}-{row[f'{name}_high']:.4f}")
        texts += [f"{row['answer_length']:.1f}", f"{row['empty_share']:.3f}", f"{row['truncated_share']:.3f}"]
        rows.append(texts)
    return names, rows


def _seeds_table(console: Console, seeds: pd.DataFrame, figure: str) -> None:
    table = new_table(console, f"{figure.replace('_', ' ').capitalize()} over demonstration seeds")
    several = seeds["model"].nunique() > 1
    for name in (["model"] if several else []) + ["template"]:
        table.add_column(name, overflow="fold", no_wrap=name == "template")
    for name in ("K", "seeds", "mean", "least", "most", "spread"):
        table.add_column(name, justify="right")
    is_drawn = seeds.index.isin(_drawn(seeds).index).tolist()
    for row, drawn in zip(with_short_names(seeds).to_dict("records"), is_drawn, strict=True):
        table.add_row(
            *([str(row["model"])] if several else []),
            _text(row["template"]),
            _text(row["k"]),
            str(row["n_seeds"]) if drawn else "any",
            f"{row['mean']:.4f}",
            *(f"{row[name]:.4f}" if drawn else "" for name in ("least", "most", "spread")),
        )
    console.print(table)


def _text(value: Any) -> str:
    """A name or number; nothing where a reference has none."""
    return "" if pd.isna(value) else str(value)


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table in full precision."""
    names = [_markdown_cell(str(name)) for name in frame.columns]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in frame.itertuples(index=False):
        cells = [repr(cell) if isinstance(cell, float) else _markdown_cell(_text(cell)) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _markdown_cell(text: str) -> str:
    return visible(text).replace("|", "\\|")
