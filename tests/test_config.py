"""Configuration: what is accepted, and how every mistake is named."""

from pathlib import Path

import pytest

from harness.config.loading import config_from, load_config
from harness.config.schema import RunConfig
from harness.core.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "grid.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load


def test_an_empty_file_is_the_default_configuration(load):
    assert load("") == RunConfig()
    assert RunConfig().grid.k == [0, 4, 10]
    assert RunConfig().run_dir == "data_out/run"


@pytest.mark.parametrize("name", ["demo", "lecture", "nsmc_grid", "korquad1", "korquad2", "korquad_demo"])
def test_shipped_configurations_load(name):
    config = load_config(f"configs/{name}.yaml")
    assert config.name == name
    assert config_from(config.as_dict()) == config


def test_the_lecture_configuration_is_the_protocol():
    config = load_config("configs/lecture.yaml")
    assert (config.task.limit, config.task.sample_seed, config.task.options) == (500, 1234, {})
    assert (config.grid.k, config.grid.seeds) == ([10], [1234])
    assert (config.demos.policy, config.demos.max_tokens) == ("lecture", 25)


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("grd: {k: [1]}", "grd", "grid"),
        ("tsk: {limit: 1}", "tsk", "task"),
        ("grid: {template: [a]}", "grid.template", "templates"),
        ("grid: {sed: [1]}", "grid.sed", "seeds"),
        ("task: {limt: 3}", "task.limt", "limit"),
        ("task: {data: x}", "task.data", "data_dir"),
        ("demos: {max_token: 3}", "demos.max_token", "max_tokens"),
        ("engine: {share_prefix: true}", "engine.share_prefix", "share_prefixes"),
        ("cluster: {adress: local}", "cluster.adress", "address"),
        ("model: {paths: x}", "model.paths", "path"),
    ],
)
def test_an_unknown_key_names_itself_and_the_nearest_known_key(load, text, key, nearest):
    with pytest.raises(ConfigError, match=f"unknown configuration key '{key}'; did you mean '{nearest}'"):
        load(text)


def test_an_unknown_key_with_no_near_one_lists_the_known_keys(load):
    with pytest.raises(ConfigError, match=r"unknown configuration key 'grid\.zzz'; known: k, seeds, templates"):
        load("grid: {zzz: 1}")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("limit=3", "'task.limit'"),
        ("templates=[a]", "'grid.templates'"),
        ("run.name=a", "'name'"),
        ("task.path=a", "'model.path'"),
        ("mode=online", "'wandb.mode'"),
    ],
)
def test_a_key_of_another_section_is_named_with_its_section(override, meant):
    with pytest.raises(ConfigError, match=f"unknown configuration key .*; did you mean {meant}"):
        load_config("configs/demo.yaml", [override])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("grid: {k: 3}", "grid.k"),
        ("grid: {k: null}", "grid.k"),
        ("grid: {k: [many]}", "grid.k"),
        ("grid: {k: [1.5]}", "grid.k"),
        ("grid: {k: [true]}", "grid.k"),
        ("grid: {templates: lecture_1}", "grid.templates"),
        ("grid: {seeds: [a]}", "grid.seeds"),
        ("grid: 3", "grid"),
        ("grid:", "grid"),
        ("task: [1, 2]", "task"),
        ("task: {limit: many}", "task.limit"),
        ("task: {limit: 1.5}", "task.limit"),
        ("task: {data_dir: null}", "task.data_dir"),
        ("demos: {policy: null}", "demos.policy"),
        ("demos: {balanced: maybe}", "demos.balanced"),
        ("demos: {bank_size: big}", "demos.bank_size"),
        ("model: {path: null}", "model.path"),
        ("model: {path: {a: b}}", "model.path"),
        ("model: {path: [a, 3]}", "model.path"),
        ("model: {gpus_per_replica: some}", "model.gpus_per_replica"),
        ("engine: {share_prefixes: 3.5}", "engine.share_prefixes"),
        ("name: null", "name"),
        ("name: ${nowhere}", "name"),
    ],
)
def test_a_wrong_type_names_its_key(load, text, key):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {k: []}", "grid.k is empty"),
        ("grid: {templates: []}", "grid.templates is empty"),
        ("grid: {seeds: []}", "grid.seeds is empty"),
        ("grid: {k: [1, 2, 1]}", "grid.k names a value twice"),
        ("grid: {seeds: [7, 7]}", "grid.seeds names a value twice"),
        ("grid: {templates: [a, a]}", "grid.templates names a value twice"),
        ("grid: {k: [0, -1]}", "grid.k is -1, expected at least 0"),
        ("model: {path: []}", r"model.path is \[\], expected a folder name"),
        ("model: {path: [a, a]}", "model.path names a model twice"),
        ("model: {dtype: bf16}", "model.dtype is 'bf16'; did you mean 'bfloat16'"),
        ("model: {device: gpu}", "model.device is 'gpu'"),
        ("model: {max_length: 0}", "model.max_length is 0, expected at least 1"),
        ("model: {gpus_per_replica: 0}", "model.gpus_per_replica is 0.0, expected more than 0"),
        ("model: {gpus_per_replica: -1}", "model.gpus_per_replica is -1.0, expected more than 0"),
        ("task: {limit: 0}", "task.limit is 0, expected at least 1"),
        ("task: {limit: -5}", "task.limit is -5, expected at least 1"),
        ("demos: {policy: per-sample}", "demos.policy is 'per-sample'; did you mean 'per_sample'"),
        ("demos: {bank_size: 0}", "demos.bank_size is 0, expected at least 1"),
        ("demos: {max_tokens: 0}", "demos.max_tokens is 0, expected at least 1"),
        ("cluster: {replicas: 0}", "cluster.replicas is 0, expected 'auto' or a whole number of at least 1"),
        ("cluster: {replicas: true}", "cluster.replicas is True, expected 'auto'"),
        ("cluster: {shard_size: big}", "cluster.shard_size is 'big', expected 'auto'"),
        ("cluster: {shard_size: 1.5}", "cluster.shard_size is 1.5, expected 'auto'"),
        ("engine: {tokens_per_pack: -1}", "engine.tokens_per_pack is -1, expected 'auto'"),
        ("engine: {tokens_per_pack: null}", "engine.tokens_per_pack is None, expected 'auto'"),
        ("name: ''", "name is '', expected a folder name"),
        ("name: a/b", "name is 'a/b', expected a folder name"),
        ("out: ''", "out is empty, expected a folder"),
    ],
)
def test_a_bad_value_says_what_was_found_and_what_was_expected(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize("text", ["name: '.'", "name: '..'", "model: {path: ''}", "model: {gpus_per_replica: .nan}"])
def test_values_that_would_lead_astray_later_are_refused(load, text):
    with pytest.raises(ConfigError):
        load(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file '.*absent\.yaml'"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("grid: [", "is not valid YAML"), ("name: a\nname: b", "duplicate key name"), ("- 1\n- 2", "expected keys")],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(load, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 0xff at place 6; save it as UTF-8"):
        load_config(path)


def test_overrides_replace_values_and_whole_lists(load):
    text = "grid: {k: [0, 1, 2], seeds: [1]}\ntask: {limit: 7}"
    config = load(text, "grid.k=[0,4]", "task.limit=null", "model.path=[a,b]", "demos.balanced=true")
    assert config.grid.k == [0, 4]
    assert config.grid.seeds == [1]
    assert config.task.limit is None
    assert config.model_names == ("a", "b")
    assert config.demos.balanced is True


def test_the_last_of_several_overrides_wins(load):
    assert load("name: x", "grid.k=[1,2,3]", "grid.k=[9]").grid.k == [9]


def test_an_override_may_hold_an_equals_sign(load):
    assert load("", "name=a=b").name == "a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.k", "'grid.k' is not an override; expected key=value"),
        ("task.limit=[1", "override 'task.limit=\\[1' cannot be applied"),
        ("grid.kk=[1]", "unknown configuration key 'grid.kk'; did you mean 'k'"),
        ("grid=3", "configuration key 'grid' holds 3"),
        ("grid.k=3", "grid.k"),
        ("=3", "unknown configuration key ''"),
        ("a.b.c=1", "unknown configuration key 'a'"),
    ],
)
def test_a_bad_override_is_named(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load("name: x", override)


@pytest.mark.parametrize("override", ["grid.k[0]=5", "grid.k.0=5"])
def test_an_override_into_a_list_ends_in_one_line(load, override):
    with pytest.raises(ConfigError, match=r"grid\.k"):
        load("name: x", override)


def test_the_run_directory_joins_folder_and_name(load):
    assert load("out: runs/\nname: a").run_dir == "runs/a"
    assert load("out: s3://bucket/runs\nname: a").run_dir == "s3://bucket/runs/a"


def test_values_from_the_environment_are_refused_for_the_manifest_would_show_them(monkeypatch):
    monkeypatch.setenv("SECRET", "do-not-store")
    with pytest.raises(ConfigError, match="would be written to the manifest") as caught:
        config_from({"name": "${oc.env:SECRET}"})
    assert "do-not-store" not in str(caught.value)
    assert config_from({"name": "${out}", "out": "there"}).name == "there"


def test_every_key_is_documented():
    text = Path("configs/README.md").read_text(encoding="utf-8")
    for section, values in RunConfig().as_dict().items():
        for name in values if isinstance(values, dict) else [None]:
            assert f"| `{section}.{name}` |" in text if name else f"| `{section}` |" in text, (section, name)


def test_the_short_form_of_scoring_is_its_method():
    assert config_from({"scoring": "generate"}).scoring.method == "generate"
    with pytest.raises(ConfigError, match=r"scoring\.method is 'genrate'; did you mean 'generate'"):
        config_from({"scoring": "genrate"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generation": {"max_new_tokens": 0}}, r"generation\.max_new_tokens is 0"),
        ({"generation": {"stop": [""]}}, r"generation\.stop holds an empty text"),
        ({"generation": {"clean": ["quote"]}}, r"generation\.clean is 'quote'; did you mean 'quotes'"),
        ({"demos": {"context_chars": 0}}, r"demos\.context_chars is 0"),
        ({"wandb": {"mode": "on"}}, r"wandb\.mode is 'on'; did you mean 'online'"),
    ],
)
def test_wrong_settings_of_answers_and_tracking_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from(values)
