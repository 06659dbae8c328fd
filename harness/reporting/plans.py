"""What `harness plan` and `harness tasks` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from harness.cluster.findings import gibibytes
from harness.core.addresses import redacted
from harness.core.escaping import visible
from harness.core.task import Task
from harness.planning.examples import UNEQUAL
from harness.planning.report import Expense, PlanReport
from harness.prompts.audit import TemplateAudit
from harness.prompts.templates import read_templates
from harness.reporting.console import say, write
from harness.reporting.terminal import new_table, print_table

SHOWN_BYTES = 2**29 // 10
"""Parts of the memory below this are not named: 0.05 GiB."""


MOST_LEFT_OUT = 0.1
"""Share of the pool that `demos.max_tokens` may leave out without a word."""


def _prose(console: Console, text: str) -> None:
    """Write lines of prose: on a terminal broken between words, in a pipe as they are."""
    if not console.is_terminal:
        write(console, text)
        return
    for line in text.splitlines():
        say(console, line)


def write_plan(console: Console, report: PlanReport) -> None:
    """Print a plan: counts, lengths, budgets, audits, one prompt per template."""
    for note in report.notes:
        _prose(console, f"{note}\n")
    ratio = report.tokens_one_pass / max(1, report.tokens_unique)
    _prose(
        console,
        f"{report.n_cells:,} cells x {report.n_samples:,} samples = {report.prompts:,} prompts "
        f"({report.prompts_scored:,} scored: K=0 once for all seeds)\n"
        f"tokens: {report.tokens_one_pass:,} as one pass per prompt, {report.tokens_unique:,} unique "
        f"({ratio:.1f}x fewer)\n",
    )
    if report.race is not None:
        _prose(
            console,
            f"a race for the best (harness race): about {report.race.expected:.0%} of the records (bound: "
            f"{report.race.bound:.0%}), if {report.race.basis}\n",
        )
    _prose(console, "\n")
    for length in report.lengths:
        size = f", {length.parameters:,} weights" if length.parameters else ""
        _prose(
            console,
            f"{length.model}{size}, context {length.context_length or 'unlimited'}\n"
            f"  pool: {length.documents:,} documents, tokens mean {length.mean:.2f}, max {length.longest}, "
            f"standard deviation {length.standard_deviation:.3f}, 80th percentile {length.percentile_80:.1f}; "
            f"{length.in_pool:,} may be demonstrations\n",
        )
        left_out = 1 - length.in_pool / max(1, length.documents)
        if left_out > MOST_LEFT_OUT:
            _prose(
                console,
                f"  {left_out:.0%} of the pool is too long for demos.max_tokens: demonstrations are the short\n",
            )
    for replica in report.memory:
        need = replica.need
        parts = {
            "weights": need.weights,
            "head in higher precision": need.head,
            "a pack": need.pack,
            "kept keys and values": need.kept,
            "logits": need.logits,
            "first layer's results": need.remembered,
            "process": need.host,
        }
        words = ", ".join(f"{name} {gibibytes(size)}" for name, size in parts.items() if size >= SHOWN_BYTES)
        if need.loading > need.working:
            words = "while its weights are converted"
        _prose(
            console,
            f"memory of a replica of {replica.model} on {replica.device}, {replica.dtype}, "
            f"{replica.tokens_per_pack:,} tokens a pack: about {gibibytes(need.total)} ({words})\n",
        )
    for expense in report.expenses:
        _write_expense(console, expense)
    contexts = {length.model: length.context_length for length in report.lengths}
    table = new_table(console)
    several = len(report.lengths) > 1
    for name in (["model"] if several else []) + ["template"]:
        table.add_column(name, overflow="fold", no_wrap=name == "template")
    for name in ("prompts", "one pass", "unique", "longest/context", "fit (mean)", "fit (longest)", "lengths"):
        table.add_column(name, justify="right", no_wrap=True)
    for budget in report.budgets:
        context = contexts[budget.model]
        mean = budget.demonstrations_that_fit(context, budget.mean_demonstration)
        worst = budget.demonstrations_that_fit(context, budget.longest_demonstration)
        table.add_row(
            *([budget.model] if several else []),
            budget.template,
            f"{budget.prompts:,}",
            f"{budget.tokens_one_pass:,}",
            f"{budget.tokens_unique:,}",
            f"{budget.longest_prompt}/{context or '-'}",
            "-" if mean is None else f"K={mean}",
            "-" if worst is None else f"K={worst}",
            "exact" if budget.exact else "estimate",
        )
    exact = all(budget.exact for budget in report.budgets)
    print_table(console, table, [*(["lengths"] if exact else []), "fit (mean)", "prompts", "fit (longest)"])
    for budget in report.budgets:
        context = contexts[budget.model]
        if context and budget.longest_prompt > context / 2:
            _prose(
                console,
                f"{budget.template}: a prompt takes {budget.longest_prompt:,} of {context:,} tokens, more than half of "
                "the context\n",
            )
    for audit in report.audits:
        labels = "  ".join(" + ".join(repr(token) for token in tokens) for tokens in audit.label_tokens)
        what = f"boundary ok: {audit.template}, labels {labels}" if labels else f"answers generated: {audit.template}"
        remarks = []
        if audit.own_labels:
            remarks.append("labels of the first sample; each has its own")
            if audit.nested:
                remarks.append(f"in {audit.nested} samples one label begins with another, so its sum is never higher")
        elif audit.shared_first_token:
            remarks.append("labels share their first token")
        if len({len(tokens) for tokens in audit.label_tokens}) > 1 and not audit.own_labels:
            remarks.append(UNEQUAL.format(" and ".join(str(len(tokens)) for tokens in audit.label_tokens)))
        if audit.merged is not None:
            remarks.append(_exact(audit))
        remarks.append(audit.start)
        if audit.joined_by_segment < 1:
            remarks.append(f"{1 - audit.joined_by_segment:.0%} of prompts tokenised whole")
        remark = f" ({'; '.join(remarks)})" if remarks else ""
        _prose(console, f"{what}, {audit.samples_checked} prompts checked{remark}\n")
    for name, text in report.examples.items():
        write(console, f"\n--- {name} ---\n{text}\n")


def _write_expense(console: Console, expense: Expense) -> None:
    money = f"; cost {_range(expense.cost, ',.2f')}" if expense.cost is not None else "; no prices are set"
    limit = f", model.max_cost {expense.limit:g}" if expense.limit is not None else ""
    if expense.cost is not None and expense.limit is not None and expense.limit < expense.cost[1]:
        limit += ": the run may stop before it is through" if expense.limit >= expense.cost[0] else ": it will not do"
    write(
        console,
        f"requests of {expense.model} to {redacted(expense.address)}: {_range(expense.requests, ',')}, tokens sent "
        f"{_range(expense.input_tokens, ',')}, generated {_range(expense.output_tokens, ',')}{money}{limit}\n",
    )
    if expense.requests[0] < expense.requests[1]:
        write(console, "  how labels can be scored, and so which it is, is found when the run begins\n")
    for words in expense.unchecked:
        write(console, f"  {words}\n")


def _range(ends: tuple[float, float], form: str) -> str:
    least, most = (format(end, form) for end in ends)
    return least if least == most else f"{least} to {most}"


def _exact(audit: TemplateAudit) -> str:
    """What `boundary: exact` does to the labels of a template."""
    moved = f"the query's {audit.moved!r} is scored with the label; " if audit.moved else ""
    merged = (
        f"{audit.merged} labels merge with the end of their prompts: they are the tokens beyond those of the prompt, "
        "as no text has them"
    )
    return (
        f"boundary exact, tokenised whole as lm-evaluation-harness does: {moved}"
        f"{merged if audit.merged else 'no label merges with its prompt'}"
    )


def write_tasks(console: Console, tasks: Sequence[Task]) -> None:
    """Print the registered tasks."""
    for task in tasks:
        console.print(Text(visible(task.name), "bold"), Text(f" {visible(task.description)}"))
        say(console, f"  files in task.data_dir: {', '.join(task.expected_files)}")
        if task.generates:
            what = f"answers are generated; metrics: {', '.join(task.answer_metrics)}"
        else:
            what = f"classes: {', '.join(f'{i} = {n}' for i, n in enumerate(task.class_names))}"
        say(console, f"  {what}")
        names, choices = task.class_names, task.choices
        known = read_templates(task.templates, names, choices) if task.templates is not None else {}
        for template in known.values():
            labels = ", ".join(repr(label) for label in template.labels)
            line = f"  {template.name}: {template.description}{f' Labels {labels}' if labels else ''}"
            write(console, f"{line}\n")
