"""Stop texts are found at the token that completes them, as decoding everything after every token would."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.prompts.endings import StopTexts
from harness.prompts.tokenizing import PromptTokenizer


def byte_tokenizer(**settings):
    """Every byte a token, and a few longer ones: characters of Hangul are split over tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    for merged in ("Ċ" + "Ċ", "a" + "Ċ", ".Ċ"):
        vocabulary[merged] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("a", "Ċ"), (".", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **settings))


def plainly(tokenizer, texts, generated):
    text = tokenizer.decode(generated)
    return any(mark in text for mark in texts)


def first_of(answers):
    """How many are asked before one says yes: nothing is asked after it."""
    return next((n for n, answer in enumerate(answers) if answer), None)


TEXTS = [["\n"], ["\n\n"], ["질문:"], ["끝", "\n질"], ["a "], [" "], ["."], []]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("settings", [{}, {"clean_up_tokenization_spaces": True}])
def test_every_token_is_answered_as_by_decoding_everything(texts, settings):
    tokenizer = byte_tokenizer(**settings)
    rng = random.Random(3)
    found = 0
    for _ in range(60):
        text = "".join(rng.choice(["a", "질문", ":", "끝", "\n", " ", ".", "나", " n't"]) for _ in range(12))
        ids = tokenizer.whole(text)
        stops = StopTexts(tokenizer, texts)
        expected = first_of(plainly(tokenizer, texts, ids[:n]) for n in range(1, len(ids) + 1))
        assert first_of(stops(ids[:n]) for n in range(1, len(ids) + 1)) == expected
        found += expected is not None
    assert (found > 3) == bool(texts)


def test_tokens_that_complete_nothing_are_not_decoded(ko_tokenizer, monkeypatch):
    tokenizer = PromptTokenizer(ko_tokenizer)
    decoded = []
    straight = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: decoded.append(len(ids)) or straight(ids))
    stops = StopTexts(tokenizer, ["\n"])
    ids = tokenizer.whole("영화가 참 좋았다. 배우들도 잘했다\n다음")
    end = next(n for n in range(1, len(ids) + 1) if stops(ids[:n]))
    assert "\n" in tokenizer.decode_token(ids[end - 1])
    assert len(decoded) < end / 2
