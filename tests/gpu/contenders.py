"""The alternatives on the same prompts of the lecture's grid."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import numpy as np

from tests.bench import lm_evaluation
from tests.bench.contenders import Contender, NotebookLoop, PaddedBatches, Subject, ThisProject
from tests.bench.measuring import compare
from tests.gpu.device import SIZES, now
from tests.gpu.generate_batch import PAGES, run_generate_batch
from tests.gpu.large import LONGEST, neox
from tests.gpu.reviews import lecture_grid
from tests.gpu.steps import Note, SkippedError


def compare_scoring(note: Note) -> None:
    """The notebook's loop, padded batches and lm-evaluation-harness, timed on a part each."""
    subject, large = _subject(), neox()
    own = ThisProject(subject, large.scorer)
    own.run([])
    made: list[Contender] = [NotebookLoop(subject), PaddedBatches(subject)]
    if lm_evaluation.installed():
        made.append(lm_evaluation.LmEvaluationHarness(subject))
    found = compare(subject, [*made, own], large.facts.tokens_per_pack, 1, SIZES.seconds, {})
    note("prompts", found.n_prompts)
    for row in found.rows:
        note(row.name, asdict(row))


def compare_generate_batch(note: Note) -> None:
    """One new token per prompt by `generate_batch`; it tells no label's probability, so it does less."""
    subject, large = _subject(), neox()
    own, contexts = ThisProject(subject, large.scorer), [p.ids for p in subject.prompts]
    own.run([])
    started = now()
    own.run([])
    seconds = now() - started
    scores = large.scorer.score(contexts, [p.label_ids for p in subject.prompts])
    note("this project", {"prompts/s": len(contexts) / seconds})
    for page in PAGES:
        try:
            batch = run_generate_batch(large.plain, contexts, 1, page)
        except SkippedError as reason:
            note(f"pages of {page}", str(reason))
            continue
        same = np.mean([tokens[0] == mine for tokens, mine in zip(batch.tokens, scores.argmax, strict=True)])
        note(f"pages of {page}", {"prompts/s": len(contexts) / batch.seconds, "behind": batch.seconds / seconds,
                                  "attention": batch.attention, "same token": same})  # fmt: skip


@cache
def _subject() -> Subject:
    large = neox()
    workload = lecture_grid(large.tokenizer, LONGEST, SIZES.reviews)
    return Subject(large.plain, large.scorer.model, large.tokenizer, workload, workload.render(), now)
