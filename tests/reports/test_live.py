"""harness report --live: the same page on loopback, which follows the run; nobody else is answered."""

import http.client
import json
import threading
from contextlib import contextmanager

import pytest

from harness.cli.runs import serve_report
from harness.core.errors import ConfigError, RunDirError
from harness.reporting.live import Pages, State, pages_of, serve, state_of
from harness.results.store import RunStore
from tests.reports.pages import SHARES, texts
from tests.simulated_runs import classified_run


@contextmanager
def served(pages):
    """The port of a server that answers while the block runs."""
    with serve(pages, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def asked(port, path="/", host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


class Progress:
    """Pages of a run that only says how far it is."""

    def __init__(self):
        self.state, self.made = State("1", False), 0
        self.pages = Pages(lambda: self.state, self.make)

    def make(self, state):
        self.made += 1
        return f"page {state.key}"


def test_a_page_is_made_once_for_every_state():
    run = Progress()
    with served(run.pages) as port:
        assert [asked(port)[2] for _ in range(3)] == ["page 1"] * 3 and run.made == 1
        assert json.loads(asked(port, "/state")[2]) == {"key": "1", "over": False}
        run.state = State("2", True)
        assert json.loads(asked(port, "/state")[2]) == {"key": "2", "over": True}
        status, headers, text = asked(port, method="HEAD")
        assert (status, headers["Content-Length"], text) == (200, "6", "")
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert asked(port)[2] == "page 2" and run.made == 2


def test_a_page_rests_so_that_the_run_keeps_the_machine(monkeypatch):
    run, now = Progress(), [0.0]
    monkeypatch.setattr("harness.reporting.live.time.monotonic", lambda: now[0])

    def slow(state):
        now[0] += 5
        return run.make(state)

    pages = Pages(lambda: run.state, slow)
    assert pages.newest()[1] == "page 1"
    run.state = State("2", False)
    now[0] += 19
    assert pages.newest()[1] == "page 1" and pages.seen()["key"] == "1", "else the page would reload for nothing"
    now[0] += 2
    assert pages.seen()["key"] == "2" and pages.newest()[1] == "page 2"
    run.state = State("3", True)
    assert pages.newest()[1] == "page 3", "the last page does not wait"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", "[::1]:{port}", ""],
)
def test_requests_under_another_name_are_refused(host):
    run = Progress()
    with served(run.pages) as port:
        wanted = host.format(port=port) or " "
        for path in ("/", "/state"):
            status, _, text = asked(port, path, wanted)
            assert status == 403 and "page" not in text and "key" not in text
        assert asked(port, host=f"localhost:{port}")[0] == 200
    assert run.made == 1


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/manifest.json", "GET", 404), ("/../x", "GET", 404), ("/", "POST", 501)]
)
def test_nothing_but_the_page_is_there(path, method, status):
    with served(Progress().pages) as port:
        assert asked(port, path, method=method)[0] == status


def test_the_server_listens_on_loopback_alone():
    with serve(Progress().pages, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(ConfigError, match="set --port to a free one"):
            serve(Progress().pages, server.server_port)


def test_the_verb_says_where_the_page_is_and_ends_with_ctrl_c(tmp_path, capsys, monkeypatch):
    def stopped(server):
        assert asked_in_thread(server) == 200
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.reporting.live._Server.serve_forever", stopped)
    for status, words in (("running", "the page follows the run"), ("complete", "the page will not change")):
        run = classified_run(tmp_path / status, texts(40), {("clear", 0): 0.6, ("vague", 0): 0.5}, status=status)
        serve_report([run], None, [], "random", 0)
        said = capsys.readouterr().out
        assert said.startswith("http://127.0.0.1:") and words in said and said.endswith("Ctrl-C ends it\n")
    with pytest.raises(ConfigError, match="--live serves the page and writes no file"):
        serve_report([run], "r.html", [], "random", 0)


def asked_in_thread(server):
    """The status of one request, which the server answers by hand."""
    found = []
    thread = threading.Thread(target=lambda: found.append(asked(server.server_port)[0]))
    thread.start()
    server.handle_request()
    thread.join()
    return found[0]


def test_a_run_without_records_is_waited_for(tmp_path):
    run = classified_run(tmp_path / "run", texts(40), SHARES, status="running")
    parts = list((tmp_path / "run" / "parts").iterdir())
    for part in parts:
        part.rename(tmp_path / part.name)
    with served(pages_of([run], [], "random")) as port:
        status, _, text = asked(port)
        assert status == 503 and "no records yet" in text and "http-equiv=refresh" in text
        for part in parts:
            (tmp_path / part.name).rename(part)
        assert asked(port)[0] == 200
    with pytest.raises(RunDirError):
        state_of([str(tmp_path)])


def test_the_page_follows_the_run_to_its_end(chromium, tmp_path):
    run = classified_run(tmp_path / "run", texts(40), SHARES, status="running")
    late = tmp_path / "run" / "parts" / "vague-4-2.parquet"
    late.rename(tmp_path / late.name)
    trouble = []
    with served(pages_of([run], [], "random")) as port:
        page = chromium.new_page()
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#live", has_text="follows it").wait_for()
        assert "280 of 320 records" in page.locator(".warning").inner_text()
        page.get_by_role("searchbox").fill("영화")
        (tmp_path / late.name).rename(late)
        store = RunStore(run)
        store.write_json("manifest.json", {**store.read_json("manifest.json"), "status": "complete"})
        page.get_by_role("button", name="Show them").click(timeout=60_000)
        page.locator("#live", has_text="This run is complete").wait_for()
        assert page.locator(".warning", has_text="records are there").count() == 0
        page.close()
    assert trouble == []
