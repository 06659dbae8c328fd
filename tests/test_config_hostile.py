"""Configurations that would execute, leak, mislead or break: one line that names the key."""

import os
import time

import pytest

from harness.config.loading import config_from, load_config
from harness.core.addresses import redacted, secret_in
from harness.core.errors import ConfigError
from tests.told import call, refused


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "grid.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return load


@pytest.mark.parametrize(
    "text",
    [
        "wandb: {project: '${ oc.env:HOME}'}",
        "wandb: {project: 'a${oc.env:HOME}b'}",
        "{name: oc.env, wandb: {project: '${${name}:HOME}'}}",
        "{name: oc, out: env, wandb: {tags: ['${${name}.${out}:HOME}']}}",
        "grid: {templates: ['${oc.env:HOME}']}",
        "grid: {k: '${oc.create:[0,2]}'}",
        "model: {path: [a, '${\toc.env:HOME}']}",
        "task: '${oc.dict.values:grid}'",
        "generation: {stop: [\"${oc.decode:'1'}\"]}",
    ],
)
def test_resolvers_are_refused_however_they_are_written(load, text):
    with pytest.raises(ConfigError, match="uses a resolver"):
        load(text)


@pytest.mark.parametrize("override", ["name=${ oc.env:HOME}", "grid.templates=['${oc.env:HOME}']"])
def test_resolvers_in_overrides_are_refused(load, override):
    with pytest.raises(ConfigError, match="uses a resolver"):
        load("", override)


def test_keys_of_the_configuration_may_still_be_interpolated(load):
    config = load("{name: 'n${task.limit}', task: {limit: 7}, wandb: {group: '${name}'}}")
    assert (config.name, config.wandb.group) == ("n7", "n7")


ADDRESSES = [
    ("s3://KEY:HUNTER2@bucket/x", "s3://***@bucket/x"),
    ("s3://KEY:HUNT/ER2@bucket/x", "s3://***@bucket/x"),
    ("s3:/KEY:HUNTER2@bucket", "s3:/***@bucket"),
    ("https://HUNTER2@host/x", "https://***@host/x"),
    ("https://user:HUNTER2@host:443/x", "https://***@host:443/x"),
    ("ray://u:HUNTER2@h:10001", "ray://***@h:10001"),
    ("s3://b/x?secret_key=HUNTER2&region=eu", "s3://b/x?secret_key=***&region=eu"),
    ("https://b/x?sig=HUNTER2", "https://b/x?sig=***"),
    ("s3://b/x?endpoint_override=https%3A%2F%2Fu%3AHUNTER2%40h", "s3://b/x?endpoint_override=***"),
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_secrets_of_addresses_are_masked_within_any_text(address, shown):
    assert redacted(f"'{address}' cannot be opened\nnext") == f"'{shown}' cannot be opened\nnext"
    assert secret_in(address) and "HUNTER2" not in secret_in(address)


@pytest.mark.parametrize(
    "address", ["s3://b/x?region=eu", "s3://b/a@b/c", "data_out", "/a@b:c", "https://h:80/x", "mail a@b.c"]
)
def test_addresses_without_secrets_stay(address):
    assert (redacted(address), secret_in(address)) == (address, "")


@pytest.mark.parametrize("piece", ["a", "http://h/" + "?", "s3://:@", "http://x?a="])
def test_masking_takes_a_time_that_grows_with_the_text_alone(piece):
    text = piece[:-1] + piece[-1] * 300_000 + " b@c"
    began = time.monotonic()
    redacted(text)
    secret_in(text)
    assert time.monotonic() - began < 5, "a text twice as long took four times as long"


def test_keys_of_the_environment_are_masked_in_any_text(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-HUNTER2-0123456789")
    monkeypatch.setenv("HTTPS_PROXY", "user:HUNTER2@proxy:3128")
    monkeypatch.setenv("SSH_KEY", "/home/me/.ssh/key")
    monkeypatch.setenv("SHORT_KEY", "word")
    text = "header b'Bearer sk-HUNTER2-0123456789' by user:HUNTER2@proxy:3128 of /home/me/.ssh/key, word"
    assert redacted(text) == "header b'Bearer ***' by ***@proxy:3128 of /home/me/.ssh/key, word"


def test_a_key_in_the_place_of_its_variables_name_is_refused_unseen(load, monkeypatch):
    for key in ("hf_HUNTER2", "sk-HUNTER2"):
        with pytest.raises(ConfigError, match=r"model.api_key_env is no name") as raised:
            load(f"model: {{api_key_env: {key}}}")
        assert "HUNTER2" not in str(raised.value)
    monkeypatch.setenv("my_key", "x")
    assert load("model: {api_key_env: my_key}").model.api_key_env == "my_key"


@pytest.mark.parametrize(
    "key", ["out", "model.path", "task.data_dir", "task.templates_file", "cluster.address", "wandb.entity"]
)
@pytest.mark.parametrize("address", [address for address, _ in ADDRESSES])
def test_a_secret_in_any_key_is_refused_and_never_shown(load, tmp_path, key, address):
    (tmp_path / "c.yaml").write_text("name: x")
    told = call("plan", tmp_path / "c.yaml", f"{key}={address}")
    refused(told, key, "secret")
    assert "HUNTER2" not in told.err + told.out and "ER2" not in told.err
    # What cannot even be parsed shows no secret either.
    told = call("plan", tmp_path / "c.yaml", f"{key}=[{address}")
    assert told.status == 2 and "HUNTER2" not in told.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid: {seeds: [9223372036854775808]}", "grid.seeds is 9223372036854775808, expected at most"),
        ("grid: {k: [2147483648]}", "grid.k is 2147483648, expected at most 2147483647"),
        ("task: {sample_seed: 4294967296}", "task.sample_seed is 4294967296, expected at most"),
        ("task: {sample_seed: -1}", "task.sample_seed is -1, expected at least 0"),
        ("demos: {bank_size: 1000000000000000000000}", "demos.bank_size is 1000000000000000000000, expected at most"),
        ("grid: {k: [null]}", r"grid.k\[0\].*None, expected a whole number"),
        ("grid: {k: [[0, 4]]}", r"grid.k is \[\[0, 4\]\], expected whole numbers"),
        ("grid: {templates: [null]}", r"grid.templates\[0\].*None, expected text"),
        ("grid: {templates: ['???']}", r"grid.templates\[0\]' holds '\?\?\?'"),
        ("scoring: {extract: 'a{99999999999}'}", "scoring.extract is .*expected a regular expression"),
        ("scoring: {calibration: {}}", r"scoring.calibration' holds \{\}, expected a list"),
        ("scoring: {calibration: [[[]]]}", r"scoring.calibration is \[\[\[\]\]\], expected texts"),
        ("generation: {stop: [[a]]}", r"generation.stop is \[\['a'\]\], expected texts"),
        ("wandb: {tags: a}", r"wandb.tags' holds a, expected a list"),
        ("name: ???", r"'name' holds '\?\?\?'"),
        ("name: ' '", "name is ' ', expected a folder name"),
        ('name: "a\\nb"', "name is .*expected text without control characters"),
        ('task: {data_dir: "a\\0b"}', "task.data_dir is .*expected text without control characters"),
        ('grid: {templates: ["a\\u202eb"]}', r"grid.templates\[0\] is .*control characters"),
        ("name: " + "가" * 70, "name has 210 bytes"),
        ("out: s3:/x", "out is 's3:/x', half a storage URI"),
        ("out: s3://", "out is 's3://', which names no bucket"),
        ("model: {path: [m, m/]}", "model.path names a model twice"),
        ("model: {path: [m, ./m]}", "model.path names a model twice"),
        ("name: a\nname: b", "line 2.*duplicate key name"),
        ("a: " + "[" * 3000, "nested too deeply|is not valid YAML"),
        (b"name: \xb0\xa1", "save it as UTF-8"),
    ],
)
def test_values_that_mislead_are_refused_with_their_key(load, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("override", ["name=a #b", "grid.k=[0,4] # few", "task.data_dir=x\t#y"])
def test_what_yaml_would_cut_as_a_comment_is_refused(load, override):
    with pytest.raises(ConfigError, match="' #' begins a comment"):
        load("", override)


def test_a_number_sign_that_is_part_of_the_value_stays(load):
    assert load("", "name=a#b").name == "a#b"
    assert load("", "name='a #b'").name == "a #b"


@pytest.mark.parametrize("key", ["out", "task.data_dir", "model.path"])
def test_a_tilde_is_the_home_directory(load, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load("", f"{key}=~/x")
    section, _, name = key.rpartition(".")
    assert getattr(getattr(config, section) if section else config, name) == os.path.join("/home/somebody", "x")
    with pytest.raises(ConfigError, match="home directory"):
        load("", f"{key}=~nobody-of-this-name/x")


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "long", "NUL"])
def test_what_is_no_configuration_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "c.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("/no/such/file")
    name = {"long": "x" * 5000, "NUL": "a\0b"}.get(kind, str(path))
    refused(call("plan", name), "null byte" if kind == "NUL" else "configuration file")


MODULES = {
    "raises": "raise RuntimeError('no luck')",
    "syntax": "def f(:",
    "leaves": "import sys; sys.exit(0)",
    "exits": "raise SystemExit('bye')",
    "prints": "TASK = print",
    "asks": "TASK = lambda needed: 1",
    "recursive": "def f(): f()\nf()",
    "missing": "import no_such_package",
    "number": "TASK = 5",
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_task_module_that_fails_is_named_with_its_line(tmp_path, monkeypatch, kind):
    name = f"task_that_{kind}"
    (tmp_path / f"{name}.py").write_text(MODULES[kind])
    monkeypatch.syspath_prepend(tmp_path)
    told = call("plan", "configs/demo.yaml", f"task.name={name}:TASK")
    refused(told, f"task '{name}:TASK'", name)
    assert "Traceback" not in told.err


@pytest.mark.parametrize("name", ["':'", ".x:y", "../evil:TASK", "a:b:c", "a b:c", ":b"])
def test_a_task_name_that_is_no_module_is_refused(name):
    refused(call("plan", "configs/demo.yaml", f"task.name={name}"), "expected module:attribute")


def test_an_interrupt_raised_while_a_task_is_imported_ends_in_one_line_too(tmp_path, monkeypatch):
    import signal

    (tmp_path / "task_that_interrupts.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.signal(signal.SIGINT, lambda *given: None)  # as during `harness run`
    try:
        with pytest.raises(ConfigError, match="raised KeyboardInterrupt"):
            from harness.core.task import find_task

            find_task("task_that_interrupts:TASK")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fault_of_the_program_is_told_from_one_of_the_user(monkeypatch):
    monkeypatch.setattr("harness.config.loading.config_from", lambda values: {}["gone"])
    told = call("plan", "configs/demo.yaml")
    assert told.status == 1 and "a fault of this program; set HARNESS_TRACEBACK=1" in told.err
    assert "Traceback" not in told.err
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    assert "Traceback" in call("plan", "configs/demo.yaml").err


def test_values_of_python_are_checked_as_those_of_files():
    with pytest.raises(ConfigError, match="without control characters"):
        config_from({"name": "a\ud800"})


@pytest.mark.parametrize(
    ("section", "value", "text"),
    [
        ("references", [{"name": "a", "path": "b", "fields": {}}], r"references\[0\]\.fields' holds \{\}"),
        ("references", [{"name": "a", "path": "b", "fields": [["c"]]}], r"references\[0\]\.fields is \[\['c'\]\]"),
        ("finetune", {"fields": [["c"]]}, r"finetune\.fields is"),
        ("finetune", {"methods": [{"c": 1}]}, r"finetune\.methods is"),
        ("scoring", {"metrics": [["c"]]}, r"scoring\.metrics is"),
    ],
)
def test_lists_in_lists_are_refused_where_texts_are_asked_for(section, value, text):
    with pytest.raises(ConfigError, match=text + ".*, expected (texts|a list of texts)"):
        config_from({section: value})
