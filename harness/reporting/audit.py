"""What `harness audit` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from harness.analysis.agreement import AnswerAgreement, ScoreAgreement
from harness.reporting.console import write
from harness.reporting.terminal import new_table
from harness.running.audit import ALONE, REFERENCE, RUN, AuditReport
from harness.running.duel import DuelReport

FORMATS = ("table", "json")
WAYS = {RUN: "as the run", ALONE: "prompt by prompt"}


LEGEND = (
    "largest, mean: difference of a label's log-probability, nats. "
    "near ties: the two best labels are within twice the largest difference.\n"
)


def write_audit(console: Console, report: AuditReport, fmt: str) -> None:
    """Print an audit in one of `FORMATS`."""
    if fmt == "json":
        write(console, json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
        return
    for model, engines in report.engines.items():
        reference, run = engines[REFERENCE], engines[RUN]
        sharing = "shared prefixes" if run["shares_prefixes"] else "every prompt by itself"
        write(
            console,
            f"{model}: {run['dtype']}, {sharing}{_how(run)}; against {reference['dtype']}, every prompt by itself; "
            f"{report.n_samples} samples\n",
        )
    table = new_table(console)
    several = len(report.engines) > 1
    scored = report.method != "generate"
    for name in (["model"] if several else []) + ["template", "computed"]:
        table.add_column(name, no_wrap=not several)
    figures = ("flips", "flip rate", "near ties", "largest", "mean") if scored else ("equal", "share")
    for name in ("prompts", *figures):
        table.add_column(name, justify="right", no_wrap=True)
    for audit in report.templates:
        for way, agreement in ((RUN, audit.run), (ALONE, audit.alone)):
            names = [audit.model] if several else []
            table.add_row(*names, audit.template, WAYS[way], f"{agreement.prompts:,}", *_figures(agreement))
    console.print(table)
    if scored:
        write(console, LEGEND)
    for audit in report.templates:
        if isinstance(audit.run, ScoreAgreement) and audit.run.unusable:
            write(console, f"{audit.model}, {audit.template}: {audit.run.unusable:,} prompts without a usable number\n")
        if audit.packing_adds:
            write(
                console,
                f"{audit.model}, {audit.template}: the run's packing changes more than its number format; "
                "use engine.share_prefixes=false and report this model\n",
            )
    if report.is_well:
        write(console, "packing changes no more than the number format\n")
    if report.stored_in is not None:
        write(console, f"stored: {report.stored_in}/audit.json and manifest\n")


def write_duel(console: Console, report: DuelReport, fmt: str) -> None:
    """Print how far two engines agree, in one of `FORMATS`."""
    if fmt == "json":
        write(console, json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
        return
    sides = [f"{side.model} by {side.engine}{_how(side.facts)}" for side in (report.second, report.first)]
    write(console, f"{sides[0]}; against {sides[1]}; {report.n_samples} samples\n")
    scored = report.method != "generate"
    table = new_table(console)
    table.add_column("template", no_wrap=True)
    figures = ("flips", "flip rate", "near ties", "largest", "mean") if scored else ("equal", "share")
    for name in ("prompts", *figures):
        table.add_column(name, justify="right", no_wrap=True)
    for name, agreement in report.templates.items():
        table.add_row(name, f"{agreement.prompts:,}", *_figures(agreement))
    console.print(table)
    if scored:
        write(console, LEGEND)
    for name, agreement in report.templates.items():
        if isinstance(agreement, ScoreAgreement) and agreement.unusable:
            write(
                console,
                f"{name}: {agreement.unusable:,} prompts without a usable number on one side; they are not compared\n",
            )


def _how(facts: Mapping[str, Any]) -> str:
    """What else an engine says of how it computes, where it does."""
    size, attention = facts.get("tokens_per_pack"), facts.get("attention")
    return (f", {size} tokens a pack" if size else "") + (f", {attention} attention" if attention else "")


def _figures(agreement: ScoreAgreement | AnswerAgreement) -> list[str]:
    share = 1 / max(1, agreement.prompts)
    if isinstance(agreement, AnswerAgreement):
        return [f"{agreement.equal:,}", f"{agreement.equal * share:.2%}"]
    return [
        f"{agreement.flips:,}",
        f"{agreement.flips * share:.2%}",
        f"{agreement.near_ties:,}",
        f"{agreement.largest:.2g}",
        f"{agreement.mean:.2g}",
    ]
