"""A user's task that changes between the sessions of a run without a new version is named: its records were judged by
other code."""

import importlib
import logging
import sys

import pytest

from harness import run
from harness.analysis.summary import summarise, table_notes
from harness.config.loading import config_from
from harness.core.task import find_task, registered_tasks
from harness.core.task_code import code_of, n_codes
from tests.conftest import KO_TINY

SOURCE = '''"""{doc}"""
from harness.core.task import Sample, Task, TaskData

def load(config):
    """Sums."""
    samples = [Sample(str(n), {{"q": f"{{n}} 더하기 1"}}, answers=(str(n + 1),)) for n in range(8)]
    return TaskData(samples, samples[:5], "q")

def right(answer, sample):
    return float({rule})

TASK = Task("sums", "1", "", None, (), load, answer_metrics={{"right": right}})
'''
RULE, OTHER = "answer == sample.answers[0]", "answer.strip() == sample.answers[0]"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module, and imports it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(rule=RULE, doc="Sums.", more=""):
        sys.modules.pop("my_sums", None)
        (tmp_path / "my_sums.py").write_text(SOURCE.format(rule=rule, doc=doc) + more, encoding="utf-8")
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return importlib.import_module("my_sums").TASK
        finally:
            sys.dont_write_bytecode = before

    yield write
    sys.modules.pop("my_sums", None)


def test_comments_layout_and_docstrings_are_no_other_code(module):
    before = code_of(module())
    assert before and before == code_of(module(doc="Sums of numbers.", more="\n# A remark.\n"))
    assert before != code_of(module(rule=OTHER))
    assert before != code_of(module(more="MORE = 1\n"))


def test_tasks_that_come_with_the_package_have_versions_alone():
    assert {code_of(find_task(name)) for name in registered_tasks()} == {None}


def test_codes_are_counted_within_one_version_of_python():
    assert n_codes([None, "3.11:a", "3.12:b", None]) == 1
    assert n_codes(["3.11:a", "3.12:b", "3.11:c"]) == 2
    assert n_codes([]) == 0


def config(tmp_path, k):
    (tmp_path / "t.yaml").write_text("t: {query: '{q} 답:', answer: ' {answer}'}", encoding="utf-8")
    return config_from(
        {
            "name": "sums",
            "out": str(tmp_path / "out"),
            "model": {"path": str(KO_TINY), "engine": "tests.fake_engine:ENGINE"},
            "task": {"name": "my_sums:TASK", "data_dir": str(tmp_path), "templates_file": str(tmp_path / "t.yaml")},
            "grid": {"templates": ["t"], "k": k},
            "demos": {"max_tokens": None},
            "cluster": {"address": "inline"},
            "generation": {"max_new_tokens": 2},
        }
    )


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, module, caplog):
    module()
    done = run(config(tmp_path, [0]))
    module(doc="Sums, again.")
    with caplog.at_level(logging.WARNING):
        run(config(tmp_path, [0, 1]))
        assert "has changed since this run began" not in caplog.text
        module(rule=OTHER)
        # Nothing is left to judge.
        run(config(tmp_path, [0, 1]))
        assert "has changed since this run began" not in caplog.text
        run(config(tmp_path, [0, 1, 2]))
    assert "the code of task 'sums' has changed since this run began, its version is still '1'" in caplog.text
    notes = table_notes(done.run_dir, summarise(done.run_dir))
    assert "- records are judged by 2 versions of the task's code, which changed between sessions" in notes
