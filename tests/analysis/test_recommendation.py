"""What a comparison says to use: the best, those that may be as good, and what the cheapest of them saves."""

import json

import numpy as np
import pytest

from harness.analysis.compare import compare
from harness.analysis.recommendation import Recommendation, recommend, sentences
from harness.analysis.summary import summarise
from harness.reporting.comparison import write_comparison
from harness.results.schema import Record
from harness.results.store import RunStore
from tests.analysis.test_comparing import printed, write_all, write_run

N = 100


def cell(template, n_right, tokens, k=0, seed=1, model="models/m"):
    """The first `n_right` samples right; prompts of `tokens` tokens on average, one more or less each."""
    return [
        Record(model, "t", template, k, seed, f"s{i:03}", 1, int(i < n_right), [-1.0, -1.0], [1, 1],
               n_prompt_tokens=None if tokens is None else tokens + (-1) ** i)
        for i in range(N)
    ]  # fmt: skip


GRID = [("long", 90, 60), ("middle", 89, 45), ("short", 88, 20), ("shorter", 87, 20), ("poor", 40, 5)]


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run", [record for row in GRID for record in cell(*row)])


def test_the_cheapest_is_looked_for_among_those_as_good_only(run_dir):
    found = compare([run_dir], replicates=10)
    assert found.strategies.set_index("label")["tokens"].to_dict() == {name: tokens for name, _, tokens in GRID}
    assert recommend(found) == Recommendation("long", ("middle", "short", "shorter"), "short", 20 / 60)
    assert sentences(recommend(found)) == (
        "Use long.",
        "3 others may be as good; the cheapest of them is short, at a third of the tokens.",
    )


def test_several_models_are_named_by_the_last_part_of_their_paths(tmp_path):
    records = [
        record
        for model, extra in (("models/small", 0), ("models/large", 5))
        for record in cell("a", 80 + extra, 40, 0, model=model) + cell("a", 84 + extra, 80, 8, model=model)
    ]
    run_dir = write_run(tmp_path / "two", records)
    store = RunStore(run_dir)
    manifest = store.read_json("manifest.json")
    manifest["config"]["models"] = [{"path": f"models/{name}", "name": f"models/{name}"} for name in ("small", "large")]
    store.write_json("manifest.json", manifest)
    found = recommend(compare([run_dir], replicates=10))
    assert found.best == "large K=8 seed=1"
    assert sentences(found)[1].endswith("the cheapest of them is large K=0, at half the tokens.")


def test_tokens_are_averaged_over_the_cells_that_scores_are(tmp_path):
    rows = [("a", 90, 30, 0), ("a", 90, 50, 4), ("b", 89, 20, 0), ("b", 89, 40, 4)]
    records = [record for row in rows for seed in (1, 2) for record in cell(*row, seed=seed)]
    run_dir = write_run(tmp_path / "averaged", records)
    found = compare([run_dir], ["template"], replicates=10)
    assert found.strategies.set_index("label")["tokens"].to_dict() == {"a": 40, "b": 30}
    assert recommend(found) == Recommendation("a", ("b",), "b", 0.75)
    by_k = compare([run_dir], ["template", "k"], replicates=10).strategies.set_index("label")["tokens"]
    assert by_k.to_dict() == {"a K=0": 30, "a K=4": 50, "b K=0": 20, "b K=4": 40}


def test_corrected_predictions_cost_the_prompts_that_they_correct(run_dir):
    rows = compare([run_dir], replicates=10, calibrated=["batch"]).strategies.set_index("label")
    assert rows.loc["long +batch", "tokens"] == rows.loc["long", "tokens"] == 60


def test_tokens_that_are_not_known_are_no_saving(tmp_path):
    records = cell("a", 90, 40) + cell("b", 89, None) + cell("c", 88, 30)
    found = recommend(compare([write_run(tmp_path / "unknown", records)], replicates=10))
    assert found == Recommendation("a", ("b", "c"), "c", 0.75, all_have_tokens=False)
    assert "the cheapest prompt of them is c, at three quarters of the tokens" in sentences(found)[1]
    best = recommend(compare([write_run(tmp_path / "best", cell("a", 89, 40) + cell("b", 90, None))], replicates=10))
    assert best == Recommendation("b", ("a",), None, None)


def test_the_highest_of_what_is_no_quality_is_not_recommended(run_dir):
    assert set(summarise(run_dir)["template"]) == {name for name, *_ in GRID}
    found = compare([run_dir], metric="prompt_tokens", replicates=10)
    with pytest.raises(ValueError, match="prompt_tokens"):
        recommend(found)
    assert "Use " not in printed(write_comparison, found, "table")
    assert json.loads(printed(write_comparison, found, "json"))["recommendation"] is None


@pytest.mark.parametrize(
    ("others", "cheapest", "share", "all_have_tokens", "text"),
    [
        ((), None, None, True, "No other may be as good."),
        (("b",), None, None, True, "One other may be as good: b."),
        (("b",), "b", 0.332, True, "One other may be as good: b, at a third of the tokens."),
        (("b", "c"), None, None, True, "2 others may be as good."),
        (("b", "c"), "c", 0.5, True, "2 others may be as good; the cheapest of them is c, at half the tokens."),
        (("b", "c"), "c", 0.1, True, "2 others may be as good; the cheapest of them is c, at a tenth of the tokens."),
        (("b", "c"), "c", 0.38, True, "2 others may be as good; the cheapest of them is c, at 38% of the tokens."),
        (("b", "c"), "c", 0.001, True, "2 others may be as good; the cheapest of them is c, at 1% of the tokens."),
        (("b", "c"), "c", 0.999, True, "2 others may be as good; the cheapest of them is c, at 99% of the tokens."),
        (("b", "c"), "b", 0.2, False,
         "2 others may be as good; the cheapest prompt of them is b, at a fifth of the tokens."),
        (tuple("x" * 1200), None, None, True, "1,200 others may be as good."),
    ],
)  # fmt: skip
def test_the_second_sentence_counts_names_and_compares(others, cheapest, share, all_have_tokens, text):
    assert sentences(Recommendation("a K=8", others, cheapest, share, all_have_tokens)) == ("Use a K=8.", text)


def test_compare_opens_with_the_recommendation_and_keeps_details_for_those_who_ask(run_dir):
    found = compare([run_dir], replicates=10)
    lines = printed(write_comparison, found, "table").splitlines()
    assert lines[0] == " ".join(sentences(recommend(found)))
    assert lines[1].startswith("Expected accuracy 0.9") and "corrected for picking the best of 5" in lines[1]
    text = "\n".join(lines)
    assert "0.9000|0.8256-0.9448" in text.replace(" ", ""), "Wilson's interval of 90 of 100"
    assert "Holm" not in text and "--all" in lines[-1]
    everything = printed(write_all, found, "table")
    assert "Holm" in everything and "--all" not in everything
    assert json.loads(printed(write_comparison, found, "json"))["recommendation"] == {
        "best": "long",
        "as_good": ["middle", "short", "shorter"],
        "cheapest": "short",
        "token_share": 20 / 60,
        "all_have_tokens": True,
    }


@pytest.mark.parametrize("baseline", [None, "middle"])
def test_a_difference_is_always_the_row_minus_what_it_is_held_against(tmp_path, baseline):
    """`long` is the best and stands before some and behind others in the records."""
    names = {"a": "middle", "b": "long", "c": "short"}
    records = [record for t, n, k in (("a", 89, 45), ("b", 90, 60), ("c", 40, 20)) for record in cell(names[t], n, k)]
    found = compare([write_run(tmp_path / "run", records)], baseline=baseline, replicates=10)
    text = printed(write_all, found, "table")
    rows = {}
    for line in text.split("Over templates")[0].split("p Holm")[-1].splitlines()[2:-1]:
        this, *rest = (part.strip() for part in line.strip("|").split("|"))
        minus = baseline or rest.pop(0)
        rows[this, minus] = float(rest[0]), *map(float, rest[1].split())
    values = {"long": 0.90, "middle": 0.89, "short": 0.40}
    wanted = {("long", "middle"), ("short", "middle")} if baseline else {
        ("middle", "long"), ("short", "long"), ("short", "middle")}  # fmt: skip
    assert set(rows) == wanted
    for (this, minus), (difference, low, high) in rows.items():
        assert difference == pytest.approx(values[this] - values[minus])
        assert low <= difference <= high
    assert text.count(f"Differences are this minus {baseline or 'baseline'} (") == 1
    assert np.sign(rows["short", "middle"][0]) == -1
