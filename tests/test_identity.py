"""A run belongs to every byte that a prompt or a score is made of, and says which file has changed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.api import load_records
from harness.config.schema import ModelEntry
from harness.core import fingerprints
from harness.core.errors import RunDirError, UserError
from harness.core.fingerprints import cache_file, hash_files
from harness.engine.local.model_info import ModelInfo, read_model_info
from harness.planning.identity import grid_identity
from harness.planning.preparation import prepare
from harness.planning.units import make_plan
from harness.results import manifest as manifests
from harness.results.store import RunStore
from harness.running.driver import run
from tests.conftest import KO_TINY, REPO


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    copy = tmp_path / "model"
    shutil.copytree(KO_TINY, copy)
    return copy


@pytest.fixture
def run_config(folder, make_config, tmp_path):
    return make_config(
        model={"path": str(folder), "dtype": "float32"}, out=str(tmp_path), name="run", task={"limit": 6},
        cluster={"shard_size": 3}, grid={"templates": ["english"], "k": [0], "seeds": [1]},
    )  # fmt: skip


def identity(folder):
    return read_model_info(ModelEntry(str(folder))).identity


def one_weight(folder):
    """A number in the middle of the weights, with the same names, size and modification time."""
    file = folder / "model.safetensors"
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def chat_template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")


def special_tokens(folder):
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))


def generation_settings(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))


def tokenizer_settings(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 77}))


def own_code(folder):
    (folder / "modeling_own.py").write_text("x = 1\n")


CHANGES = {
    "model.safetensors": one_weight,
    "chat_template.jinja": chat_template,
    "special_tokens_map.json": special_tokens,
    "generation_config.json": generation_settings,
    "tokenizer_config.json": tokenizer_settings,
    "modeling_own.py": own_code,
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_a_prompt_or_a_score_is_part_of_the_identity(folder, name):
    before = identity(folder)
    assert identity(folder) == before
    CHANGES[name](folder)
    assert identity(folder) != before


@pytest.mark.parametrize("name", ["model.safetensors", "generation_config.json", "chat_template.jinja"])
def test_a_checkpoint_that_changed_in_place_is_refused_on_resuming_by_its_file(folder, run_config, name):
    run(run_config)
    CHANGES[name](folder)
    with pytest.raises(RunDirError, match=rf"models: files of '{folder}' changed: {name};"):
        run(run_config)


def test_what_no_model_is_read_from_changes_nothing(folder):
    before = identity(folder)
    for name in ("README.md", "LICENSE.txt", "trainer_state.json", "optimizer.bin", "requirements.txt"):
        (folder / name).write_text("{}")
    assert identity(folder) == before


def test_a_copy_of_a_model_is_the_same_model(folder):
    assert identity(folder) == identity(KO_TINY)


def test_two_names_of_one_model_both_appear_in_the_table(folder, make_config, tmp_path):
    config = make_config(
        model={"path": [str(KO_TINY), str(folder)], "dtype": "float32"}, out=str(tmp_path), task={"limit": 4},
        grid={"templates": ["english"], "k": [0], "seeds": [1]},
    )  # fmt: skip
    plan = make_plan(prepare(config), 4)
    assert len({unit.id for unit in plan.units}) == len(plan.units) == 2
    result = run(config)
    assert list(result.cells["model"]) == [str(KO_TINY), str(folder)]
    records = load_records(config.run_dir)
    first, second = (records[records.model == path].label_logprobs.tolist() for path in config.model_names)
    assert len(first) == 4
    assert [list(x) for x in first] == [list(x) for x in second]


def test_a_run_that_knows_its_model_by_both_ends_goes_on(folder, run_config, caplog):
    """As runs did before whole files were hashed: its manifest has one text per model."""
    prepared = prepare(run_config)
    (setup,) = prepared.models
    old = prepared.as_recorded({"models": {str(folder): setup.info.quick_identity}})
    assert old.models[0].info.identity == setup.info.quick_identity != setup.info.identity
    run(run_config)
    store = RunStore(run_config.run_dir)
    manifest = store.read_json(manifests.NAME)
    manifest["identity"] = json.loads(json.dumps(grid_identity(old)))
    store.write_json(manifests.NAME, manifest)
    new_ids, old_ids = (sorted(u.id for u in make_plan(p, 3).units) for p in (prepared, old))
    parts = {new: store.read_part(new) for new in new_ids}
    for new, ancient in zip(new_ids, old_ids, strict=True):
        store.remove_part(new)
        store.write_part(ancient, parts[new], {})
    before = store.files("parts")
    with caplog.at_level("INFO"):
        run(run_config)
    assert store.files("parts") == before, "nothing was computed again"
    assert any("knows the model by both ends" in line for line in caplog.messages)
    tokenizer_settings(folder)
    with pytest.raises(RunDirError, match="belongs to another configuration: models"):
        run(run_config)


def test_a_part_with_fewer_rows_than_its_unit_is_computed_again(run_config):
    run(run_config)
    store = RunStore(run_config.run_dir)
    before = load_records(run_config.run_dir)
    unit = sorted(store.part_ids())[0]
    table = store.read_part(unit)
    store.remove_part(unit)
    store.write_part(unit, table.slice(0, 1), {})
    run(run_config)
    assert load_records(run_config.run_dir).equals(before)


def test_parts_of_no_unit_are_not_counted_in(run_config):
    run(run_config)
    store = RunStore(run_config.run_dir)
    unit = sorted(store.part_ids())[0]
    store.write_part("stranger", store.read_part(unit), {})
    with pytest.raises(RunDirError, match=r"1 files in .* are of no unit of this run \(stranger\.parquet\); move"):
        run(run_config)


def large_file(tmp_path, size=fingerprints.REMEMBERED_FROM):
    file = tmp_path / "large.safetensors"
    file.write_bytes(os.urandom(size))
    return file


@pytest.fixture
def no_wait(monkeypatch):
    """Files are remembered at once."""
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**12))


def test_a_hash_is_of_the_content_alone(tmp_path):
    file = large_file(tmp_path, 1000)
    block = hashlib.blake2b(file.read_bytes(), digest_size=32).digest()
    assert hash_files([file])[file] == hashlib.blake2b(block, digest_size=16).hexdigest()


def test_every_block_of_a_large_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "BLOCK", 1000)
    file = large_file(tmp_path, 3500)
    seen = {hash_files([file])[file]}
    for place in (0, 999, 1000, 2500, 3499):
        data = bytearray(file.read_bytes())
        data[place] ^= 1
        file.write_bytes(data)
        seen.add(hash_files([file])[file])
    file.write_bytes(b"")
    seen.add(hash_files([file])[file])
    assert len(seen) == 7


def test_a_file_that_is_remembered_is_not_read_again(tmp_path, no_wait, monkeypatch):
    file = large_file(tmp_path)
    first = hash_files([file])

    def never(*args):
        raise AssertionError("it was read")

    monkeypatch.setattr(fingerprints, "_hash_block", never)
    assert hash_files([file]) == first


@pytest.mark.parametrize("keep_time", [True, False])
def test_a_change_in_place_is_seen_whatever_its_time_says(tmp_path, no_wait, keep_time):
    file = large_file(tmp_path)
    first, before = hash_files([file]), file.stat()
    time.sleep(0.02)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    with file.open("r+b") as stream:
        stream.write(data)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_files([file]) != first


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path):
    hash_files([large_file(tmp_path)])
    assert not cache_file().exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "\0"])
def test_a_damaged_memory_is_no_obstacle(tmp_path, no_wait, content):
    file = large_file(tmp_path)
    first = hash_files([file])
    cache_file().write_text(content)
    assert hash_files([file]) == first


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(tmp_path, no_wait, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    file = large_file(tmp_path)
    assert hash_files([file]) == hash_files([file])


def test_a_plan_reads_no_weights(folder, make_config, monkeypatch):
    from harness.planning.report import make_report

    def never(*args):
        raise AssertionError("weights were hashed")

    monkeypatch.setattr("harness.engine.local.model_info.hash_files", never)
    make_report(make_config(model={"path": str(folder)}, task={"limit": 4}, grid={"templates": ["english"], "k": [0]}))


HUB = """
import json, sys
from tests.test_identity import known_of_hub
print(json.dumps(known_of_hub(*sys.argv[1:])))
"""
COMMIT, OTHER = "a" * 40, "b" * 40


def known_of_hub(*arguments):
    try:
        info = read_model_info(ModelEntry(arguments[0], revision=arguments[1] if arguments[1:] else None))
    except UserError as error:
        return str(error)
    return [info.identity, info.told_identity, info.commit, info.parameters]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache with one model of two commits, and a question to it here or in a process that finds it by itself."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--tiny"
    for commit in (COMMIT, OTHER):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(KO_TINY / name, snapshot / name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)

    def ask(*arguments, elsewhere=False):
        if not elsewhere:
            return known_of_hub(*arguments), repository
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", HUB, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPO, check=True)
        return json.loads(done.stdout.splitlines()[-1]), repository

    return ask


def test_a_hub_model_is_known_by_the_commit_that_its_revision_stands_for(hub):
    found, repository = hub("org/tiny", elsewhere=True)
    assert found == [COMMIT, COMMIT, COMMIT, None]
    (repository / "refs" / "main").write_text(OTHER)
    assert hub("org/tiny")[0][0] == OTHER
    assert hub("org/tiny", COMMIT)[0][0] == COMMIT


def test_a_hub_model_with_an_adapter_is_refused(hub):
    _, repository = hub("org/tiny")
    (repository / "snapshots" / COMMIT / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in hub("org/tiny")[0]


def test_replicas_load_the_commit_that_was_looked_at():
    model = ModelEntry("org/tiny", revision="main")
    assert ModelInfo(model, None, commit=COMMIT).fixed == replace(model, revision=COMMIT)
    assert ModelInfo(model, None).fixed is model


def test_weights_of_a_large_model_are_hashed_to_the_last_byte(folder, monkeypatch):
    """Both ends alone, which is what runs knew before, do not tell these apart."""
    monkeypatch.setattr("harness.engine.local.model_info.READ_WHOLE", 1000)
    monkeypatch.setattr("harness.engine.local.model_info.EDGE", 500)
    known = []
    for change in (False, True):
        if change:
            weights = load_file(folder / "model.safetensors")
            name = sorted(weights)[len(weights) // 2]
            weights[name] = weights[name] + torch.ones_like(weights[name])
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        info = read_model_info(ModelEntry(str(folder)))
        known.append((info.quick_identity, info.identity))
    assert known[0][0] == known[1][0]
    assert known[0][1] != known[1][1]
