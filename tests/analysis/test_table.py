"""Records become a matrix that hides nothing."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.table import cluster_codes, is_binary, value_table
from harness.core.errors import ConfigError, DataError
from tests.analysis.grids import records_of

ROWS = [
    ("a", 2, 1, "x", 0, 0),
    ("a", 2, 1, "y", 1, 0),
    ("a", 2, 2, "x", 0, None),
    ("a", 2, 2, "y", 1, 1),
    ("b", 2, 1, "y", 1, -1),
]


def test_right_is_one_wrong_is_zero_failed_and_missing_are_nan():
    table = value_table(records_of(ROWS))
    assert table.cells[["template", "seed"]].to_numpy().tolist() == [["a", 1], ["a", 2], ["b", 1]]
    assert table.sample_ids.tolist() == ["x", "y"]
    np.testing.assert_array_equal(table.values, [[1, 0], [np.nan, 1], [np.nan, 0]])
    assert table.attempted.tolist() == [[True, True], [True, True], [False, True]]
    assert table.n_scored.tolist() == [2, 1, 1]
    assert table.n_attempted.tolist() == [2, 2, 1]


def test_text_that_is_no_label_is_wrong_and_not_missing():
    assert value_table(records_of(ROWS)).values[2, 1] == 0.0


def test_the_order_of_records_decides_nothing():
    frame = records_of(ROWS)
    one, other = value_table(frame), value_table(frame.iloc[::-1])
    for cell in range(3):
        key = one.cells.loc[cell, ["template", "k", "seed"]].tolist()
        match = (other.cells[["template", "k", "seed"]] == key).all(axis=1).to_numpy().nonzero()[0][0]
        by_id = dict(zip(other.sample_ids, other.values[match], strict=True))
        np.testing.assert_array_equal([by_id[i] for i in one.sample_ids], one.values[cell])


def test_k0_copies_are_one_cell_without_a_seed():
    rows = [("a", 0, seed, sample, 0, 0) for seed in (5, 6, 7) for sample in "xy"] + [("a", 4, 5, "x", 0, 1)]
    table = value_table(records_of(rows))
    assert table.cells["k"].tolist() == [0, 4]
    assert table.cells["seed"].isna().tolist() == [True, False]
    np.testing.assert_array_equal(table.values, [[1, 1], [0, np.nan]])


def test_k0_of_an_unfinished_run_takes_each_sample_where_it_is():
    rows = [("a", 0, 5, "x", 0, 0), ("a", 0, 6, "x", 0, 0), ("a", 0, 6, "y", 0, 1)]
    np.testing.assert_array_equal(value_table(records_of(rows)).values, [[1, 0]])


def test_a_metric_column_is_taken_as_it_is():
    frame = records_of(ROWS).assign(f1=[0.5, 1.0, np.nan, 0.25, 0.0])
    table = value_table(frame, "f1")
    np.testing.assert_array_equal(table.values, [[0.5, 1], [np.nan, 0.25], [np.nan, 0]])
    assert not is_binary(table.values)


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no metric 'f2'.*'f1'"):
        value_table(records_of(ROWS).assign(f1=0.5), "f2")


def test_accuracy_of_generated_answers_is_refused():
    with pytest.raises(ConfigError, match="no gold labels"):
        value_table(records_of(ROWS).assign(gold=-1))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (records_of([]), "no records"),
        (pd.concat([records_of(ROWS), records_of(ROWS).assign(task="other")]), "2 tasks"),
        (records_of([*ROWS, ROWS[0]]), "several records in one cell"),
        (records_of([*ROWS, ("b", 2, 1, "x", 1, 1)]), "'x' has two gold labels"),
    ],
)
def test_records_that_do_not_fit_together_are_refused(frame, message):
    with pytest.raises(DataError, match=message):
        value_table(frame)


def test_runs_are_kept_apart():
    frame = pd.concat([records_of(ROWS).assign(run="r1"), records_of(ROWS).assign(run="r2")], ignore_index=True)
    assert value_table(frame).cells["run"].tolist() == ["r1"] * 3 + ["r2"] * 3


def test_an_empty_cluster_is_the_sample_itself():
    codes = cluster_codes(["a", "b", "c", "d", "e"], {"a": "p", "b": "", "c": "p", "d": ""})
    assert codes.tolist() == [0, 1, 0, 2, 3]


def test_clusters_of_one_are_no_clusters():
    assert cluster_codes(["a", "b"], {"a": "", "b": ""}) is None
    assert cluster_codes(["a", "b"], {"a": "p", "b": "q"}) is None
    assert cluster_codes(["a", "b"], None) is None
