"""Whether the prompts of a grid fit: none is empty, none is longer than the model's context."""

from __future__ import annotations

import numpy as np

from harness.core.errors import ContextError, TemplateError
from harness.core.escaping import one_line
from harness.planning.preparation import ModelSetup, Prepared, content_free
from harness.planning.segment_lengths import SegmentLengths
from harness.planning.streams import Streams, sample_totals

NAMED = 5
"""Samples that a message names."""
CHECKED_WHOLE = 4
"""Longest prompts per (template, seed) that are rendered and tokenised whole."""


def check_empty(prepared: Prepared, lengths: SegmentLengths) -> None:
    """Refuse prompts without a token: nothing stands before their labels or answers.

    Raises:
        TemplateError: naming the first of the samples.
    """
    if 0 not in prepared.config.grid.k or lengths.start:
        return
    template, tokenizer = lengths.template, lengths.setup.tokenizer
    samples = zip(prepared.data.samples, lengths.zero_shot_queries.tolist(), strict=True)
    empty = [sample.id for sample, n in samples if not n]
    extra = () if template.chat else content_free(prepared.config.scoring.calibration, prepared.data)
    ids = tokenizer.whole_batch([template.render_query(tokenizer.literals.marked(s)) for s in extra])
    empty += [repr(sample.id) for sample, found in zip(extra, ids, strict=True) if not found]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        named = ", ".join(one_line(name, 60) for name in empty[:NAMED])
        raise TemplateError(
            f"template '{template.name}' with K=0 gives prompts without a token for {len(empty)} samples "
            f"({named}{more}), so that nothing stands before the label or answer; give the template "
            "a word of its own, or take these samples out of the data"
        )


def check_context(
    known: int,
    setup: ModelSetup,
    prepared: Prepared,
    lengths: SegmentLengths,
    streams: dict[int, dict[int, Streams]],
) -> None:
    """Refuse prompts that the model's context does not hold.

    The longest prompts are rendered and tokenised whole.

    Args:
        known: tokens of the longest prompt, where its lengths are exact; else 0.
        setup: the model.
        prepared: the run.
        lengths: of the model and a template.
        streams: of every seed.

    Raises:
        ContextError: naming the K that would fit, or the sample that never does.
    """
    limit = setup.info.context_length
    if limit is None:
        return
    longest = max(known, _longest_whole(prepared, setup, lengths, streams))
    if longest <= limit:
        return
    where = f"template '{lengths.template.name}' with K={prepared.largest_k}"
    alone = sample_totals(lengths, {}, 0) + lengths.longest_end - 1
    too_long = np.flatnonzero(alone > limit)
    # Where most are too long, the context is at fault, not a sample.
    if 0 < 2 * len(too_long) < len(alone):
        worst = prepared.data.samples[int(alone.argmax())]
        others = f" (so have {len(too_long) - 1:,} others)" if len(too_long) > 1 else ""
        raise ContextError(
            f"{where}: sample '{one_line(worst.id, 60)}' has {alone.max():,} tokens without any demonstration{others}, "
            f"but '{setup.name}' has a context of {limit}; take it out of the data file or shorten it, or use a "
            "model with a longer context"
        )
    fitting = _largest_fitting_k(prepared, setup, lengths, streams, limit)
    remedy = f"K={fitting} would fit" if fitting is not None else "not even K=0 fits"
    raise ContextError(
        f"{where}: the longest prompt has {longest} tokens, "
        f"but '{setup.name}' has a context of {limit}; {remedy} (or lower demos.max_tokens)"
    )


def _longest_whole(
    prepared: Prepared, setup: ModelSetup, lengths: SegmentLengths, streams: dict[int, dict[int, Streams]]
) -> int:
    """The longest prompts of the largest K, rendered and tokenised as replicas will."""
    longest = 0
    largest = prepared.largest_k
    for seed in prepared.config.grid.seeds[:1] if largest == 0 else prepared.config.grid.seeds:
        totals = sample_totals(lengths, streams[seed], largest)
        renderer = prepared.renderer(setup, lengths.template.name, seed)
        top = np.argsort(totals)[-CHECKED_WHOLE:]
        prompts = renderer.prompts([prepared.data.samples[i] for i in top], seed, [largest])
        longest = max(longest, *(len(p.ids) + lengths.longest_end - 1 for p in prompts))
    return longest


def _largest_fitting_k(
    prepared: Prepared, setup: ModelSetup, lengths: SegmentLengths, streams: dict[int, dict[int, Streams]], limit: int
) -> int | None:
    def fits(k: int) -> bool:
        longest = max(int(sample_totals(lengths, streams[seed], k).max()) for seed in prepared.config.grid.seeds)
        return longest + lengths.longest_end - 1 <= limit

    sequential = setup.draw.policy.is_sequential
    candidates = sorted(prepared.config.grid.k) if sequential else range(prepared.largest_k + 1)
    return max((k for k in candidates if fits(k)), default=None)
