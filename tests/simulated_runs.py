"""Run directories without models: records drawn from known chances, written as a run writes them."""

import numpy as np
import pyarrow as pa

from harness.results.schema import SCHEMA
from harness.results.store import RunStore

MODEL = "models/small"
SESSION = {
    "started": "2026-03-01T09:00:00+00:00",
    "ended": "2026-03-01T09:02:05+00:00",
    "command": "harness run configs/simulated.yaml",
    "python": "3.11.0",
    "packages": {"torch": "2.0"},
    "git_commit": None,
}


def wording(name):
    return {
        "name": name,
        "query": f"{name}: {{document}}\n감정:",
        "labels": [" 부정", " 긍정"],
        "prefix": "",
        "separators": ["\n", "\n"],
        "answer": "",
        "chat": None,
    }


def statistics(n_records):
    return {
        "n_records": n_records,
        "n_failed": 0,
        "n_prompts": n_records,
        "prompt_tokens": 40 * n_records,
        "tokens_computed": 10 * n_records,
        "seconds": 30.0,
        "scoring_seconds": 20.0,
    }


def write_manifest(store, templates, ks, seeds, n_samples, metrics=(), status="complete"):
    config = {
        "name": "simulated",
        "model": {"path": MODEL},
        "task": {"name": "korquad1" if metrics else "nsmc"},
        "grid": {"templates": list(templates), "k": list(ks), "seeds": list(seeds)},
        "demos": {"policy": "fixed"},
    }
    wordings = {name: wording(name) for name in templates}
    identity = {"samples": "a1", "pool": "b2", "models": {MODEL: "c3"}, "templates": wordings}
    store.write_json(
        "manifest.json",
        {
            "format": 1,
            "status": status,
            "config": config,
            "identity": identity,
            "method": "generate" if metrics else "likelihood",
            "class_names": [] if metrics else ["negative", "positive"],
            "answer_metrics": list(metrics),
            "n_samples": n_samples,
            "n_pool": {MODEL: 100},
            "notes": ["simulated"],
            "engines": {MODEL: {"device": "cpu", "dtype": "float32"}},
            "sessions": [SESSION],
        },
    )


def write_samples(store, texts, gold=None, answers=None, clusters=None):
    n = len(texts)
    table = {
        "sample_id": sample_ids(n),
        "gold": pa.array(gold if gold is not None else [-1] * n, pa.int32()),
        "answers": pa.array(answers if answers is not None else [[]] * n, pa.list_(pa.string())),
        "cluster": clusters if clusters is not None else [""] * n,
        "document": list(texts),
    }
    store.write_table("samples.parquet", pa.table(table))


def sample_ids(n):
    return [f"s{i:05d}" for i in range(n)]


def write_cell(store, template, k, seed, columns):
    """One part with one cell; columns that are not given are null."""
    n = len(next(iter(columns.values())))
    same = {"model": MODEL, "task": "nsmc", "template": template, "k": k, "seed": seed}
    given = {**{name: [value] * n for name, value in same.items()}, "sample_id": sample_ids(n), **columns}
    arrays = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(n, f.type) for f in SCHEMA]
    store.write_part(f"{template}-{k}-{seed}", pa.table(arrays, schema=SCHEMA), statistics(n))


def classified_run(path, texts, shares, seeds=(1, 2), seed=0, failed=(), status="complete"):
    """A run of two classes.

    Args:
        path: of the run directory, to be made.
        texts: of the samples.
        shares: (template, K) to the expected accuracy.
        seeds: of every cell.
        seed: of the draws.
        failed: (template, K, seed, sample) that failed.
    """
    rng = np.random.default_rng(seed)
    n = len(texts)
    store = RunStore(str(path))
    store.create()
    templates, ks = (list(dict.fromkeys(key[i] for key in shares)) for i in (0, 1))
    write_manifest(store, templates, ks, seeds, n, status=status)
    gold = np.arange(n) % 2
    write_samples(store, texts, gold=gold)
    ease = rng.normal(size=n)
    for (template, k), share in shares.items():
        drawn = None
        for place in seeds:
            if drawn is None or k > 0:
                # Samples that are easy for one strategy are easy for others.
                noise = ease + rng.normal(size=n)
                drawn = noise < np.quantile(noise, share)
            predicted = np.where(drawn, gold, 1 - gold)
            margin = np.where(predicted == 1, 1, -1) * rng.uniform(0.1, 2, size=n)
            logs = np.stack([-np.logaddexp(0, margin), -np.logaddexp(0, -margin)], axis=1)
            broken = {i for t, kk, s, i in failed if (t, kk, s) == (template, k, place)}
            columns = {
                "gold": gold,
                "prediction": [None if i in broken else int(p) for i, p in enumerate(predicted)],
                "label_logprobs": [None if i in broken else row.tolist() for i, row in enumerate(logs)],
                "greedy_prediction": [None if i in broken or i % 7 == 0 else int(p) for i, p in enumerate(predicted)],
                "off_label_mass": [0.25] * n,
                "n_prompt_tokens": [20 + 15 * k + i % 5 for i in range(n)],
                "error_type": ["ValueError" if i in broken else None for i in range(n)],
                "error": ["<b>broken</b>" if i in broken else None for i in range(n)],
            }
            write_cell(store, template, k, place, columns)
    return str(path)


def answered_run(path, n=120, per_cluster=3, seed=0, status="complete"):
    """A run of generated answers in clusters of questions, metrics exact_match and f1."""
    rng = np.random.default_rng(seed)
    store = RunStore(str(path))
    store.create()
    templates, ks, seeds = ["plain", "long"], [0, 2], [1]
    write_manifest(store, templates, ks, seeds, n, metrics=("exact_match", "f1"), status=status)
    golds = [[f"답{i}"] for i in range(n)]
    clusters = [f"p{i // per_cluster}" for i in range(n)]
    write_samples(store, [f"질문 {i}" for i in range(n)], answers=golds, clusters=clusters)
    for place, (template, k) in enumerate((t, k) for t in templates for k in ks):
        right = rng.random(n) < 0.3 + 0.15 * place
        answers = [golds[i][0] if ok else f"<i>틀림</i>{i}" for i, ok in enumerate(right)]
        values = [[1.0, 1.0] if ok else [0.0, 0.4] for ok in right]
        columns = {
            "task": ["korquad1"] * n,
            "gold": [-1] * n,
            "answer": answers,
            "raw_answer": answers,
            "answer_values": values,
            "finish_reason": ["length" if i % 10 == 0 else "stop" for i in range(n)],
            "n_prompt_tokens": [50 + 10 * k] * n,
            "n_generated_tokens": [4] * n,
        }
        write_cell(store, template, k, 1, columns)
    return str(path)
