"""Tokenizers in the style of SentencePiece: segments join, and their ids are those of the whole text."""

import json
import random
from dataclasses import replace
from functools import cache
from itertools import chain, pairwise

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from harness.core.errors import TemplateError
from harness.core.task import Sample
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import PerSampleDraw
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Chat, Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer, separating_tokens
from tasks.nsmc import TASK, read_ratings
from tests.conftest import DEMO, KO_TINY
from tests.test_tokenizing import AWKWARD, gpt2, made_up_documents, training_texts, whole_ids

MARK = "▁"
PIECES = [
    "재미", "영화", "별로예요", "ㅋㅋ", "the", " Movie", "10", " ", "  ", "\n", "\n\n", "\t", "\r\n", "!", "...", "👍",
    "\u11a8", "\u1100", "\u0301", "\u00a0", "\u3000", ":", MARK, MARK * 2, " " + MARK, "<0x0A>", "<unk>", "<s>", "</s>",
    "</", "s>", "<mask>", "<end>", "좋아", "<turn>", "<tu", "rn>", "<turn", "𓀀", "\ue000", "긍정",
    "감정:", "{", "한\u0301",
]  # fmt: skip


def odd_documents(n, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randrange(0, 8))) for _ in range(n)]


BYTES = [f"<0x{i:02X}>" for i in range(256)]
PREPENDED = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
REPLACED = normalizers.Replace(" ", MARK)


@cache
def learnt(byte_fallback):
    """The state of a BPE over characters, learnt from lines and from odd texts, with merges over newlines and marks."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(BYTES if byte_fallback else ())]
    trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=names, limit_alphabet=900, show_progress=False)
    lines = [line for text in training_texts()[:1000] for line in text.split("\n")]
    odd = [text.replace("<0x0A>", "").replace("<unk>", "") for text in odd_documents(300, 5)]
    tokenizer.train_from_iterator(lines + odd, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return state


def characters_bpe(normalizer=None, pre_tokenizer=None, byte_fallback=True, ignore_merges=False):
    """A BPE over characters; what the trainer takes for added tokens are the three special ones only."""
    state = learnt(byte_fallback)
    flags = {"byte_fallback": byte_fallback, "fuse_unk": True, "ignore_merges": ignore_merges}
    tokenizer = Tokenizer.from_str(json.dumps({**state, "pre_tokenizer": None, "model": {**state["model"], **flags}}))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def with_start(tokenizer):
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return tokenizer


def llama2_legacy():
    return with_start(characters_bpe(PREPENDED))


def llama2():
    return with_start(characters_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)))


def mistral():
    tokenizer = llama2()
    tokenizer.add_special_tokens(["[INST]", "[/INST]"])
    return tokenizer


def gemma():
    tokenizer = with_start(characters_bpe(REPLACED, pre_tokenizers.Split(" ", "merged_with_previous")))
    runs = ["\n" * n for n in range(2, 9)] + [MARK * n for n in range(2, 9)] + ["<table>", "<unused1>"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in runs])
    return tokenizer


def gemma_with_turns():
    tokenizer = gemma()
    tokenizer.add_special_tokens(["<turn>", "<end_of_turn>"])
    return tokenizer


def metaspace_always():
    return characters_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True))


def metaspace_never():
    return characters_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="never", split=False))


def unknown_fused():
    """Without bytes: unknown neighbours become one token."""
    return characters_bpe(PREPENDED, byte_fallback=False)


def added_everywhere():
    """Tokens that strip, want word ends, are found after normalising, or end where a label begins."""
    tokenizer = characters_bpe(PREPENDED)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<end>", rstrip=True), "<turn>"])
    tokenizer.add_tokens([AddedToken("좋아", single_word=True), AddedToken("감정:", normalized=True), "\n\n"])
    return tokenizer


def whole_words():
    return characters_bpe(PREPENDED, ignore_merges=True)


@cache
def learnt_unigram():
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(training_texts()[:1000], trainer)
    return tokenizer.to_str()


def unigram_metaspace():
    return Tokenizer.from_str(learnt_unigram())


def pieces_of_bytes():
    return gpt2(training_texts())


STYLES = [
    llama2_legacy, llama2, mistral, gemma, gemma_with_turns, metaspace_always, metaspace_never, unknown_fused,
    added_everywhere, whole_words, unigram_metaspace,
]  # fmt: skip
FAST = [llama2_legacy, llama2, mistral, gemma, metaspace_always, metaspace_never, unigram_metaspace]
"""Those whose segments join in all ordinary prompts."""


@pytest.fixture(scope="module")
def tokenizers():
    made = {}

    def get(make):
        if make not in made:
            made[make] = PreTrainedTokenizerFast(tokenizer_object=make())
        return made[make]

    return get


@pytest.fixture(scope="module")
def plain_templates():
    shipped = [t for t in read_templates(TASK.templates, TASK.class_names).values() if not t.chat]
    return [
        *shipped[::3],
        Template("bare", "{document}", (" a", " b"), separators=("", "")),
        Template("blanks", " {document} ->", (" 부정", " 긍정"), "  머리말 ", (" ", "  ")),
        Template(
            "english", "Review: {document}\nSentiment:", (" negative", " positive"), "Classify.\n\n", ("\n\n",) * 2
        ),
        Template("marks", "▁{document}▁감정:", ("▁부정", "긍정"), "", ("</s>", "\n")),
    ]


def renderer_of(template, tokenizer, documents, k=4):
    pool = Pool(tuple(Sample(f"d{i}", {"document": d}, i % 2) for i, d in enumerate(documents)), 2, "document")
    renderer = Renderer(template, PoolDraw(pool, PerSampleDraw()), k, PromptTokenizer(tokenizer))
    renderer.tokenizer.distrust_segments = distrusted  # it would hide what is wrong
    renderer.tokenizer.literals.marked = lambda sample: sample  # special tokens act, as those of templates do
    return renderer


def distrusted():
    raise AssertionError("joined segments do not have the ids of the whole text")


def samples_of(documents):
    return [Sample(f"s{i}", {"document": d}, 0) for i, d in enumerate(documents)]


def differing(tokenizer, template, prompts):
    """Prompts and labelled prompts whose ids are not those of their whole text."""
    if template.chat:
        texts = [p.text for p in prompts]
        expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
        labelled = [p.text + label for p in prompts for label in template.labels]
        expected += tokenizer(labelled, add_special_tokens=False)["input_ids"]
        texts += labelled
    else:
        texts = [p.text for p in prompts] + [p.text + label for p in prompts for label in template.labels]
        expected = whole_ids(tokenizer, texts)
    found = [p.ids for p in prompts] + [[*p.ids, *ids] for p in prompts for ids in p.label_ids]
    return [text for ids, whole, text in zip(found, expected, texts, strict=True) if ids != whole]


DOCUMENTS = AWKWARD + odd_documents(100, 1) + made_up_documents(20, 2)


def kept_prompts(renderer, samples, ks):
    """Prompts in batches, without those whose labels merge with what stands before."""
    try:
        return renderer.prompts(samples, 1, ks)
    except TemplateError:
        if len(samples) == 1:
            return []
        half = len(samples) // 2
        return kept_prompts(renderer, samples[:half], ks) + kept_prompts(renderer, samples[half:], ks)


@pytest.mark.parametrize("make", STYLES, ids=lambda f: f.__name__)
def test_joined_ids_are_those_of_the_whole_text(make, tokenizers, plain_templates):
    tokenizer = tokenizers(make)
    joined = 0
    for template in plain_templates:
        renderer = renderer_of(template, tokenizer, DOCUMENTS)
        prompts = kept_prompts(renderer, samples_of(DOCUMENTS), [0, 3])
        assert len(prompts) > 150, template.name
        assert differing(tokenizer, template, prompts)[:3] == []
        joined += sum(renderer.joinable(p.segments) is not None for p in prompts if p.k)
    assert joined > 500


@pytest.mark.parametrize("make", FAST, ids=lambda f: f.__name__)
def test_real_reviews_join_nearly_always(make, tokenizers, plain_templates):
    """Otherwise the fast path would be right but useless; without a separator nothing can join."""
    reviews = read_ratings(DEMO / "ratings_test.txt")[0]["document"].tolist()
    tokenizer = tokenizers(make)
    for template in (t for t in plain_templates if all(t.separators) and t.name != "marks"):
        renderer = renderer_of(template, tokenizer, reviews, k=8)
        prompts = renderer.prompts(samples_of(reviews[:100]), 1, [8])
        assert differing(tokenizer, template, prompts) == []
        joined = sum(renderer.joinable(p.segments) is not None for p in prompts)
        assert joined >= 95, template.name


@pytest.mark.parametrize("make", STYLES, ids=lambda f: f.__name__)
def test_joins_is_never_true_where_ids_differ(make, tokenizers):
    """Any two texts, not only those that templates bring together."""
    tokenizer = tokenizers(make)
    proof = PromptTokenizer(tokenizer)
    rng = random.Random(3)
    pairs = [(rng.choice(DOCUMENTS), rng.choice(DOCUMENTS)) for _ in range(6000)]
    claimed = [(a, b) for a, b in pairs if proof.joins(a, b)]
    assert len(claimed) > 300
    inner = proof.inner_batch([b for _, b in claimed])
    whole = proof.whole_batch([a + b for a, b in claimed])
    left = proof.whole_batch([a for a, _ in claimed])
    found = zip(claimed, whole, left, inner, strict=True)
    assert [pair for pair, ids, before, after in found if ids != before + after][:3] == []


@pytest.mark.parametrize("make", STYLES, ids=lambda f: f.__name__)
def test_a_text_cut_at_all_places_that_split_has_the_ids_of_the_whole(make, tokenizers):
    """Short parts, so that what reaches across several boundaries is tried."""
    proof = PromptTokenizer(tokenizers(make))
    rng = random.Random(4)
    for text in rng.sample(DOCUMENTS, 120) + ["".join(rng.choices(DOCUMENTS, k=3)) for _ in range(60)]:
        places = [i for i in range(1, len(text)) if proof.joins(text[:i], text[i:])]
        parts = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
        if all(proof.joins(a, b) for a, b in pairwise(parts)):
            ids = [*chain(proof.whole(parts[0]), *proof.inner_batch(parts[1:]))]
            assert ids == proof.whole(text), (text, parts)


def test_parts_by_themselves_would_have_been_wrong(tokenizers, plain_templates):
    """The guard is needed: a segment by itself begins with a mark that it does not have in the text."""
    tokenizer = tokenizers(llama2_legacy)
    segments = renderer_of(plain_templates[0], tokenizer, ["가", "나", "다", "라"]).segments(
        samples_of(["재미있다"])[0], 1, 3
    )
    naive = [i for s in segments for i in tokenizer(s, add_special_tokens=False)["input_ids"]]
    assert naive != tokenizer("".join(segments), add_special_tokens=False)["input_ids"]


def test_a_segmentation_by_scores_is_not_joined_without_pieces():
    """Segmentations of one score are told apart by how sums round, which depends on what stands before."""
    scores = {"a": -2.7, "aa": -1.3, "b": -0.1}
    vocabulary = [("<unk>", -20.0), *scores.items()]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(Unigram(vocabulary, unk_id=0, byte_fallback=False)))
    apart = [
        n for n in range(1, 60)
        if tokenizer("b" * n + "aaa")["input_ids"] != tokenizer("b" * n)["input_ids"] + tokenizer("aaa")["input_ids"]
    ]  # fmt: skip
    assert apart, "no token of the vocabulary holds 'ba', yet what stands before decides"
    assert not PromptTokenizer(tokenizer).joins("b" * apart[0], "aaa")


def test_what_follows_a_special_token_is_a_start_of_its_own(tokenizers):
    proof = PromptTokenizer(tokenizers(llama2_legacy))
    for left in ("가\n</s>", "가\n</s>가\n"):
        whole = proof.whole(left + "문장")
        assert proof.joins(left, "문장") == (whole == proof.whole(left) + proof.inner_batch(["문장"])[0])
    assert not proof.joins("가\n</s>", "문장")


def test_merges_of_bytes_are_seen():
    """A tokenizer that merges its bytes merges characters that no string of its vocabulary shows."""
    first, second = "𓀀", "𓀁"
    names = ["<unk>", *BYTES]
    bytes_of = [f"<0x{b:02X}>" for b in (first + second).encode()]
    merged = bytes_of[3] + bytes_of[4]
    vocabulary = {name: i for i, name in enumerate([*names, merged])}
    model = BPE(vocabulary, [(bytes_of[3], bytes_of[4])], unk_token="<unk>", byte_fallback=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    assert merged in tokenizer.convert_ids_to_tokens(tokenizer(first + second)["input_ids"])
    assert not PromptTokenizer(tokenizer).joins(first, second)


TURNS = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)


def chat_tokenizer(make):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end_of_turn>"]})
    tokenizer.chat_template = TURNS
    return tokenizer


@pytest.mark.parametrize("place", Chat, ids=str)
@pytest.mark.parametrize("make", [*STYLES, pieces_of_bytes], ids=lambda f: f.__name__)
def test_chats_are_cut_before_the_tokens_of_their_turns(make, place):
    tokenizer = chat_tokenizer(make)
    template = Template("chat", "영화평: {document}", ("부정", "긍정"), "판단하세요.\n\n", ("\n", "\n"), chat=place)
    renderer = renderer_of(template, tokenizer, DOCUMENTS)
    prompts = kept_prompts(renderer, samples_of(DOCUMENTS), [0, 3])
    assert len(prompts) > 300
    assert differing(tokenizer, template, prompts)[:3] == []
    assert all(len(renderer.tokenizer.turns(p.text) or ()) > 2 for p in prompts)


def test_chats_without_tokens_for_turns_are_tokenised_whole():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram_metaspace())
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[model]"
    template = Template("chat", "{document}", (" 부정", " 긍정"), chat=Chat.TURNS, separators=("\n", "\n"))
    renderer = renderer_of(template, tokenizer, ["가나", "다라"], k=1)
    prompts = renderer.prompts(samples_of(["재미", "별로"]), 1, [0, 1])
    assert renderer.tokenizer.turns(prompts[0].text) is None
    assert differing(tokenizer, template, prompts) == []


@pytest.mark.parametrize(
    ("others", "separates"),
    [
        (["<end>"], True),
        (["<turn>x"], False),  # longer: taken in its place
        (["a<"], False),  # begins before and reaches into it
        (["a<turn>b"], False),
        (["urn>"], True),  # begins later
        (["<tu"], True),  # shorter
    ],
)
def test_a_token_separates_where_no_other_may_overlap_it(others, separates):
    tokenizer = characters_bpe(REPLACED)
    tokenizer.add_special_tokens(["<turn>", *others])
    assert ("<turn>" in separating_tokens(tokenizer, "가<turn>나")) == separates
    if separates:
        text = "가a<turn>xb<tu<turn>나"
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        parts = [tokenizer.encode(part, add_special_tokens=False).ids for part in ("가a", "<turn>xb<tu", "<turn>나")]
        assert ids == [*chain(*parts)]


@pytest.mark.parametrize("token", [AddedToken("<turn>", lstrip=True), AddedToken("<turn>", single_word=True)])
def test_a_token_that_looks_around_does_not_separate(token):
    tokenizer = characters_bpe(REPLACED)
    tokenizer.add_special_tokens([token])
    assert separating_tokens(tokenizer, "가 <turn>나") == []


def test_special_tokens_that_are_read_as_text_do_not_separate():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=gemma_with_turns(), split_special_tokens=True)
    assert PromptTokenizer(tokenizer).turns("<turn>가<turn>나") is None


def test_labels_behind_one_query_are_tokenised_once(tokenizers, monkeypatch):
    """Where a label does not join, the end of the query decides, once for all K and samples."""
    template = Template("merging", "문장: {document}\n감정", (" a", " b"), separators=("\n", "\n"))
    renderer = renderer_of(template, tokenizers(unigram_metaspace), ["가나", "다라", "마바"], k=3)
    renderer.template = replace(template, labels=("a", "b"))
    seen = []
    batch = renderer.tokenizer.whole_batch
    monkeypatch.setattr(renderer.tokenizer, "whole_batch", lambda texts: seen.extend(texts) or batch(texts))
    renderer.prompts(samples_of(["재미 있다", "별로 다", "그저 그래"]), 1, [0, 1, 3])
    assert sum(text.endswith(("감정a", "감정b")) for text in seen) <= 2 * 3


@pytest.mark.parametrize(("make", "exact"), [(gemma, True), (llama2, False)])
def test_a_plan_adds_up_where_segments_join(make, exact, tmp_path, make_config):
    """Lengths of segments are those that they have inside a prompt."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in KO_TINY.iterdir():
        if "tokenizer" not in path.name:
            (folder / path.name).symlink_to(path)
    PreTrainedTokenizerFast(tokenizer_object=make(), bos_token="<s>").save_pretrained(folder)
    prepared = prepare(
        make_config(model={"path": str(folder)}, task={"limit": 30}, grid={"k": [0, 2, 4], "seeds": [1]})
    )
    for budget in measure(prepared, 30):
        prompts = prepared.renderer(prepared.models[0], budget.template, 1).prompts(prepared.data.samples, 1, [0, 2, 4])
        assert budget.exact == exact
        off = budget.tokens_one_pass - sum(len(p.ids) for p in prompts)
        assert abs(off) <= (0 if exact else len(prompts))  # the mark at the start of the first segment


def test_memory_that_is_emptied_within_a_batch_loses_nothing(tokenizers, plain_templates, monkeypatch):
    monkeypatch.setattr("harness.prompts.tokenizing._REMEMBERED", 3)
    for make in (gemma, llama2):
        renderer = renderer_of(plain_templates[0], tokenizers(make), DOCUMENTS)
        prompts = renderer.prompts(samples_of(["재미", "별로", "최고", "글쎄"]), 1, [0, 2])
        assert differing(tokenizers(make), plain_templates[0], prompts) == []
