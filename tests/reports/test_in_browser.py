"""The report in a browser: themes, widths, keyboard, filters; no error, no request."""

import pytest

from harness.reporting.report.build import write_report
from tests.reports.pages import ODD, N, texts
from tests.simulated_runs import classified_run


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_in_both_themes_without_errors_or_requests(open_page, theme, width):
    page = open_page(theme=theme, width=width)
    assert page.trouble == []
    assert page.title() == "nsmc: simulated – prompt strategies compared"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    red = page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(red) < 60) == (theme == "dark")


def test_the_button_changes_the_theme_of_page_and_charts(open_page):
    page = open_page()
    button = page.get_by_role("button", name="theme")
    assert button.inner_text() == "Use dark theme"
    tick = "getComputedStyle(document.querySelector('[data-chart] .xtick text')).fill"
    before = page.evaluate("getComputedStyle(document.body).color"), page.evaluate(tick)
    button.click()
    assert button.inner_text() == "Use light theme"
    page.wait_for_function(f"{tick} !== '{before[1]}'")
    assert page.evaluate("getComputedStyle(document.body).color") != before[0]
    button.click()
    page.wait_for_function(f"{tick} === '{before[1]}'")
    assert page.trouble == []


def test_filters_and_search_narrow_the_samples(open_page, soup):
    page = open_page()
    chips = {chip.input["value"]: int(chip.b.get_text()) for chip in soup.select(".chip")}
    for kind, number in chips.items():
        page.locator(f"input[name=kind][value='{kind}']").check()
        found = "samples" if number != 1 else "sample"
        assert page.locator("#sample-count").inner_text() == f"{number} {found} of the {N} in this file"
        assert page.locator("#sample-list > li").count() == min(number, 25)
    page.locator("input[name=kind][value='']").check()
    page.get_by_role("searchbox").fill("영화 17 재미")
    assert page.locator("#sample-list > li").count() == 1
    page.get_by_role("searchbox").fill("IMG SRC")
    assert page.locator("#sample-list > li").count() == 1
    page.get_by_role("searchbox").fill("없는 낱말")
    assert page.locator("#sample-count").inner_text().startswith("0 samples")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Later").press("Enter")
    assert page.locator("#sample-page").inner_text() == "Page 2 of 10"
    assert page.trouble == []


def test_a_script_in_a_review_is_shown_as_text_and_never_runs(open_page):
    page = open_page()
    rows = page.locator("#sample-list > li")
    for place, text in enumerate(ODD):
        rows.nth(place).locator("summary").click()
        assert text in rows.nth(place).locator(".full").first.text_content()
    rows.nth(5).locator("summary").press("Enter")
    assert "failed: ValueError: <b>broken</b>" in rows.nth(5).locator("table").text_content()
    assert page.locator("#samples img, #samples b b").count() == 0
    assert "pwned" not in page.title()
    assert page.trouble == []


def test_a_script_that_is_slipped_in_is_blocked_by_the_policy(open_page):
    page = open_page()
    page.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'document.title = `pwned`';"
        " document.body.append(s); })()"
    )
    assert "pwned" not in page.title()
    assert any("Content Security Policy" in text for text in page.trouble)


def test_generated_answers_open_with_their_values(open_page, answered, tmp_path):
    path = write_report([answered], str(tmp_path / "answered.html"))
    page = open_page(path)
    page.locator("#sample-list summary").first.click()
    table = page.locator("#sample-list table").first
    assert "exact match" in table.inner_text()
    assert table.locator("tbody tr").count() == 4
    assert page.trouble == []


def test_long_names_are_not_cut_off_by_the_edge_of_a_phones_screen(open_page, tmp_path):
    shares = {(name, k): 0.7 for name in ("a_name_that_no_phone_has_room_for", "b") for k in (0, 4, 8)}
    run = classified_run(tmp_path / "long", texts(), shares)
    page = open_page(write_report([run], str(tmp_path / "long.html")), width=360)
    hidden = page.evaluate(
        """[...document.querySelectorAll('[data-chart]')].filter((p) => !p.closest('.wide')).flatMap((p) =>
        [...p.querySelectorAll('.ytick text')].filter((t) =>
          t.getBoundingClientRect().left < p.getBoundingClientRect().left).map((t) => t.textContent))"""
    )
    assert hidden == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_everything_that_scrolls_or_acts_can_be_reached_by_keyboard(open_page):
    page = open_page(width=360)
    unreachable = page.evaluate(
        """[...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth + 1
        && /auto|scroll/.test(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"""
    )
    assert unreachable == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the results"
