"""How results came to be: what the manifests say, as names and texts."""

from __future__ import annotations

import json
from typing import Any

from harness.core.addresses import redacted
from harness.reporting.report.blocks import Section
from harness.reporting.report.gathering import ReportData, RunFacts
from harness.reporting.report.wording import count, last_part


def facts_section(data: ReportData) -> Section:
    """Facts and resolved configuration of every run."""
    blocks = [
        (
            run.name or str(run.manifest["config"].get("name", run.run_dir)),
            run_facts(run),
            redacted(json.dumps(run.manifest["config"], indent=2, ensure_ascii=False)),
        )
        for run in data.runs
    ]
    lead = "How these results came to be, from the manifest: enough to run them again."
    return Section("facts", "Run facts", "Run facts", lead, kind="facts", extra=blocks)


def run_facts(run: RunFacts) -> list[tuple[str, str]]:
    """Names and texts of what a manifest says, the most asked first."""
    manifest = run.manifest
    facts: list[tuple[str, str]] = [
        ("Status", str(manifest["status"])),
        ("Run directory", run.run_dir),
        ("Records", f"{count(int(run.cells['n_attempted'].sum()))} of {count(run.n_planned)}"),
        ("Scoring", str(manifest.get("method", ""))),
        (
            "Demonstrations",
            ", ".join(f"{k} {v}" for k, v in manifest["config"].get("demos", {}).items() if v is not None),
        ),
        ("Pool", ", ".join(f"{last_part(m)}: {count(n)} samples" for m, n in manifest["n_pool"].items())),
        ("Samples' hash", str(manifest["identity"].get("samples", "unknown"))),
        ("Pool's hash", str(manifest["identity"].get("pool", "unknown"))),
    ]
    facts += [(f"Model {last_part(m)}", f"{m}, hash {h}") for m, h in manifest["identity"].get("models", {}).items()]
    for model, engine in manifest["engines"].items():
        facts.append((f"Engine of {last_part(model)}", _words(engine)))
    for number, session in enumerate(manifest["sessions"], 1):
        facts.append((f"Session {number}", f"{session['started']} to {session['ended'] or 'no end'}"))
        facts.append((f"Command {number}", redacted(str(session.get("command", "unknown")))))
        commit = session.get("git_commit") or "unknown"
        facts.append(
            (
                f"Versions {number}",
                f"Python {session.get('python', 'unknown')}, {_words(session.get('packages', {}))}, git {commit}",
            )
        )
    facts += [("Loader", note) for note in manifest["notes"]]
    return facts


def _words(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
