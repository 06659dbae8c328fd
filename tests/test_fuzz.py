"""Anything at all in configurations, templates, data files and run directories: an answer or one line.

`HARNESS_FUZZ=1000000 python -m pytest tests/test_fuzz.py -m 'slow or not slow'` tries a million inputs, other ones
each time, and 10,000 hostile run directories; the default suite tries the same 2,000 inputs.
"""

import contextlib
import copy
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.config.loading import config_from, load_config
from harness.config.schema import RunConfig
from harness.core.errors import UserError
from harness.prompts.templates import read_templates
from tasks.korquad_files import Schema, read_contexts
from tasks.nsmc import read_ratings
from tests.conftest import DEMO, REPO
from tests.simulated_runs import classified_run
from tests.told import call

INPUTS = int(os.environ.get("HARNESS_FUZZ", "2000"))
DEFAULT = INPUTS == 2000
ODD = ["", " ", "~", "???", "a\x1b[31m", "\u202e", "\ud800", "a/b", "..", "s3://", "s3:/K:S@b", "${name}", "${"]
ODD += ["${ oc.env:HOME}", "yes", "null", "1e999", "[red]", "=1+1", "a #b", "\0", "x" * 300, "auto", "{document}", "{{"]
TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(ODD)
NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 2**31, 2**63, -(2**63) - 1, 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def share(part):
    """Settings of a test that takes this part of all inputs."""
    return settings(
        max_examples=max(1, round(INPUTS * part)),
        deadline=None,
        database=None,
        derandomize=DEFAULT,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def one_line_at_most():
    """What is refused is refused in one line that can be shown."""
    try:
        yield
    except UserError as error:
        text = str(error)
        assert text.strip() and "\n" not in text, repr(text)


def written(content: bytes, name="x"):
    path = Path(tempfile.gettempdir(), f"harness-fuzz-{os.getpid()}-{name}")
    path.write_bytes(content)
    return path


def paths_of(value, path=()):
    """Every place of a JSON document."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_of(child, (*path, key))


@st.composite
def changed(draw, document):
    """The document with another value, or none, in one to three of its places."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in paths_of(document) if path]
        if not places:
            break
        *above, key = draw(st.sampled_from(places))
        node = document
        for step in above:
            node = node[step]
        if draw(st.booleans()):
            node[key] = draw(VALUES)
        else:
            del node[key]
    return document


PIECES = [b"\n", b"\t", b"\r", b"\0", b'"', b"{", b"[", b"\\ud800", b": ", b"#"]


@st.composite
def damaged(draw, content: bytes):
    """Bytes with pieces cut out, overwritten or put in; now and then something else altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 40)))
        piece = draw(st.binary(max_size=6) | st.sampled_from(PIECES))
        content = content[:start] + piece + content[end:]
        if draw(st.integers(0, 9)) == 0:
            content = content[:start]
    return content


DEFAULTS = RunConfig().as_dict()
CONFIG = (REPO / "configs" / "demo.yaml").read_bytes()
TEMPLATES = (REPO / "tasks" / "templates" / "nsmc.yaml").read_bytes()[:1500]
PARSED_TEMPLATES = yaml.safe_load((REPO / "tasks" / "templates" / "nsmc.yaml").read_text(encoding="utf-8"))
RATINGS = b"".join((DEMO / "ratings_test.txt").read_bytes().splitlines(keepends=True)[:8])
QUESTION = {"id": "q", "question": "수도는?", "answers": [{"text": "서울", "answer_start": 0}]}
KORQUAD = {"data": [{"title": "가", "paragraphs": [{"context": "서울은 수도이다.", "qas": [QUESTION]}]}]}


@share(0.08)
@given(changed(DEFAULTS))
@example(DEFAULTS | {"grid": DEFAULTS["grid"] | {"templates": [{"\n": "\x1f"}]}})
@example(DEFAULTS | {"task": "a\nb"})
def test_values_of_configurations(document):
    with one_line_at_most():
        assert isinstance(config_from(document), RunConfig)


@share(0.08)
@given(damaged(CONFIG))
def test_bytes_of_configuration_files(content):
    with one_line_at_most():
        load_config(written(content))


KEYS = [f"{name}.{key}" for name, value in DEFAULTS.items() if isinstance(value, dict) for key in value]


@share(0.07)
@given(st.lists(st.tuples(st.sampled_from([*KEYS, *DEFAULTS]) | TEXTS, TEXTS | VALUES.map(repr)), max_size=3))
@example([("\n", "???")])
def test_overrides(pairs):
    with one_line_at_most():
        load_config("configs/demo.yaml", [f"{key}={value}" for key, value in pairs])


@share(0.2)
@given(damaged(TEMPLATES))
def test_bytes_of_template_files(content):
    with one_line_at_most():
        read_templates(written(content), ["negative", "positive"])


@share(0.12)
@given(changed(PARSED_TEMPLATES))
def test_values_of_templates(document):
    with one_line_at_most():
        content = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
        read_templates(written(content), ["negative", "positive"])


@share(0.25)
@given(damaged(RATINGS))
def test_bytes_of_reviews(content):
    with one_line_at_most():
        frame, dropped = read_ratings(written(content))
        rows = [line for line in content.replace(b"\r", b"\n").split(b"\n")[1:] if line.strip()]
        assert len(frame) + dropped <= len(rows)
        assert b"\r" in content or len(frame) + dropped == len(rows), "a row vanished"


@share(0.15)
@given(changed(KORQUAD) | damaged(json.dumps(KORQUAD).encode()))
def test_question_files(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with one_line_at_most():
        list(read_contexts([written(data)], Schema.V1))


# Run directories --------------------------------------------------------------------------------------------------


def copied(run_dir):
    """A copy under the same name each time, so that messages can be compared."""
    target = Path(tempfile.gettempdir(), f"harness-fuzz-{os.getpid()}-run")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run_dir, target)
    return target


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = classified_run(tmp_path_factory.mktemp("runs") / "run", ["가", "나", "다"], {("plain", 0): 0.6}, seeds=(1,))
    Path(path, "prompts.json").write_text('{"format": 1, "prompts": []}')
    return Path(path)


NAMES = ["manifest.json", "prompts.json", "samples.parquet", "part"]
VERBS = ["show"] * 4 + ["status"] * 4 + ["calibrate", "compare", "export", "report"]


def damage(data, folder):
    """Change one file of a run directory, as the drawn data says."""
    name = data.draw(st.sampled_from(NAMES))
    path = min((folder / "parts").iterdir()) if name == "part" else folder / name
    if path.suffix == ".json" and data.draw(st.integers(0, 3)):
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text())))))
    else:
        path.write_bytes(data.draw(damaged(path.read_bytes())))


@share(0.05)
@given(data=st.data())
def test_run_directories(run_dir, data):
    folder = copied(run_dir)
    damage(data, folder)
    told = call(data.draw(st.sampled_from(VERBS)), folder)
    assert told.status in (0, 2), told.err
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (told.status == 2) and "Traceback" not in told.err, told.err
    assert "\x1b" not in told.out + told.err


FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind", "os.remove",
    "os.rename", "os.mkdir", "shutil.",
)  # fmt: skip


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@pytest.mark.slow
def test_reading_a_hostile_run_directory_executes_writes_and_opens_nothing(run_dir):
    """10,000 rounds; every file that is opened is the run's own or of what is installed."""
    installed = (sys.prefix, sys.base_prefix, str(REPO), "/proc/")
    watching: list[Path] = []
    seen: list[str] = []

    def hook(event, given):
        if not watching:
            return
        if event.startswith(FORBIDDEN):
            seen.append(f"{event} {given}")
        elif event == "open" and isinstance(given[0], str):
            path, mode, flags = given[0], given[1] or "r", given[2] or 0
            known = path.startswith((str(watching[0]), *installed)) or path in sys.path
            writes = set(str(mode)) & set("wax+") or flags & WRITING
            if writes or (os.path.exists(path) and not known):
                seen.append(f"open {path} {mode} {flags:#o}")

    sys.addaudithook(hook)

    @settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def rounds(data):
        folder = copied(run_dir)
        damage(data, folder)
        watching.append(folder)
        try:
            call(data.draw(st.sampled_from(["show", "status", "compare"])), folder)
        finally:
            watching.clear()
        assert not seen, seen

    call("show", copied(run_dir))  # modules that are imported late
    rounds()
