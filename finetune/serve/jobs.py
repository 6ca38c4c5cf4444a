"""Jobs: what callers asked worker processes to compute, in a queue; results are kept for a while, up to a limit."""

import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from finetune.serve.request import read_progress
from finetune.serve.workspace import Workspace, bytes_in
from finetune.video.worker_pool import WorkerFailure, WorkerPool

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
FINISHED = (DONE, FAILED, CANCELLED)


@dataclass(frozen=True)
class JobLimits:
    """How many jobs may wait, how many finished ones are kept and for how long, and bytes of all their files."""

    queued: int = 200
    kept: int = 500
    seconds_kept: float = 3600.0
    bytes_kept: int = 4_000_000_000
    seconds_each: float = 300.0  # of computing


class QueueFullError(Exception):
    """Too many jobs wait, or their files take too much room; the caller may try again later."""


@dataclass(eq=False)
class Job:
    """One request and what has become of it; `listed` jobs are shown to the page, and kept after they have finished."""

    id: str
    name: str
    request: Any  # a VideoRequest or another request with a `folder`
    listed: bool
    state: str = QUEUED
    error: str | None = None
    result: dict[str, Any] | None = None
    bytes: int = 0
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    finished_at: float = 0.0

    @property
    def folder(self) -> Path:
        folder: Path = self.request.folder
        return folder

    def finish(self, state: str, *, result: dict[str, Any] | None = None, error: str | None = None) -> None:
        if self.state in FINISHED:
            return
        self.state, self.result, self.error = state, result, error
        self.finished_at = time.monotonic()
        self.finished.set()


class ServedWorker(Protocol):
    """What a worker process runs: see `Worker`."""

    def begin(self) -> None: ...
    def __call__(self, request: Any) -> dict[str, Any]: ...


class JobQueue:
    """Jobs in the order of their arrival, computed by worker processes one after the other.

    All methods are called in the thread of the event loop. `close` kills the processes.
    """

    def __init__(self, worker: ServedWorker, workspace: Workspace, *, limits: JobLimits, workers: int = 1) -> None:
        self.worker, self.workspace, self.limits, self.workers = worker, workspace, limits, workers
        self.jobs: dict[str, Job] = {}  # in the order of their arrival
        self.uploading = 0  # bytes of files that are still arriving
        self._arrived = asyncio.Condition()
        self._pools: list[WorkerPool] = []
        self._running: dict[str, tuple[WorkerPool, Future]] = {}
        self._closing = False
        self._tasks: list[asyncio.Task] = []

    def start(self) -> None:
        """Start the processes and begin to work; to be called in the event loop."""
        self._pools = [self._new_pool() for _ in range(self.workers)]
        self._tasks = [asyncio.create_task(self._work(pool)) for pool in self._pools]
        self._tasks.append(asyncio.create_task(self._forget_old()))

    def new_folder(self) -> Path:
        """An empty folder for the files of a new job. Raises QueueFullError."""
        waiting = sum(job.state == QUEUED for job in self.jobs.values())
        if waiting >= self.limits.queued:
            raise QueueFullError(f"{waiting} videos wait already; try again later")
        return self.workspace.folder(secrets.token_urlsafe(12))

    def reserve(self, more_bytes: int) -> None:
        """Count bytes that arrive; old results make room for them. Raises QueueFullError where that is not enough."""
        self._make_room(more_bytes)
        if self._bytes() + more_bytes > self.limits.bytes_kept:
            raise QueueFullError("the files of waiting videos fill the room that the server may use; try again later")
        self.uploading += more_bytes

    def release(self, arrived_bytes: int) -> None:
        """The bytes have become those of a job, or were removed."""
        self.uploading -= arrived_bytes

    async def add(self, request: Any, *, listed: bool = True) -> Job:
        """A new job at the end of the queue; its id is the name of its folder."""
        job = Job(request.folder.name, request.name, request, listed, bytes=bytes_in(request.folder))
        self.jobs[job.id] = job
        self._make_room(0)
        async with self._arrived:
            self._arrived.notify()
        return job

    def position(self, job: Job) -> int:
        """How many jobs are computed before this one; 0 for one that is not waiting."""
        if job.state != QUEUED:
            return 0
        waiting = [other.id for other in self.jobs.values() if other.state == QUEUED]
        return waiting.index(job.id) + len(self._running)

    def progress(self, job: Job) -> float:
        """How much of a job is done, from 0 to 1."""
        if job.state == RUNNING:
            return min(1.0, max(0.0, read_progress(job.folder)))
        return 1.0 if job.state in FINISHED else 0.0

    def remove(self, job: Job) -> None:
        """Cancel a job where it is not finished, and delete its files."""
        job.finish(CANCELLED)
        pool, future = self._running.get(job.id, (None, None))
        if pool is not None and future is not None and not future.cancel():  # its process has it already
            pool.kill_running()
        self.jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    async def close(self) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for job in list(self.jobs.values()):
            job.finish(CANCELLED)
        await asyncio.to_thread(self.kill)

    def kill(self) -> None:
        """Kill the worker processes."""
        for pool in self._pools:
            pool.close()

    async def _work(self, pool: WorkerPool) -> None:
        while True:
            job = next((job for job in self.jobs.values() if job.state == QUEUED), None)
            if job is None:
                async with self._arrived:
                    await self._arrived.wait()
                continue
            if not await self._compute(job, pool):
                pool = await asyncio.to_thread(self._replace, pool)
            job.bytes = bytes_in(job.folder)
            self._make_room(0)

    async def _compute(self, job: Job, pool: WorkerPool) -> bool:
        """Compute a job; whether the pool can go on."""
        future = pool.submit(job.request)
        job.state, self._running[job.id] = RUNNING, (pool, future)
        try:
            _finish(job, await asyncio.wrap_future(future))
        except asyncio.CancelledError:  # the job was cancelled before its process had it, or the server ends
            if self._closing:
                raise
        except RuntimeError as error:  # a bug, whose traceback is in the text, or a process that did not start
            print(f"finetune: {job.name}: {error}", file=sys.stderr)
            job.finish(FAILED, error=f"{job.name}: could not be computed; the server's terminal says why")
            return False
        finally:
            del self._running[job.id]
        return True

    def _new_pool(self) -> WorkerPool:
        begin, limit = self.worker.begin, self.limits.seconds_each
        return WorkerPool(self.worker, count=1, time_limit=limit, begin=begin)

    def _replace(self, pool: WorkerPool) -> WorkerPool:
        pool.close()
        self._pools.remove(pool)
        self._pools.append(self._new_pool())
        return self._pools[-1]

    async def _forget_old(self) -> None:
        while True:
            await asyncio.sleep(10)
            self._make_room(0)

    def _bytes(self) -> int:
        return self.uploading + sum(job.bytes for job in self.jobs.values())

    def _make_room(self, more_bytes: int) -> None:
        """Remove finished jobs that are too old, too many, or in the way of more bytes, unlisted ones first."""
        finished = sorted((job for job in self.jobs.values() if job.state in FINISHED), key=lambda job: job.listed)
        total, now = self._bytes() + more_bytes, time.monotonic()
        for number, job in enumerate(finished):
            too_many = len(finished) - number > self.limits.kept
            too_old = now - job.finished_at > self.limits.seconds_kept
            if too_many or too_old or total > self.limits.bytes_kept:
                total -= job.bytes
                self.remove(job)


def _finish(job: Job, result: Mapping[str, Any] | WorkerFailure) -> None:
    if isinstance(result, WorkerFailure):
        job.finish(FAILED, error=f"{job.name}: {result.reason}")
    elif "error" in result:
        job.finish(FAILED, error=str(result["error"]))
    else:
        job.finish(DONE, result=dict(result))
    with suppress(OSError):
        if job.state == CANCELLED:  # while it was computed
            shutil.rmtree(job.folder, ignore_errors=True)
