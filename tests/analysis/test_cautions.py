"""Prompts with which something is wrong are said under the table."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.analysis.answer_figures import answers_of_cell, written_figures
from harness.analysis.cautions import cautions
from harness.analysis.cells import cell_figures, frame_of_cells
from harness.analysis.named_answers import NamedAnswers
from harness.prompts.chats import begins_reasoning


def cells(predict, off=0.0, gold=None, template="mine", ks=(0,), seeds=(1,), model="m"):
    """Figures of cells whose predictions are a function of a sample's number."""
    gold = gold or [i % 2 for i in range(40)]
    rows = [
        (model, "t", template, k, seed, predict(i), g, predict(i), off)
        for k in ks for seed in seeds for i, g in enumerate(gold)
    ]  # fmt: skip
    names = ["model", "task", "template", "k", "seed", "prediction", "gold", "greedy_prediction", "off_label_mass"]
    return cell_figures(pd.DataFrame(rows, columns=names), 2)


def right(i):
    return i % 2


def test_a_sound_table_has_none():
    assert cautions(cells(right), 0.5) == []


def test_probability_beside_the_labels():
    table = pd.concat([cells(right, 0.6, template="a"), cells(right, 0.999, template="b"), cells(right, 0.4)])
    assert cautions(table.reset_index(drop=True), 0.5) == [
        "- the model does not know what to answer: 99.9% of its probability lies outside the labels of b K=0, a K=0"
    ]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_for_every_sample(label):
    assert cautions(cells(lambda i: label), 0.5) == ["- one class for every sample: mine K=0"]


def test_no_better_than_the_most_frequent_class():
    gold = [0] * 30 + [1] * 10
    found = cells(lambda i: 1 if i % 3 == 0 else 0, gold=gold)
    assert found["accuracy"].item() < 0.75
    assert cautions(found, 0.75) == ["- no better than always the most frequent class (0.7500): mine K=0"]


def test_few_samples_are_no_reason():
    assert cautions(cells(lambda i: 0, gold=[0, 1] * 14), 0.5) == []


def test_k_0_is_named_once_and_many_are_counted():
    table = cells(lambda i: 0, ks=(0, 1, 2, 4, 8), seeds=(1, 2))
    assert cautions(table, 0.5) == ["- one class for every sample: mine K=0, mine K=1, mine K=2 and 2 more"]


def test_models_are_named_where_there_are_several():
    table = pd.concat([cells(lambda i: 0, model="a"), cells(right, model="b")], ignore_index=True)
    assert cautions(table, 0.5) == ["- one class for every sample: a mine K=0"]


def test_failed_samples_and_unknown_classes_are_no_caution():
    assert cautions(cells(lambda i: None), math.nan) == []
    assert cautions(cells(right), math.nan) == []
    assert cautions(pd.DataFrame({"exact_match": [np.nan]}), math.nan) == []


def written(answers, predictions=None, template="mine", reasoning=None, reasons=None):
    """The records of one cell of what a model wrote."""
    n = len(answers)
    frame = pd.DataFrame(
        {
            "model": "m", "task": "t", "template": template, "k": 0, "seed": 1, "sample_id": [str(i) for i in range(n)],
            "answer": answers, "reasoning": pd.Series([reasoning] * n, dtype=object),
            "finish_reason": reasons or ["end"] * n, "answer_values": [[1.0]] * n,
        }
    )  # fmt: skip
    return frame if predictions is None else frame.assign(prediction=pd.array(predictions, dtype="Int32"))


def test_written_answers_that_are_no_label_are_said():
    found = written_figures(written(["긍정", "정답: 긍정", "", "부정"], [1, -1, -1, 0]))
    assert found == {"no_label_share": 0.5, "unasked_reasoning_share": 0.0}
    table = cells(lambda i: -1 if i % 4 else 1).assign(**found)
    line = "- 50.0% of the answers are no label, which counts as wrong: mine K=0"
    assert line in cautions(table, 0.5)
    # No class for any sample is not one class for all.
    assert cautions(cells(lambda i: -1).assign(no_label_share=1.0), -1.0) == [line.replace("50.0", "100.0")]
    assert cautions(cells(right).assign(no_label_share=0.02), 0.4) == []


@pytest.mark.parametrize("tag", ["<think>", "\n<thinking>", "[THINK]", "<|channel|>analysis", "<thought>"])
def test_reasoning_that_no_template_asks_for_is_said(tag):
    cell = written([f"{tag}음, 이 글은", "긍정"])
    row = answers_of_cell(cell, ["exact_match"], {}) | written_figures(cell)
    assert row["unasked_reasoning_share"] == 0.5
    (line,) = cautions(frame_of_cells([row]), math.nan)
    assert line.startswith("- 50.0% of the answers begin with the model's reasoning") and "mine K=0" in line


def test_reasoning_that_was_asked_for_and_answers_like_it_are_no_fault():
    assert written_figures(written(["긍정"], reasoning="<think>음</think>")) == {}
    assert not any(map(begins_reasoning, ["생각 <think> 중", "</think>긍정", "[이유] 좋다", "think", ""]))
    assert written_figures(written(["서울"]).assign(template=None)) == {}


def test_answers_that_are_cut_off_are_said():
    cell = written(["가"] * 5, reasons=["length", "length", "end", "stop", "end"])
    table = frame_of_cells([answers_of_cell(cell, ["exact_match"], {}) | written_figures(cell)])
    assert cautions(table, math.nan) == ["- 40.0% of the answers are cut off at generation.max_new_tokens: mine K=0"]


def test_empty_answers_and_a_pattern_that_finds_nothing_are_said():
    cell = written(["정답: 3", "답은 3", "", "모름"])
    figures = NamedAnswers(["same_number"], {key: ["3"] for key in "0123"}, {}, r"정답:\s*(\d+)").figures(cell)
    assert figures["same_number"] == 0.25 and figures["not_found_share"] == 0.75
    table = frame_of_cells([answers_of_cell(cell, ["exact_match"], {}) | written_figures(cell) | figures])
    assert cautions(table, math.nan) == [
        "- scoring.extract finds nothing in 75.0% of the answers, which counts as wrong: mine K=0",
        "- 25.0% of the answers are empty: mine K=0",
    ]
    assert "not_found_share" not in NamedAnswers(["same_number"], {key: ["3"] for key in "0123"}, {}).figures(cell)
