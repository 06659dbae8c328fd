"""The audit: real bfloat16 flips near ties, a packing that is wrong is caught, results are kept."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from harness.analysis.agreement import AnswerAgreement, compare_answers, compare_scores, packing_adds
from harness.api import load_records
from harness.core.errors import NotFiniteError, RunDirError
from harness.engine.local.engine import LoadedModel
from harness.planning.preparation import prepare
from harness.reporting.report.build import write_report
from harness.results.lock import RunLock
from harness.results.store import RunStore
from harness.running import audit as module
from harness.running.audit import NAME, AuditedModel, audit
from harness.running.driver import run
from tests.conftest import REPO


def test_flips_near_ties_and_differences_by_hand():
    reference = np.log([[0.5, 0.4], [0.9, 0.1], [0.45, 0.5]])
    found = reference + np.array([[-0.15, 0.15], [0.0, 0.0], [0.0, 0.0]])
    agreement = compare_scores(reference, found, [0, 0, 1], [1, 0, 1])
    assert (agreement.prompts, agreement.flips, agreement.unusable) == (3, 1, 0)
    assert agreement.largest == pytest.approx(0.15)
    assert agreement.bound == pytest.approx(0.3)
    assert agreement.mean == pytest.approx(0.3 / 6)
    assert agreement.near_ties == 2, "log(0.5/0.4) = 0.22 and log(0.5/0.45) = 0.11 are within 0.3"


def test_what_is_no_number_is_counted_and_leaves_the_rest_readable():
    reference = np.array([[-1.0, -2.0], [-1.0, -2.0]])
    agreement = compare_scores(reference, np.array([[np.nan, -2.0], [-1.0, -2.5]]), [0, 0], [0, 0])
    assert (agreement.unusable, agreement.largest) == (1, 0.5)
    assert packing_adds(agreement, compare_scores(reference, reference - np.array([0.0, 0.5]), [0, 0], [0, 0]))


def scores_off_by(size, n=100):
    reference = np.tile([-1.0, -2.0], (n, 1))
    return compare_scores(reference, reference + size, [0] * n, [0] * n)


@pytest.mark.parametrize(
    ("run_off", "alone_off", "adds"),
    [(0.1, 0.1, False), (0.15, 0.1, False), (0.3, 0.1, True), (1e-5, 0.0, False), (0.01, 0.0, True)],
)
def test_packing_may_differ_about_as_much_as_the_number_format(run_off, alone_off, adds):
    assert packing_adds(scores_off_by(run_off), scores_off_by(alone_off)) is adds


def test_one_prompt_that_is_far_off_is_enough():
    reference = np.tile([-1.0, -2.0], (1000, 1))
    found = reference.copy()
    found[7] += 0.5
    spoilt = compare_scores(reference, found, [0] * 1000, [0] * 1000)
    assert packing_adds(spoilt, scores_off_by(0.05))


@pytest.mark.parametrize(("equal", "adds"), [(95, False), (90, False), (60, True)])
def test_fewer_equal_answers_than_the_number_format_gives_are_told(equal, adds):
    assert packing_adds(AnswerAgreement(100, equal), AnswerAgreement(100, 95)) is adds


def test_answers_are_compared_one_by_one():
    assert compare_answers(["a", "b", "c"], ["a", "x", "c"]) == AnswerAgreement(3, 2)


@pytest.fixture(scope="module")
def bfloat16_audit(tmp_path_factory):
    """A finished run of 10 samples in bfloat16, and its audit over 8 of them."""
    from harness.config.loading import load_config

    out = tmp_path_factory.mktemp("audit")
    options = [f"out={out}", "name=a", "task.limit=10", "model.dtype=bfloat16", "cluster.address=inline",
               "grid.templates=[lecture_1,english]", "grid.k=[0,2]", "grid.seeds=[1,2]"]  # fmt: skip
    config = load_config(REPO / "configs" / "demo.yaml", options)
    run(config)
    return config, audit(config, 8)


def test_bfloat16_differs_prompt_by_prompt_as_much_as_packed(bfloat16_audit):
    _, report = bfloat16_audit
    assert report.n_samples == 8
    assert [a.template for a in report.templates] == ["lecture_1", "english"]
    for found in report.templates:
        assert found.run.prompts == found.alone.prompts == 8 * 3, "K=0 once, K=2 under two seeds"
        assert 1e-3 < found.alone.mean < 0.1, "bfloat16 must show"
        assert found.run.flips <= found.run.near_ties
    assert report.is_well


def test_an_audit_is_kept_in_the_run_directory_and_its_manifest(bfloat16_audit):
    config, report = bfloat16_audit
    store = RunStore(config.run_dir)
    assert report.stored_in == config.run_dir
    stored = store.read_json(NAME)
    assert stored == store.read_json("manifest.json")["audit"]
    assert stored.items() >= json.loads(json.dumps(report.as_dict())).items()
    (engines,) = stored["engines"].values()
    assert [engines[way]["dtype"] for way in ("reference", "alone", "run")] == ["float32", "bfloat16", "bfloat16"]
    assert [engines[way]["shares_prefixes"] for way in ("reference", "alone", "run")] == [False, False, True]


def test_the_report_shows_the_audit(bfloat16_audit, tmp_path):
    config, report = bfloat16_audit
    page = write_report([config.run_dir], str(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert "Number format and packing" in page
    assert f"turned {sum(a.run.flips for a in report.templates)} of 48 audited decisions" in page
    assert "Packing changes no more than the number format does by itself." in page


def test_a_resumed_run_keeps_its_audit(bfloat16_audit):
    config, _ = bfloat16_audit
    before = RunStore(config.run_dir).read_json("manifest.json")["audit"]
    run(config)
    assert RunStore(config.run_dir).read_json("manifest.json")["audit"] == before


def test_an_audit_of_another_configuration_is_refused(bfloat16_audit):
    config, _ = bfloat16_audit
    with pytest.raises(RunDirError, match="holds what this command leaves out: K="):
        audit(replace(config, grid=replace(config.grid, k=[0])), 5)
    with pytest.raises(RunDirError, match=r"another configuration: model\.dtype was 'bfloat16', now 'float32'"):
        audit(replace(config, model=replace(config.model, dtype="float32")), 5)


def test_an_audit_beside_a_going_run_is_refused_before_anything_is_loaded(bfloat16_audit, monkeypatch):
    config, _ = bfloat16_audit

    def never(*args):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(module, "AuditedModel", never)
    with RunLock(RunStore(config.run_dir)), pytest.raises(RunDirError, match="in use by another driver"):
        audit(config, 5)


class Forgetful(AuditedModel):
    """Shares prefixes, and loses the first demonstration tokens on the way."""

    def answer(self, prompts):
        if self.facts.shares_prefixes:
            prompts = [replace(p, ids=p.ids[12:], fork=max(0, p.fork - 12)) if p.k else p for p in prompts]
        return super().answer(prompts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_that_loses_tokens_when_it_packs_is_caught(make_config, tmp_path, monkeypatch, dtype):
    config = make_config(
        out=str(tmp_path), task={"limit": 8}, model={"dtype": dtype},
        grid={"templates": ["lecture_1"], "k": [0, 4], "seeds": [1]},
    )  # fmt: skip
    monkeypatch.setattr(module, "AuditedModel", Forgetful)
    report = audit(config, 8)
    assert not report.is_well
    assert report.stored_in is None
    assert not any(tmp_path.iterdir()), "without a run directory nothing is written"


def test_float32_packed_is_float32(make_config, tmp_path):
    config = make_config(
        out=str(tmp_path), task={"limit": 20}, model={"dtype": "float32"},
        grid={"templates": ["lecture_1"], "k": [0, 4], "seeds": [1]},
    )  # fmt: skip
    (found,) = audit(config, 1000).templates
    assert found.alone.largest == 0
    assert (found.run.flips, found.run.prompts) == (0, 40)
    assert found.run.largest < 1e-4


class Noted(AuditedModel):
    """Keeps what it was asked and what it said."""

    calls: ClassVar[list] = []

    def __init__(self, prepared, setup, dtype, share_prefixes, longest):
        super().__init__(prepared, setup, dtype, share_prefixes, longest)
        self.name = (dtype, share_prefixes)

    def answer(self, prompts):
        answers = super().answer(prompts)
        Noted.calls.append((prompts, answers))
        return answers


@pytest.mark.parametrize(
    ("policy", "share", "templates"),
    [("fixed", True, ["lecture_1"]), ("per_sample", True, ["english"]), ("bank", True, ["good_bad"]),
     ("fixed", False, ["lecture_1"])],
)  # fmt: skip
def test_an_audit_scores_as_the_run_to_the_last_bit(make_config, tmp_path, monkeypatch, policy, share, templates):
    monkeypatch.setattr(Noted, "calls", [])
    monkeypatch.setattr(module, "AuditedModel", Noted)
    config = make_config(
        out=str(tmp_path), task={"limit": 24, "draw": "lecture"}, model={"dtype": "float32"}, demos={"policy": policy},
        engine={"share_prefixes": share}, cluster={"shard_size": 7},
        grid={"templates": templates, "k": [0, 3], "seeds": [1, 2]},
    )  # fmt: skip
    run(config)
    stored = {(r.k, r.seed, r.sample_id): list(r.label_logprobs) for r in load_records(config.run_dir).itertuples()}
    audit(config, 9)
    together = [call for call in Noted.calls if len(call[0]) > 1]
    compared = 0
    for prompts, answers in together:
        for prompt, row in zip(prompts, answers.logprobs.tolist(), strict=True):
            seeds = [seed for seed in (1, 2) if stored.get((prompt.k, seed, prompt.sample.id)) == row]
            assert seeds, (prompt.k, prompt.sample.id)
            compared += 1
    assert compared == 9 * 3


def test_references_are_computed_one_prompt_at_a_time(make_config, tmp_path, monkeypatch):
    """And the run's way in batches, also where it does not share: batches may change what an audit is to find."""
    monkeypatch.setattr(Noted, "calls", [])
    monkeypatch.setattr(module, "AuditedModel", Noted)
    config = make_config(
        out=str(tmp_path), task={"limit": 6}, model={"dtype": "float32"}, engine={"share_prefixes": False},
        grid={"templates": ["english"], "k": [0, 2], "seeds": [1]},
    )  # fmt: skip
    audit(config, 6)
    assert [len(prompts) for prompts, _ in Noted.calls] == [1] * 24 + [12]


def test_prompts_without_numbers_are_counted_in_an_audit(make_config, tmp_path, monkeypatch):
    """A number format that overflows on some prompts must not end the audit that is to show it."""

    whole = LoadedModel.score

    def score(self, prompts, prepared=None):
        if self.facts.shares_prefixes and any(sum(prompt.ids) % 3 == 0 for prompt in prompts):
            raise NotFiniteError("NaN")
        return whole(self, prompts, prepared)

    monkeypatch.setattr(LoadedModel, "score", score)
    config = make_config(
        out=str(tmp_path), task={"limit": 12}, model={"dtype": "float32"},
        grid={"templates": ["english"], "k": [0, 2], "seeds": [1]},
    )  # fmt: skip
    (found,) = audit(config, 12).templates
    assert 0 < found.run.unusable < 24
    assert found.alone.unusable == 0
    assert found.packing_adds


def test_generated_answers_are_compared_as_text(make_config, tmp_path):
    config = make_config(
        out=str(tmp_path), task={"name": "korquad1", "data_dir": "data_in/korquad_demo", "limit": 4},
        model={"dtype": "float32"}, generation={"max_new_tokens": 6}, demos={"max_tokens": None},
        grid={"templates": ["korean"], "k": [0], "seeds": [1]},
    )  # fmt: skip
    (found,) = audit(config, 4).templates
    assert found.run == found.alone == AnswerAgreement(4, 4)


def test_bfloat16_flips_decisions_of_the_embedded_model_where_labels_nearly_tie(make_config, write_nsmc):
    """The reviews that float32 finds hardest to decide, found anew on every machine."""
    grid = {"templates": ["good_bad", "lecture_2"], "k": [0], "seeds": [1]}
    prepared = prepare(make_config(grid=grid))
    (setup,) = prepared.models
    engine, hardest = AuditedModel(prepared, setup, "float32", True, 500), {}
    for name in grid["templates"]:
        found = engine.answer(prepared.renderer(setup, name, 1).prompts(prepared.data.samples, 1, [0]))
        margins = np.abs(found.logprobs[:, 0] - found.logprobs[:, 1])
        hardest |= {prepared.data.samples[i].id: prepared.data.samples[i] for i in np.argsort(margins)[:3]}
    rows = [(s.id, s.fields["document"], s.gold) for s in hardest.values()]
    folder = write_nsmc([(f"t{i}", text, i % 2) for i, text in enumerate(["좋아요", "싫어요"])], rows)
    report = audit(make_config(task={"data_dir": str(folder)}, model={"dtype": "bfloat16"}, grid=grid), 100)
    assert sum(a.run.flips for a in report.templates) > 0
    assert all(a.run.flips <= a.run.near_ties for a in report.templates)
    assert report.is_well
