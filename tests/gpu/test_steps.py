"""The steps tell right from wrong: kernels that compute something else, and records that were not written."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from harness.engine.local.attention.choice import PARTS
from harness.engine.local.scorer import Scorer
from harness.results.store import RunStore
from tests.gpu import generation, parity
from tests.gpu.device import GPU
from tests.gpu.end_to_end import make_units, render_units, run_units
from tests.gpu.lecture import fewest_tokens
from tests.gpu.reviews import lecture_grid
from tests.gpu.steps import WrongError
from tests.gpu.waits import CountingKernel
from tests.scoring import random_grid


class BentKernel:
    """Attends as the parts do, and then changes what it found."""

    name = "bent"

    def __init__(self, change):
        self.change = change

    def begin(self, *arguments):
        state = PARTS.begin(*arguments)
        attend = state.attend
        state.attend = lambda *inputs: self.change(attend(*inputs))
        return state


def cannot(output):
    raise RuntimeError("no such\nkernel")


KERNELS = {
    "absent": "this device has none",
    "raising": BentKernel(cannot),
    "parts": PARTS,
    "bent": BentKernel(lambda output: output * 1.5),
}  # fmt: skip


def test_packs_are_counted_by_a_kernel_that_is_otherwise_the_same(random_models):
    contexts, labels = random_grid(65, n_queries=2)
    kernel = CountingKernel(PARTS)
    counted = Scorer(random_models["llama"], 128, True, kernel).score(contexts, labels)
    assert kernel.packs > 2
    assert np.array_equal(counted.logprobs, Scorer(random_models["llama"], 128, True).score(contexts, labels).logprobs)


@pytest.mark.parametrize("step", [parity.gpt_neox, generation.answers_of_transformers])
def test_a_kernel_that_computes_something_else_is_told_from_the_others(monkeypatch, step):
    module = parity if step is parity.gpt_neox else generation
    dtypes = {torch.float32: 1e-3} if isinstance(module.DTYPES, dict) else (torch.float32,)
    monkeypatch.setattr(module, "DTYPES", dtypes)
    monkeypatch.setattr(module, "SETTINGS", {"gpt_neox": {}})
    monkeypatch.setattr(module, "kernels_for", lambda *_: dict(KERNELS))
    found = {}
    with pytest.raises(WrongError) as error:
        step(found.__setitem__)
    wrong = str(error.value)
    assert "raising: RuntimeError: no such kernel" in wrong
    assert "bent: " in wrong
    assert "parts: " not in wrong
    assert {name.rsplit(" ", 1)[1] for name in found} >= set(KERNELS)


@pytest.fixture
def grid(ko_tokenizer):
    return replace(lecture_grid(ko_tokenizer, 2048, 5), ks=(0, 2))


def test_the_grid_has_as_many_reviews_as_a_gpu_is_measured_with(ko_tokenizer):
    assert len(lecture_grid(ko_tokenizer, 2048, GPU.samples).samples) == GPU.samples >= 500


def test_units_cover_the_grid_with_k_0_under_the_first_seed_only(grid):
    units = make_units(grid, (1, 2), 3)
    assert [(unit.seed, unit.ks, len(unit.samples)) for unit in units] == [
        (1, (0, 2), 3), (1, (0, 2), 2), (2, (2,), 3), (2, (2,), 2),
    ]  # fmt: skip
    assert len({unit.id for unit in units}) == len(units)


def test_units_compute_no_more_than_the_least_that_fixed_cuts_allow(grid, ko_tiny, tmp_path):
    units = make_units(grid, (1,), 2)
    computed = run_units(Scorer(ko_tiny, 512, True), grid, units, tmp_path / "run").tokens_computed
    (whole,) = render_units(grid, make_units(grid, (1,), 5))
    assert computed == fewest_tokens(whole), "a trunk that comes again is in memory"


def test_records_of_units_are_written_with_the_scores_of_their_prompts(grid, ko_tiny, tmp_path):
    units = make_units(grid, (1, 2), 3)
    run = run_units(Scorer(ko_tiny, 512, True), grid, units, tmp_path / "run")
    store = RunStore(str(tmp_path / "run"))
    rows = list(chain.from_iterable(store.read_part(unit.id).to_pylist() for unit in units))
    prompts = list(chain.from_iterable(render_units(grid, units)))
    expected = Scorer(ko_tiny, 512, False).score([p.ids for p in prompts], [p.label_ids for p in prompts]).logprobs
    assert run.records == run.n_prompts == len(rows) == 15
    assert [(row["sample_id"], row["k"]) for row in rows] == [(p.sample.id, p.k) for p in prompts]
    assert np.abs(np.array([row["label_logprobs"] for row in rows]) - expected).max() < 1e-4
    assert [row["prediction"] for row in rows] == expected.argmax(1).tolist()
    assert set(run.stages) == {"rendering", "trees", "scoring", "records"}
    assert 0 < run.tokens_computed < sum(len(p.ids) for p in prompts)
