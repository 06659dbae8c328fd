"""Prompts with which something is wrong are said under the table."""

import math

import numpy as np
import pandas as pd
import pytest

from harness.analysis.cautions import cautions
from harness.analysis.cells import cell_figures


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
