"""transformers' own server, started for real: the demo's chat template runs against it by generation."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from harness import run
from harness.results.store import RunStore
from tests.servers.running import SMALL, chatty, config, records  # noqa: F401

CHAT = ["task.limit=4", "grid.templates=[chat]", "grid.k=[0,2]", "grid.seeds=[1]", "scoring=generate"]


@pytest.fixture(scope="module")
def serving(chatty):  # noqa: F811
    """The address of `transformers serve` over the embedded model."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs the extra transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(chatty)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen([*command, *options], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, "transformers serve did not start"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [CHAT, [*SMALL, "task.limit=4", "scoring=generate"]], ids=["chat", "plain"])
def test_answers_are_those_of_the_local_engine(tmp_path, chatty, serving, grid):  # noqa: F811
    expected = records(run(config(tmp_path, "local", f"model.path={chatty}", *grid)).run_dir)
    over = ["model.engine=server", f"model.path={chatty}", f"model.served_name={chatty}", f"model.base_url={serving}"]
    found = run(config(tmp_path, "served", *over, *grid, "model.concurrency=2"))
    answers = records(found.run_dir)
    assert answers["error"].isna().all(), answers["error"].dropna().iloc[0]
    assert answers["prediction"].equals(expected["prediction"])
    assert answers["raw_answer"].str.strip().equals(expected["raw_answer"].str.strip())
    facts = RunStore(found.run_dir).read_json("manifest.json")["engines"][str(chatty)]
    assert facts["sends"] == "text"
