"""Anything at all in configurations and templates: an answer or one line."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

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
