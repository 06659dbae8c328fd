"""Anything at all in configurations and templates: an answer or one line."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from harness.config.groups import load_group
from harness.config.loading import config_from, load_config
from harness.config.schema import RunConfig
from harness.prompts.templates import read_templates
from tests.conftest import REPO
from tests.fuzz.inputs import TEXTS, VALUES, changed, damaged, one_line_at_most, share, written

DEFAULTS = RunConfig().as_dict()
CONFIG = (REPO / "configs" / "demo.yaml").read_bytes()
TEMPLATES = (REPO / "tasks" / "templates" / "nsmc.yaml").read_bytes()[:1500]
PARSED_TEMPLATES = yaml.safe_load((REPO / "tasks" / "templates" / "nsmc.yaml").read_text(encoding="utf-8"))


@share("values of configurations")
@given(changed(DEFAULTS))
@example(DEFAULTS | {"grid": DEFAULTS["grid"] | {"templates": [{"\n": "\x1f"}]}})
@example(DEFAULTS | {"task": "a\nb"})
def test_values_of_configurations(document):
    with one_line_at_most():
        assert isinstance(config_from(document), RunConfig)


@share("bytes of configurations")
@given(damaged(CONFIG))
def test_bytes_of_configuration_files(content):
    with one_line_at_most():
        load_config(written(content))


KEYS = [f"{name}.{key}" for name, value in DEFAULTS.items() if isinstance(value, dict) for key in value]


@share("overrides")
@given(st.lists(st.tuples(st.sampled_from([*KEYS, *DEFAULTS]) | TEXTS, TEXTS | VALUES.map(repr)), max_size=3))
@example([("\n", "???")])
def test_overrides(pairs):
    with one_line_at_most():
        load_config("configs/demo.yaml", [f"{key}={value}" for key, value in pairs])


@share("bytes of templates")
@given(damaged(TEMPLATES))
def test_bytes_of_template_files(content):
    with one_line_at_most():
        read_templates(written(content), ["negative", "positive"])


@share("values of templates")
@given(changed(PARSED_TEMPLATES))
def test_values_of_templates(document):
    with one_line_at_most():
        content = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
        read_templates(written(content), ["negative", "positive"])


MODEL = {"name": "small", "path": "m", "dtype": "auto", "device": "cpu", "max_length": 10, "engine": "server"}
SEVERAL = {
    "models": [MODEL | {"base_url": "http://h/v1", "api_key_env": "A_KEY", "timeout_s": 3.0, "max_cost": None}],
    "references": [{"name": "tuned", "path": "r", "fields": ["document"], "max_length": 5, "stride": 1}],
    "finetune": {
        "sizes": [4, 8],
        "seeds": [1],
        "base": "b",
        "methods": ["tfidf"],
        "fields": ["a"],
        "learning_rate": 0.1,
    },
    "race": {"epsilon": 0.01, "confidence": 0.9, "holdout": "auto", "seed": 1, "seeds": "each", "baseline": "a K=0"},
    "wandb": {"mode": "offline", "project": "p", "tags": ["a"]},
    "scoring": {"metrics": ["ece"], "extract": "(a)", "calibration": ["domain"]},
}
SEVERAL["finetune"] = {key: SEVERAL["finetune"][key] for key in SEVERAL["finetune"] if key in DEFAULTS["finetune"]}
GROUP = {
    "name": "both",
    "data_root": "data",
    "tasks": ["klue_nli/*", {"config": "click", "name": "k", "task": {"limit": 5}}],
    "grid": {"k": [0]},
    "model": {"path": "m"},
}


@share("models and references")
@given(changed(SEVERAL))
@example(SEVERAL)
@example(SEVERAL | {"models": [MODEL | {"api_key_env": "hf_" + "x" * 30}]})
@example(SEVERAL | {"task": {"data_dir": "data_in/" + "x" * 300}})
def test_models_references_and_races(document):
    with one_line_at_most():
        assert isinstance(config_from(document), RunConfig)


@share("groups")
@given(changed(GROUP), st.sampled_from([[], ["tasks=[a]"], ["name=x"], ["data_root=[1]"], ["out=\0"], ["tasks=null"]]))
@example(GROUP | {"tasks": [{"config": "klue_nli", 5: {}}]}, ["name=x"])
@example(GROUP | {"tasks": ["configs/" + "x" * 300]}, [])
def test_groups(group, overrides):
    text = yaml.safe_dump(group, allow_unicode=True).encode("utf-8", "surrogatepass")
    with one_line_at_most():
        found = load_group(written(text, "group.yaml"), overrides)
        assert found is None or all(entry.label for entry in found.entries)
