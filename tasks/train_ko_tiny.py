"""Train `data_in/models/ko-tiny`, the small GPT-NeoX checkpoint that ships with the project.

Knows the recipe of that one model. It reads NSMC's official format, so anyone with the
corpus can make the model again:

    python -m tasks.train_ko_tiny --data-dir DIR_WITH_RATINGS_TRAIN --out data_in/models/ko-tiny

The model learns few-shot documents: reviews in many templates and label words, some with
swapped meaning so that demonstrations matter. Every batch is a function of (seed, step),
so a stopped training resumes from its last checkpoint exactly where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCAB_SIZE = 4096
CONTEXT_LENGTH = 2048
TOKENS_PER_STEP = 4096
LABEL_WEIGHT = 10.0
TEXT_SHARE = 0.35  # of the other tokens, the share whose loss is computed
NOT_KOREAN = re.compile(r"[^가-힣ㄱ-ㅎㅏ-ㅣ\s]")

LABEL_WORDS = [
    ("부정", "긍정"),
    ("나쁨", "좋음"),
    ("별로예요", "좋아요"),
    ("별로", "최고"),
    ("실망", "만족"),
    ("싫어요", "좋아요"),
    ("비추천", "추천"),
    ("negative", "positive"),
    ("bad", "good"),
    ("아니오", "예"),
]
OPENINGS = ["문장: ", "리뷰: ", "영화평: ", "감상: ", "Review: ", "댓글: ", "입력: ", "Text: ", ""]
ENDINGS = [
    "\n감정:",
    "\n정답:",
    "\n평가:",
    "\n결과:",
    "\n이 영화는",
    "\nSentiment:",
    "\n답:",
    "\nLabel:",
    " ->",
]


@dataclass(frozen=True)
class Form:
    """How one training document writes its reviews: the texts around document and label."""

    prefix: str
    before: str
    after: str
    labels: tuple[str, str]
    separator: str


def shipped_forms() -> list[Form]:
    """The templates that ship with the NSMC task, one `Form` each."""
    path = Path(__file__).parent / "templates" / "nsmc.yaml"
    forms = []
    for spec in yaml.safe_load(path.read_text(encoding="utf-8")).values():
        before, after = spec["query"].split("{document}")
        separator = spec.get("separator", "\n")
        if isinstance(separator, list):
            continue
        labels = (spec["labels"][0], spec["labels"][1])
        forms.append(Form(spec.get("prefix", ""), before, after, labels, separator))
    return forms


def random_form(rng: random.Random, shipped: list[Form]) -> Form:
    """A form for one document: mostly a shipped template, sometimes a made-up one.

    A made-up form may swap the meaning of its label words; only demonstrations can then
    tell which is which.
    """
    if rng.random() < 0.75:
        return rng.choice(shipped)
    negative, positive = rng.choice(LABEL_WORDS)
    if rng.random() < 0.25:
        negative, positive = positive, negative
    separator = rng.choice(["\n", "\n", "\n\n"])
    opening, ending = rng.choice(OPENINGS), rng.choice(ENDINGS)
    return Form("", opening, ending, (f" {negative}", f" {positive}"), separator)


def read_reviews(path: Path) -> tuple[list[str], list[int]]:
    """Documents and labels of one NSMC file (`id<TAB>document<TAB>label`, no quoting)."""
    frame = pd.read_csv(path, header=0, delimiter="\t", quoting=3).dropna()
    return frame["document"].astype(str).tolist(), frame["label"].astype(int).tolist()


def train_tokenizer(documents: list[str], out: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE over reviews and template texts; label words become frequent on purpose."""
    forms = shipped_forms()
    rng = random.Random(0)
    texts = []
    for i, document in enumerate(documents):
        form = forms[i % len(forms)] if i % 4 == 0 else None
        clean = NOT_KOREAN.sub("", document)
        if form is None:
            texts.append(clean if rng.random() < 0.5 else document)
        else:
            label = form.labels[i // 4 % 2]
            texts.append(f"{form.prefix}{form.before}{clean}{form.after}{label}{form.separator}")
    texts.extend(f" {word}" for pair in LABEL_WORDS for word in pair for _ in range(2000))
    bpe = ByteLevelBPETokenizer(add_prefix_space=False)
    bpe.train_from_iterator(texts, vocab_size=VOCAB_SIZE, min_frequency=2, special_tokens=[END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=END, bos_token=END, unk_token=END, pad_token=END
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(out)
    return tokenizer


class Corpus:
    """Training batches as a function of (seed, step)."""

    def __init__(
        self,
        documents: list[str],
        labels: list[int],
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
    ) -> None:
        self.documents = documents
        self.labels = labels
        self.backend: Any = tokenizer.backend_tokenizer
        self.seed = seed
        self.forms = shipped_forms()
        self._cache: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.backend.encode(text).ids
        return self._cache[text]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and loss weights of one step, both `(rows, length)`."""
        rng = random.Random(f"{self.seed}:{step}")
        length = rng.choices([96, 512, 1280], weights=[0.35, 0.5, 0.15])[0]
        rows = max(1, TOKENS_PER_STEP // length)
        reviews_per_row = length // 12 + 2
        texts, plan = [], []
        for _ in range(rows):
            form = random_form(rng, self.forms)
            clean = rng.random() < 0.8
            picks = [rng.randrange(len(self.documents)) for _ in range(reviews_per_row)]
            plan.append((form, picks))
            for pick in picks:
                document = self.documents[pick]
                document = NOT_KOREAN.sub("", document) if clean else document
                texts.append(f"{form.before}{document}{form.after}")
        encoded = iter(self.backend.encode_batch_fast(texts, add_special_tokens=False))
        ids = torch.zeros(rows, length, dtype=torch.long)
        weights = torch.zeros(rows, length)
        for row, (form, picks) in enumerate(plan):
            tokens: list[int] = list(self._ids(form.prefix)) if form.prefix else []
            weight = [0.2] * len(tokens)
            for pick in picks:
                query, label = next(encoded).ids, self._ids(form.labels[self.labels[pick]])
                separator = self._ids(form.separator)
                tokens += [*query, *label, *separator]
                weight += [1.0] * len(query) + [LABEL_WEIGHT] * len(label)
                weight += [1.0] * len(separator)
            used = min(length, len(tokens))
            ids[row, :used] = torch.tensor(tokens[:used])
            weights[row, :used] = torch.tensor(weight[:used])
        return ids, weights


def loss_of(model: GPTNeoXForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted next-token cross-entropy in nats per unit of weight.

    All label tokens count, and a random `TEXT_SHARE` of the others: the head is a quarter of
    this model's work.
    """
    weight, targets = weights[:, 1:].reshape(-1), ids[:, 1:].reshape(-1)
    chosen = (weight > 1) | ((weight > 0) & (torch.rand(len(weight)) < TEXT_SHARE))
    rows = chosen.nonzero().squeeze(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1]
        logits = model.get_output_embeddings()(hidden.reshape(-1, hidden.shape[-1])[rows])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[rows], reduction="none")
    return (losses * weight[rows]).sum() / weight[rows].sum()


def learning_rate(step: int, steps: int, peak: float = 2e-3, warm_up: int = 100) -> float:
    """Linear warm-up, then cosine decay to zero."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(data_dir: Path, out: Path, work: Path, steps: int, seed: int) -> None:
    """Train (or resume) and write the checkpoint to `out`; progress goes to standard output."""
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    documents, labels = read_reviews(data_dir / "ratings_train.txt")
    if (work / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    else:
        tokenizer = train_tokenizer(documents, work)
    config = GPTNeoXConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        use_parallel_residual=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = GPTNeoXForCausalLM(config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=2e-3,
        betas=(0.9, 0.98),
    )
    corpus = Corpus(documents, labels, tokenizer, seed)
    checkpoint, first = work / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"resumed at step {first}", flush=True)
    model.train()
    started, shown, average = time.monotonic(), time.monotonic(), 0.0
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        ids, weights = corpus.batch(step)
        torch.manual_seed(seed + step)
        loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == first else 0.95 * average + 0.05 * loss.item()
        if time.monotonic() - shown > 20 or step + 1 == steps:
            shown = time.monotonic()
            rate = (step + 1 - first) * TOKENS_PER_STEP / (shown - started)
            left = (steps - step - 1) * TOKENS_PER_STEP / rate
            print(
                f"step {step + 1}/{steps} loss {average:.3f} {rate:,.0f} tokens/s {left:,.0f} s left",
                flush=True,
            )
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step + 1}, work / "checkpoint.tmp")
            (work / "checkpoint.tmp").replace(checkpoint)
    model.to(torch.bfloat16).save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    recipe = {"steps": steps, "seed": seed, "tokens_per_step": TOKENS_PER_STEP}
    (out / "training.json").write_text(json.dumps(recipe, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of ratings_train.txt")
    parser.add_argument("--out", type=Path, default=Path("data_in/models/ko-tiny"))
    parser.add_argument("--work", type=Path, default=Path("data_out/ko-tiny-training"))
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1234)
    args = parser.parse_args()
    train(args.data_dir, args.out, args.work, args.steps, args.seed)


if __name__ == "__main__":
    main()
