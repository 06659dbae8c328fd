"""The benchmark suite: its figures are counted right, and its page is written where it should be."""

import copy
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from harness.engine.local.layers.packed_weights import pack_weights
from tests.bare import bare_environment
from tests.bench import page
from tests.bench.__main__ import main
from tests.bench.cases import GPU, choose_cases
from tests.bench.contenders import SharingOff, Subject
from tests.bench.limit import count_work, measure_peak
from tests.bench.measuring import spread
from tests.bench.ray_share import working_phase
from tests.bench.workloads import KINDS, make_workload
from tests.conftest import REPO


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Results of a few prompts, in an interpreter that has only what a GPU machine may have."""
    file = tmp_path_factory.mktemp("bench") / "results.json"
    options = {"models": "tiny", "workloads": "b,e", "samples": 3, "rounds": 1, "seconds": 0.05, "threads": 1}
    options |= {"data": make_data(file.parent), "results": file}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.bench", *given]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=bare_environment())
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text(encoding="utf-8"))


def make_data(folder):
    """The embedded data where the official files would lie."""
    (folder / "nsmc").symlink_to(REPO / "data_in" / "nsmc_demo")
    (folder / "korquad1").symlink_to(REPO / "data_in" / "korquad_demo")
    return folder


def test_all_contenders_answer_alike_without_ray_and_omegaconf(smoke):
    assert sorted(smoke["results"]) == ["b tiny float32", "e tiny float32"]
    for result in smoke["results"].values():
        rows = {row["name"]: row for row in result["rows"]}
        assert list(rows) == ["notebook loop", "padded batches", "this project, sharing off", "this project"]
        assert all(row["compared"] >= 2 and row["same"] == row["compared"] for row in rows.values())
        assert rows["this project"]["tokens"] < rows["notebook loop"]["tokens"] == result["work"]["tokens"]
        assert rows["this project"]["behind"] == 1
        assert rows["this project"]["timed"] == result["n_prompts"]
    labels = smoke["results"]["b tiny float32"]["rows"]
    assert max(row["difference"] for row in labels) < 1e-4


def test_the_profile_adds_up_to_one_run(smoke):
    for result in smoke["results"].values():
        seconds = result["profile"]
        own = next(row for row in result["rows"] if row["name"] == "this project")
        assert min(seconds.values()) > 0
        assert sum(seconds.values()) == pytest.approx(result["n_prompts"] / own["prompts_per_s"], rel=0.2)


def test_the_page_shows_every_contender(smoke, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- bench cpu -->\nold\n<!-- /bench cpu -->\nafter\n", encoding="utf-8")
    page.write(path, "bench cpu", page.render(smoke))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- bench cpu -->\n")
    assert text.endswith("\n<!-- /bench cpu -->\nafter\n")
    assert "old" not in text
    for name in ("notebook loop", "padded batches", "this project, sharing off", "this project", "limit"):
        assert f"| {name}" in text
    page.write(path, "bench cpu", page.render(smoke))
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", "<!-- bench cpu -->", "<!-- /bench cpu --> <!-- bench cpu -->"])
def test_a_page_without_its_markers_is_refused(smoke, tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="each once"):
        page.write(path, "bench cpu", page.render(smoke))
    assert path.read_text(encoding="utf-8") == text


def test_the_page_names_no_folder_of_the_machine(smoke):
    assert {r["command"] for r in smoke["results"].values()} == {
        "python -m tests.bench --models tiny --workloads b,e --samples 3 --rounds 1 --seconds 0.05 "
        "--threads 1 --data DIR"
    }


def test_results_of_another_machine_or_commit_do_not_stay(tmp_path):
    file = tmp_path / "results.json"
    page.store(file, {"commit": "1"}, {"x": 1})
    assert page.store(file, {"commit": "1"}, {"y": 2})["results"] == {"x": 1, "y": 2}
    assert page.store(file, {"commit": "2"}, {"z": 3})["results"] == {"z": 3}
    assert json.loads(file.read_text(encoding="utf-8"))["results"] == {"z": 3}


def test_the_committed_page_has_its_markers():
    text = (REPO / "docs" / "performance.md").read_text(encoding="utf-8")
    for device in ("cpu", "cuda"):
        assert text.count(f"<!-- bench {device} -->") == text.count(f"<!-- /bench {device} -->") == 1


def test_the_limit_counts_each_shared_token_once(make_model):
    model = make_model("gpt_neox", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    weights = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 96)  # two layers: query-key-value, output, two of the MLP of 96
    work = count_work(model, [[1, 2, 3, 4], [1, 2, 5], [1, 2]], 0)
    assert (work.tokens, work.unique) == (9, 5)
    assert work.linear == 2 * weights * 5
    assert work.head == 2 * 32 * 100 * 3
    assert work.attention == 4 * 32 * 2 * (1 + 2 + 3 + 4 + 3)
    generating = count_work(model, [[1, 2, 3, 4], [1, 2, 5], [1, 2]], 3)
    assert generating.linear == 2 * weights * (5 + 3 * 2)
    assert generating.head == 2 * 32 * 100 * 9


def test_the_peak_is_operations_over_the_clocks_seconds(make_model):
    model = make_model("gpt_neox", hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    weights = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, torch.nn.Linear))
    packed = copy.deepcopy(model)
    assert pack_weights(packed) == 8
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 21.0, 30.0, 33.0])
    found = measure_peak([model, packed], 8, 2, lambda: next(ticks))
    assert found == 2 * 8 * weights / 1.0, "the fastest pass of the faster layout"


def test_contenders_with_different_batches_begin_with_the_same_prompts():
    lengths = np.random.default_rng(0).integers(10, 800, 1000).tolist()
    order = sorted(range(1000), key=lambda i: -lengths[i])
    single = spread(order, lengths, lambda length: 1, 0.25)
    eights = spread(order, lengths, lambda length: 8, 0.25)
    packed = spread(order, lengths, lambda length: max(1, 2048 // length), 0.25)
    for batches in (single, eights, packed):
        assert sorted(i for batch in batches for i in batch) == list(range(1000))
    first = [i for batch in single[:20] for i in batch]
    assert set(first) <= {i for batch in eights[:20] for i in batch}
    assert set(first) <= {i for batch in packed[:20] for i in batch}
    mean = sum(lengths) / 1000
    assert sum(lengths[i] for i in first) / 20 == pytest.approx(mean, rel=0.1)


def test_the_working_phase_is_read_from_the_runs_log():
    log = """
2026-01-02 10:00:00,000 INFO loading model
2026-01-02 10:00:09,500 INFO model: cpu, float32, 2 threads, shared prefixes, 2048 tokens a pack
2026-01-02 10:00:11,000 INFO {"unit": "a", "scoring_seconds": 1.25}
2026-01-02 10:00:12,000 INFO 1/2 units, 9 prompts/s
2026-01-02 10:00:12,750 INFO {"unit": "b", "scoring_seconds": 1.5}
2026-01-02 10:00:13,000 INFO 2/2 units, 9 prompts/s
"""
    units, seconds = working_phase(log.splitlines())
    assert [unit["unit"] for unit in units] == ["a", "b"]
    assert seconds == 3.25


def test_lm_evaluation_harness_gives_the_same_scores(ko_tiny, ko_tokenizer):
    pytest.importorskip("lm_eval")
    from tests.bench.lm_evaluation import LmEvaluationHarness

    workload = make_workload("a", ko_tokenizer, 2048, 2, None)
    subject = Subject(ko_tiny, ko_tiny, ko_tokenizer, workload, workload.render(), time.perf_counter)
    everything = [list(range(len(subject.prompts)))]
    theirs, plain = (
        LmEvaluationHarness(subject).run(everything).answers,
        SharingOff(subject, 512).run(everything).answers,
    )
    assert theirs.keys() == plain.keys()
    assert np.allclose([theirs[i] for i in plain], list(plain.values()), atol=1e-4)


def test_the_gpu_benchmark_fits_ten_minutes_unless_more_is_asked_for():
    """At most 90 s a case: five contenders in two rounds of 3 s, their batch sizes, float32 answers, the profile."""
    assert len(choose_cases("cuda", None, None, None, None)) * 90 + 60 <= 600
    assert {case.model for case in GPU} == {"1.3b"}
    asked = choose_cases("cuda", tuple(KINDS), ("1.3b", "5.8b"), None, None)
    assert {(c.letter, c.model, c.dtype) for c in asked} == {
        (letter, model, "bfloat16") for letter in KINDS for model in ("1.3b", "5.8b")
    }


def test_without_a_gpu_the_gpu_benchmark_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cuda"])
    assert "no GPU is visible" in stopped.value.code
    assert "\n" not in stopped.value.code
