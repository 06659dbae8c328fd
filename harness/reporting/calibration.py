"""Printing of calibrations. Rounds only where people read."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from harness.analysis.calibrate import Calibration
from harness.core.escaping import csv_text
from harness.reporting.comparison import write_json, write_notes
from harness.reporting.console import say, write
from harness.reporting.terminal import json_rows, markdown, new_table, print_table, with_short_names


def write_calibration(console: Console, calibration: Calibration, fmt: str, everything: bool = False) -> None:
    """Print accuracies before and after calibration in one of `harness.reporting.terminal.FORMATS`.

    Args:
        console: standard output.
        calibration: from `harness.analysis.calibrate.calibrate`.
        fmt: the format; csv has the cells, json and md both tables.
        everything: whether a table with a row per method is followed by one with a row per cell and method.
    """
    if fmt == "json":
        facts = {"cells": json_rows(calibration.cells), "overall": json_rows(calibration.overall)}
        write_json(console, facts | {"notes": list(calibration.notes)})
    elif fmt == "csv":
        write(console, csv_text(calibration.cells))
    elif fmt == "md":
        write(console, markdown(calibration.overall) + "\n" + markdown(calibration.cells))
    elif fmt == "table":
        overall = calibration.overall.rename(columns={"n_cells": "cells"})
        _table(console, overall, ["method", "cells"], "Accuracy, averaged over cells")
        if everything:
            several = calibration.cells["model"].nunique() > 1
            keys = [*(["model"] if several else []), "template", "k", "seed", "method"]
            _table(console, calibration.cells, keys, "Each cell")
        write_notes(console, calibration.notes)
        if not everything:
            say(console, "- more with --all: each cell")
    else:
        raise ValueError(f"no format {fmt!r}")


def _table(console: Console, frame: pd.DataFrame, keys: Sequence[str], title: str) -> None:
    table = new_table(console, title)
    for name in keys:
        table.add_column(name, overflow="fold")
    for name in ("before", "after", "difference", "95% interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in with_short_names(frame).to_dict("records"):
        table.add_row(
            *(str(row[name]) for name in keys),
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} {row['high']:+.4f}",
            f"{row['n']}/{row['n_attempted']}",
        )
    print_table(console, table, ["n"])
