"""The lecture's protocol, followed a second time by code of its own."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest

from harness.config.loading import load_config
from harness.planning.report import make_report, prompt_lines
from tests.conftest import DEMO

QUERIES = {"lecture_1": "문장: {}\n감정:", "lecture_2": "다음 문장은 긍정일까요 부정일까요?\n{}\n정답:"}


def clean(document):
    return re.sub(r"[^가-힣ㄱ-ㅎㅏ-ㅣ\s]", "", document)


def read(path):
    return pd.read_csv(path, header=0, delimiter="\t", quoting=3).dropna()


def notebook_prompts(folder, tokenizer, sample_size, published=False):
    """Steps 1 to 8 of the protocol: (template, id, label, prompt) in order.

    Args:
        folder: of the two NSMC files.
        tokenizer: measures documents.
        sample_size: test rows.
        published: with the operator precedence of the notebook's first version.
    """
    random.seed(1234)
    np.random.seed(1234)
    train, test = read(folder / "ratings_train.txt"), read(folder / "ratings_test.txt")
    lengths = [len(encoding.ids) for encoding in tokenizer.backend_tokenizer.encode_batch(train["document"].tolist())]
    pool = [(d, y) for d, y, n in zip(train["document"], train["label"], lengths, strict=True) if n <= 25]
    shown = [random.sample(pool, 10) for _ in range(sample_size)]
    rows = test.sample(sample_size, random_state=1234)
    prompts = []
    for name, query in QUERIES.items():
        for (_, row), examples in zip(rows.iterrows(), shown, strict=True):
            text = ""
            for document, label in examples:
                if published:
                    text += query.format(clean(document)) + (" 긍정" if label == 1 else " 부정" + "\n")
                else:
                    text += query.format(clean(document)) + (" 긍정" if label == 1 else " 부정") + "\n"
            prompts.append((name, str(row["id"]), int(row["label"]), text + query.format(clean(row["document"]))))
    return prompts


def rendered(folder, *overrides):
    config = load_config(
        "configs/lecture.yaml", ["model.path=data_in/models/ko-tiny", f"task.data_dir={folder}", *overrides]
    )
    return [json.loads(line) for line in prompt_lines(config, None)]


def check(lines, expected, tokenizer, suffix=""):
    assert len(lines) == len(expected)
    for line, (template, sample_id, gold, text) in zip(lines, expected, strict=True):
        assert (line["template"], line["sample_id"], line["gold"]) == (template + suffix, sample_id, gold)
        assert line["text"] == text
        assert (line["k"], line["seed"]) == (10, 1234)
    ids = tokenizer([text for _, _, _, text in expected])["input_ids"]
    assert [line["token_ids"] for line in lines] == ids


@pytest.mark.slow
def test_the_thousand_prompts_of_the_lecture_are_the_notebooks(shared_nsmc, ko_tokenizer):
    lines = rendered(shared_nsmc)
    assert len(lines) == 1000
    check(lines, notebook_prompts(shared_nsmc, ko_tokenizer, 500), ko_tokenizer)


@pytest.mark.parametrize("sample_size", [1, 100])
def test_the_prompts_on_the_embedded_reviews_are_the_notebooks(ko_tokenizer, sample_size):
    lines = rendered(DEMO, f"task.limit={sample_size}")
    check(lines, notebook_prompts(DEMO, ko_tokenizer, sample_size), ko_tokenizer)


def test_the_published_variant_is_the_notebooks_first_version(ko_tokenizer):
    lines = rendered(DEMO, "task.limit=50", "grid.templates=[lecture_1_no_newline,lecture_2_no_newline]")
    check(lines, notebook_prompts(DEMO, ko_tokenizer, 50, published=True), ko_tokenizer, "_no_newline")


def test_another_seed_shows_other_demonstrations_to_the_same_reviews():
    one, two = rendered(DEMO, "task.limit=20"), rendered(DEMO, "task.limit=20", "grid.seeds=[7]")
    assert [x["sample_id"] for x in one] == [x["sample_id"] for x in two]
    assert all(a["text"] != b["text"] for a, b in zip(one, two, strict=True))


def test_the_length_analysis_is_the_notebooks(ko_tokenizer):
    """Step 3: mean, maximum, standard deviation, 80th percentile over raw training documents."""
    config = load_config(
        "configs/lecture.yaml", ["model.path=data_in/models/ko-tiny", f"task.data_dir={DEMO}", "task.limit=20"]
    )
    found = make_report(config).lengths[0]
    documents = read(DEMO / "ratings_train.txt")["document"].tolist()
    lengths = [len(ids) for ids in ko_tokenizer(documents)["input_ids"]]
    assert (found.documents, found.longest, found.context_length) == (618, max(lengths), 2048)
    assert found.mean == pytest.approx(np.mean(lengths))
    assert found.standard_deviation == pytest.approx(np.std(lengths))
    assert found.percentile_80 == pytest.approx(np.percentile(lengths, 80))
    assert found.in_pool == sum(n <= 25 for n in lengths)
