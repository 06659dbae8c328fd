"""Engines by name: the example of docs/adding_an_engine.md, what is refused, and what an engine decides."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys

import numpy as np
import pytest

from harness import load_records, run
from harness.config.loading import load_config
from harness.core.errors import BrokenDeviceError, ConfigError
from harness.engine import protocol
from harness.engine.registry import KIND, describe, find_engine
from harness.planning.identity import grid_identity
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from harness.planning.units import make_plan
from tests import fake_engine, forked
from tests.conftest import KO_TINY, REPO

GUIDE = (REPO / "docs" / "adding_an_engine.md").read_text(encoding="utf-8")
FAKE = "model.engine=tests.fake_engine:ENGINE"
SMALL = ["task.limit=12", "grid.templates=[lecture_1,good_bad]", "grid.k=[0,2]", "grid.seeds=[1]"]


def config(out, *overrides):
    return load_config("configs/demo.yaml", [f"out={out}", "cluster.address=inline", *SMALL, *overrides])


def harness(*arguments, **environment):
    return forked.run([sys.executable, "-m", "harness", *arguments], cwd=REPO, env={**os.environ, **environment})


def test_the_example_runs_the_demo_by_the_command_that_is_printed(tmp_path):
    (command,) = re.findall(r"^    PYTHONPATH=examples harness (.*)$", GUIDE, re.MULTILINE)
    path = os.pathsep.join([str(REPO / "examples"), str(REPO)])
    done = harness(*shlex.split(command), f"out={tmp_path}", "cluster.address=inline", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    records = load_records(str(tmp_path / "echo"))
    assert records["error"].isna().all()
    assert np.allclose(np.exp(np.stack(records["label_logprobs"])).sum(1), 1)
    shown = records[(records["k"] > 0)]
    assert shown["prediction"].nunique() == 2, "demonstrations decide"
    assert len((REPO / "examples" / "echo_engine.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_the_example_writes_answers_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "examples"))
    overrides = ["model.engine=echo_engine:ENGINE", "task.limit=6", "generation.max_new_tokens=5", "generation.stop=[]"]
    given = [f"out={tmp_path}", "cluster.address=inline", "grid.templates=[context_question]", "grid.k=[0]", *overrides]
    records = load_records(run(load_config("configs/korquad_demo.yaml", given)).run_dir)
    assert records["error"].isna().all()
    assert set(records["n_generated_tokens"]) == {5}
    assert records["raw_answer"].str.endswith("답:").all(), "the end of the prompt"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("locall", r"no engine 'locall'; did you mean 'local'\?"),
        ("no_such_module:ENGINE", "engine 'no_such_module:ENGINE': cannot import module 'no_such_module'"),
        ("a b:ENGINE", "names no module; expected module:attribute, such as my_engine:ENGINE"),
        ("tests.fake_engine:NONE", "'NONE' in 'tests.fake_engine' is a NoneType, expected an engine"),
        ("tests.fake_engine:FAKE", "'FAKE' in 'tests.fake_engine' is a NoneType, expected an engine"),
        ("tests.fake_engine:hashlib", "'hashlib' in 'tests.fake_engine' is a module, expected an engine"),
        ("tests.fake_engine:FakeModel", "'FakeModel' in 'tests.fake_engine' is a FakeModel, expected an engine"),
    ],
)
def test_a_name_that_is_no_engine_is_refused_before_anything_is_loaded(tmp_path, name, message):
    for verb in (prepare, make_report, run):
        with pytest.raises(ConfigError, match=message):
            verb(config(tmp_path, f"model.engine='{name}'"))


def test_the_command_line_says_it_in_one_line(tmp_path):
    done = harness("run", "configs/demo.yaml", f"out={tmp_path}", "model.engine=lokal")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: no engine 'lokal'; did you mean 'local'? (or give module:attribute)"]


def test_a_function_may_give_the_engine():
    assert isinstance(find_engine("tests.fake_engine:FakeEngine"), fake_engine.FakeEngine)
    assert "local" in KIND.registered()


def test_an_engine_that_cannot_compare_labels_is_refused_for_them_alone(tmp_path, monkeypatch):
    whole = fake_engine.FakeEngine.describe
    only = frozenset({protocol.GENERATE})
    monkeypatch.setattr(
        fake_engine.FakeEngine, "describe", lambda self, model: dataclasses.replace(whole(self, model), methods=only)
    )
    expected = "its engine 'tests.fake_engine:ENGINE' can generate, but the run's method is likelihood"
    with pytest.raises(ConfigError, match=expected):
        run(config(tmp_path, FAKE))
    assert prepare(config(tmp_path, FAKE, "scoring=generate")).method == "generate"


def test_results_of_engines_are_kept_apart(tmp_path):
    local, fake = (prepare(config(tmp_path, *overrides)) for overrides in ([], [FAKE]))
    ids = [{unit.id for unit in make_plan(prepared, 12).units} for prepared in (local, fake)]
    assert ids[0].isdisjoint(ids[1])
    assert "engines" not in grid_identity(local), "runs that began before there were others named none"
    assert grid_identity(fake)["engines"] == {"data_in/models/ko-tiny": "tests.fake_engine:ENGINE"}


def test_a_model_that_its_engine_knows_little_of_can_be_planned(tmp_path):
    report = make_report(config(tmp_path, FAKE))
    assert report.memory == ()
    assert [length.parameters for length in report.lengths] == [None]


def test_a_prompt_that_an_engine_fails_on_is_found_alone_and_a_broken_device_ends_the_run(tmp_path, monkeypatch):
    victim = prepare(config(tmp_path)).data.samples[3].id

    def fails(error):
        def score(self, prompts, prepared=None):
            if any(prompt.family == victim for prompt in prompts):
                raise error
            return whole(self, prompts, prepared)

        return score

    whole = fake_engine.FakeModel.score
    monkeypatch.setattr(fake_engine.FakeModel, "score", fails(RuntimeError("poison")))
    records = load_records(run(config(tmp_path, FAKE)).run_dir)
    failed = records[records["error"].notna()]
    assert set(failed["sample_id"]) == {victim}
    assert len(failed) == 4
    monkeypatch.setattr(fake_engine.FakeModel, "score", fails(BrokenDeviceError("gone")))
    with pytest.raises(BrokenDeviceError, match="gone"):
        run(config(tmp_path, FAKE, "name=broken"))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda found: dataclasses.replace(found, logprobs=found.logprobs[:-1]), "EngineError"),
        (lambda found: dataclasses.replace(found, logprobs=found.logprobs[:, :1]), "EngineError"),
        (lambda found: dataclasses.replace(found, argmax=found.argmax[:0]), "EngineError"),
        (lambda found: dataclasses.replace(found, off_label_mass=found.off_label_mass[:0]), "EngineError"),
        (lambda found: dataclasses.replace(found, logprobs=found.logprobs * np.nan), "NotFiniteError"),
        (lambda found: dataclasses.replace(found, off_label_mass=found.off_label_mass + np.inf), "NotFiniteError"),
    ],
)
def test_an_answer_that_does_not_fit_its_prompts_is_never_recorded(tmp_path, monkeypatch, spoil, kind):
    victim = prepare(config(tmp_path)).data.samples[3].id
    whole = fake_engine.FakeModel.score

    def score(self, prompts, prepared=None):
        found = whole(self, prompts, prepared)
        return spoil(found) if any(prompt.family == victim for prompt in prompts) else found

    monkeypatch.setattr(fake_engine.FakeModel, "score", score)
    records = load_records(run(config(tmp_path, FAKE)).run_dir)
    failed = records[records["error"].notna()]
    assert set(failed["sample_id"]) == {victim}
    assert set(failed["error_type"]) == {kind}
    assert failed["label_logprobs"].isna().all()


def test_fewer_answers_than_prompts_are_never_recorded(tmp_path, monkeypatch):
    def generate(self, prompts, ending):
        return protocol.Generations([[5]] * (len(prompts) - 1), ["end"] * (len(prompts) - 1), 0, 0)

    monkeypatch.setattr(fake_engine.FakeModel, "generate", generate)
    records = load_records(run(config(tmp_path, FAKE, "scoring=generate", "run.max_failed_share=1")).run_dir)
    assert set(records["error"]) == {"the engine gave 0 answers to 1 prompts"}


def test_the_local_engine_is_described_as_its_files_say():
    entry = load_config("configs/demo.yaml", [f"model.path={KO_TINY}", "model.max_length=100"]).entries[0]
    found = describe(entry)
    assert (found.name, found.context_length, found.model) == (str(KO_TINY), 100, entry)
    assert found.parameters and found.loaded["files"]
    assert found.fixed == entry, "a folder does not move"
