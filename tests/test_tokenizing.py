"""The ids of a prompt are those of its whole text, whatever the tokenizer and the document."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from harness.core.errors import TemplateError
from harness.core.task import Sample
from harness.prompts.audit import audit_template
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import FixedDraw, PerSampleDraw
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer
from tasks.nsmc import TASK, read_ratings

DEMO = Path(__file__).resolve().parents[1] / "data_in" / "nsmc_demo"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
AWKWARD = [
    "", " ", "  ", "\n", " \n", "\n ", "\n\n\n", "\t", "\r\n", " " * 60, " " * 100 + "가", "\n" * 60,
    " 앞 공백", "뒤 공백 ", "  앞뒤  ", "\n앞줄", "뒷줄\n", "뒷줄\n\n", "\u00a0가\u00a0", "\u3000전각\u3000",
    "1", "12", "1234567", " 10/10", "10 ", "1" * 70, "3.14", "２０２４",
    "ㅋㅋㅋㅋ", "ㅠㅠ", "ㅋ" * 120, "ㄱㅏ", "\u1100\u1161\u11a8", "\u11a8끝소리로 시작", "\u1161", "가\u11a8",
    "\u0301", "e\u0301", "cafe\u0301 ", "👍", "👍🏽", "❤️", "\u200d👨\u200d👩", "\u200b", "\ufeff가",
    "GDNTOPCLASSINTHECLUB", "It's good, isn't it", "don't ", "'s", "{document}", "!!!", "...\n", "?!\n\n", " -", "<",
    "문장: 가\n감정: 긍정\n", "감정:", "정답:", " 긍정", "\n긍정", "긍정", "### 답변:", "Sentiment:",
    "<mask>", "가 <mask> 나", "<end>", "가<end>", "<|sep|>가", "좋아", "안좋아", "<s>", "</s> 가",
    "<|endoftext|>",
    " " * 60 + "\n", "\n" + " " * 70 + "\n가", "1" * 100 + "가",
]  # fmt: skip
PIECES = [
    "재미", "영화", "별로예요", "ㅋㅋ", "ㅠ", "the", " Movie", "10", "7", "0.5", " ", "  ", "\n", "\n\n", "\t", "\r\n",
    "!", "...", "~~", "👍", "❤️", "\u11a8", "\u1100", "\u0301", "'s", "\u00a0", "\u3000", ":", "-", "\\n", "{", "}",
    "<mask>", "<end>", "<|sep|>", "좋아", " " * 50, "1" * 50,
]  # fmt: skip


def made_up_documents(n, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9))) for _ in range(n)]


DOCUMENTS = AWKWARD + made_up_documents(120, seed=0)


def training_texts():
    """Texts to learn merges from; odd ones too, so that merges over odd boundaries are learnt."""
    reviews = read_ratings(DEMO / "ratings_train.txt")[0]["document"].tolist()
    reviews = [x for pair in zip(reviews, made_up_documents(len(reviews), seed=9), strict=True) for x in pair]
    templates = [t for t in read_templates(TASK.templates, TASK.class_names).values() if not t.chat]
    return [t.render_solved(Sample("s", {"document": d}, i % 2)) for i, d in enumerate(reviews) for t in templates]


@pytest.fixture(scope="module")
def corpus():
    return training_texts()


def byte_level_bpe(corpus, splitter, normalizer=None, vocab=1200):
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = splitter
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2(corpus):
    return byte_level_bpe(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama3(corpus):
    return byte_level_bpe(corpus, split_then_bytes(LLAMA_3))


def qwen2_nfc(corpus):
    return byte_level_bpe(corpus, split_then_bytes(QWEN_2), normalizers.NFC())


def digits_and_bytes(corpus):
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return byte_level_bpe(corpus, pre_tokenizers.Sequence(parts))


def with_bos(corpus):
    tokenizer = llama3(corpus)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    return tokenizer


def with_added_tokens(corpus):
    """Runs of white space as tokens, as GPT-NeoX has them, and tokens that strip or want word ends."""
    tokenizer = gpt2(corpus)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 25)])
    tokenizer.add_special_tokens(["<|sep|>", AddedToken("<mask>", lstrip=True), AddedToken("<end>", rstrip=True)])
    tokenizer.add_tokens([AddedToken("좋아", single_word=True)])
    return tokenizer


def byte_level_with_prefix_space(corpus):
    return byte_level_bpe(corpus, pre_tokenizers.ByteLevel(add_prefix_space=True))


def lower_case(corpus):
    return byte_level_bpe(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFKC())


def unigram(corpus):
    """Without pieces: the best segmentation of the whole text."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus[:1000], trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return tokenizer


SPLITTING = [gpt2, llama3, qwen2_nfc, digits_and_bytes, with_bos, with_added_tokens]
WHOLE_ONLY = [unigram, byte_level_with_prefix_space, lower_case]


@pytest.fixture(scope="module")
def tokenizers(corpus):
    made = {}

    def get(make):
        if make not in made:
            made[make] = PreTrainedTokenizerFast(tokenizer_object=make(corpus))
        return made[make]

    return get


def pool_of(documents):
    return Pool(tuple(Sample(f"d{i}", {"document": d}, i % 2) for i, d in enumerate(documents)), 2, "document")


def renderer_of(template, tokenizer, documents=DOCUMENTS, k=3):
    draw = PoolDraw(pool_of(documents), PerSampleDraw())
    renderer = Renderer(template, draw, k, PromptTokenizer(tokenizer))
    renderer.tokenizer.literals.marked = lambda sample: sample  # special tokens act, as those of templates do
    return renderer


def samples_of(documents):
    return [Sample(f"s{i}", {"document": d}, 0) for i, d in enumerate(documents)]


def whole_ids(tokenizer, texts):
    """From the tokenizer alone: what it adds at the start, then the text; of many texts."""
    special, plain = tokenizer("가")["input_ids"], tokenizer("가", add_special_tokens=False)["input_ids"]
    start = special.index(plain[0])
    return [special[:start] + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def check_every_template(tokenizer, templates):
    """Compare all prompts with whole-text ids; returns the share that was joined from segments."""
    joined = total = 0
    wrong = []
    for template in templates:
        renderer = renderer_of(template, tokenizer)
        prompts = renderer.prompts(samples_of(DOCUMENTS), seed=1, ks=[0, 2])
        found = [p.ids for p in prompts] + [[*p.ids, *ids] for p in prompts for ids in p.label_ids]
        texts = [p.text for p in prompts] + [p.text + label for p in prompts for label in template.labels]
        for ids, expected, text in zip(found, whole_ids(tokenizer, texts), texts, strict=True):
            if ids != expected:
                wrong.append((template.name, text))
        joined += sum(renderer.joinable(p.segments) is not None for p in prompts if p.k)
        total += len(DOCUMENTS)
    assert not wrong, f"{len(wrong)} of them, such as {wrong[:3]}"
    return joined / total


@pytest.fixture(scope="module")
def shipped():
    return [t for t in read_templates(TASK.templates, TASK.class_names).values() if not t.chat]


@pytest.mark.parametrize("make", SPLITTING, ids=lambda f: f.__name__)
def test_segments_give_the_ids_of_the_whole_text(make, tokenizers, shipped):
    assert check_every_template(tokenizers(make), shipped) > 0.5


def test_segments_give_the_ids_of_the_whole_text_with_the_embedded_tokenizer(ko_tokenizer, shipped):
    assert check_every_template(ko_tokenizer, shipped) > 0.5


@pytest.mark.parametrize("make", WHOLE_ONLY, ids=lambda f: f.__name__)
def test_tokenizers_that_cannot_be_proven_to_split_are_given_whole_texts(make, tokenizers, shipped):
    tokenizer = tokenizers(make)
    assert not PromptTokenizer(tokenizer).can_join
    assert check_every_template(tokenizer, [shipped[0], shipped[4]]) == 0


def test_a_slow_tokenizer_is_given_whole_texts():
    class Bytes:
        """A tokenizer without a fast backend: one id per byte."""

        def __call__(self, text, add_special_tokens=True):
            if isinstance(text, list):
                return {"input_ids": [list(t.encode()) for t in text]}
            return {"input_ids": list(text.encode())}

        def decode(self, ids):
            return bytes(ids).decode(errors="replace")

    tokenizer = PromptTokenizer(Bytes())
    template = Template("t", "{document}=", (" a", " b"), separators=("\n", "\n"))
    draw = PoolDraw(pool_of(["가", "나", "다"]), FixedDraw())
    prompts = Renderer(template, draw, 2, tokenizer).prompts(samples_of(["하하"]), 1, [0, 2])
    assert [p.ids for p in prompts] == [list(p.text.encode()) for p in prompts]
    assert prompts[1].label_ids == ((32, 97), (32, 98))
    assert not tokenizer.can_join


def test_what_the_tokenizer_adds_comes_once_at_the_start(tokenizers, shipped):
    tokenizer = tokenizers(with_bos)
    bos = tokenizer.convert_tokens_to_ids("<s>")
    eos = tokenizer.convert_tokens_to_ids("</s>")
    renderer = renderer_of(shipped[0], tokenizer)
    assert renderer.tokenizer.bos == [bos]
    for prompt in renderer.prompts(samples_of(["가나다", ""]), 1, [0, 3]):
        assert prompt.ids[0] == bos
        assert prompt.ids.count(bos) == 1
        assert eos not in prompt.ids


def test_no_bos_is_invented(ko_tokenizer):
    assert PromptTokenizer(ko_tokenizer).bos == []


def test_real_reviews_join_nearly_always(ko_tokenizer, shipped, corpus):
    """Otherwise the fast path would be right but useless; without a separator nothing can join."""
    reviews = read_ratings(DEMO / "ratings_test.txt")[0]["document"].tolist()
    for template in (t for t in shipped if all(t.separators)):
        renderer = renderer_of(template, ko_tokenizer, reviews, k=8)
        samples = samples_of(reviews[:100])
        joined = sum(renderer.joinable(renderer.segments(s, 1, 8)) is not None for s in samples)
        assert joined >= 95, template.name


def test_a_label_that_merges_with_its_context_names_template_and_tokens(ko_tokenizer):
    """The older notebook's wording: the query ends in a space, the label begins without one."""
    template = Template("old_notebook", "문장: {document}\n감정: ", ("부정", "긍정"), separators=("\n", "\n"))
    renderer = renderer_of(template, ko_tokenizer, ["가나"] * 3)
    with pytest.raises(TemplateError) as caught:
        renderer.prompts(samples_of(["재미있다"]), 1, [0])
    message = str(caught.value)
    assert "template 'old_notebook': the label '부정' merges with the end of its context" in message
    context = ko_tokenizer("문장: 재미있다\n감정: ")["input_ids"]
    full = ko_tokenizer("문장: 재미있다\n감정: 부정")["input_ids"]
    at = next(i for i, (a, b) in enumerate(zip(context, full, strict=False)) if a != b)
    assert str([ko_tokenizer.decode([t]) for t in context[at:]]) in message
    assert str([ko_tokenizer.decode([t]) for t in full[at:]]) in message
    with pytest.raises(TemplateError, match="merges with the end"):
        audit_template(renderer, "ko-tiny", samples_of(["재미있다"]))


def test_a_label_that_merges_for_one_document_only_is_found(tokenizers):
    """Three digits are one piece in Llama 3: a label '1' merges with a document that ends in a digit."""
    template = Template("digits", "{document}", ("0", "1"), separators=("\n", "\n"))
    renderer = renderer_of(template, tokenizers(llama3), ["가나"] * 3)
    good = renderer.prompts(samples_of(["가나"]), 1, [0])[0]
    assert good.label_ids == tuple(tuple(ids) for ids in whole_ids(tokenizers(llama3), ["0", "1"]))
    merged = renderer_of(template, with_merge(tokenizers(llama3), "1", "0"), ["가나"] * 3)
    with pytest.raises(TemplateError, match="template 'digits': the label '0' merges"):
        merged.prompts(samples_of(["가나", "점수 1"]), 1, [0])


def with_merge(tokenizer, left, right):
    """The tokenizer with one more merge, which comes before all others."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    merges, vocab = state["model"]["merges"], state["model"]["vocab"]
    if [left, right] in merges:
        merges.remove([left, right])
    merges.insert(0, [left, right])
    vocab.setdefault(left + right, max(vocab.values()) + 1)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))


def test_a_review_of_many_blanks_joins_the_newlines_around_it(tokenizers, shipped):
    """Cleaning leaves 60 blanks of an English review; Llama 3 splits newline, blanks, newline nowhere."""
    tokenizer = with_merge(tokenizers(llama3), "Ċ", "Ġ")
    document_first = next(t for t in shipped if t.name == "document_first")
    renderer = renderer_of(document_first, tokenizer, ["가나", "다라", "마바"], k=1)
    # Ordinary reviews around it: a batch's ends may be looked at more closely than its middle.
    documents = ["재미", "별로", " ", " " * 40, " " * 60, "최고", "글쎄"]
    prompts = renderer.prompts(samples_of(documents), 1, [1])
    expected = whole_ids(tokenizer, [p.text for p in prompts])
    assert [d for d, p, ids in zip(documents, prompts, expected, strict=True) if p.ids != ids] == []


def test_a_label_after_an_empty_query_is_checked_against_what_stands_before(tokenizers):
    """An empty review leaves the separator right before the label: what ends it may merge with the label."""
    tokenizer = with_merge(tokenizers(llama3), "1", "0")
    template = Template("bare", "{document}", ("0", "1"), separators=("\n1", "\n1"))
    renderer = renderer_of(template, tokenizer, ["가나", "다라", "마바"])
    samples = samples_of([""])
    text = "".join(renderer.segments(samples[0], 1, 1))
    context, full = whole_ids(tokenizer, [text, text + "0"])
    assert full[: len(context)] != context
    with pytest.raises(TemplateError, match="template 'bare': the label '0' merges"):
        renderer.prompts(samples, 1, [1])


def test_the_audit_tells_label_tokens_and_shared_first_tokens(ko_tokenizer, shipped):
    named = {t.name: t for t in shipped}
    audit = audit_template(renderer_of(named["lecture_1"], ko_tokenizer), "ko-tiny", samples_of(["가나다", "라마"]))
    assert ["".join(tokens) for tokens in audit.label_tokens] == [" 부정", " 긍정"]
    assert (audit.shared_first_token, audit.samples_checked) == (False, 2)
    assert audit.start == "begins without <|endoftext|>, which the tokenizer does not add"
    same = Template("same", "{document}:", (" 정말 좋다", " 정말 싫다"), separators=("\n", "\n"))
    assert audit_template(renderer_of(same, ko_tokenizer), "ko-tiny", samples_of(["가"])).shared_first_token


def test_remembered_segments_do_not_depend_on_what_came_before(ko_tokenizer):
    fresh, used = PromptTokenizer(ko_tokenizer), PromptTokenizer(ko_tokenizer)
    for document in DOCUMENTS:
        used.joins(document, " 긍정")
    pairs = [(a, b) for a in AWKWARD for b in AWKWARD]
    assert [fresh.joins(a, b) for a, b in pairs] == [used.joins(a, b) for a, b in pairs]


@pytest.mark.parametrize("make", SPLITTING, ids=lambda f: f.__name__)
def test_joins_is_never_true_where_ids_differ(make, tokenizers):
    """Any two texts, not only those that templates bring together."""
    tokenizer = tokenizers(make)
    prompt_tokenizer = PromptTokenizer(tokenizer)
    rng = random.Random(3)
    pairs = [(rng.choice(DOCUMENTS), rng.choice(DOCUMENTS)) for _ in range(6000)]
    claimed = [(a, b) for a, b in pairs if prompt_tokenizer.joins(a, b)]
    assert len(claimed) > 500

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert [pair for pair in claimed if ids(pair[0] + pair[1]) != ids(pair[0]) + ids(pair[1])] == []


def test_the_embedded_tokenizer_round_trips_reviews(ko_tokenizer, corpus):
    assert all(ko_tokenizer.decode(ko_tokenizer(text)["input_ids"]) == text for text in corpus[:300])
