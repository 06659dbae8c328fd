"""Every click of the report: what it shows of the samples, of tables and of prompts."""

import numpy as np
import pytest

from harness.reporting.report.gathering import gather
from harness.reporting.report.groups import groups_of, per_sample
from harness.reporting.report.slices import slices_of
from tests.reports.pages import N, rows_of


@pytest.fixture(scope="module")
def data(run_dir):
    return gather([run_dir])


def cells_of(data, label):
    (group,) = [group for group in groups_of(data) if group.label == label]
    return data.answers.value[list(group.cells)]


def wrong_under(data, label):
    return {s for s, own in zip(data.answers.sample_ids, cells_of(data, label).T, strict=True) if (own < 1).any()}


def right_under(data, label):
    values = cells_of(data, label).T
    return {
        s for s, own in zip(data.answers.sample_ids, values, strict=True) if (own == 1).any() and not (own < 1).any()
    }


def shown(page):
    """The ids that the samples' list has, over all of its pages, in order."""
    ids = []
    while True:
        ids += [text.strip() for text in page.locator("#sample-list .id").all_inner_texts()]
        if page.locator("#sample-next").is_disabled():
            return ids
        page.locator("#sample-next").click()


def click_cell(page, chart, row, column):
    """Click the middle of a heatmap's cell, given by its place."""
    place = page.locator(f"[data-chart='{chart}']")
    place.scroll_into_view_if_needed()
    at = place.evaluate(
        """(p, [row, column]) => { const { xaxis, yaxis } = p._fullLayout;
        return [xaxis._offset + xaxis.c2p(column), yaxis._offset + yaxis.c2p(row)]; }""",
        [row, column],
    )
    place.click(position={"x": at[0], "y": at[1]})


def test_a_cell_of_the_heatmap_shows_its_errors_worst_first(open_page, data):
    page = open_page()
    click_cell(page, "heatmap-0-0", 1, 1)
    page.locator("#sample-count", has_text="wrong under").wait_for()
    assert page.evaluate("document.activeElement.id") == "sample-count"
    found = shown(page)
    assert set(found) == wrong_under(data, "vague K=4")
    wrong = (cells_of(data, "vague K=4") < 1).sum(axis=0)
    counts = [wrong[data.answers.sample_ids.index(sample)] for sample in found]
    assert counts == sorted(counts, reverse=True) and set(counts) == {1, 2}
    assert "wrong under vague K=4" in page.locator("#sample-count").inner_text()
    assert page.trouble == []


def test_a_pair_shows_what_one_has_right_and_the_other_wrong(open_page, data):
    page = open_page()
    labels = data.strategies["label"].tolist()
    click_cell(page, "differences", 0, 3)
    page.locator("#sample-count", has_text="right under").wait_for()
    wanted = right_under(data, labels[0]) & wrong_under(data, labels[3])
    assert wanted and set(shown(page)) == wanted
    page.get_by_role("button", name="Swap right and wrong").click()
    other = right_under(data, labels[3]) & wrong_under(data, labels[0])
    assert other and set(shown(page)) == other
    page.get_by_role("button", name="Show all").click()
    page.locator("#sample-count", has_text=f"{N} samples of").wait_for()
    assert page.trouble == []


def test_tables_ask_the_same_by_keyboard(open_page, data):
    page = open_page()
    page.locator("#heatmap details.fold > summary").first.press("Enter")
    page.locator("#heatmap tbody tr").nth(0).locator(".pick").nth(0).press("Enter")
    assert set(shown(page)) == wrong_under(data, "clear K=0")
    page.locator("#ranking tbody .pick").nth(3).press("Enter")
    assert set(shown(page)) == wrong_under(data, data.strategies["label"][3])
    page.locator("#differences details.fold > summary").first.press("Enter")
    row = page.locator("#differences tbody tr").first
    first, second = row.locator("th").inner_text(), row.locator("td").first.inner_text()
    row.locator(".pick").press("Enter")
    assert set(shown(page)) == right_under(data, first) & wrong_under(data, second)
    assert page.trouble == []


def test_a_part_of_the_samples_shows_its_errors(open_page, data):
    page = open_page()
    click_cell(page, "slices", 1, 0)
    page.locator("#sample-count", has_text="wrong under").wait_for()
    assert page.locator("#sample-slice").input_value() == "0"
    gold = dict(zip(data.answers.sample_ids, data.answers.gold.tolist(), strict=True))
    assert set(shown(page)) == {s for s in wrong_under(data, data.strategies["label"][1]) if gold[s] == 0}
    assert page.trouble == []


def test_parts_of_the_samples_add_up_to_the_score(data, soup):
    slices, rows = slices_of(data), rows_of(soup, "Accuracy on parts of the samples")
    assert [one.name for one in slices[:2]] == data.class_names and len(slices) > 3
    common = np.isfinite([per_sample(data, group) for group in groups_of(data)]).all(axis=0)
    for row, mean in zip(rows, data.strategies["mean"], strict=True):
        for parts in (slices[:2], slices[2:]):
            sizes = [(one.samples & common).sum() for one in parts]
            figures = [row[one.name][1] for one in parts]
            assert np.average(figures, weights=sizes) == pytest.approx(mean)
    best = {row["Samples"][0]: row for row in rows_of(soup, "The best, clear K=4, on parts")}
    assert [best[one.name]["Accuracy"][1] for one in slices] == [rows[0][one.name][1] for one in slices]


def test_wrong_strategies_stand_first_in_a_sample(open_page):
    page = open_page()
    page.locator("input[name=kind][value=disagree]").check()
    page.locator("#sample-list summary").first.click()
    table = page.locator("#sample-list table").first
    table.wait_for()  # it is drawn when the browser tells of the opening, after the click
    results = table.locator("tbody td:nth-child(2)").all_inner_texts()
    assert results == sorted(results, key=lambda text: "✗" not in text) and len(set(results)) > 1
    assert page.trouble == []


def test_a_columns_title_sorts_the_table(open_page, data):
    page = open_page()
    table = page.locator("#ranking table")
    names = table.locator("tbody th")
    before = names.all_inner_texts()
    table.get_by_role("button", name="Accuracy").press("Enter")
    assert names.all_inner_texts() == before
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("Accuracy")
    table.get_by_role("button", name="Accuracy").click()
    assert names.all_inner_texts() == before[::-1]
    table.get_by_role("button", name="Strategy").click()
    assert names.all_inner_texts() == sorted(before)
    tokens = dict(zip(data.strategies["label"], data.strategies["tokens"], strict=True))
    table.get_by_role("button", name="Tokens").click()
    found = [tokens[name] for name in names.all_inner_texts()]
    assert found == sorted(found, reverse=True)
    assert page.locator("th[aria-sort]").count() == 1
    assert page.trouble == []
