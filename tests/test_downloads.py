"""`harness data get`: verified or not at all."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from harness.core.downloads import DATASETS, RemoteFile, fetch
from harness.core.errors import DataError


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def server():
    """A loopback server; `files` maps paths to contents and `asked` lists the requests."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in files:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[self.path])))
            self.end_headers()
            self.wfile.write(files[self.path])

        def log_message(self, *arguments):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", files, asked
    http.shutdown()


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_a_verified_file_is_kept_and_not_fetched_again(server, tmp_path):
    address, files, asked = server
    files["/a.txt"] = "문장".encode()
    file = RemoteFile("a.txt", f"{address}/a.txt", blob_id(files["/a.txt"]))
    fetch((file,), tmp_path, quiet())
    fetch((file,), tmp_path, quiet())
    assert (tmp_path / "a.txt").read_bytes() == files["/a.txt"]
    assert asked == ["/a.txt"]


def test_other_content_is_refused_and_leaves_nothing(server, tmp_path):
    address, files, _ = server
    files["/a.txt"] = b"tampered"
    with pytest.raises(DataError, match="git blob id"):
        fetch((RemoteFile("a.txt", f"{address}/a.txt", blob_id(b"official")),), tmp_path, quiet())
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_address_is_named_to_fetch_by_hand(server, tmp_path):
    address, _, _ = server
    with pytest.raises(DataError, match=f"{address}/gone.txt cannot be fetched: .*by hand into"):
        fetch((RemoteFile("gone.txt", f"{address}/gone.txt", "0" * 40),), tmp_path, quiet())
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch((RemoteFile("x", "http://127.0.0.1:9/x", "0" * 40),), tmp_path, quiet())
    assert list(tmp_path.iterdir()) == []


def test_archives_are_unpacked(server, tmp_path):
    address, files, _ = server
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.json", "{}")
    files["/a.zip"] = buffer.getvalue()
    fetch((RemoteFile("a.zip", f"{address}/a.zip", blob_id(files["/a.zip"])),), tmp_path, quiet())
    assert (tmp_path / "inside.json").read_text() == "{}"


def test_official_files_have_full_blob_ids():
    assert {name: len(files) for name, files in DATASETS.items()} == {"nsmc": 2, "korquad1": 2, "korquad2": 15}
    files = [file for group in DATASETS.values() for file in group]
    assert all(len(file.blob) == 40 and file.url.startswith("https://") for file in files)
    assert len({file.blob for file in files}) == len(files)
