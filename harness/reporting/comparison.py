"""Printing of comparisons. Rounds only where people read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.console import Console

from harness.analysis.compare import Comparison, selection_facts
from harness.analysis.crossing import Crossing, crossing_text
from harness.analysis.recommendation import recommend, sentences
from harness.analysis.strategies import THIS_DRAW
from harness.core.escaping import csv_text
from harness.reporting.console import say, write
from harness.reporting.terminal import json_rows, markdown, new_table, print_table, with_short_names

PAIRS_SHOWN = 20
"""Pairs in the table; with more, those of the best strategy."""
WORSE = {"better": "worse", "higher": "lower"}


def write_comparison(console: Console, comparison: Comparison, fmt: str, everything: bool = False) -> None:
    """Print a comparison in one of `harness.reporting.terminal.FORMATS`.

    json has everything, md strategies and pairs, csv the pairs; all in full precision.

    Args:
        console: standard output.
        comparison: from `harness.analysis.compare.compare`.
        fmt: the format.
        everything: whether a table is followed by pairs, spread over templates and what the variance comes from.
            Pairs with a baseline that was asked for are always there.
    """
    if fmt == "json":
        write_json(console, _comparison_facts(comparison))
    elif fmt == "csv":
        write(console, csv_text(comparison.pairs))
    elif fmt == "md":
        write(console, markdown(comparison.strategies) + "\n" + markdown(comparison.pairs))
    elif fmt == "table":
        _answer_lines(console, comparison)
        for crossing in comparison.crossings:
            say(console, f"Prompting or labelling: {crossing_text(crossing)}.")
        _strategies_table(console, comparison)
        if everything or comparison.settings["baseline"] is not None:
            _pairs_table(console, comparison)
        if everything:
            _sensitivity_table(console, comparison)
            _variance_table(console, comparison)
            write_notes(console, allocation_texts(comparison.allocation))
        write_notes(console, comparison.notes)
        if not everything:
            say(console, "- more with --all: pairs, spread over templates, where the variance comes from")
    else:
        raise ValueError(f"no format {fmt!r}")


def _strategies_table(console: Console, comparison: Comparison) -> None:
    level = f"{100 * comparison.settings['level']:g}%"
    best, _ = _words(comparison)
    legend = f"* {best} as scored, = may be the {best}, {level}{_draw(comparison)}"
    table = new_table(console, f"{comparison.settings['metric']} ({legend})")
    table.add_column("", no_wrap=True)
    table.add_column("strategy", overflow="fold")
    for name in ("as scored", _interval_title(comparison), "scored", f"{best} in resamples"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.strategies.to_dict("records"):
        table.add_row(
            "*" if row["is_best"] else "=" if row["may_be_best"] else "",
            str(row["label"]),
            f"{row['mean']:.4f}",
            f"{row['low']:.4f}-{row['high']:.4f}",
            f"{row['n_scored']}/{row['n_attempted']}",
            f"{row['share_best']:.3f}",
            style="bold" if row["may_be_best"] else "",
        )
    print_table(console, table, [f"{best} in resamples", "scored"])


def _pairs_table(console: Console, comparison: Comparison) -> None:
    pairs, (best, better) = _pairs_by_rank(comparison), _words(comparison)
    family, adjusted = len(pairs), f"p adjusted by Holm over {len(pairs)}{_draw(comparison)}"
    if family > PAIRS_SHOWN and comparison.settings["baseline"] is None:
        pairs = pairs[pairs["second"] == comparison.best]
        adjusted = f"{adjusted}; all pairs: --format json, csv or md"
    baselines = pairs["second"].unique()
    against = "this minus baseline" if len(baselines) > 1 else f"this minus {baselines[0]}"
    if len(baselines) == 1 and baselines[0] == comparison.best:
        against += f", the {best}"
    table = new_table(console, f"Differences are {against} ({adjusted})")
    table.add_column("this", overflow="fold")
    if len(baselines) > 1:
        table.add_column("baseline", overflow="fold")
    for name in ("difference", _interval_title(comparison), "p", "p Holm", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in pairs.to_dict("records"):
        table.add_row(
            str(row["first"]),
            *([str(row["second"])] if len(baselines) > 1 else []),
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} {row['high']:+.4f}",
            f"{row['p']:.4f}",
            f"{row['p_holm']:.4f}",
            str(row["n"]),
            _verdict(row, better),
        )
    print_table(console, table, ["p", "n", "p Holm"])


def _pairs_by_rank(comparison: Comparison) -> pd.DataFrame:
    """The pairs, where none was asked for as a baseline with the higher ranked of two as it."""
    pairs = comparison.pairs
    if comparison.settings["baseline"] is not None:
        return pairs
    rank = {label: place for place, label in enumerate(comparison.strategies["label"])}
    turned = pairs["first"].map(rank) < pairs["second"].map(rank)
    return pairs.assign(
        first=pairs["first"].mask(turned, pairs["second"]),
        second=pairs["second"].mask(turned, pairs["first"]),
        difference=pairs["difference"].mask(turned, 0 - pairs["difference"]),
        low=pairs["low"].mask(turned, 0 - pairs["high"]),
        high=pairs["high"].mask(turned, 0 - pairs["low"]),
    )


def _words(comparison: Comparison) -> tuple[str, str]:
    """What the highest mean and the higher of two are called; `WORSE` has the other of two."""
    return ("best", "better") if comparison.settings["is_quality"] else ("highest", "higher")


def _verdict(row: dict[Any, Any], better: str) -> str:
    if row["differs"]:
        return f"{better if row['difference'] > 0 else WORSE[better]}"
    if pd.isna(row["more_samples"]):
        return "open"
    return f"open; {row['more_samples']:,} more samples?"


def _draw(comparison: Comparison) -> str:
    return f"; {THIS_DRAW}" if comparison.is_one_draw else ""


def _interval_title(comparison: Comparison) -> str:
    return f"{100 * comparison.settings['level']:g}% interval"


def _answer_lines(console: Console, comparison: Comparison) -> None:
    found, level = comparison.selection, f"{100 * comparison.settings['level']:g}%"
    expected = found.expected
    say(console, _answer(comparison))
    say(
        console,
        f"Expected {comparison.settings['metric']} {expected.value:.4f} ({level}: {expected.low:.4f}-"
        f"{expected.high:.4f}) on {comparison.scope}; corrected for picking the {_words(comparison)[0]} "
        f"of {found.n_strategies}.",
    )
    for warning in comparison.warnings:
        say(console, f"Warning: {warning}.")


def _answer(comparison: Comparison) -> str:
    if comparison.settings["is_quality"]:
        return " ".join(sentences(recommend(comparison)))
    inside = int(comparison.strategies["may_be_best"].sum()) - 1
    others = f"{inside:,} others may be" if inside > 1 else "One other may be" if inside else "No other may be"
    return f"Highest: {comparison.best}. {others}."


def _sensitivity_table(console: Console, comparison: Comparison) -> None:
    frame = comparison.sensitivity
    if frame.empty:
        return
    table = new_table(
        console, "Over templates (by chance: the spread if all were equally good on other samples and seeds)"
    )
    keys = [name for name in ("run", "model") if frame[name].nunique() > 1] + ["k"]
    for name in keys:
        table.add_column(name, overflow="fold")
    for name in ("templates", "best", "worst", "mean", _interval_title(comparison), "spread", "by chance"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("saturation", "combined", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in with_short_names(frame).to_dict("records"):
        table.add_row(
            *(str(row[name]) for name in keys),
            str(row["n_templates"]),
            *(f"{row[name]:.4f}" for name in ("best", "worst", "mean")),
            f"{row['mean_low']:.4f}-{row['mean_high']:.4f}",
            *(f"{row[name]:.4f}" for name in ("spread", "spread_by_chance", "saturation", "combined")),
            str(row["n"]),
        )
    print_table(console, table, ["combined", "saturation", "n", "by chance", "templates"])


def _variance_table(console: Console, comparison: Comparison) -> None:
    frame = comparison.variance
    if frame.empty:
        return
    table = new_table(console, "Where the variance of single results comes from")
    keys = [name for name in ("run", "model") if frame[name].nunique() > 1]
    for name in (*keys, "effect"):
        table.add_column(name, overflow="fold")
    for name in ("component", "s.e.", "share", "s.e.", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in with_short_names(frame).to_dict("records"):
        table.add_row(
            *(str(row[name]) for name in keys),
            str(row["effect"]),
            *(f"{row[name]:.5f}" for name in ("component", "component_se")),
            *(f"{row[name]:.3f}" for name in ("share", "share_se")),
            str(row["n_samples"]),
        )
    print_table(console, table, ["n"])
    write_notes(console, [str(note) for note in frame["note"].unique() if note])


def allocation_texts(frame: pd.DataFrame) -> list[str]:
    """What limits a difference between two (template, K) and what to buy next, a sentence per run and model."""
    texts = []
    for row in with_short_names(frame).to_dict("records"):
        names = [str(row[name]) for name in ("run", "model") if frame[name].nunique() > 1]
        where = f" ({', '.join(names)})" if names else ""
        if row["n_seeds"] < 2:
            texts.append(
                f"a difference between two (template, K){where} is known to +-{row['half_width']:.4f} for this draw; "
                "run several seeds to learn whether samples or seeds limit it"
            )
            continue
        total = row["samples"] + row["seeds"] + row["both"]
        if not total:
            continue
        parts = ", ".join(
            f"{name} {100 * row[part] / total:.0f}%"
            for name, part in (("samples", "samples"), ("seeds", "seeds"), ("the two together", "both"))
        )
        texts.append(
            f"the variance of a difference between two (template, K){where} comes from: {parts}. Its interval is "
            f"+-{row['half_width']:.4f}; for twice the tokens +-{row['with_samples']:.4f} with twice the samples, "
            f"+-{row['with_seeds']:.4f} with twice the seeds: more {row['buy']} pay more"
        )
    return texts


def write_notes(console: Console, notes: Sequence[str]) -> None:
    """Print lines below a table."""
    for note in notes:
        say(console, f"- {note}")


def _comparison_facts(comparison: Comparison) -> dict[str, Any]:
    frames = ("strategies", "pairs", "sensitivity", "variance", "allocation")
    return {
        "settings": comparison.settings,
        **{name: json_rows(getattr(comparison, name)) for name in frames},
        "best": comparison.best,
        "recommendation": asdict(recommend(comparison)) if comparison.settings["is_quality"] else None,
        "scope": comparison.scope,
        "is_one_draw": comparison.is_one_draw,
        "selection": selection_facts(comparison.selection),
        "crossings": [_crossing_facts(crossing) for crossing in comparison.crossings],
        "notes": list(comparison.notes),
        "warnings": list(comparison.warnings),
    }


def _crossing_facts(crossing: Crossing) -> dict[str, Any]:
    """A crossing as JSON knows it: an end that is open is null."""
    facts = asdict(crossing)
    return facts | {name: facts[name] if 0 < facts[name] < math.inf else None for name in ("value", "low", "high")}


def write_json(console: Console, facts: dict[str, Any]) -> None:
    """Print plain data in full precision."""
    write(console, json.dumps(facts, ensure_ascii=False, indent=2) + "\n")
