"""Tiny encoders with heads of their own, made where they will be used."""

import json
import shutil

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from harness.engine.local.encoders.characters import character_tokenizer
from tests.conftest import KO_TINY

NAMES = ("negative", "positive")
SIZES = {
    "vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


def save_tokenizer(folder):
    """The embedded tokenizer, with a token to pad with."""
    tokenizer = AutoTokenizer.from_pretrained(str(KO_TINY))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.model_max_length = SIZES["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    return tokenizer


def random_encoder(folder, labels=NAMES, head=BertForSequenceClassification, seed=0):
    """A checkpoint with random weights, saved; the folder."""
    torch.manual_seed(seed)
    config = BertConfig(**SIZES, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    head(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def trained_encoder(folder, rows, steps=60, n_parts=4):
    """A checkpoint that has learned rows of (text, class), a part of them in each step, saved; the folder."""
    random_encoder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        part = rows[step % n_parts :: n_parts]
        batch = tokenizer([text for text, _ in part], padding=True, truncation=True, return_tensors="pt")
        model(**batch, labels=torch.tensor([gold for _, gold in part])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return folder


def renamed(folder, labels, to):
    """A copy of a checkpoint whose classes have other names."""
    shutil.copytree(folder, to)
    config = BertConfig.from_pretrained(to)
    config.id2label = dict(enumerate(labels))
    config.save_pretrained(to)
    return to


def reading_encoder(folder, texts, head, longest=160, seed=0):
    """A random checkpoint with another head, whose tokens are the characters of some texts, saved; the folder."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer(texts, longest)
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": longest}
    head(BertConfig(**sizes, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_input_names": names}))
    return folder


HEADLESS = {"BertModel": BertModel, "BertForMaskedLM": BertForMaskedLM}
