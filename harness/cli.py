"""The command line: verbs and flags. Knows nothing of how anything is done."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from harness.config import load_config
from harness.errors import BrokenDeviceError, ClusterLostError, ConfigError, HarnessError, UserError, did_you_mean
from harness.reporting.console import output_console
from harness.stopping import Interrupted, leave

app = typer.Typer(
    name="harness",
    help="Compare prompt strategies for language models: a grid of template x K x seed x model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="The official data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
cluster_app = typer.Typer(help="The Ray cluster.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cluster_app, name="cluster")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; its keys are in configs/README.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. task.limit=100 grid.k=[0,8].")
]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory: {out}/{name}.")]
Format = Annotated[str, typer.Option("--format", metavar="table|json|csv|md", help="How to print.")]


@app.command("run", epilog="Example: harness run configs/demo.yaml task.limit=100 grid.k=[0,8]")
def run_command(
    config: Config,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an existing run directory aside and start anew.")
    ] = False,
) -> None:
    """Run or resume a grid, with live progress; prints the table of cells."""
    from harness.analysis.cells import over_seeds
    from harness.driver import run
    from harness.reporting.terminal import write_cells
    from harness.summary import table_notes

    loaded = load_config(config, overrides or [])
    try:
        result = run(loaded, fresh)
    except Interrupted as stop:
        words = " ".join(["harness run", str(config), *(_quoted(o) for o in overrides or [])])
        sys.stderr.write(f"stopped; committed work is kept. Go on with: {words}\n")
        leave(128 + int(stop.args[0]))
    write_cells(output_console(), result.cells, over_seeds(result.cells), "table", table_notes(result.run_dir))
    sys.stdout.write(f"records: {result.run_dir}/parts   figures: harness show {result.run_dir}\n")
    limit = loaded.run.max_failed_share
    if result.failed_share > limit:
        sys.stderr.write(
            f"error: {result.failed_share:.1%} of the records failed, more than run.max_failed_share={limit:g}; "
            f"their errors are in the records and in {result.run_dir}/run.log\n"
        )
        sys.exit(3)


@app.command("plan", epilog="Example: harness plan configs/nsmc_grid.yaml model.path=data_in/models/ko-tiny")
def plan_command(config: Config, overrides: Overrides = None) -> None:
    """What a grid would cost: prompts, tokens, context, label boundaries. Loads no model."""
    from harness.planning import make_report
    from harness.reporting.plans import write_plan

    write_plan(output_console(), make_report(load_config(config, overrides or [])))


@app.command("prompts", epilog="Example: harness prompts configs/demo.yaml --limit 3")
def prompts_command(
    config: Config,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many prompts.")] = None,
) -> None:
    """The prompts as JSON lines, exactly as the engine will see them."""
    from harness.planning import prompt_lines

    for line in prompt_lines(load_config(config, overrides or []), limit):
        sys.stdout.write(line + "\n")


@app.command("show", epilog="Example: harness show data_out/demo --format csv")
def show_command(run_dir: RunDir, fmt: Format = "table") -> None:
    """The cells of a run: accuracy with its interval, F1, failures; also while it goes on."""
    from harness.analysis.cells import over_seeds
    from harness.errors import RunDirError
    from harness.reporting.terminal import write_cells
    from harness.summary import summarise, table_notes

    _check_format(fmt)
    cells = summarise(run_dir)
    if cells.empty:
        raise RunDirError(f"'{run_dir}' has no records yet; run or resume it with `harness run`")
    write_cells(output_console(), cells, over_seeds(cells), fmt, table_notes(run_dir))


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
    metric: Annotated[str | None, typer.Option("--metric", help="accuracy, or a metric of generated answers.")] = None,
    fixed_seeds: Annotated[
        bool, typer.Option("--fixed-seeds", help="Conclude about these seeds only, not about seeds at large.")
    ] = False,
    fmt: Format = "table",
) -> None:
    """Differences between strategies on the same samples: intervals, tests, what is still open."""
    from harness.comparing import compare
    from harness.reporting.comparison import write_comparison

    _check_format(fmt)
    axes = [axis.strip() for axis in by.split(",") if axis.strip()]
    write_comparison(output_console(), compare(run_dirs, axes, baseline, metric, fixed_seeds=fixed_seeds), fmt)


@app.command("calibrate", epilog="Example: harness calibrate data_out/demo")
def calibrate_command(run_dir: RunDir, fmt: Format = "table") -> None:
    """Accuracy before and after calibration and template ensembling, from stored label scores."""
    from harness.calibrating import calibrate
    from harness.reporting.comparison import write_calibration

    _check_format(fmt)
    write_calibration(output_console(), calibrate(run_dir), fmt)


@app.command("audit", epilog="Example: harness audit configs/demo.yaml --samples 100")
def audit_command(
    config: Config,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many samples, evenly spread.")] = 100,
    fmt: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
) -> None:
    """What number format and packing change, against float32 with every prompt by itself; runs in this process."""
    from harness.auditing import audit
    from harness.reporting.audit import FORMATS, write_audit

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")
    report = audit(load_config(config, overrides or []), samples)
    write_audit(output_console(), report, fmt)
    if not report.is_well:
        raise typer.Exit(1)


@app.command("report", epilog="Example: harness report data_out/demo")
def report_command(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="Run directories of one task.")],
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="report.html in the run directory by default.")
    ] = None,
) -> None:
    """One self-contained HTML file: which prompt, how sure, at what cost, and every sample."""
    from harness.reporting.report.build import write_report

    sys.stdout.write(f"{write_report(run_dirs, out)}\n")


@app.command("export", epilog="Example: harness export data_out/korquad_demo --format korquad")
def export_command(
    run_dir: RunDir,
    fmt: Annotated[str, typer.Option("--format", metavar="korquad", help="JSON objects {id: answer}.")] = "korquad",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Folder; RUN_DIR/predictions by default.")
    ] = None,
) -> None:
    """Write generated answers as prediction files for official scripts, one per cell."""
    from harness.exporting import FORMATS, export_answers

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")
    for path in export_answers(run_dir, to):
        sys.stdout.write(f"{path}\n")


@app.command("status", epilog="Example: harness status data_out/demo")
def status_command(
    run_dir: RunDir,
    fmt: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
) -> None:
    """How far a run is: state, units, failures, speed, time left, log; also while it goes on."""
    from harness.reporting.watching import FORMATS, write_status
    from harness.watching import read_status

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")
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
    from harness.distributed.checking import check_cluster
    from harness.reporting.watching import write_check

    report = check_cluster(load_config(config, overrides or []) if config is not None else None, address)
    write_check(output_console(), report)
    if not report.is_well:
        raise typer.Exit(2)


@app.command("tasks", epilog="Example: harness tasks")
def tasks_command() -> None:
    """The registered tasks: their templates, labels and expected files."""
    from harness.reporting.plans import write_tasks
    from harness.task import find_task, registered_tasks

    write_tasks(output_console(), [find_task(name) for name in sorted(registered_tasks())])


@data_app.command("get", epilog="Example: harness data get nsmc --to data_in/nsmc")
def data_get_command(
    name: Annotated[str, typer.Argument(metavar="nsmc|korquad1|korquad2", help="The data set.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Folder; data_in/NAME by default.")] = None,
) -> None:
    """Download the official files and verify them by their git blob ids."""
    from harness.downloads import DATASETS, fetch

    if name not in DATASETS:
        raise ConfigError(f"no data set '{name}'{did_you_mean(name, DATASETS)}")
    fetch(DATASETS[name], to or Path("data_in") / name, Console(stderr=True))


def _check_format(fmt: str) -> None:
    from harness.reporting.terminal import FORMATS

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")


def _quoted(override: str) -> str:
    return f"'{override}'" if any(c in override for c in ' []{}*?$&|;<>()"') else override


def main() -> None:
    """Entry point: errors of the user end in one line and exit status 2."""
    # Tasks are found beside the user, as with `python -m harness`.
    sys.path.insert(0, str(Path.cwd()))
    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, markup=False)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("harness")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except ClusterLostError as error:
        sys.stderr.write(f"error: {error}\n")
        leave(1)
    except BrokenDeviceError as error:
        sys.stderr.write(f"error: {error}; committed work is kept, run the same command again to go on\n")
        # Taking a broken device apart in an orderly way can abort the process.
        leave(1)
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
