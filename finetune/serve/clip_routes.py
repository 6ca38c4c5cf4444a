"""Routes to browse the clips of a run: labels, answers, the frames that the model sees, and the videos."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from finetune.serve.clips import Clip, ClipFilter, ClipTable, clip_id, is_wrong, page_of
from finetune.serve.job_routes import State
from finetune.serve.jobs import FAILED
from finetune.serve.media import file_response, picture_response
from finetune.serve.state import ServerState

router = APIRouter()
Order = Literal["row", "name", "confidence", "-confidence", "suspect"]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=500)]
Text = Annotated[str | None, Query(max_length=1000)]


def table_of(server: State) -> ClipTable:
    return server.clips


Table = Annotated[ClipTable, Depends(table_of)]


def task_of(table: Table, task: Text = None) -> str:
    """The task that was asked for; the primary one by default."""
    if task is not None and task not in table.tasks:
        raise HTTPException(404, f"there is no task of this name; there are {', '.join(table.tasks)}")
    return task or table.primary


Task = Annotated[str, Depends(task_of)]


def clip_of(key: Annotated[str, PathParameter(max_length=100)], table: Table) -> Clip:
    clip = table.current().get(key)
    if clip is None:
        raise HTTPException(404, "there is no such clip")
    return clip


ClipById = Annotated[Clip, Depends(clip_of)]


@dataclass
class Listing:
    """Which clips are listed, as parameters of the address."""

    split: Text = None
    label: Text = None
    predicted: Text = None
    group: Text = None
    text: Annotated[str | None, Query(max_length=1000, description="A part of the path.")] = None
    wrong: Annotated[bool, Query(description="The answer is not the label.")] = False
    unsure: Annotated[bool, Query(description="The two likeliest classes are near to each other.")] = False
    bad: Annotated[bool, Query(description="Marked as bad.")] = False
    order: Order = "row"
    offset: Offset = 0
    limit: Limit = 50


@router.get("/api/clips")
async def list_clips(table: Table, task: Task, listing: Annotated[Listing, Depends()]) -> dict[str, Any]:
    """The clips that a filter lets through: by labels and answers of a task, by split, group and a part of the path."""
    wanted = asdict(listing)
    offset, limit = wanted.pop("offset"), wanted.pop("limit")
    clips = table.select(ClipFilter(task, **wanted))
    return {"total": len(clips), "clips": [clip_json(clip, task) for clip in page_of(clips, offset, limit)]}


@router.get("/api/confusion")
async def confusion(table: Table, task: Task, split: Text = None) -> dict[str, Any]:
    """How often clips with a label were given which answer."""
    return {"classes": list(table.tasks[task].names), "cells": table.confusion(task, split)}


@router.get("/api/clips/{key}")
async def get_clip(clip: ClipById, task: Task, server: State) -> dict[str, Any]:
    """One clip with its probabilities and the frames that the model sees.

    `play` is the part of its video, in seconds, that is the clip.
    """
    job = await server.frames_of(clip)
    answer = clip.answers.get(task)
    result = job.result or {"frames": [], "tasks": {}}
    frames = [
        frame | {"url": f"/api/clips/{clip.id}/frames/{number}.jpg"} for number, frame in enumerate(result["frames"])
    ]
    computed = result["tasks"].get(task, {}).get("top_k", [])
    probabilities = list(answer.probabilities) if answer is not None else computed
    play = await _part_to_play(server, clip)
    return clip_json(clip, task) | {"probabilities": probabilities, "frames": frames, "play": play, "error": job.error}


@router.get("/api/clips/{key}/video")
async def clip_video(clip: ClipById, server: State) -> FileResponse:
    """The file of a clip, or a copy of the clip that browsers can play; byte ranges are served."""
    job, path = await server.playable(clip.id, clip.path, clip.name, clip.interval)
    return file_response(job, path)


@router.get("/api/clips/{key}/nearest")
async def nearest(
    clip: ClipById, table: Table, task: Task, server: State, count: Annotated[int, Query(ge=1, le=100)] = 8
) -> dict[str, Any]:
    """The clips of the run that are most alike to the model, by the cosine of their features.

    The first call computes the features of all clips, which are kept in the run folder.
    """
    job = await server.nearest(clip, count)
    if job.result is None:
        raise HTTPException(404, job.error)
    current = table.current()
    alike = [(current.get(clip_id(name)), cosine) for name, cosine in job.result["clips"]]
    return {"clips": [clip_json(other, task) | {"similarity": cosine} for other, cosine in alike if other is not None]}


@router.get("/api/clips/{key}/{kind}/{number}.jpg")
async def clip_picture(clip: ClipById, kind: str, number: int, server: State) -> FileResponse:
    """A frame that the model sees (kind `frames`), or where it looked (kind `heatmaps`)."""
    job = await server.frames_of(clip, heatmap=kind == "heatmaps")
    if job.state == FAILED:
        raise HTTPException(404, job.error)
    return picture_response(job, kind, number)


def clip_json(clip: Clip, task: str) -> dict[str, Any]:
    answer = clip.answers.get(task)
    start, end = clip.interval
    return {
        "id": clip.id,
        "name": clip.name,
        "path": clip.shown_path,
        "start": start,
        "end": None if end == float("inf") else end,
        "split": clip.split,
        "group": clip.group,
        "label": clip.labels.get(task, ""),
        "predicted": None if answer is None else answer.predicted,
        "probability": None if answer is None else answer.probability,
        "wrong": is_wrong(clip, task),
        "bad": clip.bad,
        "changed": clip.changed | ({"label": clip.changed_labels[task]} if task in clip.changed_labels else {}),
    }


async def _part_to_play(server: ServerState, clip: Clip) -> dict[str, float | None]:
    """Start and end of the clip in what /video gives: a copy has nothing but the clip."""
    job = await server.media_type(clip.id, clip.path, clip.name)
    is_original = job.result is not None and job.result["media_type"]
    start, end = clip.interval if is_original else (0.0, float("inf"))
    return {"start": start, "end": None if end == float("inf") else end}
