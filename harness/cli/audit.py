"""The `audit` verb: float32 against the run, or one engine against another."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from harness.cli.arguments import Config, Overrides, load
from harness.core.errors import ConfigError, did_you_mean
from harness.reporting.console import output_console


def audit_command(
    config: Config,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many samples, evenly spread.")] = 100,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="KEY=VALUE,...",
            help="Hold another engine or model against the run's, e.g. model.engine=server,model.base_url=...",
        ),
    ] = None,
    fmt: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
) -> None:
    """What number format and packing change, against float32 with every prompt by itself; runs in this process."""
    from harness.reporting.audit import FORMATS, write_audit, write_duel
    from harness.running.audit import audit
    from harness.running.duel import duel

    if fmt not in FORMATS:
        raise ConfigError(f"no format '{fmt}'{did_you_mean(fmt, FORMATS)}")
    given = overrides or []
    if against is not None:
        # Commas within lists part no keys.
        other = load(config, [*given, *re.split(r",(?=[A-Za-z_.]+=)", against)])
        write_duel(output_console(), duel(load(config, given), other, samples), fmt)
        return
    report = audit(load(config, given), samples)
    write_audit(output_console(), report, fmt)
    if not report.is_well:
        raise typer.Exit(1)
