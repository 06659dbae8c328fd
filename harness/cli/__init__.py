"""The command line: verbs and flags. Knows nothing of how anything is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import audit, data, groups, runs
from harness.cli.arguments import Config, Format, Overrides, RunDir, load
from harness.cli.ending import run_to_the_end
from harness.cli.runs import check_failed, say_how_to_go_on
from harness.cli.runs import shown as _shown
from harness.core.collecting import collect_after_start
from harness.core.errors import ConfigError, Interrupted, did_you_mean
from harness.core.escaping import visible
from harness.reporting.console import output_console
from harness.results.damage import told_as_damage
from harness.running.stopping import leave

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
DEMO = Path("configs/demo.yaml")
data_app = typer.Typer(help="The official data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
cluster_app = typer.Typer(help="The Ray cluster.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cluster_app, name="cluster")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=data.print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare prompt strategies for language models: a grid of template x K x seed x model."""


@app.command("run", epilog="Example: harness run configs/demo.yaml name=small task.limit=100 grid.k=[0,8]")
def run_command(
    config: Config,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an existing run directory aside and start anew.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Compute every failed record again, not only those that may pass."),
    ] = False,
) -> None:
    """Run or resume a grid, or with `tasks` one of several; live progress, then the table of cells or tasks."""
    from harness.analysis.cells import over_seeds
    from harness.analysis.summary import table_notes
    from harness.reporting.terminal import write_cells
    from harness.running.driver import run
    from harness.running.group import run_group

    group = groups.group_of(config, overrides)
    try:
        if group is not None:
            several = run_group(group, fresh, retry_failed=retry_failed)
        else:
            loaded = load(config, overrides)
            result = run(loaded, fresh, retry_failed=retry_failed)
    except Interrupted as stop:
        say_how_to_go_on("run", ["--retry-failed"] if retry_failed else [], config, overrides)
        leave(128 + int(stop.args[0]))
    if group is not None:
        groups.write_result(several)
        check_failed(several.failed_share, group.entries[0].config, _shown(several.run_dir))
        return
    write_cells(
        output_console(), result.cells, over_seeds(result.cells), "table", table_notes(result.run_dir, result.cells)
    )
    shown = _shown(result.run_dir)
    sys.stdout.write(
        f"records: {shown}/parts\n"
        f"figures: harness show {shown}\n"
        f"next: harness compare {shown} --by template,k\n"
        f"      harness report {shown}\n"
    )
    check_failed(result.failed_share, loaded, shown)


@app.command("demo", epilog="Example: harness demo name=small task.limit=100")
def demo_command(overrides: Overrides = None) -> None:
    """Run the grid that comes with the package: embedded model and reviews, offline."""
    run_command(DEMO, overrides)


@app.command("plan", epilog="Example: harness plan configs/nsmc_grid.yaml model.path=data_in/models/ko-tiny")
def plan_command(config: Config, overrides: Overrides = None) -> None:
    """What a grid would cost: prompts, tokens, context, label boundaries. Loads no model."""
    from harness.planning.report import make_report
    from harness.reporting.plans import write_plan

    if (group := groups.group_of(config, overrides)) is not None:
        groups.write_plans(group)
        return
    write_plan(output_console(), make_report(load(config, overrides)))


@app.command("prompts", epilog="Example: harness prompts configs/demo.yaml --limit 3")
def prompts_command(
    config: Config,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many prompts.")] = None,
) -> None:
    """The prompts as JSON lines, exactly as the engine will see them."""
    from harness.planning.report import prompt_lines

    for line in prompt_lines(load(config, overrides), limit):
        sys.stdout.write(visible(line) + "\n")


@app.command("show", epilog="Example: harness show data_out/demo --format csv")
def show_command(run_dir: RunDir, fmt: Format = "table") -> None:
    """The cells of a run: accuracy with its interval, F1, failures; also while it goes on."""
    from harness.analysis.cells import over_seeds
    from harness.analysis.raced import raced_note
    from harness.analysis.summary import summarise, table_notes
    from harness.core.errors import RunDirError
    from harness.reporting.terminal import write_cells

    _check_format(fmt)
    with told_as_damage([run_dir]):
        if groups.runs_of(run_dir) is not None:
            groups.show(run_dir, fmt)
            return
        cells = summarise(run_dir)
        if cells.empty:
            raise RunDirError(
                f"'{run_dir}' has no records yet, or none that can be read; run or resume it with `harness run`"
            )
        notes = [*table_notes(run_dir, cells), *filter(None, [raced_note(run_dir, cells["n_attempted"].tolist())])]
        write_cells(output_console(), cells, over_seeds(cells), fmt, notes)


@app.command("compare", epilog="Example: harness compare data_out/demo --by template --baseline english")
def compare_command(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="Run directories of one task.")],
    by: Annotated[
        str,
        typer.Option("--by", metavar="AXES", help="template, k, seed, model, run, with commas; cells by default."),
    ] = "",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="STRATEGY", help="A label, or axis=value,...; all pairs by default."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="accuracy, a metric of answers, or a figure of single records."),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="random|pooled|fixed", help="What averaged seeds stand for."),
    ] = "random",
    calibrated: Annotated[
        str,
        typer.Option("--calibrated", metavar="METHODS", help="Also what these predict: batch, contextual, PMI_DC."),
    ] = "",
    fmt: Format = "table",
    everything: Annotated[
        bool, typer.Option("--all", help="Also pairs, spread over templates, where the variance comes from.")
    ] = False,
) -> None:
    """Which strategy to use, and which others may be as good, on the same samples with intervals."""
    from harness.analysis.compare import compare
    from harness.reporting.comparison import write_comparison

    _check_format(fmt)
    axes, methods = _parts(by), _parts(calibrated)
    given = {"--by": by, "--metric": metric, "--seeds": seeds != "random", "--calibrated": calibrated}
    with told_as_damage(run_dirs):
        if (several := groups.only_group(run_dirs)) is not None:
            groups.compare(several, baseline, fmt, [name for name, value in given.items() if value])
            return
        found = compare(run_dirs, axes, baseline, metric, seeds=seeds, calibrated=methods)
        write_comparison(output_console(), found, fmt, everything)


@app.command("calibrate", epilog="Example: harness calibrate data_out/demo")
def calibrate_command(
    run_dir: RunDir,
    fmt: Format = "table",
    everything: Annotated[bool, typer.Option("--all", help="Also each cell.")] = False,
) -> None:
    """Accuracy before and after calibration and template ensembling, from stored label scores."""
    from harness.analysis.calibrate import calibrate
    from harness.reporting.calibration import write_calibration

    _check_format(fmt)
    with told_as_damage([run_dir]):
        write_calibration(output_console(), calibrate(run_dir), fmt, everything)


app.command("audit", epilog="Example: harness audit configs/demo.yaml --samples 100")(audit.audit_command)


@app.command("report", epilog="Example: harness report data_out/demo")
def report_command(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="Run directories of one task.")],
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="report.html in the run directory by default.")
    ] = None,
    by: Annotated[
        str,
        typer.Option("--by", metavar="AXES", help="Axes of a strategy, as of compare; all but seed by default."),
    ] = "",
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="random|pooled|fixed", help="What averaged seeds stand for."),
    ] = "random",
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page on 127.0.0.1 instead; it follows a run that goes on.")
    ] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Of --live; any that is free by default.")
    ] = None,
) -> None:
    """One self-contained HTML file: which prompt, how sure, at what cost, and every sample."""
    from harness.reporting.report.build import write_report

    if port is not None and not live:
        raise ConfigError("--port is for --live, which serves the page; add --live, or drop --port")
    given = {"--by": by, "--seeds": seeds != "random", "--live": live}
    with told_as_damage(run_dirs):
        several = groups.only_group(run_dirs)
        if several is None and live:
            runs.serve_report(run_dirs, out, _parts(by), seeds, port or 0)
            return
        if several is None:
            path = write_report(run_dirs, out, _parts(by), seeds)
        else:
            path = groups.report(run_dirs[0], several, out, [name for name, value in given.items() if value])
    sys.stdout.write(f"{_shown(str(path))}\n")


@app.command("export", epilog="Example: harness export data_out/korquad_demo --format korquad")
def export_command(
    run_dir: RunDir,
    fmt: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="A format of the run's task; its first by default.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Folder; RUN_DIR/predictions by default.")
    ] = None,
) -> None:
    """Write generated answers as prediction files for official scripts, one per cell."""
    from harness.reporting.export import export_answers

    with told_as_damage([run_dir]):
        paths = export_answers(run_dir, to, fmt)
    for path in paths:
        sys.stdout.write(f"{_shown(str(path))}\n")


@app.command("status", epilog="Example: harness status data_out/demo")
def status_command(
    run_dir: RunDir,
    fmt: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
) -> None:
    """How far a run is: state, units, failures, speed, time left, log; also while it goes on."""
    from harness.reporting.status import FORMATS, write_status
    from harness.results.status import read_status

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")
    with told_as_damage([run_dir]):
        if (several := groups.runs_of(run_dir)) is not None:
            groups.status(several, fmt)
            return
        write_status(output_console(), read_status(run_dir), fmt)


@cluster_app.command("check", epilog="Example: harness cluster check configs/nsmc_grid.yaml out=/shared/results")
def cluster_check_command(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the run; without one, software alone.")
    ] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="auto|HOST:PORT|local", help="The configuration's cluster, else auto."),
    ] = None,
) -> None:
    """Ask every node of a cluster what a run would find there; exit status 2 when something must be mended."""
    from harness.cluster.checking import check_cluster
    from harness.reporting.status import write_check

    report = check_cluster(load(config, overrides) if config is not None else None, address)
    write_check(output_console(), report)
    if not report.is_well:
        raise typer.Exit(2)


app.command("race", epilog="Example: harness race configs/demo.yaml race.epsilon=0.02 'race.baseline=english K=0'")(
    runs.race_command
)
app.command("wandb", epilog="Example: harness wandb data_out/first data_out/second")(runs.wandb_command)
app.command("tasks", epilog="Example: harness tasks")(data.tasks_command)
app.command("init", epilog="Example: harness init reviews.csv --label sentiment")(data.init_command)
data_app.command("get", epilog="Example: harness data get nsmc --to data_in/nsmc")(data.data_get_command)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_format(fmt: str) -> None:
    from harness.reporting.terminal import FORMATS

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")


def main() -> None:
    """Entry point: every error ends in one line, with exit status 2 where the user can mend it."""
    collect_after_start()
    run_to_the_end(app)
