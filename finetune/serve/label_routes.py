"""Routes to correct labels, splits and groups, and to mark clips as bad; changes go to a journal at once."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from finetune.errors import DataError, FinetuneError
from finetune.labelling.journal import ConflictError
from finetune.serve.changes import Changes, ListedChange, list_changes
from finetune.serve.clip_routes import Limit, Offset, Table, Task, clip_json, task_of
from finetune.serve.clips import Clip, ClipTable, page_of
from finetune.serve.job_routes import State
from finetune.serve.state import ServerState

router = APIRouter()


class NewChange(BaseModel):
    """One cell of a clip gets a `value` instead of the `previous` one, which the caller saw."""

    model_config = ConfigDict(extra="forbid")

    clip: Annotated[str, Field(max_length=100)]
    field: Annotated[str, Field(max_length=100, description="label, split, group or bad")]
    value: StrictBool | StrictStr
    previous: StrictBool | StrictStr
    task: Annotated[str | None, Field(max_length=1000, description="of a label; by default the primary task")] = None


class Undo(BaseModel):
    """The change to take back; null is the last one that still counts."""

    model_config = ConfigDict(extra="forbid")

    number: int | None = None


def changes_of(server: ServerState) -> Changes:
    if server.changes is None:
        raise HTTPException(404, "labels cannot be changed on this server: it has no manifest")
    return server.changes


@router.get("/api/suspects")
def list_suspects(table: Table, task: Task, offset: Offset = 0, limit: Limit = 50) -> dict[str, Any]:
    """Clips whose label out-of-fold predictions contradict, the most doubtful first; not those changed since."""
    try:
        listed = table.suspects(task)
    except FinetuneError as error:
        raise HTTPException(404, str(error).replace(str(table.run.folder), table.run.folder.name)) from None
    page = [
        clip_json(suspect.clip, task) | {"suggested": suspect.suggested, "score": suspect.score}
        for suspect in page_of(listed, offset, limit)
    ]
    return {"total": len(listed), "suspects": page}


@router.get("/api/next")
async def next_to_label(server: State, table: Table, count: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
    """Unlabelled clips of the folder `--data`, in the order in which they teach most, with the model's guess."""
    if server.settings.new_clips is None:
        raise HTTPException(404, "there are no clips to label; start the server with --data DIR")
    job = await server.next_to_label(server.settings.new_clips, count)
    if job.result is None:
        raise HTTPException(404, job.error)
    listed = [(table.add_new(found["path"]), found) for found in job.result["clips"]]
    return {
        "clips": [
            {"id": clip.id, "name": clip.name, **{key: found[key] for key in ("guess", "probability", "reason")}}
            for clip, found in listed
            if not clip.labels.get(table.primary) and not clip.bad
        ]
    }


@router.post("/api/changes")
def add_change(new: NewChange, server: State, table: Table) -> Any:
    """Change a label, a split or a group, or mark a clip as bad; 409 where somebody else has changed it meanwhile."""
    changes, task = changes_of(server), task_of(table, new.task)
    clip = table.original(new.clip)
    if clip is None:
        raise HTTPException(404, "there is no such clip")
    try:
        number = changes.append(clip, new.field, new.value, new.previous, task=task)
    except ConflictError as error:
        return _conflict(changes, error, clip)
    except DataError as error:
        raise HTTPException(422, _plain(changes, error)) from None
    except OSError as error:
        raise HTTPException(500, f"the change was not written: {error.strerror}") from None
    return {"number": number, "clip": clip_json(table.current()[clip.id], task)}


@router.post("/api/changes/undo")
def undo_change(undo: Undo, server: State, table: Table) -> Any:
    """Take a change back, by another change; 409 where its cell was changed again later."""
    changes = changes_of(server)
    try:
        change = changes.undo(undo.number)
    except ConflictError as error:
        return _conflict(changes, error, None)
    except DataError as error:
        raise HTTPException(422, _plain(changes, error)) from None
    listed = list_changes(changes, table.current(), change.number - 1)[0]
    clip = table.current().get(listed.clip_id or "")
    return {"number": change.number, "clip": None if clip is None else clip_json(clip, table.primary)}


@router.get("/api/changes")
def get_changes(
    server: State,
    table: Table,
    after: Annotated[int, Query(ge=0, le=10**12)] = 0,
    offset: Offset = 0,
    limit: Limit = 200,
) -> dict[str, Any]:
    """The changes with a number above `after`, in order."""
    changes = changes_of(server)
    listed = list_changes(changes, table.current(), after)
    page = page_of(listed, offset, limit)
    return {"total": len(listed), "changes": [_change_json(changes, table, item) for item in page]}


def _change_json(changes: Changes, table: ClipTable, listed: ListedChange) -> dict[str, Any]:
    change, clip = listed.change, table.current().get(listed.clip_id or "")
    return {
        "number": change.number,
        "time": change.time,
        "clip": listed.clip_id,
        "name": change.clip.name if clip is None else clip.name,
        "field": changes.field_of(change.field),
        "value": change.value,
        "previous": change.previous,
        "undone": listed.is_undone,
        "undoes": change.undoes,
    }


def _conflict(changes: Changes, error: ConflictError, clip: Clip | None) -> JSONResponse:
    detail = _plain(changes, error)
    if clip is not None:
        detail = detail.replace(changes.row_of(clip).name, clip.name)
    return JSONResponse({"detail": detail, "current": error.current}, 409)


def _plain(changes: Changes, error: Exception) -> str:
    """The message without the folder of the manifest."""
    return str(error).replace(f"{changes.journal.clips.root}/", "")
