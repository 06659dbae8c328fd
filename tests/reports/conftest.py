"""Fixtures of reports: runs, their pages, and Chromium to open them in."""

import shutil

import pytest
from bs4 import BeautifulSoup

from harness.reporting.report.build import write_report
from tests.reports.pages import EVERY_CELL, FAILED, SHARES, texts
from tests.simulated_runs import answered_run, classified_run

DRAWN = "[...document.querySelectorAll('[data-chart]')].every((p) => p.querySelector('.main-svg'))"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return classified_run(tmp_path_factory.mktemp("runs") / "main", texts(), SHARES, failed=FAILED)


@pytest.fixture(scope="session")
def answered(tmp_path_factory):
    return answered_run(tmp_path_factory.mktemp("runs") / "answered")


@pytest.fixture(scope="session")
def html(run_dir, tmp_path_factory):
    return write_report([run_dir], str(tmp_path_factory.mktemp("out") / "r.html")).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def soup(html):
    return BeautifulSoup(html, "html.parser")


@pytest.fixture(scope="session")
def cell_soup(run_dir, tmp_path_factory):
    """The report in which every draw is a strategy of its own."""
    path = write_report([run_dir], str(tmp_path_factory.mktemp("out") / "cells.html"), EVERY_CELL)
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def chromium():
    """Chromium through playwright."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine, e.g. apt-get install chromium")
    with sync.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(chromium, html, answered, tmp_path):
    """A function from a theme and a width to the open report; what went wrong is in `trouble`."""
    (tmp_path / "r.html").write_text(html, encoding="utf-8")
    pages = []

    def opened(path=None, theme="light", width=1280):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        pages.append(page)
        page.trouble = []
        page.on("console", lambda m: page.trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.trouble.append(str(e)))
        page.on("request", lambda r: page.trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.goto(f"file://{path or tmp_path / 'r.html'}")
        page.wait_for_function(DRAWN)
        return page

    yield opened
    for page in pages:
        page.close()
