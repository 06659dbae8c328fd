"""Standard streams and a current directory as daemons, old locales and other people leave them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from harness.core.foreign import PanicError, panics_as_errors, told
from tests.conftest import KO_TINY, REPO
from tests.simulated_runs import classified_run
from tests.told import call


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return classified_run(tmp_path_factory.mktemp("runs") / "run", ["가", "나", "다"], {("한글", 0): 0.6}, seeds=(1,))


def ended(shell, run_dir, **more):
    command = f"'{sys.executable}' -m harness {shell}".replace("RUN", run_dir)
    environment = {**os.environ, "PYTHONPATH": str(REPO), **more}
    return subprocess.run(["sh", "-c", command], capture_output=True, env=environment, timeout=60)


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-"])
def test_streams_that_are_closed_are_no_fault_and_no_file_takes_their_place(run_dir, closed):
    done = ended(f"show RUN {closed}", run_dir)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_encoding_without_hangul_shows_escapes(run_dir):
    done = ended("show RUN --format csv", run_dir, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0 and b"\\ud55c\\uae00" in done.stdout, done.stderr


def test_a_current_directory_that_is_gone_is_told(run_dir):
    gone = "import os, tempfile; from harness.cli import main; f = tempfile.mkdtemp(); os.chdir(f); os.rmdir(f); main()"
    done = subprocess.run(
        [sys.executable, "-c", gone, "status", run_dir],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 2 and b"error: the current directory cannot be used" in done.stderr, done.stderr


def panic(words):
    return type("PanicException", (BaseException,), {})(words)


def test_the_panic_of_a_library_is_an_error_of_one_line():
    with pytest.raises(PanicError) as raised, panics_as_errors():
        raise panic("index out of bounds\nthe len is 0")
    text, status = told(raised.value)
    assert status == 2 and "index out of bounds the len is 0" in text and "download it again" in text
    with pytest.raises(SystemExit), panics_as_errors():
        raise SystemExit(3)


def test_a_tokenizer_that_is_cut_short_is_told_whenever_it_gives_up(tmp_path):
    folder = shutil.copytree(KO_TINY, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for change in (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                            "pair": [], "special_tokens": {}}},
    ):  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | change))
        done = call("plan", "configs/demo.yaml", f"model.path={folder}", "task.limit=2")
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert (done.status, len(errors), "Traceback" in done.err) == (2, 1, False), done.err


def test_ctrl_c_while_modules_are_loaded_is_no_traceback(tmp_path):
    """Modules that the command line loads come from a folder where loading one of them takes for ever."""
    (tmp_path / "typer.py").write_text(
        "import sys, time\nsys.stdout.write('now')\nsys.stdout.flush()\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPO}"}
    loading = subprocess.Popen(
        [sys.executable, "-m", "harness", "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    assert loading.stdout.read(3) == b"now"
    loading.send_signal(signal.SIGINT)
    _, err = loading.communicate(timeout=30)
    assert (loading.returncode, err) == (-signal.SIGINT, b"")
