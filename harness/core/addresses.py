"""Addresses: paths and storage URIs, and the secrets in their user info and query parameters.

Whatever is shown, logged or stored goes through `redacted`; configurations that hold a secret are
refused by `secret_in`.
"""

from __future__ import annotations

import re
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
# Each pattern begins where no other match of it could, so that a text of any length is read once.
_URL = re.compile(r"(?<![A-Za-z0-9+.-])([0-9+.-]*+)([A-Za-z][A-Za-z0-9+.-]*+:/+[^\"'<>|\n]*)")
_HEAD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_PARAMETER = re.compile(r"([?&;])([^=&;#\s]++)(=[^&;#\s\"']*)?")


def redacted(text: str) -> str:
    """The text with the user info and the parameters of its URLs masked."""
    return _URL.sub(lambda match: match[1] + _masked(match[2]), text)


def secret_in(text: str) -> str:
    """What of a value is a secret: `user info`, `the parameter 'NAME'`, or nothing (an empty text)."""
    for match in _URL.finditer(text):
        head, rest = _split(match[2])
        if _user_info_end(rest):
            return f"user info before '@' in {head}..."
        for parameter in _PARAMETER.finditer(rest):
            if not _harmless(parameter):
                return f"the parameter '{parameter[2][:40]}'"
    return ""


def _split(url: str) -> tuple[str, str]:
    head = _HEAD.match(url)
    assert head is not None
    return head[0], url[head.end() :]


def _masked(url: str) -> str:
    head, rest = _split(url)
    rest = (f"{MASK}@" if _user_info_end(rest) else "") + rest[_user_info_end(rest) :]
    return head + _PARAMETER.sub(lambda m: m[0] if _harmless(m) else f"{m[1]}{m[2]}={MASK}", rest)


def _user_info_end(rest: str) -> int:
    """Where the user info of what follows `scheme://` ends; 0 where there is none.

    A key may hold '/' and even '?', so after a colon any later '@' ends it; without one, only an '@' in
    the authority does. Masking too much (`https://host:80/a@b`) is the lesser evil.
    """
    at = rest.rfind("@")
    if at < 0:
        return 0
    before = rest[:at]
    if re.match(r"[^\s/?#:]*:", before) or (":" in before and not re.search(r"\s", before)):
        return at + 1
    authority = re.match(r"[^\s/?#]*", rest)
    assert authority is not None
    return authority[0].rfind("@") + 1


def _harmless(parameter: re.Match[str]) -> bool:
    """Whether it has no value, or one that is no secret."""
    value = parameter[3]
    return value is None or (parameter[2].lower() in HARMLESS and "@" not in unquote(value))


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
