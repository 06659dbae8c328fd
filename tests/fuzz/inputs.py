"""What all fuzz tests draw from: odd texts, documents with changed places, damaged bytes; and how many each takes.

`HARNESS_FUZZ=1000000 python -m pytest tests/fuzz -m 'slow or not slow'` tries a million inputs, other ones each time,
and 10,000 hostile run directories; the default suite tries the same 2,000 inputs.
"""

import contextlib
import copy
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.core.errors import UserError

INPUTS = int(os.environ.get("HARNESS_FUZZ", "2000"))
DEFAULT = INPUTS == 2000
SHARES = {
    "values of configurations": 0.02,
    "bytes of configurations": 0.05,
    "overrides": 0.03,
    "models and references": 0.01,
    "groups": 0.004,
    "bytes of templates": 0.12,
    "values of templates": 0.03,
    "reviews": 0.2370,
    "questions": 0.15,
    "text tables": 0.13,
    "binary tables": 0.03,
    "init": 0.0045,
    "server scores": 0.08,
    "server writes": 0.03,
    "server bodies": 0.05,
    "model headers": 0.01,
    "gguf headers": 0.0025,
    "models": 0.005,
    "run directories": 0.0055,
    "groups of runs": 0.0015,
}
"""Of all inputs."""
ODD = ["", " ", "~", "???", "a\x1b[31m", "\u202e", "\ud800", "a/b", "..", "s3://", "s3:/K:S@b", "${name}", "${"]
ODD += ["${ oc.env:HOME}", "yes", "null", "1e999", "[red]", "=1+1", "a #b", "\0", "x" * 300, "auto", "{document}", "{{"]
TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(ODD)
NUMBERS = st.integers() | st.floats() | st.sampled_from([-1, 0, 2**31, 2**63, -(2**63) - 1, 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
PIECES = [b"\n", b"\t", b"\r", b"\0", b'"', b"{", b"[", b"\\ud800", b": ", b"#", b",", b"NaN", b"1e999"]


def share(part):
    """Settings of a test that takes this part of all inputs."""
    return settings(
        max_examples=max(1, round(INPUTS * SHARES[part])),
        deadline=None,
        database=None,
        derandomize=DEFAULT,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def one_line_at_most(kinds=UserError):
    """What is refused is refused in one line that can be shown."""
    try:
        yield
    except kinds as error:
        text = str(error)
        assert text.strip() and "\n" not in text, repr(text)


def written(content: bytes, name="x"):
    path = place(name)
    path.write_bytes(content)
    return path


def place(name):
    """The same path each time, so that messages can be compared."""
    return Path(tempfile.gettempdir(), f"harness-fuzz-{os.getpid()}-{name}")


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
