"""Secrets in addresses are masked, in texts of any length in a moment."""

import random
import re
import time
from urllib.parse import unquote

import pytest

from harness.core.addresses import HARMLESS, MASK, redacted, secret_in

PIECES = [
    "s3", "http", ":", "/", "//", "://", "@", "?", "&", ";", "=", "#", " ", "\n", "\t", "'", '"', "<", "|", ".", "-",
    "+", "1", "a", "B", "key", "region", "scheme", "%40", "한", "x://", "user:word@", "?region=eu", "&token=abc",
]  # fmt: skip


def masked_plainly(text):
    """The rules of `redacted`, without a thought of long texts."""

    def harmless(name, value):
        return name.lower() in HARMLESS and "@" not in unquote(value)

    def url(match):
        head = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/+", match[0])[0]
        rest = match[0][len(head) :]
        at, end = rest.rfind("@"), 0
        if at >= 0:
            authority = re.match(r"[^\s/?#]*", rest)[0].rfind("@") + 1
            end = at + 1 if re.match(r"[^\s/?#]*:|\S*:\S*\Z", rest[:at]) else authority
        rest = (f"{MASK}@" if end else "") + rest[end:]
        return head + re.sub(
            r"([?&;])([^=?&;#\s]*)=([^&;#\s\"']*)",
            lambda m: m[0] if harmless(m[2], m[3]) else f"{m[1]}{m[2]}={MASK}",
            rest,
        )

    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^\"'<>|\n]*", url, text)


def test_texts_of_all_kinds_are_masked_by_the_rules():
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(1, 14)))
        assert redacted(text) == masked_plainly(text), repr(text)
        assert bool(secret_in(text)) == (redacted(text) != text), repr(text)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 200_000,
        "1" * 200_000 + "://",
        "x." * 100_000 + ":",
        "s3://" + "?" * 200_000,
        "s3://" + "?a" * 100_000,
        "s3://" + "&a=" * 60_000,
        "s3://" + "a:" * 100_000 + " @",
        "s3://" + "/a:" * 60_000 + " @",
        "a:/" * 60_000,
        "s3://" + "@" * 200_000,
    ],
    ids=lambda text: text[:8],
)
def test_a_long_text_is_read_once(text):
    begun = time.process_time()
    redacted(text)
    secret_in(text)
    assert time.process_time() - begun < 2
