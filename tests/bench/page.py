"""Writes what was measured into a page of the documentation, between markers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.profiling import PARTS


def kept(before: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Results of earlier commands, as long as they are of the same machine, versions and commit."""
    return dict(before["results"]) if before and before["machine"] == machine else {}


def store(file: Path, machine: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Add results to a file, replacing those of the same key.

    Returns:
        All that the file now holds.
    """
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = {"machine": dict(machine), "results": {**kept(before, machine), **results}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    return found


def write(page: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
        SystemExit: the page has no such markers, once each and in this order.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    whole = page.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise SystemExit(f"'{page}' must hold '{begin}' and then '{end}', each once")
    head, tail = whole[: whole.index(begin)], whole[whole.index(end) :]
    page.write_text(f"{head}{begin}\n{text}\n{tail}", encoding="utf-8")


def render(found: Mapping[str, Any]) -> str:
    """All results as Markdown."""
    comparisons = [r for r in found["results"].values() if r["kind"] == "comparison"]
    comparisons.sort(key=lambda r: (r["letter"], r["model"], r["dtype"]))
    shares = [r for r in found["results"].values() if r["kind"] == "ray"]
    blocks = [_machine(found["machine"], found["results"].values())]
    blocks += [_comparison(r) for r in comparisons]
    if any(r["profile"] for r in comparisons):
        blocks.append(_profiles(comparisons))
    blocks += [_ray(r) for r in shares]
    return "\n\n".join(blocks)


def _machine(machine: Mapping[str, Any], results: Any) -> str:
    packages = ", ".join(f"{name} {v}" for name, v in machine["packages"].items() if v)
    where = machine["gpu"] or f"{machine['processor']}, {machine['instructions']}"
    commit = f"commit {machine['commit']}; " if machine["commit"] else ""
    dates = sorted({r["date"] for r in results})
    commands = sorted({r["command"] for r in results})
    return (
        f"{where}; {machine['cores']} cores, {machine['threads']} threads; Python {machine['python']}, {packages}; "
        f"{commit}{' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n\n"
        + "\n".join(f"    {command}" for command in commands)
    )


def _comparison(r: Mapping[str, Any]) -> str:
    work, peak = r["work"], max(r["peaks"])
    rounds = "1 round" if r["rounds"] == 1 else f"{r['rounds']} rounds"
    clock = ", in seconds of processor time" if r["clock"] == "processor" else ""
    lines = [
        f"**({r['letter']}) {r['title']}; {r['model']}, {r['dtype']}**",
        "",
        f"{r['n_samples']:,} samples ({r['data']}), {r['n_prompts']:,} prompts, {work['tokens']:,} tokens, "
        f"{work['unique']:,} unique ({work['tokens'] / work['unique']:.1f} times fewer); {rounds}{clock}.",
        "",
        "| contender | prompts/s | this project is | tokens computed | of the limit "
        "| same as unshared float32 | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in r["rows"]:
        size = f", batches of {row['size']}" if row["size"] else ""
        part = "" if row["timed"] >= r["n_prompts"] * r["rounds"] else f" (timed on {row['timed']:,})"
        ratio = "" if row["name"] == "this project" else f"{row['behind']:.1f} x"
        same = f"{row['same']:,} of {row['compared']:,}" if row["compared"] else ""
        difference = "" if row["difference"] is None else f"{row['difference']:.1g}"
        lines.append(
            f"| {row['name']}{size}{part} | {row['prompts_per_s']:,.1f} | {ratio} | {row['tokens']:,} | "
            f"{row['of_limit']:.0%} | {same} | {difference} |"
        )
    operations = work["linear"] + work["head"]
    lines += [
        f"| limit | {r['n_prompts'] * peak / operations:,.1f} | | {work['unique']:,} | 100% | | |",
        "",
        f"Peak of the matrix products: {peak / 1e9:,.0f} GFLOP/s. Attention would add "
        f"{work['attention'] / operations:.0%} to the limit's operations.",
    ]
    return "\n".join(lines)


def _profiles(comparisons: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "**Where this project's time goes**",
        "",
        f"| workload, model | {' | '.join(PARTS)} |",
        f"|---|{'---|' * len(PARTS)}",
    ]
    for r in comparisons:
        if r["profile"]:
            total = sum(r["profile"].values())
            shares = " | ".join(f"{r['profile'][part] / total:.1%}" for part in PARTS)
            lines.append(f"| ({r['letter']}) {r['model']}, {r['dtype']} | {shares} |")
    return "\n".join(lines)


def _ray(r: Mapping[str, Any]) -> str:
    within = median(s / w for s, w in zip(r["scoring"], r["working"], strict=True))
    return (
        f"**What Ray and the records cost; {r['model']}, float32**\n\n"
        f"`harness run` with one replica on a private Ray, {r['n_units']} units of "
        f"{median(r['working']) / r['n_units']:.1f} s, {r['n_prompts']:,} prompts; {len(r['working'])} rounds.\n\n"
        "| | |\n|---|---|\n"
        f"| working phase, from the replica's readiness to the last committed unit | {median(r['working']):.1f} s |\n"
        f"| the engine alone on the same units, rendering included | {median(r['engine']):.1f} s |\n"
        f"| difference, median of the rounds | {r['more']:+.1%} |\n"
        f"| of the working phase inside the engine, as the replica counted it | {within:.1%} |\n"
        f"| start of Ray and the model's loading, reading back, end | {median(r['start']):.1f} s |"
    )
