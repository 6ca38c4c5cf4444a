"""Download one large file over HTTP, resuming where an interruption left off."""

import errno
import http.client
import os
import ssl
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from finetune.datasets.disk import require_space
from finetune.errors import FinetuneError

Progress = Callable[[str, int, int | None], None]  # what is being done, the amount done, and the total if known

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
RETRY_DELAYS_SECONDS = (
    1.0,
    2.0,
    4.0,
)  # before each retry; starts again after an attempt that transferred something
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class _TransferError(Exception):
    """The transfer ended early; a retry may get the rest."""


def download(url: str, path: str | Path, *, progress: Progress | None = None, option: str = "--archive") -> Path:
    """Download `url` to `path` through `path + ".part"`, which a later call resumes. Returns `path`.

    An existing `path` is taken to be complete, and nothing is downloaded. A server that cannot resume sends the file
    from the start. `progress` is called with numbers of bytes. `option` is the command-line option for a file that was
    downloaded by hand; the error message names it. Raises FinetuneError for errors of the network, server or disk.
    """
    path = Path(path)
    if path.exists():
        return path
    if not url.startswith(("http://", "https://")):
        raise FinetuneError(f"{url}: is not an http or https address")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch_all(url, part, progress=progress)
        part.replace(path)
    except (_TransferError, OSError, http.client.HTTPException) as error:
        resumable = f" (it continues {part})" if _size(part) else ""
        raise FinetuneError(
            f"{url}: {_reason(error)}; run the same command again{resumable}, or download the file by "
            f"hand and save it as {path} or pass it with {option}"
        ) from error
    return path


def _fetch_all(url: str, part: Path, *, progress: Progress | None) -> None:
    """Retry after interruptions, until the file is complete or several attempts in a row transfer nothing."""
    failures, furthest = 0, _size(part)
    while True:
        try:
            return _fetch(url, part, progress=progress)
        except (_TransferError, OSError, http.client.HTTPException) as error:
            if _size(part) > furthest:
                failures, furthest = 0, _size(part)
            if failures == len(RETRY_DELAYS_SECONDS) or _is_permanent(error):
                raise
        time.sleep(RETRY_DELAYS_SECONDS[failures])
        failures += 1


def _fetch(url: str, part: Path, *, progress: Progress | None) -> None:
    """One request that appends to `part`; raises unless the file is then complete."""
    have = _size(part)
    headers = {"User-Agent": "finetune"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS, context=_certificates())
    except HTTPError as error:
        with error:
            if error.code != 416 or not have:
                raise
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # the file was complete; only the renaming was missing
            part.unlink()
            raise _TransferError("the server has no such part of the file") from error
    with response:
        _append(response, part, have=have, progress=progress)


@cache
def _certificates() -> ssl.SSLContext:
    """The system's certificates, always verified, whatever default a program has set."""
    return ssl.create_default_context()


def _append(response: http.client.HTTPResponse, part: Path, *, have: int, progress: Progress | None) -> None:
    resumed = response.status == 206
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        part.unlink(missing_ok=True)
        raise _TransferError("the server sent another part of the file than requested")
    if response.headers.get_content_type() == "text/html":
        raise FinetuneError(f"{response.url}: the server sent a web page, not the file; it may have moved")
    done = have if resumed else 0
    total = None if response.length is None else done + response.length
    if total is not None:
        require_space(part.parent, total - done)
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            _write(file, chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"download {part.stem}", done, total)
        os.fsync(file.fileno())
    if total is not None and done != total:
        raise _TransferError(f"the connection ended after {done:,} of {total:,} bytes")


def _write(file: IO[bytes], chunk: bytes) -> None:
    """Write and flush, so that a full disk is not taken for a broken connection."""
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise FinetuneError(f"{file.name}: cannot be written: {error.strerror}") from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _is_permanent(error: Exception) -> bool:
    """Whether a retry would fail in the same way."""
    if isinstance(error, HTTPError):
        return error.code not in RETRY_STATUSES
    if isinstance(error, URLError):
        return isinstance(error.reason, ssl.SSLCertVerificationError)
    return isinstance(error, OSError) and error.errno in {
        errno.EACCES,
        errno.EROFS,
        errno.EISDIR,
        errno.ENOENT,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        return f"cannot be reached: {error.reason}"
    return str(error) or type(error).__name__
