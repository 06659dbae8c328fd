"""Who is compared: the alternatives a user has, and this project.

Every contender starts from texts, except that this project starts from samples and renders them too,
and that "sharing off" starts from token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch

from harness.engine.local.generator import Generator
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.readouts import origins
from harness.engine.local.tree.tree import Origin
from harness.prompts.prompt import Prompt
from tests.bench.clock import Clock
from tests.bench.workloads import Workload

Answer = tuple[float, ...] | str
"""The labels' log-probabilities, or the generated text."""
Batches = Sequence[Sequence[int]]
"""Prompts by their place in the workload; each batch is one forward pass where a contender has such."""


CHECKED = 50
"""Prompts whose token ids are compared before the contenders start."""


@dataclass
class Found:
    """What a contender found.

    Attributes:
        answers: by prompt.
        tokens: prompt tokens that went through the model, padding included.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True)
class Subject:
    """What all contenders of one comparison share.

    Attributes:
        model: as transformers loads it.
        own: the same weights as this project lays them out; the same object on a GPU.
    """

    model: Any
    own: Any
    tokenizer: Any
    workload: Workload
    prompts: list[Prompt]
    now: Clock

    def __post_init__(self) -> None:
        for prompt in self.prompts[:CHECKED]:
            if self.tokenizer(prompt.text)["input_ids"] != prompt.ids:
                raise SystemExit(f"the tokenizer gives other ids than the renderer for {prompt.text[:60]!r}")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    @property
    def layouts(self) -> list[Any]:
        """The model with its weights laid out in each way."""
        return [self.model] if self.model is self.own else [self.model, self.own]

    @property
    def new_tokens(self) -> int:
        """Tokens to generate per prompt; 0 where labels are compared."""
        return self.workload.new_tokens

    def first_tokens(self, prompt: int) -> list[int]:
        """The labels' tokens; all labels of the benchmark have one."""
        return [ids[0] for ids in self.prompts[prompt].label_ids]

    def text(self, tokens: Sequence[int]) -> str:
        """Generated tokens as text."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


class Contender(Protocol):
    """One way to the answers."""

    name: str
    whole: bool
    """Whether it is only itself on the whole workload; the others are timed on a part."""
    sizes: tuple[int, ...]
    """Batch sizes to try; empty where it chooses by itself."""
    size: int

    def batch(self, length: int) -> int:
        """Prompts of one forward pass whose longest prompt has `length` tokens."""
        ...

    def run(self, batches: Batches) -> Found:
        """Answer some prompts."""
        ...


class NotebookLoop:
    """The lecture's loop: one prompt at a time through `generate`, its token decoded and compared."""

    name, whole, sizes, size = "notebook loop", False, (), 1

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def batch(self, length: int) -> int:
        """One prompt."""
        return 1

    def run(self, batches: Batches) -> Found:
        """See `Contender.run`."""
        s, found = self.subject, Found()
        s.model.set_attn_implementation("sdpa")
        for index in chain.from_iterable(batches):
            inputs = s.tokenizer(s.prompts[index].text, return_tensors="pt").to(s.device)
            length = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                output = s.model.generate(
                    inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=s.new_tokens or 1,
                    do_sample=False,
                    pad_token_id=0,
                    return_dict_in_generate=True,
                    output_scores=True,
                )
            text = s.text(output.sequences[0, length:].tolist())
            found.tokens += length
            if s.new_tokens:
                found.answers[index] = text
            else:
                sums = output.scores[0][0].float().log_softmax(-1)
                found.answers[index] = tuple(sums[s.first_tokens(index)].tolist())
        return found


class PaddedBatches:
    """Sorted batches of one size, right-padded, the head at each prompt's last place only.

    Where answers are generated: left-padded, transformers' `generate`.
    """

    name, whole, sizes = "padded batches", False, (1, 2, 4, 8, 16, 32, 64, 128, 256)

    def __init__(self, subject: Subject) -> None:
        self.subject, self.size = subject, 1

    def batch(self, length: int) -> int:
        """The chosen size."""
        return self.size

    def run(self, batches: Batches) -> Found:
        """See `Contender.run`."""
        s, found = self.subject, Found()
        s.model.set_attn_implementation("sdpa")
        for batch in batches:
            ids, mask = self._padded(batch)
            with torch.inference_mode():
                if s.new_tokens:
                    output = s.model.generate(
                        ids, attention_mask=mask, max_new_tokens=s.new_tokens, do_sample=False, pad_token_id=0
                    )
                    for index, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                        found.answers[index] = s.text(row)
                else:
                    hidden = s.model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
                    last = hidden[torch.arange(len(batch), device=s.device), mask.sum(1) - 1]
                    logprobs = s.model.get_output_embeddings()(last).float().log_softmax(-1)
                    wanted = torch.tensor([s.first_tokens(i) for i in batch], device=s.device)
                    rows = logprobs.gather(1, wanted).tolist()
                    found.answers.update(zip(batch, map(tuple, rows), strict=True))
            found.tokens += ids.numel()
        return found

    def _padded(self, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.subject
        s.tokenizer.padding_side = "left" if s.new_tokens else "right"
        s.tokenizer.pad_token_id = 0
        texts = [s.prompts[i].text for i in batch]
        inputs = s.tokenizer(texts, return_tensors="pt", padding=True).to(s.device)
        return inputs["input_ids"], inputs["attention_mask"]


class SharingOff:
    """This project without sharing: sorted padded batches of its pack's tokens, from token ids."""

    name, whole, sizes, size = "this project, sharing off", False, (), 1

    def __init__(self, subject: Subject, tokens_per_pack: int) -> None:
        self.subject = subject
        self.tokens_per_pack = tokens_per_pack

    def batch(self, length: int) -> int:
        """As many as a pack takes."""
        return max(1, self.tokens_per_pack // length)

    def run(self, batches: Batches) -> Found:
        """See `Contender.run`."""
        s, found = self.subject, Found()
        scorer = Scorer(s.own, self.tokens_per_pack, share_prefixes=False)
        for batch in batches:
            contexts = [s.prompts[i].ids for i in batch]
            answers, tokens = _ask(s, scorer, contexts, [s.prompts[i].label_ids for i in batch])
            found.answers.update(zip(batch, answers, strict=True))
            found.tokens += tokens
        return found


class ThisProject:
    """This project: from samples to answers, rendering and tokenising included."""

    name, whole, sizes, size = "this project", True, (), 1

    def __init__(self, subject: Subject, scorer: Scorer) -> None:
        self.subject = subject
        self.scorer = scorer

    def batch(self, length: int) -> int:
        """Everything at once."""
        return len(self.subject.prompts)

    def run(self, batches: Batches) -> Found:
        """The whole workload, as the first unit of a run."""
        self.scorer.first_layer.forget()
        self.scorer.trunk.learn([], {})
        prompts = self.subject.workload.render()
        contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
        answers, tokens = _ask(self.subject, self.scorer, contexts, labels, origins(prompts))
        return Found(dict(enumerate(answers)), tokens)


def _ask(
    subject: Subject,
    scorer: Scorer,
    contexts: list[list[int]],
    labels: list[Any],
    may_share: list[Origin] | None = None,
) -> tuple[Iterator[Answer], int]:
    if subject.new_tokens:
        generated = Generator(scorer).generate(contexts, subject.new_tokens, lambda tokens: False)
        return map(subject.text, generated.tokens), generated.prompt_tokens_computed
    scores = scorer.score(contexts, labels, may_share)
    return map(tuple, scores.logprobs.tolist()), scores.tokens_computed
