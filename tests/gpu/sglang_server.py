"""SGLang's server, where it is installed: its multi-item scoring on the lecture's grid.

One request has one query and many items, which are scored in one pass and do not see each other: here a
query is what the prompts of one K share.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.models import model_folder
from tests.gpu.device import DEVICE, SIZES, free_memory, now
from tests.gpu.served import Grid, grid_with_our_scores
from tests.gpu.steps import Note
from tests.gpu.vllm_engine import report

SETTINGS = (
    "--enable-mis", "--attention-backend", "flashinfer", "--disable-cuda-graph", "--disable-radix-cache",
    "--chunked-prefill-size", "-1",
)  # fmt: skip
"""Multi-item scoring excludes graphs, cache and chunks."""
ITEMS = 64
"""Of one request."""
START_S = 90.0


def compare_sglang(note: Note) -> None:
    """All prompts, K by K, one request after another."""
    dtype = str(SIZES.dtype).removeprefix("torch.")
    with model_folder(SIZES.neox, dtype, DEVICE.type) as folder:
        grid = grid_with_our_scores(folder, dtype)
        free_memory()
        with server(folder, dtype) as address:
            label_logprobs(address, folder, grid)
            started = now()
            found = label_logprobs(address, folder, grid)
            seconds = now() - started
    report(note, grid, found, seconds)


@contextmanager
def server(folder: Path, dtype: str) -> Iterator[str]:
    """A server of the model, ready to answer, at the address that is yielded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    place = ["--model-path", str(folder), "--dtype", dtype, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "sglang.launch_server", *place, *SETTINGS])
    try:
        _until_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def label_logprobs(address: str, folder: Path, grid: Grid) -> np.ndarray:
    """Log-probabilities among the labels' tokens, `(n_prompts, n_labels)`, nats."""
    by_query: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for i, (context, fork, labels) in enumerate(zip(grid.contexts, grid.forks, grid.labels, strict=True)):
        by_query[tuple(context[:fork]), tuple(labels)].append(i)
    found = np.empty((len(grid.contexts), len(grid.labels[0])))
    for (query, labels), prompts in by_query.items():
        for start in range(0, len(prompts), ITEMS):
            part = prompts[start : start + ITEMS]
            answer = _ask(
                f"{address}/v1/score",
                {
                    "model": str(folder),
                    "query": list(query),
                    "items": [grid.contexts[i][len(query) :] for i in part],
                    "label_token_ids": list(labels),
                    "apply_softmax": False,
                    "item_first": False,
                },
            )
            found[part] = np.log(answer["scores"])
    return found


def _until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"SGLang's server ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"SGLang's server was not ready after {START_S:.0f} s")


def _ask(url: str, request: dict[str, Any]) -> Any:
    data = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)
