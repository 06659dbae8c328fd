"""What the verbs that run a grid share, and the verbs `race` and `wandb`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Config, Overrides, load
from harness.core.addresses import redacted
from harness.core.errors import ConfigError, Interrupted
from harness.core.escaping import visible
from harness.reporting.console import output_console
from harness.running.stopping import leave

if TYPE_CHECKING:
    from harness.config.schema import RunConfig


def wandb_command(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR...", help="Runs that were logged to W&B.")],
) -> None:
    """Save a W&B report that lays out logged runs side by side, with its charts; prints its address."""
    from harness.reporting.tracking.layout import save_report
    from harness.results.damage import told_as_damage

    with told_as_damage(run_dirs):
        address = save_report(run_dirs)
    sys.stdout.write(f"{visible(address)}\n")


def race_command(
    config: Config,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an existing run directory aside and start anew.")
    ] = False,
) -> None:
    """The best strategy of a grid at a share of the grid's cost: hopeless ones are dropped, the claim stays valid."""
    from harness.reporting.race import write_result
    from harness.running.race import race

    loaded = load(config, overrides)
    try:
        result = race(loaded, fresh)
    except Interrupted as stop:
        say_how_to_go_on("race", [], config, overrides)
        leave(128 + int(stop.args[0]))
    write_result(output_console(), result.claim, result.held_out, result.baseline, result.spent)
    run_dir = shown(result.run_dir)
    sys.stdout.write(f"decisions: {run_dir}/race.json   the rest of the grid: harness run\n")
    check_failed(result.failed_share, loaded, run_dir)


def serve_report(run_dirs: list[str], out: str | None, by: list[str], seeds: str, port: int) -> None:
    """Serve the report until Ctrl-C."""
    from harness.reporting.live import pages_of, serve, state_of

    if out is not None:
        raise ConfigError("--live serves the page and writes no file; drop --out, or --live")
    is_over = state_of(run_dirs).is_over
    with serve(pages_of(run_dirs, by, seeds), port) as server:
        what = "the run is complete: the page will not change" if is_over else "the page follows the run"
        sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}/   {what}; Ctrl-C ends it\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def say_how_to_go_on(verb: str, flags: list[str], config: Path, overrides: list[str] | None) -> None:
    """The command that goes on with a run that was stopped."""
    words = " ".join([f"harness {verb}", *flags, str(config), *(_quoted(o) for o in overrides or [])])
    with suppress(OSError):  # the terminal is closed
        sys.stderr.write(f"stopped; committed work is kept. Go on with: {shown(words)}\n")


def check_failed(failed_share: float, config: RunConfig, run_dir: str) -> None:
    """End with status 3 where more records failed than the run may put up with."""
    limit = config.run.max_failed_share
    if failed_share > limit:
        sys.stderr.write(
            f"error: {failed_share:.1%} of the records failed, more than run.max_failed_share={limit:g}; "
            f"their errors are in the records and in {run_dir}/run.log\n"
        )
        sys.exit(3)


def shown(text: str) -> str:
    """A text as it may be printed."""
    return visible(redacted(text))


def _quoted(override: str) -> str:
    return f"'{override}'" if any(c in override for c in ' []{}*?$&|;<>()"') else override
