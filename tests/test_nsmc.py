"""NSMC's files: what is read, what is dropped, what is refused."""

import random

import pandas as pd
import pytest

from harness.config.schema import TaskConfig
from harness.core.errors import DataError
from harness.core.hangul import compose_hangul
from harness.core.task import LabelScores, find_task, most_likely_label
from tasks.nsmc import TASK, clean_text, load, read_ratings
from tests.conftest import DEMO, write_ratings

GOOD = [(1, "재미있다", 1), (2, "별로", 0)]


def options(folder, **values):
    return TaskConfig(data_dir=str(folder), **values)


def test_rows_come_in_file_order_with_ids_as_text(tmp_path):
    path = write_ratings(tmp_path / "r.txt", [("007", "하나", 1), ("10", "둘", 0), ("9", "셋", 1)])
    frame, dropped = read_ratings(path)
    assert frame["id"].tolist() == ["007", "10", "9"]
    assert frame["document"].tolist() == ["하나", "둘", "셋"]
    assert frame["label"].tolist() == [1, 0, 1]
    assert dropped == 0


def test_rows_without_a_document_are_dropped_and_counted(tmp_path):
    """As the lecture drops them; a review that spells a missing value is a review."""
    rows = [(1, "가", 1), (2, "", 0), (3, "나", 0), (4, "", 1), (5, "NA", 1), (6, " ", 1)]
    frame, dropped = read_ratings(write_ratings(tmp_path / "r.txt", rows))
    assert frame["id"].tolist() == ["1", "3", "5", "6"]
    assert dropped == 2


def test_quotes_are_text(tmp_path):
    rows = [(1, '"열린 따옴표', 1), (2, '닫힌" 따옴표', 0), (3, '""', 1), (4, "'작은'", 0), (5, '"온전한"', 1)]
    frame, _ = read_ratings(write_ratings(tmp_path / "r.txt", rows))
    assert frame["document"].tolist() == [text for _, text, _ in rows]


def test_numbers_stay_text(tmp_path):
    frame, _ = read_ratings(write_ratings(tmp_path / "r.txt", [(1, "10", 1), (2, "1.50", 0), (3, "007", 0)]))
    assert frame["document"].tolist() == ["10", "1.50", "007"]


def test_the_pool_and_the_samples_are_read_as_the_lecture_reads_them(tmp_path):
    """The notebook's call, on text that tempts pandas: quotes and blanks."""
    rows = [(i, text, i % 2) for i, text in enumerate(['"가', "", "나 ", " 다", "라\u3000", "1/10", '"'])]
    path = write_ratings(tmp_path / "r.txt", rows)
    notebook = pd.read_csv(path, header=0, delimiter="\t", quoting=3).dropna()
    assert read_ratings(path)[0]["document"].tolist() == notebook["document"].tolist()


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    path = tmp_path / "r.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "id\tdocument\tlabel\r\n1\t가\t1\r\n".encode())
    frame, _ = read_ratings(path)
    assert frame.to_dict("records") == [{"id": "1", "document": "가", "label": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "document\tlabel\n가\t1\n",
            r"has the columns \['document', 'label'\], expected \['id', 'document', 'label'\]",
        ),
        ("id,document,label\n1,가,1\n", "has the columns"),
        ("id\tdocument\tlabel\n1\t가\t2\n", "line 2: label '2', expected 0 or 1"),
        ("id\tdocument\tlabel\n1\t가\t1\n2\t\t0\n3\t나\tgood\n", "line 4: label 'good', expected 0 or 1"),
        ("id\tdocument\tlabel\n1\t가\t1.0\n", "label '1.0', expected 0 or 1"),
        ("id\tdocument\tlabel\n1\t가\t1\n1\t나\t0\n", "line 3: the id 1 comes twice"),
        ("id\tdocument\tlabel\n", "has no reviews"),
        ("id\tdocument\tlabel\n1\t\t1\n", "has no reviews"),
        ("", "is not tab-separated UTF-8 text"),
        (
            "id\tdocument\tlabel\n1\t가\t1\t2\t3\n2\tb\t1\tx\n1\t2\t3\t4\t5\t6\t7\n",
            "line 2: 5 cells, expected 3 separated by tabs",
        ),
    ],
)
def test_a_file_in_another_format_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "ratings_test.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_ratings(path)
    assert "ratings_test.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_with_too_many_cells_is_refused(tmp_path):
    """Otherwise pandas shifts it: the id becomes an index and the document a label."""
    path = tmp_path / "r.txt"
    path.write_text("id\tdocument\tlabel\n1\t가\t나\t1\n2\t다\t라\t0\n", encoding="utf-8")
    with pytest.raises(DataError):
        read_ratings(path)


def test_a_label_that_is_missing_is_refused_with_its_line(tmp_path):
    path = write_ratings(tmp_path / "r.txt", [(1, "가", 1), (2, "나", ""), (3, "다", 1)])
    with pytest.raises(DataError, match=r"line 3: no label, expected 0 or 1"):
        read_ratings(path)


def test_the_official_files_are_read_as_the_notebook_reads_them(shared_nsmc):
    for name in ("ratings_test.txt", "ratings_train.txt"):
        notebook = pd.read_csv(shared_nsmc / name, header=0, delimiter="\t", quoting=3).dropna()
        frame, _ = read_ratings(shared_nsmc / name)
        assert frame["document"].tolist() == notebook["document"].tolist()
        assert [compose_hangul(text) for text in frame["document"]] == frame["document"].tolist()


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "r.txt"
    path.write_bytes("id\tdocument\tlabel\n1\t가나다\t1\n".encode("cp949"))
    with pytest.raises(DataError, match="is not tab-separated UTF-8 text"):
        read_ratings(path)


@pytest.mark.parametrize("missing", ["ratings_train.txt", "ratings_test.txt"])
def test_a_missing_file_is_named_with_the_remedy(write_nsmc, missing):
    folder = write_nsmc(GOOD, GOOD)
    (folder / missing).unlink()
    with pytest.raises(DataError, match=rf"no file '.*{missing}'; .*harness data get nsmc"):
        load(options(folder))


def test_the_limit_draws_the_rows_that_pandas_draws(write_nsmc):
    rows = [(1000 + i, f"글 {'가나다라마'[i % 5]}{i}" if i % 7 else "", i % 2) for i in range(200)]
    folder = write_nsmc(GOOD, rows)
    kept = pd.DataFrame([r for r in rows if r[1]], columns=["id", "document", "label"])
    expected = kept.sample(50, random_state=1234)
    drawn = load(options(folder, limit=50)).samples
    assert [s.id for s in drawn] == [str(i) for i in expected["id"]]
    assert [s.gold for s in drawn] == expected["label"].tolist()
    assert [s.id for s in load(options(folder, limit=50, sample_seed=1)).samples] != [s.id for s in drawn]


def test_a_limit_beyond_the_file_takes_all_rows_in_order_and_says_so(write_nsmc):
    data = load(options(write_nsmc(GOOD, GOOD), limit=500))
    assert [s.id for s in data.samples] == ["1", "2"]
    assert any("task.limit=500 takes all 2 reviews" in note for note in data.notes)


def test_notes_count_what_was_dropped(write_nsmc):
    data = load(options(write_nsmc([*GOOD, (3, "", 1)], GOOD)))
    assert list(data.notes) == [
        "ratings_test.txt: 2 reviews, 0 without text dropped",
        "ratings_train.txt: 2 reviews, 1 without text dropped",
    ]


@pytest.mark.parametrize(
    ("document", "cleaned"),
    [
        ("재미있다!!! 10점", "재미있다 점"),
        ("1/10", ""),
        ("GDNTOPCLASSINTHECLUB", ""),
        ("ㅋㅋㅋ ㅠㅠ ㅏㅑ", "ㅋㅋㅋ ㅠㅠ ㅏㅑ"),
        (" a b\tc ", "  \t "),
        ("가\u3000나\u00a0다", "가\u3000나\u00a0다"),
        ("힣가", "힣가"),
        ("漢字 かな 👍", "  "),
        ("\u1100\u1161", ""),
        ("문장: {document}\\n", "문장 "),
    ],
)
def test_cleaning_keeps_hangul_jamo_and_white_space_only(document, cleaned):
    assert clean_text(document) == cleaned


def test_cleaning_agrees_with_code_points_one_by_one():
    rng = random.Random(0)
    text = "".join(chr(rng.choice([rng.randrange(32, 0xD7FF), rng.randrange(0x3130, 0x3190)])) for _ in range(20_000))
    kept = [
        c for c in text if 0xAC00 <= ord(c) <= 0xD7A3 or 0x3131 <= ord(c) <= 0x314E or 0x314F <= ord(c) <= 0x3163
        or c.isspace()
    ]  # fmt: skip
    assert clean_text(text) == "".join(kept)


def test_a_review_that_cleaning_empties_stays_in_the_evaluation(write_nsmc):
    folder = write_nsmc([*GOOD, (3, "ABC", 1)], [(1, "1/10", 0), (2, "좋다.", 1)])
    data = load(options(folder))
    assert [(s.id, s.fields["document"]) for s in data.samples] == [("1", ""), ("2", "좋다")]
    assert [s.fields["document"] for s in data.pool] == ["재미있다", "별로", ""]
    assert list(data.raw_pool_texts) == ["재미있다", "별로", "ABC"]


def test_cleaning_can_be_switched_off(write_nsmc):
    data = load(options(write_nsmc(GOOD, [(1, "1/10!", 0)]), clean_text=False))
    assert data.samples[0].fields["document"] == "1/10!"


def test_the_task_is_found_by_its_name_and_by_module():
    assert find_task("nsmc") is TASK
    assert find_task("tasks.nsmc:TASK") is TASK
    assert TASK.class_names == ("negative", "positive")


def test_the_prediction_is_the_most_likely_label_and_the_first_of_equals():
    assert most_likely_label(LabelScores((-2.0, -1.0), (1, 1), 0, 0.0)) == 1
    assert most_likely_label(LabelScores((-1.0, -1.0), (1, 1), 0, 0.0)) == 0


def test_the_embedded_reviews_are_as_their_readme_counts_them():
    data = load(options(DEMO))
    assert (len(data.pool), len(data.samples)) == (618, 312)
    assert (sum(s.gold for s in data.pool), sum(s.gold for s in data.samples)) == (309, 156)
    assert "618 reviews, 2 without" in data.notes[1]
    assert "312 reviews, 1 without" in data.notes[0]
    assert not {s.id for s in data.pool} & {s.id for s in data.samples}


def test_the_real_reviews_load_whole(shared_nsmc):
    test, dropped_test = read_ratings(shared_nsmc / "ratings_test.txt")
    train, dropped_train = read_ratings(shared_nsmc / "ratings_train.txt")
    assert len(test) + dropped_test == 50_000
    assert len(train) + dropped_train == 150_000
    for name, frame in (("ratings_test.txt", test), ("ratings_train.txt", train)):
        notebook = pd.read_csv(shared_nsmc / name, header=0, delimiter="\t", quoting=3).dropna()
        assert frame["document"].tolist() == notebook["document"].tolist()
        assert frame["id"].tolist() == notebook["id"].astype(str).tolist()
        assert frame["label"].tolist() == notebook["label"].tolist()
