"""Answers that are files: pictures of a job, and videos of which the browser may ask for byte ranges."""

import re
import stat
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from finetune.serve.jobs import FAILED, Job
from finetune.serve.request import PICTURES, picture_name

MAX_NUMBER = 10_000
_RANGE = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")


def picture_response(job: Job, kind: str, number: int) -> FileResponse:
    """A picture of a finished job. Raises HTTPException (404) where there is none."""
    if kind in PICTURES and 0 <= number < MAX_NUMBER:
        path = job.folder / picture_name(kind, number)
        if path.is_file():
            return FileResponse(path, media_type="image/jpeg", stat_result=path.stat())
    raise HTTPException(404, "there is no such picture")


def file_response(job: Job, path: Path) -> FileResponse:
    """The file that a finished job has found to be a video, or has written."""
    if job.state == FAILED or job.result is None:
        raise HTTPException(404, job.error or "this video cannot be shown")
    try:
        facts = path.stat()
    except OSError:
        raise HTTPException(404, "the file of this clip is not there") from None
    if not stat.S_ISREG(facts.st_mode):
        raise HTTPException(404, "this clip is no file")
    return RangeResponse(path, media_type=job.result["media_type"], stat_result=facts)


class RangeResponse(FileResponse):
    """A file with byte ranges, few at a time: players ask for one. A range that is not valid is ignored (RFC 9110)."""

    max_ranges = 8

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range" or is_valid_range(value)]
        await super().__call__({**scope, "headers": headers}, receive, send)


def is_valid_range(value: bytes) -> bool:
    """Whether a header Range is one of bytes, each range of which ends after its start."""
    unit, _, listed = value.partition(b"=")
    ranges = [_RANGE.fullmatch(part.strip()) for part in listed.split(b",")]
    return unit == b"bytes" and all(
        part is not None and any(part.groups()) and (not all(part.groups()) or int(part[1]) <= int(part[2]))
        for part in ranges
    )
