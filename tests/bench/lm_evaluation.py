"""lm-evaluation-harness as a contender, where it is installed (`pip install -e '.[bench]'`)."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from itertools import chain
from typing import Any

from tests.bench.contenders import CHECKED, Batches, Found, Subject


def installed() -> bool:
    """Whether lm-evaluation-harness can be imported."""
    return find_spec("lm_eval") is not None


class LmEvaluationHarness:
    """`HFLM` on the model object: `loglikelihood` of (prompt, label) pairs, or `generate_until`.

    It sorts by length and computes each context once for all labels of one token.
    """

    name, whole, sizes = "lm-evaluation-harness", False, (1, 2, 4, 8, 16, 32, 64, 128, 256)

    def __init__(self, subject: Subject) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        from lm_eval.models.huggingface import HFLM

        self.subject, self.size = subject, 1
        self.lm = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=1)
        for prompt in subject.prompts[:CHECKED]:
            for label, ids in zip(subject.workload.template.labels, prompt.label_ids, strict=True):
                pair = self.lm._encode_pair(prompt.text, label)
                if pair != (prompt.ids, list(ids)):
                    raise SystemExit(f"lm-evaluation-harness has other token ids than this project: {pair}")

    def batch(self, length: int) -> int:
        """The chosen size."""
        return self.size

    def run(self, batches: Batches) -> Found:
        """See `Contender.run`; all batches go in at once, and it orders them again."""
        s = self.subject
        s.model.set_attn_implementation("sdpa")
        self.lm.batch_size_per_gpu = self.size
        indices = list(chain.from_iterable(batches))
        longest = [max(len(s.prompts[i].ids) for i in batch) for batch in batches]
        found = Found(tokens=sum(n * len(batch) for n, batch in zip(longest, batches, strict=True)))
        texts = [s.prompts[i].text for i in indices]
        if s.new_tokens:
            settings = {"until": [], "max_gen_toks": s.new_tokens, "do_sample": False}
            answers = self.lm.generate_until(_requests("generate_until", [(t, settings) for t in texts]), True)
            found.answers.update(zip(indices, answers, strict=True))
            return found
        labels = s.workload.template.labels
        pairs = [(text, label) for text in texts for label in labels]
        scores = [score for score, _ in self.lm.loglikelihood(_requests("loglikelihood", pairs), True)]
        for row, index in enumerate(indices):
            found.answers[index] = tuple(scores[row * len(labels) : (row + 1) * len(labels)])
        return found


def _requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, index) for index, pair in enumerate(arguments)]
