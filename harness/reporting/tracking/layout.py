"""A W&B report that compares grids, as code: its charts, the runs in it, and the presets that draw them.

A preset is a Vega-Lite specification of a user or team, which may be edited on its page; those of this package lie in
`presets`. A preset's name ends in a hash of its content, so that none is written over. Knows the names of logged
tables; refuses to know how figures are computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from harness.analysis.summary import summarise
from harness.core.errors import ConfigError, RunDirError
from harness.core.escaping import one_line
from harness.core.hashing import content_hash
from harness.reporting.tracking.charts import Chart, charts
from harness.reporting.tracking.process_tracker import wandb_id
from harness.results.manifest import read_manifest
from harness.results.store import RunStore

PRESETS = {
    "against_k": "Prompts against K with intervals",
    "heatmap": "Templates against K",
    "parallel_coordinates": "Every cell by its settings",
}
"""Specification to what people call it."""
DRAWN_BY = {"against_k": "against_k", "strategies": "heatmap", "every_cell": "parallel_coordinates"}
"""Logged chart to the specification that draws it; others keep W&B's own preset."""
INSTALL = "install it with pip install 'prompt-grid-harness[wandb-reports]'"
WIDTH, HEIGHT = 24, 12
"""Of a panel over the whole page, in W&B's units."""


@dataclass(frozen=True)
class LoggedRun:
    """What W&B knows of a run directory."""

    name: str
    run_id: str
    project: str
    entity: str | None
    """User or team; None for the key's own."""


def logged_run(run_dir: str) -> LoggedRun:
    """The W&B run of a run directory.

    Args:
        run_dir: local or a storage URI.

    Raises:
        RunDirError: it was not logged.
    """
    manifest = read_manifest(RunStore(run_dir), "config")
    settings: Mapping[str, Any] = manifest["config"].get("wandb", {})
    if settings.get("mode", "disabled") == "disabled" or "tracking_id" not in manifest:
        raise RunDirError(
            f"'{run_dir}' was not logged to W&B, expected a run with wandb.mode=online (or offline, and uploaded); run "
            "the same command again with it: nothing is computed anew, and all cells are logged"
        )
    name, run_id = manifest["config"]["name"], wandb_id(manifest["tracking_id"])
    return LoggedRun(name, run_id, settings["project"], settings.get("entity"))


def specification(name: str) -> dict[str, Any]:
    """The Vega-Lite specification of a preset; W&B fills in the fields and texts of a chart."""
    text = (files("harness.reporting.tracking") / "presets" / f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def preset_name(name: str) -> str:
    """What a preset is called at W&B."""
    return f"prompt-grid-{name.replace('_', '-')}-{content_hash(specification(name))[:8]}"


def save_report(run_dirs: Sequence[str]) -> str:
    """Save a report on runs at W&B, with the presets that it needs.

    Args:
        run_dirs: run directories that were logged.

    Returns:
        Its address.

    Raises:
        ConfigError: wandb-workspaces is not installed, or W&B refuses.
        RunDirError: a run was not logged, or is judged by another figure.
    """
    runs = [logged_run(run_dir) for run_dir in run_dirs]
    drawn = _common_charts(run_dirs)
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"a W&B report needs wandb-workspaces, which is not installed; {INSTALL}") from error
    try:
        return _save(runs, drawn)
    except Exception as error:
        raise ConfigError(
            f"W&B does not take the report: {type(error).__name__}: {one_line(str(error), 200)}; check the key "
            "(WANDB_API_KEY), the address (WANDB_BASE_URL), and that the runs are uploaded"
        ) from error


def _save(runs: Sequence[LoggedRun], drawn: Sequence[Chart]) -> str:
    import wandb

    api = wandb.Api()
    entity = runs[0].entity or str(api.default_entity)
    for name in {DRAWN_BY[chart.name] for chart in drawn if chart.name in DRAWN_BY}:
        _save_preset(api, entity, name)
    report = layout(runs, drawn, entity)
    report.save()
    return str(report.url)


def _save_preset(api: Any, entity: str, name: str) -> None:
    """Make a preset; one of that name has the same content already."""
    try:
        api.create_custom_chart(entity, preset_name(name), PRESETS[name], "vega2", "private", specification(name))
    except Exception as error:
        if "exist" not in str(error).lower():
            raise


def layout(runs: Sequence[LoggedRun], drawn: Sequence[Chart], entity: str) -> Any:
    """The report, not saved: a set of runs for each project, the charts of their tables, speed, and what differs.

    Args:
        runs: that it shows.
        drawn: charts that all of them have logged.
        entity: that has the presets, and the runs whose configuration names none.
    """
    import wandb_workspaces.reports.v2 as reports
    from wandb_workspaces import expr

    projects = dict.fromkeys((run.entity or entity, run.project) for run in runs)
    sets = [
        reports.Runset(
            entity=owner,
            project=project,
            name=project,
            filters=expr.And(
                expr.Metric("ID").isin([r.run_id for r in runs if (r.entity or entity, r.project) == (owner, project)])
            ),
        )
        for owner, project in projects
    ]
    panels = [_chart_panel(reports, chart, entity, place) for place, chart in enumerate(drawn)]
    below = HEIGHT * len(drawn)
    speed = reports.LinePlot(
        title="unique tokens per second",
        x="progress/units_done",
        y=["progress/unique_tokens_per_s"],
        layout=reports.Layout(x=0, y=below, w=WIDTH // 2, h=HEIGHT),
    )
    settings = reports.RunComparer(diff_only=True, layout=reports.Layout(x=WIDTH // 2, y=below, w=WIDTH // 2, h=HEIGHT))
    names = " and ".join(run.name for run in runs)
    return reports.Report(
        project=runs[0].project,
        entity=entity,
        title=one_line(f"Prompts: {names}", 120),
        description="Written by harness wandb; every panel can be edited.",
        width="fluid",
        blocks=[
            reports.MarkdownBlock(
                "Figures are those of cells, with the luck of picking the best still in them. For differences with "
                "intervals on the same samples: `harness compare ... --by run,template,k`."
            ),
            reports.PanelGrid(runsets=sets, panels=[*panels, speed, settings]),
        ],
    )


def _chart_panel(reports: Any, chart: Chart, entity: str, place: int) -> Any:
    drawn_by = DRAWN_BY.get(chart.name)
    return reports.CustomChart(
        query={"summaryTable": {"tableKey": f"{chart.name}_table"}},
        chart_name=chart.preset if drawn_by is None else f"{entity}/{preset_name(drawn_by)}",
        chart_fields=dict(chart.fields),
        chart_strings=dict(chart.texts),
        layout=reports.Layout(x=0, y=HEIGHT * place, w=WIDTH, h=HEIGHT),
    )


def _common_charts(run_dirs: Sequence[str]) -> list[Chart]:
    """Charts that all runs have logged, which they have of the same figure."""
    of_runs = [{chart.name: chart for chart in charts(summarise(run_dir))} for run_dir in run_dirs]
    for run_dir, found in zip(run_dirs, of_runs, strict=True):
        if found["against_k"].fields != of_runs[0]["against_k"].fields:
            figures = [known["against_k"].fields["lineVal"] for known in (found, of_runs[0])]
            raise RunDirError(
                f"'{run_dir}' is judged by {figures[0]}, '{run_dirs[0]}' by {figures[1]}; expected runs of one figure"
            )
    return [chart for name, chart in of_runs[0].items() if all(name in found for found in of_runs)]
