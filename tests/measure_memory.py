"""Peak memory of a replica's process beside its prediction.

    python tests/measure_memory.py                       # the table of docs/performance.md
    python tests/measure_memory.py FOLDER DTYPE SHARE TOKENS_PER_PACK [LIMIT]   # one line of JSON

Each line is a fresh process that does the first two units of a grid on the embedded reviews, as a
replica does, and reads its peak (VmHWM) from /proc.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
KO_TINY = REPO / "data_in" / "models" / "ko-tiny"
SIZES = {
    "40M": {"vocab_size": 16384, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "160M": {"vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""Random GPT-NeoX models, with the embedded tokenizer."""
CASES = [
    ("ko-tiny", "float32", True, 2048), ("ko-tiny", "bfloat16", True, 2048), ("ko-tiny", "float32", False, 2048),
    ("40M", "float32", True, 512), ("40M", "float32", True, 2048), ("40M", "float32", True, 8192, 250),
    ("40M", "bfloat16", True, 2048), ("40M", "float32", False, 2048), ("40M", "bfloat16", False, 2048),
    ("160M", "float32", True, 512), ("160M", "float32", True, 2048), ("160M", "bfloat16", True, 2048),
    ("160M", "float32", False, 2048),
]  # fmt: skip


def make_model(name, folder):
    """A folder with random weights, or the embedded model's."""
    if name == "ko-tiny":
        return KO_TINY
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = SIZES[name]
    config = AutoConfig.for_model(
        "gpt_neox", intermediate_size=4 * sizes["hidden_size"], max_position_embeddings=2048, **sizes
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(KO_TINY / file, folder / name / file)
    return folder / name


def measure(model, dtype, share, tokens_per_pack, limit=60):
    """Measured and predicted peak of a fresh process, bytes."""
    words = [sys.executable, __file__, str(model), dtype, str(int(share)), str(tokens_per_pack), str(limit)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak():
    """VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def work(model, dtype, share, tokens_per_pack, limit):
    """What a replica does; prints one line."""
    import ray  # noqa: F401 - a replica's process has it

    from harness.config.loading import config_from
    from harness.planning.preparation import prepare
    from harness.planning.report import memory_of
    from harness.planning.units import choose_shard_size, make_plan
    from harness.results.store import RunStore
    from harness.running.messages import WorkerSpec
    from harness.running.worker import Worker

    with tempfile.TemporaryDirectory() as out:
        config = config_from({
            "out": out, "task": {"limit": limit}, "cluster": {"address": "inline"},
            "model": {"path": model, "dtype": dtype, "device": "cpu"},
            "engine": {"share_prefixes": share, "tokens_per_pack": tokens_per_pack},
            "grid": {"templates": ["lecture_1"], "k": [0, 8, 16] if share else [0, 8], "seeds": [1]},
        })  # fmt: skip
        prepared = prepare(config)
        RunStore(config.run_dir).create()
        size = choose_shard_size(config, len(prepared.data.samples), 1, "likelihood")
        plan = make_plan(prepared, size)
        (need,) = memory_of(prepared, size)
        setup = prepared.models[0]
        spec = WorkerSpec(
            config, setup.info.fixed, "likelihood", prepared.templates, setup.info.context_length, 1000, threads=2
        )
        worker = Worker(spec, setup.draw)
        assert worker.facts.shares_prefixes is share, worker.facts
        loaded = peak()
        for unit in plan.units[:2]:
            report = worker.run_unit(unit, plan.shards[unit.shard].samples, None)
            assert not report.errors, report.errors
        print(
            json.dumps(
                {
                    "measured": peak(),
                    "loaded": loaded,
                    "predicted": need.need.total,
                    "limit": limit,
                    "parts": vars(need.need),
                }
            )
        )


def main():
    if len(sys.argv) > 1:
        model, dtype, share, tokens, *limit = sys.argv[1:]
        work(model, dtype, bool(int(share)), int(tokens), int(*limit or [60]))
        return
    print("| model | weights | prefixes | tokens a pack | measured, MiB | predicted, MiB | off |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        models = {name: make_model(name, Path(folder)) for name in dict.fromkeys(case[0] for case in CASES)}
        for name, dtype, share, tokens, *limit in CASES:
            found = measure(models[name], dtype, share, tokens, *limit)
            measured, predicted = (found[key] / 2**20 for key in ("measured", "predicted"))
            how = "shared" if share else "by itself"
            off = f"{predicted / measured - 1:+.0%}"
            print(f"| {name} | {dtype} | {how} | {tokens} | {measured:.0f} | {predicted:.0f} | {off} |", flush=True)
            print(found["loaded"] // 2**20, {k: v // 2**20 for k, v in found["parts"].items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
