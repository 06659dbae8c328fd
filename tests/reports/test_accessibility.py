"""axe-core finds no fault on a page, in both themes and on a phone; it is not installed with the tests."""

import pytest

from tests.conftest import REPO
from tests.reports.conftest import DRAWN

AXE = REPO / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_fault(chromium, html, tmp_path, theme, width):
    if not AXE.is_file():
        pytest.skip("no axe-core in the repository: npm install --no-save axe-core")
    (tmp_path / "r.html").write_text(html, encoding="utf-8")
    # The policy of the page allows no script but its own.
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"file://{tmp_path / 'r.html'}")
    page.wait_for_function(DRAWN)
    page.locator("#sample-list summary").first.click()
    page.locator("details.fold > summary").evaluate_all("(found) => found.forEach((one) => one.click())")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    context.close()
    assert [(fault["impact"], fault["id"], fault["nodes"][0]["html"]) for fault in faults] == []


def test_a_printed_page_has_whole_tables_and_no_buttons(open_page):
    page = open_page()
    page.emulate_media(media="print")
    assert page.locator("#theme").is_hidden() and page.locator(".copies").first.is_hidden()
    heights = "[...document.querySelectorAll('.sheet')].filter((e) => e.scrollHeight > e.clientHeight + 1).length"
    assert page.evaluate(heights) == 0
