"""The section on what number format and packing changed, where an audit was made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from harness.reporting.report.blocks import Cell, Column, Section, Table
from harness.reporting.report.gathering import ReportData, RunFacts
from harness.reporting.report.wording import count, last_part, share
from harness.results import layout

log = logging.getLogger(__name__)
COLUMNS = ("Prompts", "Flips", "Flip rate", "Near ties", "Largest difference", "Mean difference")
ANSWER_COLUMNS = ("Prompts", "Equal", "Share")
WAYS = {"run": "as the run", "alone": "prompt by prompt"}


def audit_sections(data: ReportData) -> Iterator[Section]:
    """One section, if a run's manifest holds an audit."""
    audits = [(run.name, run.manifest["audit"]) for run in data.runs if _is_sound(run)]
    if not audits:
        return
    tables = [_table(last_part(name), audit) for name, audit in audits]
    rows = [row for _, audit in audits for row in audit["templates"]]
    if audits[0][1]["method"] == "generate":
        equal, prompts = (sum(row["run"][key] for row in rows) for key in ("equal", "prompts"))
        lead = f"{share(equal / max(1, prompts))} of {count(prompts)} audited answers equal those of float32."
    else:
        flips, prompts = (sum(row["run"][key] for row in rows) for key in ("flips", "prompts"))
        lead = (
            f"Number format and packing turned {count(flips)} of {count(prompts)} audited decisions "
            f"({share(flips / max(1, prompts))}) from what float32 decides prompt by prompt."
        )
    bad = [row["template"] for row in rows if row["packing_adds"]]
    notes = ["Near ties: the two best labels are within twice the largest difference. Differences in nats."]
    if bad:
        notes.insert(0, f"Packing changes more than the number format explains: {', '.join(dict.fromkeys(bad))}.")
    else:
        notes.insert(0, "Packing changes no more than the number format does by itself.")
    yield Section("audit", "Number format and packing", "Audit", lead, tables=tables, notes=notes)


def _is_sound(run: RunFacts) -> bool:
    """Whether a run's manifest holds an audit that can be shown."""
    fault = layout.AUDIT(run.manifest["audit"], "audit") if "audit" in run.manifest else ""
    if fault:
        log.warning("the audit in the manifest of '%s' is damaged: %s; it is not shown", run.run_dir, fault)
    return "audit" in run.manifest and not fault


def _table(name: str, audit: Mapping[str, Any]) -> Table:
    generated = audit["method"] == "generate"
    titles = ANSWER_COLUMNS if generated else COLUMNS
    rows = []
    for row in audit["templates"]:
        for way, words in WAYS.items():
            found = row[way]
            prompts = found["prompts"]
            cells = [Cell(f"{row['template']}, {words}"), Cell(count(prompts), prompts)]
            if generated:
                cells += [Cell(count(found["equal"]), found["equal"]), _share(found["equal"], prompts)]
            else:
                cells += [
                    Cell(count(found["flips"]), found["flips"]),
                    _share(found["flips"], prompts),
                    Cell(count(found["near_ties"]), found["near_ties"]),
                    Cell(f"{found['largest']:.2g}", found["largest"]),
                    Cell(f"{found['mean']:.2g}", found["mean"]),
                ]
            rows.append(cells)
    caption = (
        f"Against float32, every prompt by itself, {count(audit['n_samples'])} samples{f', {name}' if name else ''}"
    )
    return Table(caption, [Column("Template", False), *map(Column, titles)], rows)


def _share(part: int, whole: int) -> Cell:
    value = part / max(1, whole)
    return Cell(share(value), value)
