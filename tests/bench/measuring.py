"""Times the contenders in turn, several rounds, and compares what they answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median

import torch

from tests.bench.contenders import Answer, Batches, Contender, Found, NotebookLoop, SharingOff, Subject, ThisProject
from tests.bench.limit import Work, count_work, measure_peak

PROBES = (0.25, 0.75)
"""Places in the order of length at which batch sizes are tried; on a GPU also 0, where memory runs out first."""
GAIN = 1.02
"""A larger batch must be so much faster to count as better; two that are not end the search."""
GOLDEN = (5**0.5 - 1) / 2
BEGINNING = 20
"""Prompts per round whose answers are known in float32 where the model has another format."""
FEWEST = 3
"""Batches that a contender is timed on at least, per round."""


@dataclass(frozen=True)
class Row:
    """One contender's figures.

    Attributes:
        size: prompts per batch; 0 where the contender chooses.
        prompts_per_s: of the whole workload; median over the rounds.
        behind: this project's prompts per second over this contender's; median over the rounds.
        tokens: prompt tokens computed for the whole workload, padding included.
        of_limit: share of the limit; median over the rounds.
        timed: prompts that were timed, all rounds together.
        compared: prompts whose answer was compared with that of one unshared float32 pass.
        same: how many of them had the same prediction, or the same text.
        difference: largest difference of a label's log-probability, nats; None for texts.
    """

    name: str
    size: int
    prompts_per_s: float
    behind: float
    tokens: int
    of_limit: float
    timed: int
    compared: int
    same: int
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """All contenders on one workload."""

    work: Work
    n_prompts: int
    rounds: int
    peaks: list[float]
    rows: list[Row]


@dataclass
class _Track:
    """What was measured of one contender."""

    seconds: list[float] = field(default_factory=list)
    """For the whole workload, one entry per round."""
    answers: dict[int, Answer] = field(default_factory=dict)
    tokens: float = 0.0
    timed: int = 0


def compare(
    subject: Subject,
    contenders: Sequence[Contender],
    rows_of_product: int,
    rounds: int,
    seconds: float,
    truth: Mapping[int, Answer] | None,
    watch: Callable[[], AbstractContextManager[object]] = nullcontext,
    tell: Callable[[str], None] = print,
) -> Comparison:
    """Time all contenders, in turn and in another order each round.

    A contender that does not need the whole workload gets batches spread over the order of length
    until `seconds` of a round are over; its time for the whole is that per token times all tokens.

    Args:
        subject: model, workload, prompts.
        contenders: this project among them.
        rows_of_product: tokens of a matrix product for the peak.
        rounds: at least one.
        seconds: for each contender and round.
        truth: float32 answers to compare with; None takes the notebook loop's, of a float32 model, and on
            other prompts those of this project without sharing.
        watch: entered around this project's run in the first round, to profile it.
        tell: told how far it is.
    """
    lengths, order = _by_length(subject)
    work = count_work(subject.model, [p.ids for p in subject.prompts], subject.new_tokens)
    for contender in contenders:
        _choose_size(contender, order, lengths, seconds, subject, tell)
    tracks = {c.name: _Track() for c in contenders}
    peaks: list[float] = []
    repeats = 10 if subject.device.type == "cuda" else 3
    for turn in range(rounds):
        peak = measure_peak(subject.layouts, rows_of_product, repeats, subject.now)
        for contender in contenders if turn % 2 == 0 else reversed(contenders):
            watched = watch() if isinstance(contender, ThisProject) and turn == 0 else nullcontext()
            with watched:
                parts = [order] if contender.whole else spread(order, lengths, contender.batch, _shift(turn, rounds))
                batches, elapsed, found = _for_a_while(subject, contender, parts, seconds)
            share = sum(lengths[i] for batch in batches for i in batch) / work.tokens
            track = tracks[contender.name]
            track.seconds.append(elapsed / share)
            track.answers.update(found.answers)
            track.tokens += found.tokens / share / rounds
            track.timed += sum(map(len, batches))
            speed = len(order) / track.seconds[-1]
            tell(f"  round {turn + 1}: {contender.name} {elapsed:.1f} s, {speed:,.1f} prompts/s")
        peaks.append(max(peak, measure_peak(subject.layouts, rows_of_product, repeats, subject.now)))
    truths = {name: _unshared(tracks, name) if truth is None else truth for name in tracks}
    limits = [(work.linear + work.head) / peak for peak in peaks]
    own = tracks[ThisProject.name].seconds
    rows = [_row(c, tracks[c.name], own, limits, truths[c.name], len(order)) for c in contenders]
    return Comparison(work, len(order), rounds, peaks, rows)


def spread(order: Sequence[int], lengths: Sequence[int], batch: Callable[[int], int], shift: float) -> Batches:
    """Batches of neighbours in the order of length, in such an order that any first few are evenly spread.

    Places are taken at multiples of the golden ratio, and each brings its batch: two contenders with
    batches of different sizes begin with the same prompts.

    Args:
        order: prompts by falling length.
        lengths: tokens of each prompt.
        batch: prompts of a batch for a longest prompt.
        shift: 0 to 1; where the first place lies, so that rounds begin elsewhere.
    """
    starts = [0]
    while starts[-1] < len(order):
        starts.append(starts[-1] + batch(lengths[order[starts[-1]]]))
    chosen: dict[int, None] = {}
    step = 0
    while len(chosen) < len(starts) - 1:
        place = int((step * GOLDEN + shift) % 1 * len(order))
        chosen[bisect_right(starts, place) - 1] = None
        step += 1
    return [list(order[starts[i] : starts[i + 1]]) for i in chosen]


def first_prompts(subject: Subject, rounds: int) -> list[int]:
    """The prompts that every contender begins with in some round."""
    lengths, order = _by_length(subject)
    chosen: dict[int, None] = {}
    for turn in range(rounds):
        single = spread(order, lengths, lambda length: 1, _shift(turn, rounds))
        chosen.update((batch[0], None) for batch in single[:BEGINNING])
    return list(chosen)


def _by_length(subject: Subject) -> tuple[list[int], list[int]]:
    """Tokens of each prompt, and the prompts by falling length."""
    lengths = [len(p.ids) for p in subject.prompts]
    return lengths, sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _shift(turn: int, rounds: int) -> float:
    return (turn + 0.5) / rounds


def _timed(subject: Subject, contender: Contender, batches: Batches) -> tuple[float, Found]:
    started = subject.now()
    found = contender.run(batches)
    return subject.now() - started, found


def _for_a_while(
    subject: Subject, contender: Contender, batches: Batches, seconds: float
) -> tuple[Batches, float, Found]:
    """Run the first batches until the time is up: those that ran, the seconds they took, the answers."""
    done, elapsed, found = 0, 0.0, Found()
    while done < len(batches) and (done < FEWEST or elapsed < seconds):
        fitting = int(done * (seconds - elapsed) / elapsed) if elapsed else 0
        more = batches[done : done + max(1, min(fitting, 2 * done), FEWEST - done)]
        took, part = _timed(subject, contender, more)
        done, elapsed = done + len(more), elapsed + took
        found.answers.update(part.answers)
        found.tokens += part.tokens
    return batches[:done], elapsed, found


def _choose_size(
    contender: Contender,
    order: Sequence[int],
    lengths: Sequence[int],
    seconds: float,
    subject: Subject,
    tell: Callable[[str], None],
) -> None:
    """Warm up, and set the contender's best batch size, as far as the time goes."""
    if not contender.whole:
        contender.run([[order[len(order) // 2]]])
    best, best_rate, cost, worse = contender.size, 0.0, 0.0, 0
    for size in contender.sizes:
        if size > max(1, len(order) // 4) or worse == 2 or 2 * cost > seconds:
            break
        contender.size = size
        starts = [int(place * len(order)) for place in PROBES]
        batches = [order[s : s + size] for s in starts]
        try:
            if subject.device.type == "cuda":
                contender.run([order[:size]])
            cost = min(_timed(subject, contender, batches)[0] for _ in range(2))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rate = sum(lengths[i] for batch in batches for i in batch) / cost
        worse = 0 if rate > best_rate * GAIN else worse + 1
        if worse == 0:
            best, best_rate = size, rate
    contender.size = best
    if contender.sizes:
        tell(f"  {contender.name}: batches of {best}")


def _unshared(tracks: Mapping[str, _Track], name: str) -> dict[int, Answer]:
    """What to compare a contender with: answers of the others that pass each prompt by itself."""
    found: dict[int, Answer] = {}
    for other in (SharingOff.name, NotebookLoop.name):
        if other in tracks and other != name:
            found.update(tracks[other].answers)
    return found


def _row(
    contender: Contender,
    track: _Track,
    own: list[float],
    limits: list[float],
    truth: Mapping[int, Answer],
    n_prompts: int,
) -> Row:
    common = sorted(track.answers.keys() & truth.keys())
    pairs = [(track.answers[i], truth[i]) for i in common]
    differences = [
        max(abs(x - y) for x, y in zip(a, b, strict=True))
        for a, b in pairs
        if not isinstance(a, str) and not isinstance(b, str)
    ]
    return Row(
        contender.name,
        contender.size if contender.sizes else 0,
        n_prompts / median(track.seconds),
        median(theirs / ours for theirs, ours in zip(track.seconds, own, strict=True)),
        round(track.tokens),
        median(limit / theirs for limit, theirs in zip(limits, track.seconds, strict=True)),
        track.timed,
        len(common),
        sum(_decision(a) == _decision(b) for a, b in pairs),
        max(differences, default=None),
    )


def _decision(answer: Answer) -> int | str:
    return answer if isinstance(answer, str) else answer.index(max(answer))
