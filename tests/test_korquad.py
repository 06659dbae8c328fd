"""KorQuAD: the official metrics, the files, long documents, shortened demonstrations."""

import contextlib
import copy
import dataclasses
import itertools
import json
import random
import re
import string
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup

import tasks.korquad as korquad
from harness.config.loading import load_config
from harness.config.schema import TaskConfig
from harness.core.errors import ConfigError, DataError
from harness.core.sampling import choose, draw_order
from harness.core.task import Sample
from harness.core.task_data import load_data
from harness.core.task_options import configured
from harness.prompts.templates import Chat, fill, read_templates
from tasks.korquad import (
    TASK_1,
    TASK_2,
    answer_in_windows,
    exact_match,
    exact_match_2,
    f1_score,
    f1_score_2,
    found_in_context,
    shorten,
)
from tasks.korquad_metrics import normalise, normalise_2, strip_tags, without_space
from tasks.korquad_text import PassageIndex, character_pairs, html_to_text, passages, shorten_around
from tests.conftest import REPO, SHARED

DEMO = REPO / "data_in" / "korquad_demo"
DEV_1, TRAIN_1 = "KorQuAD_v1.0_dev.json", "KorQuAD_v1.0_train.json"
DEV_2, TRAIN_2 = "korquad2.1_dev_00.json", "korquad2.1_train_00.json"


@pytest.fixture(scope="module")
def shared_korquad1():
    """The folder of KorQuAD 1.0's official development file beside the repository."""
    folder = SHARED / "data" / "korquad1"
    if not (folder / DEV_1).is_file():
        pytest.skip(f"no official {DEV_1}: ../shared/data/korquad1 beside the repository is absent")
    return folder


def options(place, **values):
    return TaskConfig(data_dir=str(place), **values)


def demo(name):
    return json.loads((DEMO / name).read_text(encoding="utf-8"))


def sample(context, *answers):
    return Sample("1", {"context": context, "question": "?", "title": ""}, answers=answers)


REPLACED = {"'", '"', "《", "》", "<", ">", "〈", "〉", "(", ")", "‘", "’"}


class Rules:
    """The metrics once more, from the rules in words, one character and one step at a time."""

    @staticmethod
    def normalise(text):
        spaced = ""
        for character in text:
            spaced += " " if character in REPLACED else character
        kept = "".join(character for character in spaced.lower() if character not in set(string.punctuation))
        return re.sub(r"^\s+|\s+$", "", re.sub(r"\s+", " ", kept))

    @staticmethod
    def normalise_2(text):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(ParserRejectedMarkup):
                text = BeautifulSoup(text, "html.parser").get_text()
        return re.sub(r"\s", "", Rules.normalise(text))

    @staticmethod
    def f1(prediction, gold):
        left = list(gold)
        shared = 0
        for character in prediction:
            if character in left:
                left.remove(character)
                shared += 1
        if not shared:
            return 0
        precision, recall = shared / len(prediction), shared / len(gold)
        return 2 * precision * recall / (precision + recall)


PIECES = [
    *"가나다 부산 서울 ㄱㄴ 한",
    *"aBZİßΣς١½Ⅷﬁ",
    *string.punctuation,
    *"《》〈〉‘’“”「」『』·…。、（）＜＞",
    *" \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u3000\u200b\ufeff",
    *"é\u0301각\u1100\u1161",
    *["ΑΣ", "1,000", "3.14", "<b>", "</b>", "<br/>", "<td>", "</table>", "&amp;", "&lt;", "&nbsp;", "&#44032;"],
    *["<!-- x -->", "<script>y</script>", "<![CDATA[z]]>", "<![", "&", "<rt>r</rt>", "<?php", "http://a.b/?c&d"],
]


def odd_texts(n, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 12))) for _ in range(n)]


ODD = odd_texts(4000, seed=7)
PAIRS = list(itertools.pairwise(ODD)) + [(a, "".join(random.Random(a).sample(a, len(a))).upper()) for a in ODD]


def test_version_1_follows_the_rules_on_odd_texts():
    for prediction, gold in PAIRS:
        a, b = Rules.normalise(prediction), Rules.normalise(gold)
        assert exact_match(prediction, gold) == (a == b), (prediction, gold)
        assert f1_score(prediction, gold) == Rules.f1("".join(a.split()), "".join(b.split())), (prediction, gold)


def test_version_2_follows_the_rules_on_odd_texts():
    for prediction, gold in PAIRS:
        a, b = Rules.normalise_2(prediction), Rules.normalise_2(gold)
        assert exact_match_2(prediction, gold) == (a == b), (prediction, gold)
        assert f1_score_2(prediction, gold) == Rules.f1(a, b), (prediction, gold)


def test_the_odd_texts_reach_every_outcome():
    for em, f1 in ((exact_match, f1_score), (exact_match_2, f1_score_2)):
        outcomes = {(em(a, b), f1(a, b) if f1(a, b) in (0, 1) else 0.5) for a, b in PAIRS}
        assert outcomes == {(1, 1), (1, 0), (0, 1), (0, 0), (0, 0.5)}


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("A-B", "ab", 1, 1),
        ("1,000", "1000", 1, 1),
        ("3.14", "314", 1, 1),
        ("《노을》", "노을", 1, 1),
        ("'노을'", "‘노을’", 1, 1),
        ("노을(2001)", "노을 2001", 1, 1),
        ("노을(2001)", "노을2001", 0, 1),
        ("부산 시", "부산시", 0, 1),
        ("부산", "산부", 0, 1),
        ("", "()", 1, 0),
        ("", "", 1, 0),
        ("", "부산", 0, 0),
        ("“부산”", "부산", 0, pytest.approx(2 * 0.5 * 1 / 1.5)),
        ("「부산」", "부산", 0, pytest.approx(2 / 3)),
        ("가·나", "가나", 0, pytest.approx(0.8)),
        ("ＡＢ", "AB", 0, 0),
        ("부산에서", "부산", 0, pytest.approx(2 / 3)),
        ("부산시", "부산광역시", 0, pytest.approx(0.75)),
        ("부부", "부", 0, pytest.approx(2 / 3)),
        ("\u1112\u1161\u11ab", "한", 0, 0),
        ("ΑΣ'Α", "ας α", 1, 1),
    ],
)
def test_version_1_by_hand(prediction, gold, em, f1):
    assert exact_match(prediction, gold) == exact_match(gold, prediction) == em
    assert f1_score(prediction, gold) == f1
    assert f1_score(gold, prediction) == f1


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("부산 시", "부산시", 1, 1),
        ("215", "<td>215</td>", 1, 1),
        ("큰말 | 215", "<tr><td>큰말</td>\n<td>215</td></tr>", 1, 1),
        ("a < b", "a &lt; b", 1, 1),
        ("", "<img src='x'>", 1, 0),
        ("부산", "산부", 0, 1),
        ("부산", "부산<!-- 항 -->", 1, 1),
        ("<![ 부산", "부산", 1, 1),
    ],
)
def test_version_2_by_hand(prediction, gold, em, f1):
    assert exact_match_2(prediction, gold) == em
    assert f1_score_2(prediction, gold) == f1


def test_version_2_warns_of_nothing():
    """BeautifulSoup takes short texts for file names and addresses, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("http://a.b/?c&d", "a.html&", "<?xml version='1.0'?><a>b</a>", "."):
            strip_tags(text)


def test_the_official_answers_score_100(shared_korquad1):
    data = json.loads((shared_korquad1 / DEV_1).read_text(encoding="utf-8"))["data"]
    golds = [
        answer["text"]
        for article in data
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
        for answer in qa["answers"]
    ]
    assert len(golds) == 5774
    for score in (exact_match, f1_score, exact_match_2, f1_score_2):
        assert 100 * sum(score(gold, gold) for gold in golds) / len(golds) == 100


def test_answer_metrics_take_the_best_of_the_golds():
    asked = sample("부산광역시는 항구다.", "부산", "부산광역시")
    assert list(TASK_1.answer_metrics) == ["exact_match", "f1", "found_in_context"]
    assert list(TASK_2.answer_metrics) == ["exact_match", "f1", "found_in_context", "answer_in_windows"]
    for task in (TASK_1, TASK_2):
        assert task.generates
        assert task.answer_metrics["exact_match"]("부산광역시", asked) == 1
        assert task.answer_metrics["exact_match"]("부산시", asked) == 0
        assert task.answer_metrics["f1"]("부산시", asked) == pytest.approx(0.8)
    assert TASK_1.answer_metrics["exact_match"]("부산 광역시", asked) == 0
    assert TASK_2.answer_metrics["exact_match"]("부산 광역시", asked) == 1


def test_an_answer_is_found_only_verbatim():
    asked = sample("부산광역시는 항구다.", "부산")
    assert found_in_context(" 광역시\n", asked) == 1
    assert found_in_context("광역 시", asked) == 0
    assert found_in_context("", asked) == found_in_context("  ", asked) == 0


def test_a_gold_answer_is_in_the_windows_by_version_2s_normalisation():
    row = "마을 | 가구\n큰말 | 104"
    assert answer_in_windows("?", sample(row, "<tr><td>큰말</td><td>104</td></tr>")) == 1
    assert answer_in_windows("큰말", sample(row, "샘말")) == 0
    assert answer_in_windows("?", sample(row, "샘말", "가구")) == 1
    assert answer_in_windows("?", sample(row, "<img>")) == 0
    assert answer_in_windows("?", sample("높이 < 9 > 너비", "9")) == 1, "the context is text, not HTML"


PAGE = """<!DOCTYPE html><html><head><title>섬 - 백과</title><style>p {}</style></head><body>
<nav><ul><li>대문</li></ul></nav><script>var a = "<p>없다</p>";</script>
<h2>마을<span>[편집]</span></h2>
<p>섬에는 <a href="#">두</a> 마을이&nbsp;있다.<br>북쪽과
남쪽이다.<sup>[1]</sup></p><!-- 주석 -->
<table><caption>인구</caption><tr><th>마을</th><th>수</th></tr>
<tr><td><p>큰말</p>(북)</td><td>104<br>명</td></tr>
<tr><td></td><td>38</td></tr></table>
<ol><li>하나 &lt; 둘</li><li>셋<ul><li>넷</li></ul></li></ol>
<table><tr><td><table><tr><td>속</td><td>겉</td></tr></table></td><td>옆</td></tr></table>
<p><ruby>漢<rp>(<rt>한</ruby>자</p><noscript>없다</noscript>
</body></html>"""


def test_a_page_becomes_readable_lines():
    assert html_to_text(PAGE).split("\n") == [
        "## 마을[편집]",
        "섬에는 두 마을이 있다.",
        "북쪽과 남쪽이다.[1]",
        "인구",
        "마을 | 수",
        "큰말 (북) | 104 명",
        "| 38",
        "- 하나 < 둘",
        "- 셋",
        "- 넷",
        "속 | 겉",
        "| 옆",
        "漢자",
    ]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("그냥 글", "그냥 글"),
        ("<td>215</td>", "215"),
        ("215</td>\n<td>104", "215 104"),
        ("<tr><th>큰말</th><td>104</td></tr>", "큰말 | 104"),
        ("<td>큰<br>말</td><p>가", "큰 말\n가"),
        ("<table><tr><td>가<tr><td>나<td>다</table>라", "가\n나 | 다\n라"),
        ("</table></td></li>가", "가"),
        ("<p>가<p>나<li>다", "가\n나\n- 다"),
        ("<![CDATA[가]]>나", "가나"),
        ("<script>가", ""),
        ("<nav><table><tr><td><ul><li>가</nav>나<br>다", "나\n다"),
        ("<nav><nav>가</nav>나</nav>다", "다"),
        ("<table><tr><td>가</tr><p>나<p>다</table>", "가\n나\n다"),
        ("&#44032;&amp;&unknown;", "가&&unknown;"),
    ],
)
def test_fragments_and_unclosed_elements_are_read(html, text):
    assert html_to_text(html) == text


def test_what_is_added_to_the_text_vanishes_in_the_metric():
    """The rendering normalises to what BeautifulSoup's text of the same page normalises to."""
    pages = [
        document[key] for name in (DEV_2, TRAIN_2) for document in demo(name)["data"] for key in ("context", "raw_html")
    ]
    assert len(pages) == 12
    for page in [*pages, PAGE]:
        soup = BeautifulSoup(page, "html.parser")
        for element in soup(["script", "style", "nav", "noscript", "template", "title"]):
            element.decompose()
        for ruby in soup("ruby"):
            ruby.replace_with(ruby.get_text())
        assert without_space(normalise(html_to_text(page))) == without_space(normalise(soup.get_text()))


def test_every_demo_answer_is_in_the_readable_text():
    answers = [(d["context"], qa["answer"]["text"]) for d in demo(DEV_2)["data"] for qa in d["qas"]]
    assert len(answers) == 40
    for context, answer in answers:
        assert normalise_2(answer) in without_space(normalise(html_to_text(context)))


def random_lines(rng):
    words = ["가", "나무가", "1,234.5", "끝났다.", "그런가?", "'말했다.'", "x" * 40, "## 절", "|"]
    return "\n".join(" ".join(rng.choices(words, k=rng.randint(0, 30))) for _ in range(rng.randint(0, 12)))


@pytest.mark.parametrize("chars", [1, 7, 40, 120, 500])
def test_passages_keep_all_text_and_the_limit(chars):
    rng = random.Random(chars)
    for _ in range(60):
        text = random_lines(rng)
        found = passages(text, chars)
        assert all(0 < len(passage) <= chars for passage in found)
        assert without_space("".join(found)) == without_space(text)


def test_passages_end_at_lines_then_sentences_then_words():
    assert passages("가나다\n라마바\n사아자", 7) == ["가나다\n라마바", "사아자"]
    assert passages("이것은 4.5이다. 저것은 아니다. 끝", 20) == ["이것은 4.5이다. 저것은 아니다.", "끝"]
    assert passages("가나 다라 마바", 6) == ["가나 다라", "마바"]
    assert passages("가나다라마바", 4) == ["가나다라", "마바"]


def test_a_heading_goes_with_what_follows():
    assert passages("가나다라\n## 절\n마바사아", 10) == ["가나다라", "## 절\n마바사아"]
    assert passages("## 절\n가나 다. 라마 바사.", 12) == ["## 절\n가나 다.", "라마 바사."]


def test_the_passages_of_a_question_come_in_document_order():
    parts = ["등대는 1903년에 섰다.", "섬에는 소나무가 많다.", "학교는 하나다.", "등대의 높이는 9미터다."]
    index = PassageIndex(parts)
    assert index.best("등대의 높이는?", 1) == [parts[3]]
    assert index.best("등대의 높이는?", 2) == [parts[0], parts[3]]
    assert index.best("등대의 높이는?", 9) == parts
    assert index.best("?!", 2) == parts[:2]
    assert index.best("zzz", 2) == parts[:2]


def test_passages_without_words_are_no_obstacle():
    assert PassageIndex([]).best("등대", 2) == []
    assert PassageIndex(["...", "!!", "??"]).best("등대", 2) == ["...", "!!"]
    assert PassageIndex(["...", "등대", "??"]).best("등대", 1) == ["등대"]


def test_words_become_pairs_of_characters():
    assert character_pairs("등대는 A 1903") == ["등대", "대는", "a", "19", "90", "03"]


def test_searching_passages_says_nothing(caplog):
    """bm25s sets its logger to DEBUG, which any handler of the root logger would print."""
    with caplog.at_level("WARNING"):
        PassageIndex(["등대", "섬", "학교"]).best("등대", 1)
    assert not caplog.records


def test_passages_are_chosen_alike_in_every_process():
    code = (
        "from tasks.korquad import TASK_2; from harness.core.task_data import load_data;"
        "from harness.config.schema import TaskConfig; import sys, hashlib;"
        "data = load_data(TASK_2, TaskConfig(data_dir=sys.argv[1], options={'window_chars': 100}));"
        "print(hashlib.sha1(repr([*data.samples, *data.pool]).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(DEMO)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPO)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and digests.pop().strip()


STORY = "섬은 작다. 등대는 1903년에 섰다. 높이는 9미터다! 지금은 아무도 없다. 학교는 하나다."


def test_a_context_is_cut_at_sentence_ends_around_the_answer():
    assert shorten_around(STORY, "9미터", 30) == "높이는 9미터다! 지금은 아무도 없다."
    assert shorten_around(STORY, "섬은", 8) == "섬은 작다."
    assert shorten_around(STORY, "하나", 12) == "학교는 하나다."
    assert shorten_around(STORY, "1903년", len(STORY)) == STORY
    edge = "가나다라. 마바다. 사아 답 " + "자" * 20
    assert shorten_around(edge, "답", 17) == "마바다. 사아 답", "a sentence that begins at the window's edge"


def test_inside_a_sentence_it_is_cut_between_words():
    assert shorten_around("하나 둘셋 넷다섯 여섯 일곱여덟 아홉", "여섯", 10) == "넷다섯 여섯"
    assert shorten_around("가나다라마바사아자차", "마바", 4) == "라마바사"


def test_a_longer_answer_stays_whole():
    assert shorten_around(STORY, "등대는 1903년에 섰다.", 5) == "등대는 1903년에 섰다."


def test_a_context_without_the_answer_keeps_its_beginning():
    assert shorten_around(STORY, "바다", 24) == "섬은 작다. 등대는 1903년에 섰다."
    assert shorten_around(STORY, "", 8) == "섬은 작다."
    assert shorten_around("가나다라마바", "바다", 4) == "가나다라"
    assert shorten_around("\n" + "가" * 20, "바다", 4) == "\n가가가"


@pytest.mark.parametrize("chars", [1, 10, 60, 200])
def test_a_shortened_context_always_holds_the_answer(chars):
    rng = random.Random(chars)
    for _ in range(300):
        context = random_lines(rng)
        if not context:
            continue
        start = rng.randrange(len(context))
        answer = context[start : start + rng.randint(1, 30)]
        short = shorten_around(context, answer, chars)
        assert answer in short and short in context
        assert len(short) <= max(chars, len(answer))


def test_shorten_touches_only_the_context():
    before = Sample(
        "7", {"context": STORY, "question": "?", "title": "섬"}, answers=("9미터", "9"), source="섬", cluster="c"
    )
    after = shorten(before, 30)
    assert after.fields == {"context": "높이는 9미터다! 지금은 아무도 없다.", "question": "?", "title": "섬"}
    assert (after.id, after.answers, after.source, after.cluster) == ("7", ("9미터", "9"), "섬", "c")
    assert before.fields["context"] == STORY


def test_demo_files_of_version_1_load():
    data = load_data(TASK_1, options(DEMO))
    assert (len(data.samples), len(data.pool), data.length_field) == (61, 24, "context")
    first = data.samples[0]
    assert (first.id, first.source, first.answers) == ("demo1-0-0-0", "해솔읍", ("42.6제곱킬로미터",))
    assert first.fields["question"] == "해솔읍의 면적은 얼마인가?"
    assert first.answers[0] in first.fields["context"]
    assert len({s.cluster for s in data.samples}) == 15
    assert any(len(s.answers) > 1 for s in data.samples)
    assert all(set(s.fields) == {"context", "question", "title"} for s in [*data.samples, *data.pool])
    assert not {s.source for s in data.samples} & {s.source for s in data.pool}


def test_demo_files_of_version_2_load():
    data = load_data(TASK_2, options(DEMO))
    assert (len(data.samples), len(data.pool), data.length_field) == (40, 14, "context")
    assert len({s.cluster for s in data.samples}) == len({s.source for s in data.samples}) == 4
    assert all(len(s.fields["context"]) <= 3 * 500 + 2 for s in data.samples)
    assert sum(answer_in_windows("", s) for s in data.samples) == 37
    assert "for 37 of 40 questions (92.5%)" in "\n".join(data.notes)


def test_the_official_file_loads(shared_korquad1):
    data = load_data(TASK_1, options(shared_korquad1))
    assert len(data.samples) == len({s.id for s in data.samples}) == 5774
    assert data.notes[0] == f"{DEV_1}: 5,774 questions on 964 paragraphs (1 of them without questions)"
    assert len({s.cluster for s in data.samples}) == 963
    assert len({s.source for s in data.samples}) == 140
    assert list(data.pool) == list(data.samples), "without a train file, other articles serve"
    assert all(s.answers[0] in s.fields["context"] for s in data.samples)


def test_official_demonstrations_shorten_to_200_characters(shared_korquad1):
    for solved in load_data(TASK_1, options(shared_korquad1)).pool:
        context = shorten(solved, 200).fields["context"]
        assert len(context) <= 200 and solved.answers[0] in context


def test_without_a_train_file_the_pool_is_of_the_same_articles(tmp_path):
    for name in (DEV_1, DEV_2):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    one, two = load_data(TASK_1, options(tmp_path)), load_data(TASK_2, options(tmp_path))
    assert list(one.pool) == list(one.samples)
    assert {s.source for s in two.pool} <= {s.source for s in two.samples}
    assert len(two.pool) > 14
    assert any("no KorQuAD_v1.0_train.json" in note for note in one.notes)
    assert any("no korquad2.1_train_NN.json" in note for note in two.notes)
    assert list(load_data(TASK_2, options(tmp_path / DEV_2)).samples) == list(two.samples), "a file instead of a folder"


def test_version_2_reads_all_numbered_files_and_folders_below(tmp_path):
    documents = demo(DEV_2)["data"]
    (tmp_path / "unpacked").mkdir()
    for number, place in enumerate(("korquad2.1_dev_03.json", "unpacked/korquad2.1_dev_04.json", "other.json")):
        content = {"version": "x", "data": documents[number : number + 1]}
        (tmp_path / place).write_text(json.dumps(content), encoding="utf-8")
    titles = [s.source for s in load_data(TASK_2, options(tmp_path)).samples]
    assert list(dict.fromkeys(titles)) == [document["title"] for document in documents[:2]]


def test_demonstrations_of_version_2_show_one_line_that_stands_in_their_passages():
    data = load_data(TASK_2, options(DEMO))
    for solved in data.pool:
        (answer,) = solved.answers
        assert "\n" not in answer and "<" not in answer
        assert answer in solved.fields["context"]
    assert any(note.startswith("demonstrations: 14 of the 16 questions on 2 documents") for note in data.notes)


def test_the_pool_of_version_2_is_bounded_and_drawn_by_the_seed(tmp_path, monkeypatch):
    (tmp_path / DEV_2).write_bytes((DEMO / DEV_2).read_bytes())
    monkeypatch.setattr(korquad, "POOL_DOCUMENTS", 1)
    drawn = [load_data(TASK_2, options(tmp_path, sample_seed=seed)).pool for seed in range(12)]
    assert all(len({s.source for s in pool}) == 1 for pool in drawn)
    assert len({pool[0].source for pool in drawn}) > 1


def test_the_pool_of_version_2_opens_no_more_files_than_it_needs(tmp_path, monkeypatch):
    (tmp_path / DEV_2).write_bytes((DEMO / DEV_2).read_bytes())
    for number, document in enumerate(demo(TRAIN_2)["data"]):
        content = {"version": "x", "data": [document]}
        (tmp_path / f"korquad2.1_train_0{number}.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(korquad, "POOL_DOCUMENTS", 1)
    told = [load_data(TASK_2, options(tmp_path, sample_seed=seed)).notes for seed in range(12)]
    notes = [next(note for note in of_seed if note.startswith("demonstrations")) for of_seed in told]
    used = {name for note in notes for name in re.findall(r"korquad2\.1_train_\d\d\.json", note)}
    assert used == {"korquad2.1_train_00.json", "korquad2.1_train_01.json"}
    assert all(note.count(".json") == 1 for note in notes)


@pytest.mark.parametrize("task", [TASK_1, TASK_2], ids=["korquad1", "korquad2"])
@pytest.mark.parametrize("limit", [1, 5, 12, 23])
def test_a_limit_takes_whole_clusters(task, limit):
    whole = load_data(task, options(DEMO))
    drawn = load_data(task, options(DEMO, limit=limit))
    sizes, taken = (Counter(s.cluster for s in data.samples) for data in (whole, drawn))
    assert all(taken[key] == sizes[key] for key in taken)
    left = {key for key in draw_order(sizes, 1234) if key not in taken}
    following = next(key for key in draw_order(sizes, 1234) if key in left)
    assert len(drawn.samples) <= limit < len(drawn.samples) + sizes[following] or len(taken) == 1
    note = f"task.limit={limit}: {len(drawn.samples)} samples, {len(taken)} of {len(sizes)} clusters, which stay whole"
    assert note in drawn.notes
    ids = [s.id for s in whole.samples]
    positions = [ids.index(s.id) for s in drawn.samples]
    assert positions == sorted(positions), "file order"
    assert list(drawn.samples) == [whole.samples[place] for place in positions]
    assert list(drawn.pool) == list(whole.pool)


@pytest.mark.parametrize("task", [TASK_1, TASK_2], ids=["korquad1", "korquad2"])
def test_a_draw_depends_on_the_seed_alone_and_grows_with_the_limit(task):
    def ids(**values):
        return [s.id for s in load_data(task, options(DEMO, **values)).samples]

    assert ids(limit=7) == ids(limit=7)
    assert set(ids(limit=3)) <= set(ids(limit=7)) < set(ids(limit=20))
    assert len({tuple(ids(limit=7, sample_seed=seed)) for seed in range(6)}) > 1
    assert ids(limit=1000) == ids()


def test_only_documents_that_are_asked_about_are_searched(monkeypatch):
    searched = []
    whole = korquad.PassageIndex

    def index(texts):
        searched.append(texts)
        return whole(texts)

    monkeypatch.setattr(korquad, "PassageIndex", index)
    n_documents = []
    for limit in (1, None):
        data = TASK_2.load(options(DEMO))
        searched.clear()
        chosen = choose(data.samples, options(DEMO, limit=limit))[0]
        data.finish(dataclasses.replace(data, samples=chosen))
        n_documents.append(len(searched))
    assert n_documents == [1, len({s.cluster for s in data.samples})]


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (TASK_1, {"clean_text": True}, "has no options, but task.options names clean_text"),
        (TASK_2, {"clean_text": True}, "no option 'task.options.clean_text'"),
        (TASK_2, {"window": 2}, "no option 'task.options.window'; did you mean 'windows'"),
        (TASK_2, {"windows": 0}, "task.options.windows is 0: input should be greater than or equal to 1"),
    ],
)
def test_options_of_other_tasks_and_wrong_ones_are_refused(task, given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        configured(task, options(DEMO, options=given))


def at(data, *path):
    for step in path:
        data = data[step]
    return data


def without(*path):
    def change(data):
        del at(data, *path[:-1])[path[-1]]

    return change


def put(value, *path):
    def change(data):
        at(data, *path[:-1])[path[-1]] = value

    return change


QA = ("data", 1, "paragraphs", 0, "qas", 1)
CORRUPTIONS_1 = [
    (without("data", 1, "title"), r"article 2 has no 'title', expected text"),
    (put(7, "data", 1, "title"), r"article 2: 'title' is 7, expected text"),
    (put("x", "data", 1), r"article 2 is 'x', expected an object"),
    (without("data", 1, "paragraphs"), r"article 2 \('.+'\) has no 'paragraphs', expected a list"),
    (put({}, "data", 1, "paragraphs"), r"'paragraphs' is \{\}, expected a list"),
    (put(3, "data", 1, "paragraphs", 0), r"paragraph 1 is 3, expected an object"),
    (without("data", 1, "paragraphs", 0, "context"), r"paragraph 1 has no 'context'"),
    (put("  ", "data", 1, "paragraphs", 0, "context"), r"paragraph 1 has an empty context"),
    (without("data", 1, "paragraphs", 0, "qas"), r"paragraph 1 has no 'qas', expected a list"),
    (put("?", *QA), r"paragraph 1 has '\?' among its qas"),
    (without(*QA, "id"), r"paragraph 1 has a question with no id"),
    (put(None, *QA, "id"), r"a question with the id None, expected text or a whole number"),
    (without(*QA, "question"), r"article 2 \('.+'\), question 'demo1-1-0-1' has no 'question'"),
    (put(["?"], *QA, "question"), r"question 'demo1-1-0-1': 'question' is \['\?'\], expected text"),
    (without(*QA, "answers"), r"question 'demo1-1-0-1' has no 'answers', expected a list"),
    (put([], *QA, "answers"), r"question 'demo1-1-0-1' has an empty list of answers"),
    (put(["x"], *QA, "answers"), r"question 'demo1-1-0-1' has the answer 'x', expected an object"),
    (without(*QA, "answers", 0, "text"), r"question 'demo1-1-0-1' has no 'text'"),
    (put("", *QA, "answers", 0, "text"), r"question 'demo1-1-0-1' has an answer without text"),
    (put("1", *QA, "answers", 0, "answer_start"), r"'answer_start' is '1', expected a whole number"),
    (put(True, *QA, "answers", 0, "answer_start"), r"'answer_start' is True, expected a whole number"),
    (put(1.5, *QA, "answers", 0, "answer_start"), r"'answer_start' is Decimal\('1.5'\), expected a whole number"),
    (put(1, *QA, "answers", 0, "answer_start"), r"question 'demo1-1-0-1': answer_start 1 points to '.+', expected '"),
    (put(-1, *QA, "answers", 0, "answer_start"), r"answer_start -1 points to no place"),
    (put(10**6, *QA, "answers", 0, "answer_start"), r"answer_start 1000000 points to no place in \d+ characters"),
    (put("demo1-0-0-0", *QA, "id"), r"article 2 \('.+'\): the question id 'demo1-0-0-0' comes twice"),
    (put([], "data"), r"has no articles in a list 'data', expected KorQuAD 1.0"),
    (put({}, "data"), r"has no articles in a list 'data'"),
    (without("data"), r"has no articles in a list 'data'"),
]
QA_2 = ("data", 1, "qas", 1)
CORRUPTIONS_2 = [
    (without("data", 1, "title"), r"article 2 has no 'title'"),
    (without("data", 1, "context"), r"article 2 \('.+'\) has no 'context', expected text; its keys are: title, url"),
    (put(["x"], "data", 1, "context"), r"'context' is \['x'\], expected text"),
    (put("", "data", 1, "context"), r"has an empty context"),
    (without("data", 1, "qas"), r"article 2 \('.+'\) has no 'qas'"),
    (put(3, *QA_2), r"article 2 \('.+'\) has 3 among its qas"),
    (without(*QA_2, "id"), r"has a question with no id"),
    (put("demo2-0-0", *QA_2, "id"), r"the question id 'demo2-0-0' comes twice"),
    (without(*QA_2, "question"), r"question 'demo2-1-1' has no 'question'"),
    (without(*QA_2, "answer"), r"question 'demo2-1-1' has no 'answer', expected an object"),
    (put([], *QA_2, "answer"), r"'answer' is \[\], expected an object"),
    (without(*QA_2, "answer", "text"), r"question 'demo2-1-1' has no 'text'"),
    (put(" ", *QA_2, "answer", "text"), r"an answer without text"),
    (without(*QA_2, "answer", "answer_start"), r"has no 'answer_start', expected a whole number"),
    (put(0, *QA_2, "answer", "answer_start"), r"question 'demo2-1-1': answer_start 0 points to '<html>"),
    (put("짧다", "data", 1, "context"), r"answer_start \d+ points to no place"),
    (without("data"), r"has no articles in a list 'data', expected KorQuAD 2.1"),
]


@pytest.mark.parametrize(
    ("task", "name", "change", "message"),
    [(TASK_1, DEV_1, *case) for case in CORRUPTIONS_1] + [(TASK_2, DEV_2, *case) for case in CORRUPTIONS_2],
)
def test_a_damaged_file_is_refused_by_place(tmp_path, task, name, change, message):
    data = copy.deepcopy(demo(name))
    change(data)
    (tmp_path / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_data(task, options(tmp_path))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_undrawn_questions_are_checked_as_well(tmp_path):
    for name, task, place in ((DEV_1, TASK_1, QA), (DEV_2, TASK_2, QA_2)):
        data = demo(name)
        key = "answers" if task is TASK_1 else "answer"
        gold = at(data, *place)[key]
        (gold[0] if task is TASK_1 else gold)["answer_start"] += 1
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
        for seed in range(5):
            with pytest.raises(DataError, match="points to"):
                load_data(task, options(tmp_path, limit=1, sample_seed=seed))


@pytest.mark.parametrize(("task", "name"), [(TASK_1, DEV_1), (TASK_2, DEV_2)])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1,", b"\x00", b'{"data": [{"title": "\xff"}]}', b"version, data\n1, 2\n"]
)
def test_broken_json_is_refused(tmp_path, task, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="is not valid JSON after article 0: ") as caught:
        load_data(task, options(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("task", "name"), [(TASK_1, DEV_1), (TASK_2, DEV_2)])
def test_a_file_cut_off_is_refused_with_the_place(tmp_path, task, name):
    content = (DEMO / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=r"is not valid JSON after article [1-9]\d*: .*may be cut off"):
        load_data(task, options(tmp_path))


def test_a_byte_order_mark_changes_nothing(tmp_path):
    (tmp_path / DEV_1).write_bytes(b"\xef\xbb\xbf" + (DEMO / DEV_1).read_bytes())
    assert len(load_data(TASK_1, options(tmp_path)).samples) == 61


def test_the_other_versions_file_is_named(tmp_path):
    (tmp_path / DEV_2).write_bytes((DEMO / DEV_1).read_bytes())
    (tmp_path / DEV_1).write_bytes((DEMO / DEV_2).read_bytes())
    with pytest.raises(DataError, match=r"follows KorQuAD 1.0, expected KorQuAD 2.1; use task.name=korquad1"):
        load_data(TASK_2, options(tmp_path))
    with pytest.raises(DataError, match=r"follows KorQuAD 2.1, expected KorQuAD 1.0; use task.name=korquad2"):
        load_data(TASK_1, options(tmp_path))
    with pytest.raises(DataError, match=r"use task.name=korquad1"):
        load_data(TASK_2, options(DEMO / DEV_1))


def test_missing_files_are_named_with_the_remedy(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=rf"no file '.*{DEV_1}'.*harness data get korquad1"):
            load_data(TASK_1, options(place))
        with pytest.raises(DataError, match=r"no files korquad2.1_dev_NN.json in '.*harness data get korquad2"):
            load_data(TASK_2, options(place))


def test_unreadable_html_is_refused_with_its_document(tmp_path):
    data = demo(DEV_2)
    data["data"][2]["context"] += "<![x y"
    (tmp_path / DEV_2).write_text(json.dumps(data), encoding="utf-8")
    title = data["data"][2]["title"]
    with pytest.raises(DataError, match=rf"korquad2.1_dev_00:3 \('{title}'\): its HTML cannot be parsed"):
        load_data(TASK_2, options(tmp_path))


@pytest.mark.parametrize(("task", "names"), [(TASK_1, (DEV_1, TRAIN_1)), (TASK_2, (DEV_2, TRAIN_2))])
def test_a_misplaced_answer_only_leaves_the_pool(tmp_path, task, names):
    """Nothing is asked about it, so the rest of a train file stays usable."""
    for name in names:
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    whole = load_data(task, options(tmp_path))
    data = demo(names[1])
    first = whole.pool[0]
    texts = data["data"][0]["paragraphs"] if task is TASK_1 else data["data"]
    for qa in (qa for text in texts for qa in text["qas"]):
        if qa["id"] == first.id:
            (qa["answers"][0] if task is TASK_1 else qa["answer"])["answer_start"] += 1
    (tmp_path / names[1]).write_text(json.dumps(data), encoding="utf-8")
    assert list(load_data(task, options(tmp_path)).pool) == list(whole.pool)[1:]


def test_ids_may_be_whole_numbers(tmp_path):
    data = demo(DEV_2)
    for number, qa in enumerate(qa for document in data["data"] for qa in document["qas"]):
        qa["id"] = number
    (tmp_path / DEV_2).write_text(json.dumps(data), encoding="utf-8")
    assert [s.id for s in load_data(TASK_2, options(tmp_path)).samples] == [str(i) for i in range(40)]


def test_unused_keys_may_be_absent(tmp_path):
    data = demo(DEV_2)
    for document in data["data"]:
        del document["raw_html"], document["url"]
        for qa in document["qas"]:
            del qa["answer"]["html_answer_start"], qa["answer"]["html_answer_text"]
    (tmp_path / DEV_2).write_text(json.dumps(data), encoding="utf-8")
    assert len(load_data(TASK_2, options(tmp_path)).samples) == 40


def test_windows_are_as_many_and_as_long_as_configured():
    def asked(**chosen):
        return load_data(TASK_2, options(DEMO, options=chosen)).samples

    for windows, chars in ((1, 200), (2, 300), (5, 100)):
        for sample in asked(windows=windows, window_chars=chars):
            assert len(sample.fields["context"]) <= windows * (chars + 1) - 1
    more = [sum(answer_in_windows("", sample) for sample in asked(windows=windows)) for windows in (1, 3, 5)]
    assert more == sorted(more) and more[0] < more[-1]


def test_templates_put_the_passage_before_the_question():
    templates = read_templates(TASK_1.templates, ())
    assert set(templates) == {"context_question", "korean", "english", "extract_only", "koalpaca", "chat"}
    assert TASK_2.templates == TASK_1.templates
    asked = load_data(TASK_1, options(DEMO)).samples[0]
    for name, template in templates.items():
        assert template.field_names() == {"context", "question"}
        query = template.render_query(asked)
        assert query.index(asked.fields["context"]) < query.index(asked.fields["question"])
        shown = template.render_solved(asked)
        assert shown.startswith(query) and asked.answers[0] in shown[len(query) :]
        assert template.chat == (Chat.TURNS if name == "chat" else None)
        assert fill(template.answer, {"answer": "가"}) == ("가" if name == "chat" else " 가")


@pytest.mark.parametrize("name", ["korquad1", "korquad2", "korquad_demo"])
def test_configurations_are_valid(name):
    config = load_config(REPO / "configs" / f"{name}.yaml")
    assert config.name == name
    assert config.task.name in ("korquad1", "korquad2")
    assert set(config.grid.templates) <= set(read_templates(TASK_1.templates, ()))
    assert config.generation.stop == ["\n"] and config.demos.context_chars == 200


REPORT = """
import re, sys, time
from harness.config.schema import TaskConfig
from tasks.korquad import TASK_2
start = time.monotonic()
data = load_data(TASK_2, TaskConfig(data_dir=sys.argv[1], limit=50))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(len(data.samples), len(data.pool), int(peak.group(1)) // 1024, round(time.monotonic() - start))
"""


@pytest.mark.slow
def test_a_large_file_is_read_in_little_memory(tmp_path):
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc/self/status, which this system does not have")
    documents = demo(DEV_2)["data"]
    path, size, count = tmp_path / DEV_2, 0, itertools.count()
    with path.open("w", encoding="utf-8") as file:
        file.write('{"version": "KorQuAD_2.1_dev", "data": [')
        while size < 300 * 2**20:
            number = next(count)
            document = copy.deepcopy(documents[number % len(documents)])
            document["title"] += f" {number}"
            document["context"] *= 8
            document["raw_html"] *= 8
            for qa in document["qas"]:
                qa["id"] += f"-{number}"
            text = json.dumps(document, ensure_ascii=False)
            file.write(", " * (number > 0) + text)
            size += len(text.encode())
        file.write("]}")
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(path)], capture_output=True, text=True, check=True, cwd=REPO
    )
    samples, pool, peak_mib, seconds = map(int, done.stdout.split())
    print(
        f"{path.stat().st_size / 2**20:.0f} MiB, {number + 1} documents: peak {peak_mib} MiB, {seconds} s, pool {pool}"
    )
    assert (samples, pool > 0) == (50, True)
    assert peak_mib < 1024
