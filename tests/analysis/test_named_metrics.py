"""Metrics by name: each equals its library's value on random cases; ECE and Brier equal a loop; intervals cover."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn import metrics as sk

from harness.analysis import calibration_error, named_answers, named_metrics
from harness.analysis.calibration_error import ece_interval
from harness.analysis.named_answers import NamedAnswers, extracted, last_number, rouge_l, same_number
from harness.analysis.named_metrics import BINS, MATRIX_FIGURES, NamedMetrics, auroc
from harness.config import values

CASES = 300
warnings.filterwarnings("ignore", module="sklearn")


def random_case(rng, n_classes=None, no_label=False):
    """Gold and predicted classes of a few samples, correlated at times, with label log-probabilities."""
    n_classes = n_classes or int(rng.integers(2, 6))
    n = int(rng.integers(1, 60))
    gold = rng.integers(0, n_classes, n)
    logprobs = rng.normal(size=(n, n_classes)) * rng.choice([0.1, 1, 5])
    logprobs[np.arange(n), gold] += rng.choice([0.0, 1.0, 4.0])
    predicted = logprobs.argmax(1)
    if no_label:
        predicted = np.where(rng.random(n) < 0.2, -1, predicted)
    return gold, predicted, logprobs


def cell_of(gold, predicted, logprobs=None):
    rows = [None] * len(gold) if logprobs is None else list(logprobs)
    return pd.DataFrame(
        {
            "sample_id": [str(i) for i in range(len(gold))],
            "gold": gold,
            "prediction": pd.array(predicted, dtype="Int32"),
            "label_logprobs": rows,
        }
    )


def summed(gold, predicted, n_classes):
    counts = np.zeros((n_classes, n_classes + 1))
    np.add.at(counts, (gold, np.where(predicted < 0, n_classes, predicted)), 1)
    return counts.reshape(1, -1)


def same(found, expected):
    return (math.isnan(found) and math.isnan(expected)) or found == pytest.approx(expected, abs=1e-9)


def library(name, gold, predicted, n_classes):
    kept = predicted >= 0
    if name == "macro_f1":
        present = sorted({*gold, *predicted[kept]})
        return sk.f1_score(gold, predicted, labels=present, average="macro", zero_division=0)
    if name == "balanced_accuracy":
        return sk.recall_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)
    if name == "mcc":
        return sk.matthews_corrcoef(gold, predicted)
    if name == "kappa":
        return sk.cohen_kappa_score(gold, predicted)
    if name == "mae":
        return sk.mean_absolute_error(gold[kept], predicted[kept]) if kept.any() else math.nan
    return stats.spearmanr(gold[kept], predicted[kept]).statistic if kept.sum() > 1 else math.nan


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MATRIX_FIGURES)
def test_figures_of_classes_equal_the_library(name):
    rng = np.random.default_rng(11)
    for case in range(CASES):
        gold, predicted, logprobs = random_case(rng, no_label=case % 3 == 0)
        n_classes = logprobs.shape[1]
        found = float(MATRIX_FIGURES[name](summed(gold, predicted, n_classes))[0])
        assert same(found, float(library(name, gold, predicted, n_classes))), (case, gold, predicted)


@pytest.mark.filterwarnings("ignore")
def test_figures_of_each_class_equal_the_library(monkeypatch):
    monkeypatch.setattr(named_metrics, "RESAMPLES", 2)
    rng = np.random.default_rng(12)
    for case in range(CASES):
        gold, predicted, logprobs = random_case(rng, no_label=case % 3 == 0)
        names = [f"c{i}" for i in range(logprobs.shape[1])]
        found = NamedMetrics(["per_class"], names, {}).figures(cell_of(gold, predicted, logprobs))
        for figure, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            own = function(gold, predicted, labels=range(len(names)), average=None, zero_division=math.nan)
            for name, value in zip(names, own, strict=True):
                assert same(found[f"{figure}_{name}"], float(value)), (case, figure, name)


@pytest.mark.filterwarnings("ignore")
def test_figures_of_probabilities_equal_the_library_and_a_loop(monkeypatch):
    monkeypatch.setattr(named_metrics, "RESAMPLES", 2)
    monkeypatch.setattr(calibration_error, "DRAWS", 2)
    rng = np.random.default_rng(13)
    for case in range(CASES):
        gold, predicted, logprobs = random_case(rng, n_classes=2 if case % 2 else None)
        n_classes = logprobs.shape[1]
        cell = cell_of(gold, predicted, logprobs)
        found = NamedMetrics(["ece", "brier"], [str(i) for i in range(n_classes)], {}).figures(cell)
        probabilities = np.exp(logprobs) / np.exp(logprobs).sum(1, keepdims=True)
        assert found["brier"] == pytest.approx(
            sk.brier_score_loss(gold, probabilities, labels=range(n_classes))
            if n_classes > 2
            else sk.brier_score_loss(gold, probabilities[:, 1], labels=[0, 1], pos_label=1)
        )
        brier = error = 0.0
        for row, right in zip(probabilities, gold, strict=True):
            for place, probability in enumerate(row):
                brier += (probability - (place == right)) ** 2 * (0.5 if n_classes == 2 else 1) / len(gold)
        for low in range(BINS):
            inside = [
                (row[guess], guess == right)
                for row, guess, right in zip(probabilities, predicted, gold, strict=True)
                if low / BINS < row[guess] <= (low + 1) / BINS
            ]
            if inside:
                confidence, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
                error += abs(confidence - right) * len(inside) / len(gold)
        assert found["brier"] == pytest.approx(brier)
        assert found["ece"] == pytest.approx(error)


def test_auroc_equals_the_library():
    rng = np.random.default_rng(14)
    for _ in range(CASES):
        gold = rng.integers(0, 2, int(rng.integers(1, 60)))
        scores = np.round(rng.random(len(gold)) + 0.3 * gold, int(rng.integers(0, 4)))
        weights = np.stack([np.ones(len(gold)), rng.integers(0, 3, len(gold))])
        found = auroc(scores, gold, weights)
        for value, weight in zip(found, weights, strict=True):
            kept = np.repeat(np.arange(len(gold)), weight.astype(int))
            one = len(set(gold[kept])) < 2
            assert same(float(value), math.nan if one else float(sk.roc_auc_score(gold[kept], scores[kept])))


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_cover_what_they_are_of(clustered):
    rng = np.random.default_rng(15)
    names = ["mcc", "kappa", "auroc", "macro_f1"]

    def draw(n):
        groups = np.arange(n) // (4 if clustered else 1)
        ease = rng.normal(size=groups.max() + 1)[groups] * (1.5 if clustered else 0.0)
        gold = rng.integers(0, 2, n)
        margin = (2 * gold - 1) * (1 + ease) + rng.normal(size=n)
        logprobs = np.stack([-margin / 2, margin / 2], axis=1)
        return gold, (margin > 0).astype(int), logprobs, {str(i): f"g{g}" for i, g in enumerate(groups)}

    gold, predicted, logprobs, _ = draw(200_000)
    truth = {name: float(MATRIX_FIGURES[name](summed(gold, predicted, 2))[0]) for name in names if name != "auroc"}
    truth["auroc"] = float(auroc(logprobs[:, 1], gold, np.ones((1, len(gold))))[0])
    covered = dict.fromkeys(names, 0)
    for _ in range(100):
        gold, predicted, logprobs, clusters = draw(240)
        figures = NamedMetrics(names, ["0", "1"], clusters if clustered else {})
        found = figures.figures(cell_of(gold, predicted, logprobs))
        for name in names:
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
            covered[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    assert all(times >= 88 for times in covered.values()), covered


def tempered(rng, n, n_classes, temperature):
    """Confidence and right or wrong of a model that is too confident by a factor of its logits."""
    logits = rng.normal(0, 1.5, (n, n_classes))
    truth, said = softmax(logits, axis=1), softmax(logits * temperature, axis=1)
    gold = (truth.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return said.max(axis=1), said.argmax(axis=1) == gold


def in_some_bins(rng, n, *_):
    """Too confident where it is most confident alone."""
    confidence = rng.uniform(0.5, 1, n)
    return confidence, rng.random(n) < np.where(confidence > 0.85, confidence - 0.2, confidence)


def binned(confidence, right):
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [np.bincount(bins, weights, BINS).astype(float) for weights in (None, confidence, right)]


def share_covered(runs, world, n_classes, temperature, n):
    rng = np.random.default_rng(18)
    sizes, confidence, right = binned(*world(rng, 400_000, n_classes, temperature))
    truth = 0.0 if temperature == 1.0 else np.abs(confidence - right).sum() / sizes.sum()
    covered = 0
    for _ in range(runs):
        low, high = ece_interval(*binned(*world(rng, n, n_classes, temperature)), 0.95, 1)
        assert 0 <= low <= high <= 1
        covered += low <= truth <= high
    return covered / runs


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_interval_of_ece_holds_the_true_error_whether_there_is_one_or_none(temperature):
    # Three standard errors of 40 draws are 0.10.
    assert share_covered(40, tempered, 2, temperature, 200) >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "n_classes", "temperature", "n"),
    [
        (tempered, 2, 1.0, 100),
        (tempered, 2, 1.0, 1000),
        (tempered, 4, 1.0, 300),
        (tempered, 2, 1.5, 300),
        (tempered, 4, 1.5, 1000),
        (tempered, 2, 3.0, 300),
        (tempered, 2, 3.0, 1000),
        (in_some_bins, 2, 0.0, 300),
    ],
)
def test_the_interval_of_ece_covers_near_its_level(world, n_classes, temperature, n):
    # Three standard errors of 400 draws are 0.033.
    assert 0.905 <= share_covered(400, world, n_classes, temperature, n) <= 0.995


def test_dependent_samples_widen_the_interval_of_ece():
    rng = np.random.default_rng(3)
    logits = np.repeat(rng.normal(0, 2, 40), 10)
    gold = np.repeat(rng.integers(0, 2, 40), 10)
    logprobs = np.stack([np.zeros(400), logits], axis=1)
    cell = cell_of(gold, (logits > 0).astype(int), logprobs)
    alone = NamedMetrics(["ece"], ["0", "1"], {}).figures(cell)
    together = NamedMetrics(["ece"], ["0", "1"], {str(i): f"g{i // 10}" for i in range(400)}).figures(cell)
    assert together["ece"] == alone["ece"]
    assert together["ece_high"] - together["ece_low"] > 1.5 * (alone["ece_high"] - alone["ece_low"])


def test_figures_of_probabilities_are_unknown_where_labels_were_written():
    found = NamedMetrics(["mcc", "ece", "auroc"], ["a", "b"], {}).figures(cell_of(np.array([0, 1]), np.array([0, 1])))
    assert found["mcc"] == 1
    assert math.isnan(found["ece"]) and math.isnan(found["auroc_low"])


def test_a_cell_whose_samples_all_failed_has_no_figures():
    cell = cell_of(np.array([0, 1]), [None, None])
    found = NamedMetrics(list(named_metrics.CLASS_METRICS), ["a", "b"], {}).figures(cell)
    assert all(math.isnan(value) for value in found.values())


def test_names_are_those_of_the_configuration():
    assert values.CLASS_METRICS == named_metrics.CLASS_METRICS
    assert tuple(named_answers.ANSWER_METRICS) == values.ANSWER_METRICS


WORDS = ["서울", "은", "수도", "이다", "1,000", "원", "그리고", "바다"]


def random_text(rng, most=8):
    return " ".join(rng.choice(WORDS, int(rng.integers(0, most))))


def test_chrf_equals_sacrebleu():
    from sacrebleu import sentence_chrf

    rng = np.random.default_rng(16)
    for _ in range(CASES):
        answer, golds = random_text(rng), [random_text(rng) + "끝" for _ in range(int(rng.integers(1, 4)))]
        assert named_answers.chrf(answer, golds) == pytest.approx(sentence_chrf(answer, golds).score / 100)


def test_rouge_l_equals_rouge_score():
    scoring = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install -e '.[bench]'")

    class Words:
        def tokenize(self, text):
            return text.split()

    scorer, rng = scoring.RougeScorer(["rougeL"], tokenizer=Words()), np.random.default_rng(17)
    for _ in range(CASES):
        answer, golds = random_text(rng), [random_text(rng) for _ in range(int(rng.integers(1, 4)))]
        assert rouge_l(answer, golds) == pytest.approx(scorer.score_multi(golds, answer)["rougeL"].fmeasure)


def test_rouge_l_is_that_of_the_longest_common_subsequence():
    assert rouge_l("가 나 다 라", ["가 다 라 마", "x"]) == pytest.approx(6 / 8)
    assert rouge_l("", ["가"]) == 0.0
    assert rouge_l("나 가", ["가 나"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("1,000", "1000.0", 1.0),
        ("답은 3.50", "3.5", 1.0),
        ("3 + 4 = 7", "7", 1.0),
        ("-5", "5", 0.0),
        ("\u22125", "-5", 1.0),
        ("모름", "5", 0.0),
        ("모름", "모름", 1.0),
        ("12,34", "12", 0.0),
        (".5", "0.5", 1.0),
        ("5", ".5", 0.0),
        ("1/2", "0.5", 1.0),
        ("3/2", "1/2", 0.0),
        ("2", "1/2", 0.0),
        ("10-20", "20", 1.0),
        ("10-20", "-20", 0.0),
        ("x=-5", "-5", 1.0),
        ("2024-05", "5", 1.0),
        ("1/0", "0", 0.0),
    ],
)
def test_numbers_are_equal_however_they_are_written(answer, gold, value):
    if answer == gold == "모름":
        assert last_number(gold) is None
        assert same_number(answer, [gold]) == 0.0
    else:
        assert same_number(answer, [gold]) == value


def test_what_a_pattern_finds_last_counts():
    assert extracted(["정답: 가\n아니, 정답: 나", "없음"], r"정답:\s*(\S+)") == ["나", ""]
    assert extracted(["3 또는 4"], r"\d") == ["4"]
    assert extracted(["그대로"], None) == ["그대로"]


def test_figures_of_answers_are_means_over_scored_samples():
    cell = pd.DataFrame(
        {
            "sample_id": ["a", "b", "c"],
            "answer": ["정답: 서울", "정답: 부산", None],
            "answer_values": [[1.0], [0.0], None],
        }
    )
    named = NamedAnswers(["same_text", "rouge_l"], {"a": ["서울"], "b": ["대구", "부산 시"]}, {}, r"정답: (.+)")
    found = named.figures(cell)
    assert found["same_text"] == 0.5
    assert found["rouge_l"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["same_text_low"] < 0.5 < found["same_text_high"]
