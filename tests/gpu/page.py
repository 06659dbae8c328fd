"""A run's results as Markdown, for a terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.gpu.goals import GOALS
from tests.gpu.results import OK

BLANK = "No figure of a GPU is given, because none was measured. `make gpu-check GPU_CHECK=--write` fills this in."
KERNELS = ("cascade", "flex", "parts")


def render(found: Mapping[str, Any] | None) -> str:
    """What a page says of a run on a GPU; without one, that its figures are blank."""
    if found is None or not found["machine"].get("gpu"):
        return f"{BLANK}\n\n{goals_table(None)}"
    steps = found["steps"]
    blocks = [_machine(found["machine"]), goals_table(steps), _kernels(steps), _profile(steps), steps_table(steps)]
    return "\n\n".join(block for block in blocks if block)


def goals_table(steps: Mapping[str, Any] | None) -> str:
    """Goals beside what was found."""
    lines = ["| | goal | found |", "|---|---|---|"]
    for goal in GOALS:
        figure = None if steps is None else goal.measure(steps)
        shown = "" if figure is None else goal.shown.format(figure) + ("" if goal.met(figure) else " (missed)")
        lines.append(f"| {goal.name} | {goal.aim} | {shown} |")
    return "\n".join(lines)


def steps_table(steps: Mapping[str, Any]) -> str:
    """How every step ended."""
    lines = ["| step | ended | seconds |", "|---|---|---|"]
    for name, entry in steps.items():
        reason = f": {entry['reason']}" if entry.get("reason") else ""
        lines.append(f"| {name} | {entry['state']}{reason.replace('|', '/')} | {entry.get('seconds', '')} |")
    return "\n".join(lines)


def _machine(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    commit = f"commit {machine['commit']}; " if machine["commit"] else ""
    return f"{machine['gpu']}; Python {machine['python']}, {packages}; {commit}{machine['date']}."


def _kernels(steps: Mapping[str, Any]) -> str:
    """The grid with every kernel."""
    rows = []
    for step, model in (("lecture 1.3b", "1.3B"), ("other kernels", "1.3B"), ("lecture 8b", "8B")):
        found = steps.get(step, {}).get("found", {})
        for name in KERNELS:
            entry = found.get(name)
            if isinstance(entry, str):
                rows.append(f"| {model} | {name} | {entry} | | | | |")
            elif entry is not None:
                chosen = " (chosen)" if name == found.get("chosen") else ""
                stages = ", ".join(f"{part} {seconds:.2f}" for part, seconds in entry["stages, s"].items())
                rows.append(
                    f"| {model} | {name}{chosen} | {entry['prompts/s']:,.0f} | {entry['of the limit']:.0%} | "
                    f"{entry['computed/unique']:.3f} | {stages} | {entry['peak, GB']:.1f} |"
                )
    if not rows:
        return ""
    head = ["| model | kernel | prompts/s | of the limit | computed / unique | seconds of the stages | peak, GB |"]
    return "\n".join([*head, "|---|---|---|---|---|---|---|", *rows])


def _profile(steps: Mapping[str, Any]) -> str:
    """The kernels of the device that take longest."""
    entry = steps.get("profile", {})
    if entry.get("state") != OK:
        return ""
    found = entry["found"]
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in found["shares"].items())
    lines = [
        f"One unit under the profiler: the device was busy for {found['device busy, s']:.3f} of "
        f"{found['profiled, s']:.3f} s, {found['kernels launched']:,} launches; {kinds}.",
        "",
        "| kernel | share | calls |",
        "|---|---|---|",
    ]
    for top in found["top"][:8]:
        lines.append(f"| `{top['kernel'][:60]}` | {top['share']:.1%} | {top['calls']:,} |")
    return "\n".join(lines)
