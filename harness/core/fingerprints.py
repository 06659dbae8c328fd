"""Hashes of large files, remembered: the identity of a model is that of every byte of its weights.

A file is hashed in blocks by several threads, so that the disk is what it waits for. The result is
kept in the user's cache folder under path, size, times and inode; where that cannot be read or
written, files are hashed each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
BLOCK = 2**26
"""Bytes of a file that one thread hashes."""
REMEMBERED_FROM = 2**23
"""Files that are smaller are hashed anew each time."""
MOST_REMEMBERED = 10_000
MOST_THREADS = 8
TELL_EVERY_S = 5.0
SETTLED_NS = 2 * 10**9
"""A file that changed so lately may change again within one tick of its clock: it is not remembered."""


def cache_file() -> Path:
    """Where hashes are remembered: `harness/file_hashes.json` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "harness" / "file_hashes.json"


def hash_files(files: Sequence[Path]) -> dict[Path, str]:
    """Content hash of each file, 32 hex digits.

    Files that are remembered unchanged are not read. A log line tells how far it is every 5 s.

    Raises:
        OSError: a file cannot be read.
    """
    known = _recall()
    hashes: dict[Path, str] = {}
    keys: dict[Path, str] = {}
    for file in files:
        keys[file] = _key(file)
        remembered = known.get(keys[file])
        if remembered is not None:
            hashes[file] = remembered
    missing = [file for file in files if file not in hashes]
    if missing:
        now = time.time_ns()
        hashes |= _hash(missing)
        learnt = {keys[file]: hashes[file] for file in missing if _is_settled(file, keys[file], now)}
        if learnt:
            _remember({**known, **learnt})
    return {file: hashes[file] for file in files}


def _hash(files: Sequence[Path]) -> dict[Path, str]:
    blocks = [
        (file, start) for file in files for start in range(0, max(1, file.stat().st_size), BLOCK)
    ]  # an empty file has one block
    total, done_bytes = sum(file.stat().st_size for file in files), 0
    digests: dict[tuple[Path, int], bytes] = {}
    threads = min(MOST_THREADS, os.cpu_count() or 1, len(blocks))
    told = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        jobs = {pool.submit(_hash_block, *block): block for block in blocks}
        waiting = set(jobs)
        while waiting:
            finished, waiting = wait(waiting, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
            for job in finished:
                digests[jobs[job]], size = job.result()
                done_bytes += size
            if waiting and time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                log.info(
                    "hashing weights in '%s': %.1f of %.1f GB", files[0].parent, done_bytes / 1e9, total / 1e9
                )  # fmt: skip
    combined = {file: hashlib.blake2b(digest_size=16) for file in files}
    for block in blocks:
        combined[block[0]].update(digests[block])
    return {file: digest.hexdigest() for file, digest in combined.items()}


def _hash_block(file: Path, start: int) -> tuple[bytes, int]:
    digest, left = hashlib.blake2b(digest_size=32), BLOCK
    with file.open("rb", buffering=0) as stream:
        stream.seek(start)
        while left and (piece := stream.read(min(2**20, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest(), BLOCK - left


def _key(file: Path) -> str:
    """Path, size, times of the last change to content and inode, and the inode's number."""
    found = file.stat()
    return f"{file.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0{found.st_ino}"


def _is_settled(file: Path, key: str, began_ns: int) -> bool:
    found = file.stat()
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    return found.st_size >= REMEMBERED_FROM and _key(file) == key and changed < began_ns - SETTLED_NS


def _recall() -> Mapping[str, str]:
    try:
        known = json.loads(cache_file().read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)}


def _remember(known: Mapping[str, str]) -> None:
    """Replace the cache file as a whole; of two processes that do so at once the last one's stays."""
    newest = dict(list(known.items())[-MOST_REMEMBERED:])
    with suppress(OSError, RuntimeError):
        target = cache_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(newest), encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
