"""Addresses: paths and storage URIs, and the secrets in their user info and query parameters.

Whatever is shown, logged or stored goes through `redacted`, which also masks the keys that the environment holds;
configurations that hold a secret are refused by `secret_in`. Both take a time that grows with a text's length alone.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from urllib.parse import unquote

from harness.core.escaping import one_line, visible

HARMLESS = frozenset(
    {
        "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "buffer_size",
        "default_block_size", "default_replication", "endpoint_override", "force_virtual_addressing", "region",
        "replication", "retry_limit_seconds", "scheme", "smart_defaults", "tls_verify_certificates",
    }
)  # fmt: skip
"""Query parameters of `pyarrow.fs` that hold no secret."""
MASK = "***"
_SCHEME = frozenset(string.ascii_letters + string.digits + "+.-")
_SLASHES = re.compile(r":/+")
_REST = re.compile(r"[^\"'<>|\n]*")
_PARAMETER = re.compile(r"([?&;])([^=?&;#\s]*)=([^&;#\s\"']*)")
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
_PROXY_NAME = re.compile(r"_PROXY$", re.IGNORECASE)
SHORTEST_KEY = 12
"""Characters of a key in the environment that is masked: shorter ones are words."""


def redacted(text: str) -> str:
    """The text with the user info and the parameters of its URLs masked, and the keys that the environment holds."""
    pieces, done = [], 0
    for _, head, end in _urls(text):
        pieces += [text[done:head], _masked(text[head:end])]
        done = end
    found = "".join([*pieces, text[done:]])
    for key in _keys_of_the_environment():
        found = found.replace(key, MASK)
    return found


def secret_in(text: str) -> str:
    """What of a value is a secret: `user info`, `the parameter 'NAME'`, or nothing (an empty text)."""
    for start, head, end in _urls(text):
        rest = text[head:end]
        if _user_info_end(rest):
            return f"user info before '@' in {text[start:head]}..."
        for _, name, value in _PARAMETER.findall(rest):
            if not _harmless(name, value):
                return f"the parameter '{name[:40]}'"
    return ""


def _urls(text: str) -> Iterator[tuple[int, int, int]]:
    """Where each URL begins, where what follows its `scheme://` does, and where it ends: with its line, or a quote."""
    done = 0
    while slashes := _SLASHES.search(text, done):
        start, scheme_end = slashes.start(), slashes.start()
        while start > done and text[start - 1] in _SCHEME:
            start -= 1
        while start < scheme_end and text[start] not in string.ascii_letters:
            start += 1
        done = slashes.end()
        if start < scheme_end:
            rest = _REST.match(text, done)
            assert rest is not None
            yield start, done, rest.end()
            done = rest.end()


def _keys_of_the_environment() -> Iterator[str]:
    """Values of variables that are named as keys are, and what stands before '@' in those of proxies."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST_KEY and not value.startswith(("/", "~", ".")):
            yield value.strip()
        elif _PROXY_NAME.search(name) and (user_info := value.rpartition("@")[0].rpartition("/")[2]):
            yield user_info


def _masked(rest: str) -> str:
    rest = (f"{MASK}@" if _user_info_end(rest) else "") + rest[_user_info_end(rest) :]
    return _PARAMETER.sub(lambda m: m[0] if _harmless(m[2], m[3]) else f"{m[1]}{m[2]}={MASK}", rest)


def _user_info_end(rest: str) -> int:
    """Where the user info of what follows `scheme://` ends; 0 where there is none.

    A key may hold '/' and even '?', so after a colon any later '@' ends it; without one, only an '@' in
    the authority does. Masking too much (`https://host:80/a@b`) is the lesser evil.
    """
    at = rest.rfind("@")
    if at < 0:
        return 0
    before = rest[:at]
    if re.match(r"[^\s/?#]*:", before) or (":" in before and not re.search(r"\s", before)):
        return at + 1
    authority = re.match(r"[^\s/?#]*", rest)
    assert authority is not None
    return authority[0].rfind("@") + 1


def _harmless(name: str, value: str) -> bool:
    return name.lower() in HARMLESS and "@" not in unquote(value)


_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of storage URIs whose first part is a bucket."""


def address_fault(address: str) -> str:
    """What is wrong with a path or storage URI before anything is opened, safe to show; empty where nothing is."""
    if secret := secret_in(address):
        return (
            f"holds a secret ({secret}), which manifest and log would keep; expected credentials in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)"
        )
    shown = one_line(repr(address), 120)
    if not address.strip():
        return f"is {shown}, expected a path or a storage URI"
    if visible(address) != address:
        return f"is {shown}, expected a path or a storage URI without control characters"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", address):
        return f"is {shown}, half a storage URI; expected such as s3://bucket/folder"
    if re.match(rf"({'|'.join(_BUCKETS)})://(/|\?|#|$)", address):
        return f"is {shown}, which names no bucket; expected such as s3://bucket/folder"
    return ""
