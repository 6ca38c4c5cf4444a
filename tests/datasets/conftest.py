"""A server that misbehaves on request, and a writer of rar archives."""

import stat
import struct
import threading
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """What the server sends, its faults, and the requests it got."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    ranges: bool = True  # whether range requests are supported
    statuses: list[int] = field(default_factory=list)  # answers to the first requests, instead of the file
    cuts: list[int] = field(default_factory=list)  # bytes after which the first connections are closed
    extra_length: int = 0  # by how much the stated length is too long
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range of each


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server.state
        asked = self.headers["Range"]
        server.requests.append((self.path, asked))
        body = server.files.get(self.path.strip("/"))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if body is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body) - start + server.extra_length))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[start : start + cut])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        http_server.state = state
        state.url = f"http://127.0.0.1:{http_server.server_port}"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http_server.shutdown()
        thread.join()


@pytest.fixture
def no_pauses(monkeypatch):
    """Retries follow each other without delay."""
    monkeypatch.setattr("finetune.datasets.download.RETRY_DELAYS_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def write_rar():
    """A writer of uncompressed rar 4 archives: path, {name: content}, {name: target of a symbolic link}."""

    def write(path, files, links=None):
        blocks = [_block(0x73, 0, bytes(6))]
        for name, content in files.items():
            folder = name.endswith("/")
            mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
            blocks.append(_member(name.rstrip("/"), content, mode, flags=0xE0 if folder else 0))
        for name, target in (links or {}).items():
            blocks.append(_member(name, target.encode(), stat.S_IFLNK | 0o777, flags=0))
        path.write_bytes(b"Rar!\x1a\x07\x00" + b"".join(blocks) + _block(0x7B, 0x4000, b""))
        return path

    return write


def _member(name, content, mode, *, flags):
    size, crc = len(content), zlib.crc32(content)
    unix, stored, date = 3, 0x30, 0x00210000
    fields = struct.pack("<IIBIIBBHI", size, size, unix, crc, date, 20, stored, len(name.encode()), mode)
    return _block(0x74, 0x8000 | flags, fields + name.encode()) + content


def _block(kind, flags, fields):
    header = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
    return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header
