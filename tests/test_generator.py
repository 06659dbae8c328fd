"""Greedy answers are those of transformers' own `generate`, prompt by prompt, however they are computed."""

import json
import random

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from harness.engine.local import generator as module
from harness.engine.local.attention.tree_attention import NAME
from harness.engine.local.generator import Generator
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.tree import build_tree
from harness.prompts.endings import turn_ends
from tests.conftest import KO_TINY, SHARED
from tests.models import RANDOM_MODELS
from tests.scoring import random_grid
from tests.test_scorer import OTHERS

KINDS = list(RANDOM_MODELS)
NEW = 12


def one_by_one(model, contexts, new=NEW):
    """The independent reference: the library's loop on each prompt alone."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")
    found = []
    with torch.inference_mode():
        for context in contexts:
            ids = torch.tensor([context])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
            )
            found.append(out[0, len(context) :].tolist())
    return found


def never(generated):
    return False


@pytest.fixture
def contexts():
    return random_grid(seed=31, n_queries=3)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [True, False])
def test_answers_equal_the_librarys_one_by_one(random_models, contexts, kind, share):
    model = random_models[kind]
    expected = one_by_one(model, contexts)
    assert len({tuple(x) for x in expected}) > len(contexts) / 2, "answers too alike: the test could not fail"
    found = Generator(Scorer(model, 512, share)).generate(contexts, NEW, never)
    assert found.tokens == expected
    assert set(found.reasons) <= {"length", "end"}


@pytest.mark.parametrize("share", [True, False])
def test_it_tells_of_every_answer_once_as_it_ends(random_models, contexts, share):
    told = []
    scorer = Scorer(random_models["llama"], 512, share)
    scorer.told = told.append
    Generator(scorer).generate(contexts, NEW, lambda ids: len(ids) >= 3 + sum(ids) % 5)
    assert sum(told) == len(contexts)
    assert sum(n > 0 for n in told) > 1


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gemma2", "cohere"])
def test_models_that_cannot_share_answer_in_padded_batches(make_model, contexts, kind):
    model = make_model(kind, **OTHERS[kind])
    assert Generator(Scorer(model, 256, False)).generate(contexts, 4, never).tokens == one_by_one(model, contexts, 4)


def test_every_shared_token_is_computed_once(random_models, contexts):
    found = Generator(Scorer(random_models["llama"], 512, True)).generate(contexts, NEW, never)
    assert found.prompt_tokens_computed == build_tree(contexts).n_tokens
    assert found.prompt_tokens_computed * 2 < sum(map(len, contexts))
    assert found.tokens_decoded == sum(len(tokens) - 1 for tokens in found.tokens)


@pytest.mark.parametrize("share", [True, False])
def test_an_end_token_ends_the_answer_and_is_kept(random_models, contexts, share, monkeypatch):
    model = random_models["qwen2"]
    free = one_by_one(model, contexts)
    end = free[0][3]
    generator = Generator(Scorer(model, 512, share))
    generator.end_tokens = frozenset({end})
    found = generator.generate(contexts, NEW, never)
    for tokens, reason, whole in zip(found.tokens, found.reasons, free, strict=True):
        expected = whole[: whole.index(end) + 1] if end in whole else whole
        assert tokens == expected
        assert reason == ("end" if end in whole else "length")
    assert "end" in found.reasons


SUGGESTED = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 3.0, "top_k": 50},
    "beams": {"num_beams": 3, "length_penalty": 2.0},
    "suppressed tokens": {"suppress_tokens": list(range(0, 4096, 2))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(0, 4096, 2))},
    "forced end": {"forced_eos_token_id": 7},
    "min_new_tokens": {"min_new_tokens": 9},
    "renormalised": {"bad_words_ids": [[token] for token in range(1, 4096, 3)]},
}


@pytest.mark.parametrize("setting", SUGGESTED)
@pytest.mark.parametrize("share", [True, False])
def test_settings_that_a_model_suggests_apply_nowhere(random_models, contexts, setting, share):
    model = random_models["llama"]
    free = one_by_one(model, contexts)
    end = free[0][3]
    own = model.generation_config
    model.generation_config = GenerationConfig(**SUGGESTED[setting])
    model.generation_config.eos_token_id = end
    try:
        found = Generator(Scorer(model, 512, share)).generate(contexts, NEW, never)
        assert model.generation_config.to_dict().items() >= SUGGESTED[setting].items(), "it is left as it was"
    finally:
        model.generation_config = own
    assert found.tokens == [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in free]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("source", ["generation settings", "configuration", "tokenizer"])
def test_whoever_names_an_end_token_ends_the_answer(make_model, contexts, source, share):
    """A fine-tuned model's turn ends where any of the three says, whatever the others say."""
    model = make_model("qwen3")
    model.config.eos_token_id, model.generation_config.eos_token_id = 4094, [4095]
    free = one_by_one(model, contexts)
    end, others = free[0][2], ()
    if source == "generation settings":
        model.generation_config.eos_token_id = [4095, end]
    elif source == "configuration":
        model.config.eos_token_id = end
    else:
        others = (end,)
    found = Generator(Scorer(model, 512, share), others).generate(contexts, NEW, never)
    assert found.tokens[0] == free[0][:3]
    assert found.reasons[0] == "end"


TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}END{% endfor %}"


@pytest.mark.parametrize(
    ("template", "added", "expected"),
    [
        (None, "<turn>", {"eos"}),
        (TURNS.replace("END", "<turn>"), "<turn>", {"eos", "<turn>"}),
        (TURNS.replace("END", " <turn>\n"), "<turn>", {"eos", "<turn>"}),
        (TURNS.replace("END", "{{ eos_token }}"), "<turn>", {"eos"}),
        (TURNS.replace("END", "\n끝"), "<turn>", {"eos"}),
        ("{{ raise_exception('no') }}", "<turn>", {"eos"}),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}<turn>", "<turn>", {"eos"}),
    ],
)
def test_the_end_of_a_turn_is_read_from_the_chat_template(template, added, expected):
    tokenizer = AutoTokenizer.from_pretrained(str(KO_TINY))
    tokenizer.add_special_tokens({"additional_special_tokens": [added]})
    tokenizer.chat_template = template
    ids = {"eos": tokenizer.eos_token_id, "<turn>": tokenizer.convert_tokens_to_ids("<turn>")}
    assert turn_ends(tokenizer) == {ids[name] for name in expected}


@pytest.mark.parametrize("share", [True, False])
def test_the_callers_test_stops_each_answer_by_itself(random_models, contexts, share):
    model = random_models["gpt_neox"]
    free = one_by_one(model, contexts)
    found = Generator(Scorer(model, 512, share)).generate(contexts, NEW, lambda ids: sum(ids) % 3 == 0)
    for tokens, reason, whole in zip(found.tokens, found.reasons, free, strict=True):
        stops = [n for n in range(1, NEW + 1) if sum(whole[:n]) % 3 == 0]
        assert tokens == whole[: stops[0] if stops else NEW]
        assert reason == ("stop" if stops else "length")
    assert len({len(tokens) for tokens in found.tokens}) > 3


@pytest.mark.parametrize("room", [1, 60, 300])
def test_memory_for_few_keys_and_values_changes_nothing(random_models, contexts, room, monkeypatch):
    model = random_models["qwen3"]
    generator = Generator(Scorer(model, 512, True))
    monkeypatch.setattr(generator, "cache_tokens", lambda: room)
    assert len(generator.groups(contexts)) > 1
    assert sorted(i for group in generator.groups(contexts) for i in group) == list(range(len(contexts)))
    assert generator.generate(contexts, NEW, never).tokens == one_by_one(model, contexts)


def test_few_rows_at_a_time_change_nothing(random_models, contexts, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    model = random_models["llama"]
    for share in (True, False):
        assert Generator(Scorer(model, 512, share)).generate(contexts, NEW, never).tokens == one_by_one(model, contexts)


def test_long_prompts_that_share_nothing_are_continued_rightly(random_models):
    """Longer than what is laid out per sequence: the rest is attended to where it lies."""
    rng = random.Random(5)
    contexts = [[rng.randrange(4096) for _ in range(size)] for size in (1, 63, 64, 65, 150, 300)]
    contexts += [contexts[-1][:200], contexts[-1], [*contexts[-1], 7]]
    model = random_models["llama"]
    found = Generator(Scorer(model, 128, True)).generate(contexts, NEW, never)
    assert found.tokens == one_by_one(model, contexts)


@pytest.mark.parametrize("share", [True, False])
def test_running_out_of_memory_splits_the_work_and_changes_nothing(random_models, contexts, share, monkeypatch):
    model = random_models["gpt2"]
    generator = Generator(Scorer(model, 4096, share))
    work = generator.step if share else generator.padded
    failed = []

    def forgetful(stepper_or_part, *rest):
        rows = len(stepper_or_part.state.places if share else stepper_or_part)
        if rows > 6:
            failed.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return work(stepper_or_part, *rest)

    monkeypatch.setattr(generator, "step" if share else "padded", forgetful)
    assert generator.generate(contexts, NEW, never).tokens == one_by_one(model, contexts)
    assert failed


def test_other_errors_are_not_taken_for_lack_of_memory(random_models, contexts, monkeypatch):
    generator = Generator(Scorer(random_models["gpt2"], 4096, True))

    def broken(*args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generator, "step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generator.generate(contexts, NEW, never)


def test_no_prompts_give_no_answers_and_empty_prompts_are_refused(random_models):
    generator = Generator(Scorer(random_models["gpt2"], 512, True))
    assert generator.generate([], NEW, never).tokens == []
    with pytest.raises(ValueError, match="a context has no tokens"):
        generator.generate([[1], []], NEW, never)


def test_real_questions_are_answered_as_one_by_one_and_share_their_paragraphs(ko_tiny, ko_tokenizer):
    path = SHARED / "data" / "korquad1" / "KorQuAD_v1.0_dev.json"
    if not path.is_file():
        pytest.skip("no real KorQuAD: ../shared/data/korquad1 beside the repository is absent")
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    texts = [
        f"지문: {paragraph['context']}\n질문: {question['question']}\n답:"
        for article in articles[:3]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ][:32]
    contexts = ko_tokenizer(texts, add_special_tokens=False)["input_ids"]
    found = Generator(Scorer(ko_tiny, 2048, True)).generate(contexts, NEW, never)
    assert found.tokens == one_by_one(ko_tiny, contexts)
    assert sum(map(len, contexts)) >= 2 * found.prompt_tokens_computed
