"""KorQuAD 1.0 and 2.1: answer a question from a passage of Korean Wikipedia.

`korquad1` asks about paragraphs, `korquad2` about whole pages in HTML, of which the prompt holds
the passages that suit the question best. Files, metrics and limits: `docs/korquad.md`.
Source: korquad.github.io (CC BY-ND 2.0 KR).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task import AnswerMetric, Sample, Task, TaskData
from tasks.korquad_files import Context, Question, Schema, read_contexts
from tasks.korquad_metrics import (
    exact_match,
    exact_match_2,
    f1_score,
    f1_score_2,
    normalise,
    normalise_2,
    without_space,
)
from tasks.korquad_text import PassageIndex, UnreadableHtmlError, html_to_text, passages, shorten_around, without_mark

__all__ = ["TASK_1", "TASK_2", "exact_match", "exact_match_2", "f1_score", "f1_score_2", "shorten"]

DEV_1, TRAIN_1 = "KorQuAD_v1.0_dev.json", "KorQuAD_v1.0_train.json"
DEV_2, TRAIN_2 = "korquad2.1_dev_NN.json", "korquad2.1_train_NN.json"
POOL_DOCUMENTS = 300
"""Version 2 demonstrations come from at most so many documents: each must be read and searched."""


def best_of_golds(score: Callable[[str, str], float]) -> AnswerMetric:
    """An answer metric from a score of (prediction, gold): the maximum over the right answers."""

    def metric(answer: str, sample: Sample) -> float:
        return max(score(answer, gold) for gold in sample.answers)

    return metric


def found_in_context(answer: str, sample: Sample) -> float:
    """1 when the answer stands verbatim in the prompt's context, outer white space aside, else 0."""
    text = answer.strip()
    return float(bool(text) and text in sample.fields["context"])


def answer_in_windows(answer: str, sample: Sample) -> float:
    """1 when a right answer is inside the chosen passages by version 2's normalisation, else 0.

    It does not look at the model's answer; its mean is the ceiling that passage selection leaves
    to exact match. A short right answer may stand in a passage by chance.
    """
    context = without_space(normalise(sample.fields["context"]))
    golds = [normalise_2(gold) for gold in sample.answers]
    return float(any(gold and gold in context for gold in golds))


def shorten(sample: Sample, chars: int) -> Sample:
    """The sample with at most `chars` characters of its context, around its first answer.

    See `shorten_around`; a context without the answer keeps its beginning.
    """
    context = shorten_around(sample.fields["context"], sample.answers[0], chars)
    return dataclasses.replace(sample, fields={**sample.fields, "context": context})


def draw_order(keys: Iterable[str], seed: int) -> list[str]:
    """The keys in an order given by the seed and each key alone, so that a shorter draw is the
    beginning of a longer one."""
    return sorted(keys, key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest())


def draw_clusters(sizes: Mapping[str, int], limit: int | None, seed: int) -> dict[str, int]:
    """Whole clusters in draw order until `limit` questions are reached; the last one is cut.

    Args:
        sizes: questions of each cluster.
        limit: questions to draw; None takes all.
        seed: `task.sample_seed`.

    Returns:
        How many questions to take of each drawn cluster.
    """
    left = sum(sizes.values()) if limit is None else limit
    taken: dict[str, int] = {}
    for key in draw_order((key for key, size in sizes.items() if size), seed):
        if left <= 0:
            break
        taken[key] = min(sizes[key], left)
        left -= taken[key]
    return taken


def load_1(options: TaskConfig) -> TaskData:
    """Version 1: questions on paragraphs, and the demonstration pool."""
    dev, train = _paragraph_files(Path(options.data_dir))
    contexts = list(_sound(read_contexts([dev], Schema.V1)))
    sizes = {context.key: len(context.questions) for context in contexts}
    taken = draw_clusters(sizes, options.limit, options.sample_seed)
    samples = [s for c in contexts for s in _paragraph_samples(c, c.questions[: taken.get(c.key, 0)])]
    notes = [_count_note(dev.name, sizes, "paragraphs"), *_limit_notes(options, sizes, taken, "paragraphs")]
    pool_contexts = read_contexts([train], Schema.V1) if train else contexts
    pool, misplaced = [], 0
    for context in pool_contexts:
        usable = [question for question in context.questions if not question.misplaced]
        misplaced += len(context.questions) - len(usable)
        pool += _paragraph_samples(context, usable)
    origin = train.name if train else f"other articles of {dev.name}, as there is no {TRAIN_1}"
    notes.append(f"demonstrations: {len(pool):,} from {origin}")
    if misplaced:
        notes.append(f"demonstrations: {misplaced:,} left out, their answer_start does not point to the answer")
    return TaskData(samples, pool, length_field="context", notes=notes)


def load_2(options: TaskConfig) -> TaskData:
    """Version 2: questions on the best passages of documents, and the demonstration pool."""
    dev, train = _document_files(Path(options.data_dir))
    sizes = _sizes(_sound(read_contexts(dev, Schema.V2)))
    taken = draw_clusters(sizes, options.limit, options.sample_seed)
    samples: list[Sample] = []
    for context in _chosen(dev, taken):
        samples += _document_samples(context, context.questions[: taken[context.key]], options)
    inside = sum(answer_in_windows("", sample) for sample in samples)
    notes = [
        _count_note(", ".join(path.name for path in dev), sizes, "documents"),
        *_limit_notes(options, sizes, taken, "documents"),
        f"the answer is inside the chosen passages ({options.windows} of at most {options.window_chars} characters) "
        f"for {inside:,.0f} of {len(samples):,} questions ({inside / max(1, len(samples)):.1%})",
    ]
    pool, pool_notes = _document_pool(train or dev, options)
    if not train:
        pool_notes = [
            *pool_notes,
            f"demonstrations are from other documents of the same files, as there is no {TRAIN_2}",
        ]
    return TaskData(samples, pool, length_field="context", notes=[*notes, *pool_notes])


def _paragraph_files(place: Path) -> tuple[Path, Path | None]:
    """Questions and, if present, demonstrations of version 1."""
    dev = place if place.is_file() else place / DEV_1
    if not dev.is_file():
        raise DataError(f"no file '{dev}'; expected KorQuAD's {DEV_1} (`harness data get korquad1` downloads it)")
    train = place / TRAIN_1
    return dev, train if train.is_file() else None


def _document_files(place: Path) -> tuple[list[Path], list[Path]]:
    """Questions and demonstrations of version 2; a single file holds both."""
    if place.is_file():
        return [place], []
    dev, train = (
        sorted(path for path in place.rglob("*.json") if re.fullmatch(pattern, path.name, re.IGNORECASE))
        for pattern in (r"korquad2\.1_dev_\d+\.json", r"korquad2\.1_train_\d+\.json")
    )
    if not dev:
        raise DataError(
            f"no files {DEV_2} in '{place}'; expected KorQuAD 2.1's, unpacked "
            "(`harness data get korquad2` downloads and unpacks them)"
        )
    return dev, train


def _sound(contexts: Iterable[Context]) -> Iterator[Context]:
    """The contexts, refusing an answer that is not where the file says."""
    for context in contexts:
        for question in context.questions:
            if question.misplaced:
                raise DataError(question.misplaced)
        yield context


def _sizes(contexts: Iterable[Context]) -> dict[str, int]:
    return {context.key: len(context.questions) for context in contexts}


def _chosen(files: Sequence[Path], keys: Collection[str]) -> Iterator[Context]:
    """The contexts with these keys in file order; reading stops after the last."""
    left = len(keys)
    if not left:
        return
    for context in read_contexts(files, Schema.V2):
        if context.key in keys:
            yield context
            left -= 1
            if not left:
                return


def _sample(context: Context, question: Question, text: str, answers: tuple[str, ...]) -> Sample:
    return Sample(
        id=question.id,
        fields={"context": text, "question": question.text, "title": context.title},
        answers=answers,
        source=context.title or context.key,
        cluster=context.key,
    )


def _paragraph_samples(context: Context, questions: Iterable[Question]) -> list[Sample]:
    return [_sample(context, question, context.text, question.answers) for question in questions]


def _document_samples(context: Context, questions: Iterable[Question], options: TaskConfig) -> list[Sample]:
    index = PassageIndex(passages(_readable(context.text, context), options.window_chars))
    return [
        _sample(context, question, "\n".join(index.best(question.text, options.windows)), question.answers)
        for question in questions
    ]


def _readable(html: str, context: Context) -> str:
    try:
        return html_to_text(html)
    except UnreadableHtmlError as error:
        raise DataError(f"{context.key} ('{context.title}'): its HTML cannot be parsed: {error}") from None


def _document_pool(files: Sequence[Path], options: TaskConfig) -> tuple[list[Sample], list[str]]:
    """Demonstrations from documents, and files, drawn by `task.sample_seed`.

    Kept are those that show what is asked for: the answer is one line, and it stands in the passages.
    """
    sizes: dict[str, int] = {}
    used = []
    by_name = {path.name: path for path in files}
    for name in draw_order(by_name, options.sample_seed):
        used.append(by_name[name])
        sizes |= _sizes(read_contexts([by_name[name]], Schema.V2))
        if len(sizes) >= POOL_DOCUMENTS:
            break
    drawn = set(draw_order(sizes, options.sample_seed)[:POOL_DOCUMENTS])
    pool, questions = [], 0
    for context in _chosen(sorted(used), drawn):
        questions += len(context.questions)
        usable = [question for question in context.questions if not question.misplaced]
        for sample in _document_samples(context, usable, options):
            answer = without_mark(_readable(sample.answers[0], context))
            if answer and "\n" not in answer and answer in sample.fields["context"]:
                pool.append(dataclasses.replace(sample, answers=(answer,)))
    notes = [
        f"demonstrations: {len(pool):,} of the {questions:,} questions on {len(drawn):,} documents drawn by "
        f"task.sample_seed from {', '.join(path.name for path in sorted(used))}; the answers of the others "
        "are not where the file says, or not one line inside the chosen passages"
    ]
    return pool, notes


def _count_note(files: str, sizes: Mapping[str, int], unit: str) -> str:
    unasked = sum(size == 0 for size in sizes.values())
    without = f" ({unasked:,} of them without questions)" if unasked else ""
    return f"{files}: {sum(sizes.values()):,} questions on {len(sizes):,} {unit}{without}"


def _limit_notes(options: TaskConfig, sizes: Mapping[str, int], taken: Mapping[str, int], unit: str) -> list[str]:
    if options.limit is None:
        return []
    total, drawn = sum(sizes.values()), sum(taken.values())
    if drawn == total:
        return [f"task.limit={options.limit} takes all {total:,} questions"]
    return [f"task.limit={options.limit}: {drawn:,} questions on {len(taken):,} whole {unit}, the last of them cut"]


TASK_1 = Task(
    name="korquad1",
    version="1",
    description="KorQuAD 1.0: a short answer from a paragraph",
    templates=Path(__file__).parent / "templates" / "korquad.yaml",
    expected_files=(DEV_1, f"{TRAIN_1} (optional)"),
    load=load_1,
    answer_metrics={
        "exact_match": best_of_golds(exact_match),
        "f1": best_of_golds(f1_score),
        "found_in_context": found_in_context,
    },
    shorten=shorten,
)
TASK_2 = Task(
    name="korquad2",
    version="1",
    description="KorQuAD 2.1: an answer from the best passages of a whole page",
    templates=Path(__file__).parent / "templates" / "korquad.yaml",
    expected_files=(DEV_2, f"{TRAIN_2} (optional)"),
    load=load_2,
    answer_metrics={
        "exact_match": best_of_golds(exact_match_2),
        "f1": best_of_golds(f1_score_2),
        "found_in_context": found_in_context,
        "answer_in_windows": answer_in_windows,
    },
    shorten=shorten,
)
