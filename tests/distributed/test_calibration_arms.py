"""Prompts without content that `scoring.calibration` asks for: scored with the run, kept apart from its results."""

from __future__ import annotations

import numpy as np
import pytest

from harness import load_records, run
from harness.analysis.calibrate import calibrate, stored_content_free
from harness.core.errors import ConfigError
from harness.core.task import CONTENT_FREE, Sample
from harness.engine.local.scorer import Scorer
from harness.planning.preparation import prepare
from harness.reporting.progress import RunProgress
from harness.running import driver
from tests.distributed.test_resume import part_times


@pytest.fixture
def bars(monkeypatch):
    """The progress of each run, when it is over."""
    found = []

    class Kept(RunProgress):
        def __exit__(self, *error):
            found.append(self)
            super().__exit__(*error)

    monkeypatch.setattr(driver, "RunProgress", Kept)
    return found


def test_an_arm_added_to_a_finished_run_scores_its_own_prompts_only(small_grid, ko_tiny, bars):
    plain = run(small_grid())
    before, records = part_times(plain.run_dir), load_records(plain.run_dir)
    assert stored_content_free(plain.run_dir) == ({}, {})
    config = small_grid("scoring.calibration=[contextual,domain]")
    run(config)
    after = part_times(plain.run_dir)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2 * 2
    assert [bar.n_left == bar.records > 0 for bar in bars] == [True, True], "the time left ends at nothing"
    assert [bar.n_before for bar in bars] == [0, bars[0].records]
    assert load_records(plain.run_dir).equals(records)
    several, empty = stored_content_free(plain.run_dir)
    assert len(several) == len(empty) == 2 * (2 + 2 * 2)
    prepared = prepare(config)
    renderer = prepared.renderer(prepared.models[0], "good_bad", 2)
    samples = [Sample(CONTENT_FREE + text, {"document": text}) for text in ("", "N/A", "[MASK]")]
    prompts = renderer.prompts(samples, 2, [4])
    expected = Scorer(ko_tiny, 2048, False).score([p.ids for p in prompts], [p.label_ids for p in prompts]).logprobs
    key = (config.model.path, "good_bad", 4, 2)
    assert np.allclose(np.sort(several[key], axis=0), np.sort(expected, axis=0), atol=1e-4)
    assert np.allclose(empty[key], expected[0], atol=1e-4)
    found = calibrate(plain.run_dir)
    assert set(found.cells["method"]) == {"batch", "contextual", "PMI_DC", "ensemble"}
    assert (found.cells["n"] == 36).all()


def test_the_domain_alone_needs_one_prompt_per_cell(small_grid):
    result = run(small_grid("scoring.calibration=[domain]", "grid.k=[0]"))
    several, empty = stored_content_free(result.run_dir)
    assert not several
    assert len(empty) == 2 * 2
    assert (result.cells["n_attempted"] == 36).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scoring.calibration=[context]"], "scoring.calibration is 'context'; did you mean 'contextual'"),
        (["scoring.calibration=[domain]", "scoring.method=generate"], "needs label log-probabilities"),
        (["scoring.calibration=[domain]", "demos.policy=per_sample"], "use demos.policy=fixed"),
    ],
)
def test_arms_that_cannot_be_scored_are_refused(small_grid, overrides, message):
    with pytest.raises(ConfigError, match=message):
        prepare(small_grid(*overrides))
