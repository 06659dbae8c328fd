"""Content hashes: the identity of data, models and work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def content_hash(value: Any) -> str:
    """Hash of plain data (dictionaries, lists, texts, numbers), 32 hex digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def rows_hash(rows: Iterable[tuple[str, ...]]) -> str:
    """Hash of an ordered table of texts, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        for cell in row:
            data = cell.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        digest.update(b"\n")
    return digest.hexdigest()


def git_blob_sha1(path: Path) -> str:
    """The id that git gives a file's content: sha1 of `blob <size>\\0` and the bytes."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
