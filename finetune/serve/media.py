"""Answers that are files: pictures of a job, and videos of which the browser may ask for byte ranges."""

import stat
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse

from finetune.serve.jobs import FAILED, Job
from finetune.serve.request import PICTURES, picture_name

MAX_NUMBER = 10_000


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
    """A file with byte ranges, few at a time: players ask for one."""

    max_ranges = 8
