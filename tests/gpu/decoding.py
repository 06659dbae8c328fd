"""Decoding answers to KorQuAD's questions: this project, `generate_batch`, and the loop."""

from __future__ import annotations

from harness.engine.local.generator import Generator
from tests.bench.workloads import make_workload
from tests.gpu.device import SIZES, free_memory, now
from tests.gpu.generate_batch import PAGES, run_generate_batch
from tests.gpu.generation import greedy_answer
from tests.gpu.large import LONGEST, neox
from tests.gpu.steps import Note, SkippedError

LOOPED = 4
"""Prompts of the loop, evenly spread over the order of length; it takes the same time for each of a length."""


def compare_decoding(note: Note) -> None:
    """New tokens per second, prompts included, of each."""
    large = neox()
    workload = make_workload("e", large.tokenizer, LONGEST, SIZES.questions, None)
    contexts, new = [p.ids for p in workload.render()], SIZES.new_tokens
    note("questions", {"data": workload.data, "prompts": len(contexts), "tokens": sum(map(len, contexts)), "new": new})
    generator = Generator(large.scorer)
    generator.generate(contexts, 2, lambda tokens: False)
    free_memory()
    started = now()
    own = generator.generate(contexts, new, lambda tokens: False)
    seconds = now() - started
    note("this project", {"new tokens/s": len(contexts) * new / seconds, "seconds": seconds,
                          "prompt tokens computed": own.prompt_tokens_computed})  # fmt: skip
    ordered = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    chosen = ordered[:: max(1, len(ordered) // LOOPED)][:LOOPED]
    greedy_answer(large.plain, contexts[chosen[0]], 2)
    started = now()
    answers = {i: greedy_answer(large.plain, contexts[i], new) for i in chosen}
    seconds = now() - started
    same = sum(own.tokens[i] == answer for i, answer in answers.items())
    note("loop", {"new tokens/s": len(chosen) * new / seconds, "prompts": len(chosen), "same answers": same})
    for page in PAGES:
        try:
            batch = run_generate_batch(large.plain, contexts, new, page)
        except SkippedError as reason:
            note(f"generate_batch, pages of {page}", str(reason))
            continue
        same = sum(a == b for a, b in zip(own.tokens, batch.tokens, strict=True))
        note(f"generate_batch, pages of {page}", {"new tokens/s": len(contexts) * new / batch.seconds,
                                                  "seconds": batch.seconds, "attention": batch.attention,
                                                  "same answers": same})  # fmt: skip
