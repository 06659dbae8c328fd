"""What `harness status` and `harness cluster check` print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console

from harness.cluster.findings import ClusterReport, Place, gibibytes
from harness.core.escaping import visible
from harness.reporting.console import write
from harness.reporting.progress import duration
from harness.reporting.terminal import new_table
from harness.results.status import RunStatus, State

FORMATS = ("table", "json")
MOST_REPLICAS = 16
"""Replicas named one by one; json has all."""


def write_status(console: Console, status: RunStatus, fmt: str) -> None:
    """Print a run's status in one of `FORMATS`; json carries every field of `RunStatus`."""
    if fmt == "json":
        write(console, json.dumps(asdict(status), ensure_ascii=False, indent=2) + "\n")
        return
    if fmt != "table":
        raise ValueError(f"unknown format '{fmt}'")
    for name, text in _status_lines(status):
        write(console, f"{name:<9} {visible(text)}\n")
    for session in status.sessions:
        end = session.ended or ("going on" if status.state is State.RUNNING else "no end recorded")
        if session is not status.sessions[-1]:
            end = session.ended or "killed"
        write(console, f"session   {session.started} to {end}{f' on {session.host}' if session.host else ''}\n")
    for line in status.log_lines:
        write(console, f"  {visible(line)}\n")


def _status_lines(status: RunStatus) -> list[tuple[str, str]]:
    """Names and texts of what is known."""
    lines = [("run", status.run_dir), ("state", _state(status))]
    done, total = status.units_done, status.units_total
    share = f" of {total:,} ({done / total:.1%})" if total else ""
    left = f", about {duration(status.left_s)} left" if status.left_s is not None else ""
    lines.append(("units", f"{done:,}{share}{left}"))
    if status.records_done is not None:
        about = "" if status.records_exact else "about "
        of = f" of {status.records_total:,}" if status.records_total is not None else ""
        lines.append(("records", f"{about}{status.records_done:,}{of}"))
    newest = status.newest
    if newest.n_records:
        within = "" if newest.n_parts == done else f" in the newest {newest.n_parts} parts"
        lines.append(("failed", f"{newest.n_failed:,} of {newest.n_records:,}{within}{_counts(newest.failures)}"))
    if newest.n_unreadable:
        lines.append(("damaged", f"{newest.n_unreadable:,} parts; `harness run` computes them again"))
    if status.rate is not None:
        rate = status.rate
        when = "the last" if status.state is State.RUNNING else "its last"
        lines.append(
            (
                "rate",
                f"{rate.prompts_per_s:,.1f} prompts/s, {rate.tokens_per_s:,.0f} unique tokens/s "
                f"over {when} {duration(rate.over_s)}",
            )
        )
    if newest.replicas:
        shown = list(newest.replicas.items())[:MOST_REPLICAS]
        more = len(newest.replicas) - len(shown)
        names = ", ".join(f"{name} ({count})" for name, count in shown) + (f" and {more} more" if more else "")
        lines.append(("replicas", f"{len(newest.replicas)} in the newest {newest.n_parts} parts: {names}"))
    return lines


def _state(status: RunStatus) -> str:
    quiet = duration(status.quiet_s)
    if status.state is State.SILENT:
        if status.driver_gone:
            return f"its driver is gone, last written {quiet} ago; run the same command again to go on"
        advice = (
            "its driver lives" if status.driver_gone is False else "if its driver is gone, run the same command again"
        )
        return f"running, but silent for {quiet}; {advice}"
    return f"{status.state}, last written {quiet} ago"


def _counts(failures: Mapping[str, int]) -> str:
    return f": {', '.join(f'{name} {count:,}' for name, count in failures.items())}" if failures else ""


def write_check(console: Console, report: ClusterReport) -> None:
    """Print nodes, findings and the verdict of a check."""
    assert report.driver.software is not None
    versions = ", ".join(f"{name} {found or '-'}" for name, found in report.driver.software.versions.items())
    write(console, f"driver: {versions}, harness {report.driver.software.source}\n")
    table = new_table(console)
    for name, justify in (
        ("node", "left"),
        ("CPUs", "right"),
        ("GPUs", "left"),
        ("free", "right"),
        ("memory", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    checked = report.driver.access is not None
    for name in ("versions", *(("model", "out") if checked else ()), "replicas"):
        table.add_column(name)
    for node in report.nodes:
        access = [_model(node), _out(node)] if checked else []
        table.add_row(
            node.name,
            f"{node.cpus:g}",
            _gpus(node),
            _free(node),
            gibibytes(node.memory_bytes),
            _versions(node, report.driver),
            *access,
            "yes" if node.has_replicas else "no",
        )
    console.print(table)
    for finding in report.findings:
        places = _some(finding.places)
        write(console, f"{'mend' if finding.must_mend else 'note'}: {places}: {finding.text}\n")
    write(console, _verdict(report))


def _verdict(report: ClusterReport) -> str:
    count = sum(finding.must_mend for finding in report.findings)
    if count:
        return f"{count} thing{'s' if count > 1 else ''} to mend\n"
    if report.demand is None:
        return "all is well; give a configuration to check model, out and replicas as well\n"
    demand = report.demand
    each = f"{demand.gpus:g} GPU" if demand.gpus else f"{demand.cpus:g} CPU"
    return f"all is well; replicas that a run would start: {demand.replicas}, {each} each\n"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def _gpus(node: Place) -> str:
    devices = node.software.devices if node.software else None
    kind = node.gpu_type or (devices[0].name if devices else None)
    return "-" if not node.gpus else f"{node.gpus:g}" + (f" x {kind}" if kind else "")


def _free(node: Place) -> str:
    """The least free memory of the node's GPUs: what the worst placed replica gets."""
    devices = node.software.devices if node.software else None
    return gibibytes(min(device.free_bytes for device in devices)) if devices else "-"


def _versions(node: Place, driver: Place) -> str:
    if node.software is None or driver.software is None:
        return "no answer"
    theirs, ours = node.software, driver.software.versions
    others = [f"{name} {found or '-'}" for name, found in theirs.versions.items() if found != ours.get(name)]
    if theirs.source != driver.software.source:
        others.append(f"harness {theirs.source or '-'}")
    return ", ".join(others) or "as the driver"


def _model(node: Place) -> str:
    if node.access is None or not node.access.models:
        return "-"
    return "no" if any(model.error for model in node.access.models) else "read"


def _out(node: Place) -> str:
    if node.access is None or not (node.access.models or node.access.out_error):
        return "-"
    return "no" if node.access.out_error else "not shared" if node.access.unseen else "written"
