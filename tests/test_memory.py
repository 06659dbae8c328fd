"""The predicted memory of a replica: arithmetic by hand, and against real processes."""

import sys
from dataclasses import replace

import pytest
from transformers import AutoConfig

from harness.cluster.findings import gpu_need_bytes
from harness.engine.local import memory
from harness.engine.local.memory import ModelShape, PackLoad, bytes_per_token, predict, shape_of_config, tokens_that_fit
from harness.planning.report import make_report
from harness.reporting.console import output_console
from harness.reporting.plans import write_plan
from tests.measure_memory import CASES, make_model, measure

NEOX = ModelShape(1000, 8, 2, 2, 2, 4, 32, False, 100)


def test_sizes_are_read_from_configurations():
    neox = AutoConfig.for_model("gpt_neox", vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                intermediate_size=32)  # fmt: skip
    assert shape_of_config(neox, 1000) == NEOX
    llama = AutoConfig.for_model("llama", vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=4,
                                 num_key_value_heads=2, head_dim=16, intermediate_size=24)  # fmt: skip
    shape = shape_of_config(llama, 1)
    assert (shape.query_size, shape.key_size, shape.intermediate, shape.gated) == (64, 32, 24, True)
    gpt2 = shape_of_config(AutoConfig.for_model("gpt2", n_embd=8, n_head=2), 1)
    assert (gpt2.hidden, gpt2.head_size, gpt2.intermediate) == (8, 4, 32)


def test_a_configuration_without_attention_tells_no_sizes():
    assert shape_of_config(AutoConfig.for_model("mamba"), 1) is None


LOAD = PackLoad(tokens_per_pack=50, longest_prompt=20, unit_tokens=1000, unit_prompt_tokens=2000, prompts_per_token=0.1)


def test_bfloat16_on_a_gpu_by_hand():
    need = predict(NEOX, "bfloat16", "cuda", True, LOAD)
    assert need.weights == 1000 * 2
    assert need.head == 0, "a GPU multiplies 16 bits into float32"
    assert need.kept == 20 * (2 * 2 * 8 * 2), "keys and values of two layers"
    assert need.logits == 2 * 5 * 100 * 4, "5 of 50 tokens are read"
    # Attention: (2 hidden + 2 query + 3 key) + (query + 2 key) numbers of 2 bytes, two outputs of 4.
    assert bytes_per_token(NEOX, "bfloat16", "cuda", True) == (56 + 24) * 2 + 2 * 8 * 4
    assert need.pack == 50 * 224
    assert need.host == memory.GPU_PROCESS_BYTES
    assert need.remembered == 100 * (8 + 2 * 8 + 8) * 2, "one layer's projections and feed-forward part of all tokens"
    parts = need.weights + need.head + need.kept + need.logits + need.pack + need.remembered
    assert need.total == parts + need.host


def test_plain_attention_on_a_gpu_has_scores_in_memory():
    fused, plain = (predict(NEOX, "bfloat16", "cuda", True, LOAD, kernel) for kernel in ("flex", "parts"))
    assert plain.pack - fused.pack == 14 * 50 * 20 * 2
    long = replace(LOAD, tokens_per_pack=2**14, longest_prompt=2**11, unit_tokens=2**20)
    fused, plain = (predict(NEOX, "bfloat16", "cuda", True, long, kernel) for kernel in ("flex", "parts"))
    assert plain.pack - fused.pack == 14 * 2**24


def test_a_wide_feed_forward_part_counts_where_it_is_wider_than_attention():
    wide = ModelShape(1000, 8, 2, 2, 2, 4, 320, True, 100)
    assert bytes_per_token(wide, "bfloat16", "cuda", True) == (3 * 8 + 3 * 320) * 2


def test_float32_on_a_cpu_by_hand():
    need = predict(NEOX, "float32", "cpu", True, LOAD)
    assert need.head == 100 * 8 * 8, "a float64 copy"
    assert need.kept == 2 * 20 * (2 * 2 * 8 * 4)
    # (2 hidden + 2 query + 3 key), the output, gathered queries, keys and values, and their output twice.
    assert need.pack == 50 * (7 + 1 + 3 + 2) * 8 * 4
    assert need.host == memory.PROCESS_BYTES + 24 * 2000


def test_generating_in_float32_on_a_cpu_attends_in_float64():
    need = predict(NEOX, "float32", "cpu", True, replace(LOAD, generates=True))
    assert need.kept == 2 * 20 * (2 * 2 * 8 * 8)
    assert need.pack == 50 * (7 * 8 * 4 + (3 + 1 + 3 + 2) * 8 * 8)
    half = replace(LOAD, generates=True)
    assert predict(NEOX, "bfloat16", "cpu", True, half) == predict(NEOX, "bfloat16", "cpu", True, LOAD)


def test_a_pack_is_no_larger_than_its_unit_and_no_smaller_than_a_prompt():
    def tokens(**changes):
        load = PackLoad(**{**vars(LOAD), **changes})
        return predict(NEOX, "float32", "cpu", False, load).pack // bytes_per_token(NEOX, "float32", "cpu", False)

    assert tokens() == 50
    assert tokens(unit_tokens=30) == 30
    assert tokens(longest_prompt=70) == 70


def test_weights_in_another_format_lie_in_memory_twice_while_they_are_loaded():
    stored = replace(NEOX, parameters=10**9, stored_bytes=4 * 10**9)
    assert predict(stored, "bfloat16", "cpu", True, LOAD).total == memory.LOADING_BYTES + 2 * 10**9 + 4 * 10**9
    same = predict(stored, "float32", "cpu", True, LOAD)
    assert same.loading == memory.LOADING_BYTES + 4 * 10**9
    assert same.total == same.working
    assert predict(stored, "bfloat16", "cuda", True, LOAD).loading == 0


def test_what_is_not_shared_is_not_kept():
    assert predict(NEOX, "float32", "cpu", False, LOAD).kept == 0


def test_room_for_results_per_token():
    """64 MiB on a CPU, 256 on a GPU, the tokens of a pack at least, the vocabulary at most."""
    assert memory.remembered_tokens(8192, 50_000, 2048, "cpu") == 2**26 // 8192
    assert memory.remembered_tokens(8192, 50_000, 2048, "cuda") == 2**28 // 8192
    assert memory.remembered_tokens(65536, 50_000, 2048, "cpu") == 2048
    assert memory.remembered_tokens(8192, 4096, 2048, "cpu") == 4096
    unshared = predict(NEOX, "bfloat16", "cpu", False, PackLoad(50, 20, 50, 0, 1 / 26))
    assert unshared.remembered == 0


def test_packs_are_halved_until_they_fit_the_free_memory():
    def fit(free):
        return tokens_that_fit(NEOX, "bfloat16", True, 20, free, 2048, 16384)

    def need(tokens):
        found = predict(NEOX, "bfloat16", "cuda", True, PackLoad(tokens, 20, tokens, 0, 1 / 26))
        return found.head + found.pack + found.kept + found.logits + found.remembered

    assert fit(2**40) == fit(need(16384)) == 16384
    assert fit(need(16384) - 1) == 8192
    assert fit(0) == 2048


def test_the_plan_tells_every_device_that_the_configuration_allows(make_config, capsys):
    report = make_report(make_config(task={"limit": 5}, grid={"templates": ["lecture_1"], "k": [0, 2], "seeds": [1]}))
    assert [(m.device, m.dtype) for m in report.memory] == [
        ("cpu", "float32"), ("cpu", "bfloat16"), ("cuda", "bfloat16")
    ]  # fmt: skip
    assert report.memory[0].need.total > report.memory[1].need.total
    write_plan(output_console(), report)
    assert "on cpu, float32, 2,048 tokens a pack: about 0." in capsys.readouterr().out


def test_a_configuration_that_names_device_and_format_has_one_line(make_config):
    config = make_config(
        task={"limit": 5}, model={"device": "cpu", "dtype": "float32"}, engine={"tokens_per_pack": 512},
        grid={"templates": ["lecture_1"], "k": [0], "seeds": [1]},
    )  # fmt: skip
    (found,) = make_report(config).memory
    assert (found.device, found.dtype, found.tokens_per_pack) == ("cpu", "float32", 512)


def test_the_rest_beside_the_weights_counts_for_every_replica_of_a_gpu(make_config):
    model = make_config(model={"gpus_per_replica": 0.5}).model
    assert gpu_need_bytes(1000, model, rest=7) == 2 * (2000 + 7)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("name", ["ko-tiny", "40M", "160M"])
def test_predictions_are_within_15_percent_of_real_processes(tmp_path, name):
    model = make_model(name, tmp_path)
    for case, dtype, share, tokens, *limit in CASES:
        if case == name:
            found = measure(model, dtype, share, tokens, *limit)
            assert found["predicted"] == pytest.approx(found["measured"], rel=0.15), (dtype, share, tokens, found)
