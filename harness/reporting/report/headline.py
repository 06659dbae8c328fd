"""The first screen: which prompt, how sure, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.recommendation import recommend, sentences
from harness.prompts.template_yaml import template_yaml
from harness.reporting.report.gathering import ReportData
from harness.reporting.report.prompting import around_of
from harness.reporting.report.strip import Bar, Tick, strip
from harness.reporting.report.wording import Scale, count, duration, last_part, plural, rounded_count

ENOUGH_DRAWS = 5
"""From which on averaged draws say something about draws at large, as `compare` notes."""
SHOWN = 160
"""Characters of a wording; the prompts' section has all."""


@dataclass(frozen=True)
class Fact:
    """A name and its figure."""

    name: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Answer:
    """What the first screen says."""

    title: str
    """What to use, or what has the best figure."""
    metric: str
    value: str
    interval: str
    verdict: str
    bars: tuple[Bar, ...]
    strategies: tuple[Tick, ...]
    axis: tuple[Tick, ...]
    strip_title: str
    """What the strip shows."""
    which: tuple[Fact, ...]
    sure: tuple[Fact, ...]
    cost: tuple[Fact, ...]
    facts: tuple[Fact, ...]
    key: str
    """What the strip's dotted line is; empty without one."""
    warning: str
    """That the grid is not finished, or that failures may hide something; empty when all is well."""
    prompt: str
    """The best one's, of its first draw, the sample's fields in braces; empty where it is not known."""
    yaml: str
    """Its template as the entry of a templates file; empty where it has none."""
    heading: str = "Recommendation"
    """What stands over the title."""


def answer(data: ReportData, scale: Scale, chance: float | None) -> Answer:
    """The figures of the first screen.

    Args:
        data: of the report.
        scale: of its metric.
        chance: share of the most frequent class; None where answers are generated.
    """
    race = data.decided_race
    if race is not None and (winner := _winner(data, race)) >= 0:
        return _raced(data, scale, race, winner)
    best = data.strategies[data.strategies["is_best"]].iloc[0]
    bars, strategies, axis = strip(data, scale, chance)
    metric, value, low, high = scale.name, best["mean"], best["low"], best["high"]
    if data.comparison is not None:
        found = data.comparison.selection.expected
        metric = f"{scale.name} to expect on {data.comparison.scope}"
        value, low, high = found.value, found.low, found.high
    return Answer(
        title=str(best["label"]) if data.comparison is None else sentences(recommend(data.comparison))[0],
        metric=metric,
        value=scale.value(value),
        interval=f"{100 * data.level:g}% interval {scale.interval(low, high)}",
        verdict=_verdict(data, scale),
        bars=bars,
        strategies=strategies,
        axis=axis,
        strip_title=f"{scale.name.capitalize()}: what to expect of the best, the best as scored, and every strategy",
        which=_which(data),
        sure=_sure(data, scale, chance),
        cost=_cost(data),
        facts=_facts(data),
        **_to_copy(data),
        heading="Highest-scoring prompt strategy" if data.comparison is None else "Recommendation",
        key="; dotted: always the most frequent class" if chance is not None else "",
        warning=_warning(data),
    )


def _winner(data: ReportData, race: Mapping[str, Any]) -> int:
    """The row of the strategy that won a race; -1 where none of the report's is or has it."""
    name, labels = str(race["result"]["winner"]), data.cells["label"]
    # Where the race averaged draws of demonstrations, the wording is that of the first.
    won = ((labels == name) | labels.str.startswith(f"{name} seed=")).to_numpy()
    return int(data.cells["strategy"].iloc[int(np.argmax(won))]) if won.any() else -1


def _raced(data: ReportData, scale: Scale, race: Mapping[str, Any], winner: int) -> Answer:
    """The first screen of a run that was raced and not run as a whole: its strategies have other samples each."""
    result = race["result"]
    first = data.strategies.index == winner
    data = replace(data, strategies=data.strategies.assign(is_best=first, may_be_best=first), comparison=None)
    row, held = data.strategies[first].iloc[0], result["held_out"]
    own = row.rename({"mean": "value"}) if held is None else held["winner"]
    where = "the samples it raced on" if held is None else f"{count(own['n'])} samples held out"
    attempted = data.strategies["n_attempted"]
    sure = [Fact("Confidence of the claim", f"{100 * race['settings']['confidence']:g}%", "whenever it is looked at")]
    if held is not None and held["difference"] is not None:
        gap = held["difference"]
        sure.append(
            Fact(
                f"Minus {result['baseline']} there",
                f"{100 * gap['value']:+.1f} points",
                f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
            )
        )
    return Answer(
        title=str(result["winner"]),
        metric=f"{scale.name} on {where}",
        value=scale.value(own["value"]),
        interval=f"{100 * data.level:g}% interval {scale.interval(own['low'], own['high'])}",
        verdict=result["claim"],
        bars=(),
        strategies=(),
        axis=(),
        strip_title="",
        which=_which(data),
        sure=tuple(sure),
        cost=_cost(data),
        facts=_facts(data),
        **_to_copy(data),
        key="",
        warning=(
            f"A race scored these strategies on {count(attempted.min())} to {count(attempted.max())} samples each: "
            "means over different samples are not comparable, and intervals and p-values below presume samples chosen "
            "beforehand. harness run computes the rest of the grid."
        ),
        heading="Winner of the race",
    )


def _verdict(data: ReportData, scale: Scale) -> str:
    frame = data.strategies
    others, alike = len(frame) - 1, int(frame["may_be_best"].sum()) - 1
    if data.comparison is None:
        return f"There is no comparison: {data.comparison_notes[-1]}."
    ties = int((np.abs(frame["mean"] - frame["mean"].max()) < 1e-12).sum()) - 1
    tied = f" {plural(ties, 'other has', 'others have')} the very same score." if ties else ""
    verdict = sentences(recommend(data.comparison))[1].removesuffix(".")
    if rest := others - alike:
        verdict += f". {plural(rest, 'is', 'are')} shown to be worse ({100 * data.level:g}%)"
    else:
        verdict += ". These samples do not settle which is best"
    return f"{verdict}{data.draw}.{tied}"


def _which(data: ReportData) -> tuple[Fact, ...]:
    best = data.strategies[data.strategies["is_best"]].iloc[0]
    names = {"run": "Run", "model": "Model", "template": "Template", "k": "K"}
    facts = []
    if pd.isna(best["template"]):
        run_of = [Fact("Run", last_part(str(best["run"])))] if data.strategies["run"].nunique() > 1 else []
        trained = [] if pd.isna(best["k"]) else [Fact("Trained on", f"{count(best['k'])} labelled examples")]
        return (*run_of, Fact("Reference", last_part(str(best["model"])), "no prompt"), *trained)
    for column, name in names.items():
        if column in ("run", "model") and data.strategies[column].nunique() < 2:
            continue
        facts.append(Fact(name, "averaged" if pd.isna(best[column]) else last_part(str(best[column]))))
    if best["n_draws"] > 1:
        facts.append(Fact("Demonstrations", f"{best['n_draws']} draws, averaged"))
    elif pd.isna(best["seed"]):
        facts.append(Fact("Demonstrations", "none"))
    else:
        facts.append(Fact("Seed", str(best["seed"])))
    wording = data.wording_of(best.to_dict())
    if wording is None:
        return tuple(facts)
    facts.append(Fact("Wording", "", _short(" ".join((wording["prefix"] + wording["query"]).split()))))
    if wording.get("labels"):
        facts.append(Fact("Labels", " / ".join(_short(label.strip()) for label in wording["labels"])))
    return tuple(facts)


def _to_copy(data: ReportData) -> dict[str, str]:
    """The best strategy's prompt and YAML."""
    row = int(np.flatnonzero(data.strategies["is_best"])[0])
    best = data.strategies.iloc[row]
    wording = data.wording_of(best.to_dict())
    if wording is None:
        return {"prompt": "", "yaml": ""}
    cell = data.cells[data.cells["strategy"] == row].iloc[0].to_dict()
    around = around_of(next(run for run in data.runs if run.name == cell["run"]), cell)
    return {"prompt": "" if around is None else around.text, "yaml": template_yaml(str(best["template"]), wording)}


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} …"


def _sure(data: ReportData, scale: Scale, chance: float | None) -> tuple[Fact, ...]:
    facts = []
    if data.comparison is not None:
        found = data.comparison.selection
        n = len(data.strategies)
        facts.append(
            Fact(
                f"Expected {scale.name} on {data.comparison.scope}",
                scale.value(found.expected.value),
                f"{scale.interval(found.expected.low, found.expected.high)}; corrected for picking the "
                f"best of {count(found.n_strategies)}",
            )
        )
        facts.append(
            Fact(
                "As scored, not corrected",
                scale.value(found.as_seen.value),
                f"{scale.interval(found.as_seen.low, found.as_seen.high)}; n = {count(found.as_seen.n)}",
            )
        )
        alike, others = int(data.strategies["may_be_best"].sum()) - 1, n - 1
        facts.append(
            Fact(
                "Others that may be the best",
                f"{count(alike)} of {count(others)}",
                f"the truly best is among them or is this one ({100 * data.level:g}%)",
            )
        )
        draws = len(data.comparison.settings["seeds"])
        if 1 < draws < ENOUGH_DRAWS and data.comparison.settings["seeds_as"] == "random":
            facts.append(
                Fact("Draws of demonstrations", str(draws), "few: tests may miss real differences (see Ranking)")
            )
    if chance is not None:
        facts.append(Fact("Always the most frequent class", scale.value(chance), "what no prompt should fall below"))
    return tuple(facts)


def _cost(data: ReportData) -> tuple[Fact, ...]:
    frame = data.strategies
    best = frame[frame["is_best"]].iloc[0]
    facts = [Fact("Tokens per prompt", count(best["tokens"]), "mean, of the best")]
    found = None if data.comparison is None else recommend(data.comparison)
    if found is not None and found.cheapest is not None:
        tokens = frame[frame["label"] == found.cheapest]["tokens"].iloc[0]
        facts.append(Fact("Cheapest that may be as good", count(tokens), f"tokens: {found.cheapest}"))
    one_pass = sum(run.cost.prompt_tokens for run in data.runs)
    computed = sum(run.cost.tokens_computed for run in data.runs)
    # Of generated answers the tokens computed include those written, so the two are no parts of each other.
    detail = f"prompts hold {rounded_count(one_pass)}" + (
        f"; sharing saved {100 * (1 - computed / one_pass):.0f}%" if 0 < computed < one_pass else ""
    )
    facts.append(Fact("Tokens computed, whole grid", rounded_count(computed), detail))
    walls = [run.cost.wall_seconds for run in data.runs]
    wall = sum(w for w in walls if w is not None) if all(w is not None for w in walls) else None
    replicas = sum(run.cost.replica_seconds for run in data.runs)
    facts.append(Fact("Time, whole grid", duration(wall or replicas), f"replicas worked {duration(replicas)}"))
    return tuple(facts)


def _facts(data: ReportData) -> tuple[Fact, ...]:
    scored = sum(int(run.cells["n_scored"].sum()) for run in data.runs)
    attempted = sum(int(run.cells["n_attempted"].sum()) for run in data.runs)
    models = list(dict.fromkeys(last_part(model) for run in data.runs for model in run.cells["model"]))
    days = list(dict.fromkeys(s["started"][:10] for run in data.runs for s in run.manifest["sessions"]))
    facts = [
        Fact("Task", data.task),
        Fact("Model" if len(models) == 1 else "Models", ", ".join(models)),
        Fact("Samples", count(len(data.answers.sample_ids))),
        Fact("Strategies", count(len(data.strategies))),
        Fact("Scored / attempted", f"{count(scored)} / {count(attempted)}"),
        Fact("Date", days[0] if len(days) == 1 else f"{min(days)} to {max(days)}" if days else "–"),
    ]
    return tuple(facts)


def _warning(data: ReportData) -> str:
    texts = []
    for run in data.runs:
        status, done = run.manifest["status"], int(run.cells["n_attempted"].sum())
        if status != "complete" or done < run.n_planned:
            name = f"Run {run.name}" if run.name else "This run"
            texts.append(f"{name} is {status}: {count(done)} of {count(run.n_planned)} records are there.")
    if data.comparison is not None:
        found = (*data.comparison_notes, *data.comparison.warnings)
        texts += [f"{warning[0].upper()}{warning[1:]}." for warning in found]
    return " ".join(texts)
