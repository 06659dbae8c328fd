"""From an unknown table to the figures of a grid: `harness init`, `harness run`, for files of six kinds."""

import csv
import json

import openpyxl
import pandas as pd
import pytest
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.config.loading import load_config
from tests.conftest import KO_TINY

REVIEWS = ["최고의 영화, 다시 본다", "정말\n지루하다", '배우가 "좋다"', "돈이 아깝다", "NA", "잠만 잤다,\n정말로"]
N = 36


def three_classes(folder):
    """Commas, line breaks and quotation marks in quotes."""
    path = folder / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows([f"{REVIEWS[i % 6]} {i}", ("good", "bad", "so so")[i % 3]] for i in range(N))
    return path, ["--label", "sentiment"], ("bad", "good", "so so")


def cp949(folder):
    path = folder / "문의.tsv"
    lines = ["제목\t갈래", *(f"배송이 늦어요 {i}\t{('문의', '불만')[i % 2]}" for i in range(N))]
    path.write_bytes("\r\n".join(lines).encode("cp949"))
    return path, ["--encoding", "cp949"], ("문의", "불만")


def nested(folder):
    path = folder / "nested.jsonl"
    rows = [
        {"id": f"n{i}", "meta": {"text": REVIEWS[i % 6], "year": i}, "out": {"label": "ab"[i % 2]}} for i in range(N)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path, ["--label", "out.label"], ("a", "b")


def sheet(folder):
    book = openpyxl.Workbook()
    book.active.append(["번호", "글", "별점"])
    for i in range(N):
        book.active.append([i, f"{REVIEWS[i % 6]} {i}", 1 + i % 3])
    book.save(folder / "sheet.xlsx")
    return folder / "sheet.xlsx", ["--label", "별점"], ("1", "2", "3")


def parquet(folder):
    path = folder / "news.parquet"
    pd.DataFrame(
        {"title": [f"제목 {i}" for i in range(N)], "topic": [("정치", "경제")[i % 2] for i in range(N)]}
    ).to_parquet(path)
    return path, ["--label", "topic"], ("경제", "정치")


def booleans(folder):
    path = folder / "truth.json"
    path.write_text(json.dumps([{"claim": f"주장 {i}", "is_true": i % 2 == 0} for i in range(N)]), encoding="utf-8")
    return path, ["--label", "is_true"], ("false", "true")


KINDS = [
    three_classes,
    *(pytest.param(make, marks=pytest.mark.slow) for make in (cp949, nested, sheet, parquet, booleans)),
]


@pytest.mark.parametrize("make", KINDS)
def test_two_commands_lead_from_a_table_to_figures(tmp_path, monkeypatch, make):
    path, words, classes = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["init", str(path), *words])
    assert told.exit_code == 0, told.output
    grid = next(tmp_path.glob("*_grid.yaml"))
    own = [f"model.path={KO_TINY}", "model.dtype=float32", "cluster.address=inline", "grid.seeds=[1]"]
    result = harness.run(load_config(grid, own))
    assert result.failed_share == 0
    samples = harness.load_samples(result.run_dir)
    records = harness.load_records(result.run_dir)
    cells = result.cells
    assert len(cells) == cells["template"].nunique() * cells["k"].nunique() >= 3
    assert len(records) == len(samples) * len(cells)
    assert set(samples["gold"]) == set(range(len(classes)))
    assert (cells["n_scored"] == len(samples)).all()
    assert 0.6 * N <= len(samples) < N, "a share is put aside for demonstrations"
    assert harness.plan(load_config(grid, own)).n_samples == len(samples)
