"""Records read back: cell by cell as whole, and parts told from altered ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import load_records
from harness.analysis.answer_figures import COLUMNS as ANSWER_COLUMNS
from harness.analysis.answer_figures import answer_figures
from harness.analysis.cells import COLUMNS, KEYS, cell_figures
from harness.analysis.summary import sample_clusters, summarise
from harness.results.records import records_by_cell
from harness.results.schema import SCHEMA, Record, holds, table_digest, to_table
from harness.results.store import READERS, RunStore
from tests.simulated_runs import answered_run, classified_run, statistics

SHARES = {("plain", 0): 0.6, ("plain", 4): 0.7, ("other", 4): 0.65}


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """Units that hold several cells each, in an order of rows that is not the cells'."""
    path = str(tmp_path_factory.mktemp("runs") / "classified")
    texts = [f"리뷰 {i}" for i in range(90)]
    classified_run(path, texts, SHARES, failed=[("plain", 4, 1, 3), ("other", 4, 2, 80)])
    store = RunStore(path)
    rows = RunStore.concatenate([store.read_part(unit) for unit in sorted(store.part_ids())])
    for unit in store.part_ids():
        store.remove_part(unit)
    rng = np.random.default_rng(0)
    mixed = rows.take(pa.array(rng.permutation(rows.num_rows)))
    mass = SCHEMA.names.index("off_label_mass")
    mixed = mixed.set_column(mass, SCHEMA.field(mass), pa.array(rng.uniform(size=mixed.num_rows)))
    for i in range(40):
        part = mixed.slice(i * mixed.num_rows // 40, (i + 1) * mixed.num_rows // 40 - i * mixed.num_rows // 40)
        store.write_part(f"unit{i:02d}", part, statistics(part.num_rows))
    assert len(store.part_ids()) > 2 * READERS
    return path


@pytest.mark.parametrize("columns", [COLUMNS, [*KEYS, "sample_id", "label_logprobs"], ["prediction"]])
def test_cells_read_one_by_one_are_the_cells_of_the_whole(classified, columns):
    whole = load_records(classified, list(dict.fromkeys([*KEYS, *columns])))
    cells = [cell for _, cell in whole.groupby(KEYS, sort=False)]
    read = list(records_by_cell(classified, columns))
    assert len(read) == len(cells) == 6
    for one, other in zip(read, cells, strict=True):
        pd.testing.assert_frame_equal(
            one[other.columns], other.reset_index(drop=True), check_exact=True, check_dtype=False
        )
        values = [name for name in columns if name not in KEYS]
        assert one[values].dtypes.equals(other[values].dtypes)


def test_figures_of_classes_are_those_of_all_records_at_once_to_the_last_bit(classified):
    whole = cell_figures(load_records(classified, COLUMNS), 2)
    shown = summarise(classified).sort_values(KEYS, ignore_index=True)
    pd.testing.assert_frame_equal(shown[whole.columns], whole, check_exact=True)


def test_figures_of_answers_are_those_of_all_records_at_once_to_the_last_bit(tmp_path):
    path = answered_run(tmp_path / "answers")
    names = RunStore(path).read_json("manifest.json")["answer_metrics"]
    whole = answer_figures(load_records(path, ANSWER_COLUMNS), names, sample_clusters(RunStore(path)))
    shown = summarise(path).sort_values(KEYS, ignore_index=True)
    pd.testing.assert_frame_equal(shown[whole.columns], whole, check_exact=True)


def test_many_parts_come_in_the_order_of_their_ids_with_what_is_wrong_in_its_place(classified, caplog):
    store = RunStore(classified)
    ids = sorted(store.part_ids())
    wanted = {*ids, "unit05x"}
    found = list(store.read_parts(wanted))
    assert [unit for unit, _ in found] == sorted(wanted)
    assert [unit for unit, part in found if isinstance(part, ValueError)] == ["unit05x"]


def test_reading_that_lasts_says_how_far_it_is(classified, caplog, monkeypatch):
    monkeypatch.setattr("harness.results.store.TELL_EVERY_S", -1.0)
    with caplog.at_level("INFO", logger="harness"):
        summarise(classified)
    assert any("of 40 parts read" in message for message in caplog.messages)


# Digests ----------------------------------------------------------------------------------------------------------

RECORDS = [
    Record("m", "t", "a", 0, 1, "s1", 1, 1, [-0.5, -1.5], [1, 2], 7, " 긍정", 1, 0.25, 30),
    Record("m", "t", "a", 0, 1, "s2", 0, error_type="ValueError", error="broken"),
    Record("m", "t", "a", 4, 1, "s3", 0, 0, [], [], 8, "", None, 0.5, 31),
]


def test_a_digest_does_not_depend_on_the_layout():
    table = to_table(RECORDS)
    padded = to_table([RECORDS[1], *RECORDS, RECORDS[0]])
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2)])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    for other in (padded.slice(1, 3), chunked, pq.read_table(pa.BufferReader(sink.getvalue()))):
        assert table_digest(other) == table_digest(table)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sample_id", "s9"), ("k", 3), ("prediction", None), ("off_label_mass", 0.25000000000000006),
     ("label_logprobs", [-0.5]), ("label_logprobs", None), ("label_token_counts", [2, 1]), ("argmax_text", None),
     ("argmax_text", " 긍정 "), ("error", "")],
)  # fmt: skip
def test_any_other_value_gives_another_digest(name, value):
    table = to_table(RECORDS)
    values = table[name].to_pylist()
    changed = table.set_column(
        SCHEMA.names.index(name), SCHEMA.field(name), pa.array([value, *values[1:]], SCHEMA.field(name).type)
    )
    assert table_digest(changed) != table_digest(table)


def test_text_and_lists_that_move_between_rows_give_another_digest():
    one, two = ([Record("m", "t", "a", 0, 1, i, 0, argmax_text=x) for i, x in zip("ab", t, strict=True)]
                for t in (("xy", "z"), ("x", "yz")))  # fmt: skip
    assert table_digest(to_table(one)) != table_digest(to_table(two))


def test_parts_of_earlier_versions_are_whole_by_their_own_digest():
    table = to_table(RECORDS)
    old = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        old.update(repr(table[name].to_pylist()).encode())
    assert holds(table, old.hexdigest())
    assert not holds(table.slice(0, 2), old.hexdigest())


def test_a_part_whose_values_were_altered_is_noticed(tmp_path):
    store = RunStore(str(tmp_path))
    store.create()
    store.write_part("u", to_table(RECORDS), {"n": 3})
    path = Path(store.path("parts", "u.parquet"))
    file = pq.read_table(path)
    altered = to_table([*RECORDS[:2], RECORDS[0]]).replace_schema_metadata(file.schema.metadata)
    pq.write_table(altered, path)
    with pytest.raises(ValueError, match="does not hold what was written"):
        store.read_part("u")
    assert json.loads(file.schema.metadata[b"harness_statistics"]) == {"n": 3}
