"""Routes that predict videos that a caller sends: at once, or as jobs in a queue."""

import asyncio
import shutil
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import FileResponse

from finetune.serve.jobs import CANCELLED, DONE, FAILED, Job
from finetune.serve.media import file_response, picture_response
from finetune.serve.request import VideoRequest
from finetune.serve.state import ServerState
from finetune.serve.uploads import Upload, UploadReader

router = APIRouter()
MAX_TOP_K = 1000


def form(name: str, *, several: bool) -> dict[str, Any]:
    """How the form with the videos is described in /openapi.json; it is read by `UploadReader`, not by FastAPI."""
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    properties = {name: {"type": "array", "items": file} if several else file}
    schema = {"type": "object", "required": [name], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass
class Options:
    """What to compute beside the probabilities; parameters of the address."""

    top_k: Annotated[int, Query(ge=1, le=MAX_TOP_K, description="Number of classes that are listed.")] = 5
    calibrated: Annotated[bool, Query(description="Apply the temperature that was fitted on val.")] = False
    heatmap: Annotated[bool, Query(description="Grad-CAM pictures of where the model looked.")] = False
    reject: Annotated[
        float | None,
        Query(gt=0, lt=1, description="As `predict --reject`; by default the usual share, where the run can reject."),
    ] = None
    events: Annotated[bool, Query(description="Find events in a recording, as `finetune timeline`.")] = False


def state_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


State = Annotated[ServerState, Depends(state_of)]


@router.post("/predict", openapi_extra=form("video", several=False))
async def predict(request: Request, server: State, options: Annotated[Options, Depends()]) -> dict[str, Any]:
    """Predict one video, sent as the field `video` of a form, and wait for the result.

    Nothing is kept, so its frames have no pictures, except with `heatmap`: then they stay for a while.
    """
    (upload,) = await _receive(request, server, "video", max_files=1)
    job = await _add(server, upload, options, pictures=options.heatmap, listed=options.heatmap)
    try:
        await _wait(request, job)
        return _result(job)
    finally:
        if not options.heatmap or job.state != DONE:
            server.jobs.remove(job)


@router.post("/api/jobs", openapi_extra=form("videos", several=True))
async def add_jobs(request: Request, server: State, options: Annotated[Options, Depends()]) -> dict[str, Any]:
    """Put videos, sent as the fields `videos` of a form, into the queue."""
    uploads = await _receive(request, server, "videos", max_files=server.settings.max_files)
    jobs = [await _add(server, upload, options, pictures=True, listed=True) for upload in uploads]
    return {"jobs": [job_json(server, job) for job in jobs]}


@router.get("/api/jobs")
async def list_jobs(
    server: State, offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 200
) -> dict[str, Any]:
    """The jobs in the order of their arrival."""
    listed = [job for job in server.jobs.jobs.values() if job.listed]
    return {"jobs": [job_json(server, job) for job in listed[offset : offset + limit]]}


def job_of(job_id: str, server: State) -> Job:
    job = server.jobs.jobs.get(job_id)
    if job is None or not job.listed:
        raise HTTPException(404, "there is no such job; finished ones are deleted after a while")
    return job


JobById = Annotated[Job, Depends(job_of)]


@router.get("/api/jobs/{job_id}")
async def get_job(job: JobById, server: State) -> dict[str, Any]:
    """One job, with its result once it is done."""
    return job_json(server, job)


@router.delete("/api/jobs/{job_id}")
async def delete_job(job: JobById, server: State) -> dict[str, Any]:
    """Cancel a job, or delete a finished one with its files."""
    server.jobs.remove(job)
    return job_json(server, job)


@router.get("/api/jobs/{job_id}/video")
async def job_video(job: JobById, server: State) -> FileResponse:
    """The video, or a copy that browsers can play; byte ranges are served."""
    media, path = await server.playable(job.id, job.request.path, job.name)
    return file_response(media, path)


@router.get("/api/jobs/{job_id}/{kind}/{number}.jpg")
async def job_picture(job: JobById, kind: str, number: int) -> FileResponse:
    """A frame that was looked at (kind `frames`), or a heat map (kind `heatmaps`)."""
    return picture_response(job, kind, number)


def job_json(server: ServerState, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "position": server.jobs.position(job),
        "progress": server.jobs.progress(job),
        "error": job.error,
        "result": None if job.result is None else result_json(job, f"/api/jobs/{job.id}"),
    }


def result_json(job: Job, base: str) -> dict[str, Any]:
    """The result of a finished job, with the addresses of its pictures, which begin with `base`."""
    assert job.result is not None
    shown = job.request.pictures
    frames = [
        frame | {"url": f"{base}/frames/{number}.jpg" if shown else None}
        for number, frame in enumerate(job.result["frames"])
    ]
    count = job.result["heatmaps"]
    heatmaps = None if count is None else [f"{base}/heatmaps/{number}.jpg" for number in range(count)]
    return job.result | {"frames": frames, "heatmaps": heatmaps}


async def _receive(request: Request, server: ServerState, field: str, *, max_files: int) -> list[Upload]:
    """The files of a form, on disk; nothing of them stays where the form is not accepted."""
    content_type = request.headers.get("content-type", "")
    reader = UploadReader(content_type, server.jobs, field_name=field, max_files=max_files)
    try:
        async for chunk in request.stream():
            reader.write(chunk)
        return reader.finish()
    except BaseException:
        for upload in reader.uploads:
            shutil.rmtree(upload.path.parent, ignore_errors=True)
        raise
    finally:
        reader.close()
        server.jobs.release(sum(upload.bytes for upload in reader.uploads))


async def _add(server: ServerState, upload: Upload, options: Options, *, pictures: bool, listed: bool) -> Job:
    computed = VideoRequest(
        upload.path,
        upload.path.parent,
        upload.name,
        pictures=pictures,
        heatmap=options.heatmap,
        events=options.events,
        calibrated=options.calibrated,
        top_k=options.top_k,
        reject=options.reject,
    )
    return await server.jobs.add(computed, listed=listed)


async def _wait(request: Request, job: Job) -> None:
    """Wait for a job; where the caller has gone, raise CancelledError, so that nothing is computed for nobody."""
    while not job.finished.is_set():
        try:
            await asyncio.wait_for(job.finished.wait(), 1.0)
        except TimeoutError:
            if await request.is_disconnected():
                raise HTTPException(499, "the caller has gone") from None


def _result(job: Job) -> dict[str, Any]:
    if job.state == FAILED:
        raise HTTPException(422, job.error)
    if job.state == CANCELLED or job.result is None:
        raise HTTPException(503, "the job was cancelled", {"Retry-After": "5"})
    return result_json(job, f"/api/jobs/{job.id}")
