"""Runs the tasks of a group one after the other; each is a run of its own, so nothing of it is lost or done twice."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rich.console import Console

from harness.config.groups import Group
from harness.core.errors import UserError
from harness.planning.grouping import Member, members_of
from harness.planning.preparation import prepare
from harness.results.groups import write_group
from harness.running.backend import check_reachable
from harness.running.driver import RunResult, run
from harness.running.stopping import stoppable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupResult:
    """The finished runs of a group."""

    run_dir: str
    runs: tuple[tuple[Member, RunResult], ...]

    @property
    def failed_share(self) -> float:
        """Records that failed, as a share of all."""
        failed, attempted = (
            sum(float(result.cells[name].sum()) for _, result in self.runs) for name in ("n_failed", "n_attempted")
        )
        return failed / attempted


def run_group(
    group: Group, fresh: bool = False, console: Console | None = None, retry_failed: bool = False
) -> GroupResult:
    """Run or resume every task of a group, after all of them were checked.

    Args:
        group: from `harness.config.groups.load_group`.
        fresh: move existing run directories aside and start anew.
        console: where progress is drawn; standard error by default.
        retry_failed: as of `harness.running.driver.run`.

    Raises:
        UserError: whatever the user can mend in any of the tasks, before a model is loaded where possible.
        harness.core.errors.Interrupted: on SIGINT or SIGTERM; committed work stays.
    """
    with stoppable():
        members = members_of(group)
        for member in members:
            check_reachable(member.config)
            _check(member)
    write_group(group.run_dir, [(member.label, member.config.name) for member in members])
    found = []
    for place, member in enumerate(members, 1):
        log.info("task %d of %d: %s", place, len(members), member.label)
        found.append((member, run(member.config, fresh, console, retry_failed)))
    return GroupResult(group.run_dir, tuple(found))


def _check(member: Member) -> None:
    try:
        prepare(member.config)
    except UserError as error:
        raise type(error)(f"{member.label}: {error}") from None
