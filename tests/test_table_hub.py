"""`hf://owner/name`: splits of a data set as the table task reads them. The library is played by a small one here."""

import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.task_data import load_data
from harness.core.task_options import configured
from tasks.table import TASK

LABELS = ["negative", "positive"]


class Split:
    def __init__(self, rows, fingerprint):
        self.rows, self._fingerprint = rows, fingerprint


class Splits(dict):
    """What `datasets.load_dataset` gives, as far as it is used."""

    saved = 0

    def save_to_disk(self, folder):
        Splits.saved += 1
        for name, split in self.items():
            (folder / name).mkdir(parents=True)
            table = pa.Table.from_pylist(split.rows)
            with pa.ipc.new_stream(folder / name / "data-00000-of-00001.arrow", table.schema) as stream:
                stream.write_table(table)
            features = {"features": {"label": {"names": LABELS, "_type": "ClassLabel"}}}
            (folder / name / "dataset_info.json").write_text(json.dumps(features), encoding="utf-8")
        (folder / "dataset_dict.json").write_text("{}", encoding="utf-8")


def rows(n, start=0):
    return [{"text": f"문장 {i}", "label": i % 2} for i in range(start, start + n)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's data sets by (name, part)."""
    known = {
        ("me/reviews", None): Splits(train=Split(rows(8, 10), "a1"), test=Split(rows(5), "b1")),
        ("me/parts", "small"): Splits(train=Split(rows(20), "c1")),
    }

    def load_dataset(name, part):
        if (name, part) not in known:
            raise FileNotFoundError(f"no data set '{name}' on the hub")
        return known[name, part]

    library = SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_DATASETS_CACHE=str(tmp_path)))
    monkeypatch.setitem(sys.modules, "datasets", library)
    Splits.saved = 0
    return known


def loaded(address):
    task, config = configured(TASK, TaskConfig(name="table", data_dir=address, options={"label": "label"}))
    return task, load_data(task, config)


def test_splits_are_asked_about_and_shown(hub):
    task, data = loaded("hf://me/reviews")
    assert task.class_names == tuple(LABELS)
    assert [s.fields["text"] for s in data.samples] == [f"문장 {i}" for i in range(5)]
    assert [s.gold for s in data.samples] == [0, 1, 0, 1, 0]
    assert len(data.pool) == 8
    assert Splits.saved == 1, "a data set is written once, however often it is read"


def test_a_part_with_one_split_is_split_again(hub):
    _, data = loaded("hf://me/parts/small")
    assert (len(data.samples), len(data.pool)) == (16, 4)


def test_another_version_is_another_folder(hub):
    loaded("hf://me/reviews")
    hub["me/reviews", None] = Splits(train=Split(rows(8, 10), "a1"), test=Split(rows(6), "b2"))
    assert len(loaded("hf://me/reviews")[1].samples) == 6


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://reviews", r"task\.data_dir is 'hf://reviews', expected hf://owner/name"),
        ("hf://me/reviews/a/b", "expected hf://owner/name"),
        ("hf://me/other", "'hf://me/other' cannot be loaded: FileNotFoundError: no data set 'me/other' on the hub; is"),
    ],
)
def test_what_cannot_be_had_is_told(hub, address, message):
    with pytest.raises(DataError, match=message):
        loaded(address)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the datasets library; install it with pip install '.*\[hub\]'"):
        loaded("hf://me/reviews")


def test_the_real_library_writes_what_is_read(tmp_path, monkeypatch):
    """`load_dataset` is played, the data set and its files are the library's own."""
    datasets = pytest.importorskip("datasets", reason="pip install -e '.[hub]'")
    made = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows(8, 10)), "test": datasets.Dataset.from_list(rows(5))}
    )
    made = made.cast_column("label", datasets.ClassLabel(names=LABELS))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, part: made)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    task, data = loaded("hf://me/reviews")
    assert task.class_names == tuple(LABELS)
    assert (len(data.samples), len(data.pool)) == (5, 8)
