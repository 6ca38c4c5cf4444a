"""What a server holds while it runs: the run, its clips, the queues of its worker processes, and its files."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.data.intervals import WHOLE, clip_name
from finetune.run.read import Run
from finetune.serve.changes import Changes
from finetune.serve.clips import Clip, ClipTable
from finetune.serve.jobs import FAILED, FINISHED, Job, JobLimits, JobQueue
from finetune.serve.request import COPY_NAME, MediaRequest, VideoRequest
from finetune.serve.safety import Access
from finetune.serve.selection_worker import NearestRequest, NextRequest, SelectionWorker
from finetune.serve.worker import MediaWorker, Worker
from finetune.serve.workspace import Workspace

MAX_UPLOAD_BYTES, MAX_FILES = 500_000_000, 20
SELECTION_SECONDS = 6 * 3600.0  # to compute the features of all clips of a run


@dataclass(frozen=True)
class ServeSettings:
    """How a server is started; the limits of uploads are for one request."""

    access: Access
    max_files: int = MAX_FILES
    jobs: JobLimits = field(default_factory=JobLimits)
    workers: int = 1
    data_root: Path | None = None  # where the run's files are now
    new_clips: Path | None = None  # a folder of clips to label


class ServerState:
    """Made before the server starts; `start` is called in its event loop."""

    def __init__(self, run: Run, settings: ServeSettings, *, clips: ClipTable, changes: Changes | None = None) -> None:
        self.run, self.settings = run, settings
        self.clips, self.changes = clips, changes
        self.workspace = Workspace()
        limits = settings.jobs
        self.jobs = JobQueue(Worker(run), self.workspace, limits=limits, workers=settings.workers)
        self.media = JobQueue(MediaWorker(run.recipe), self.workspace, limits=limits)
        patient = replace(limits, seconds_each=SELECTION_SECONDS)
        self.selection = JobQueue(SelectionWorker(run, settings.data_root), self.workspace, limits=patient)
        self._cached: dict[tuple[Any, ...], str] = {}  # the job that computes what was asked for

    def start(self) -> None:
        self.jobs.start()
        self.media.start()
        self.selection.start()

    async def close(self) -> None:
        for queue in (self.jobs, self.media, self.selection):
            await queue.close()
        self.workspace.close()

    def kill(self) -> None:
        """End the processes and delete all files, also where the event loop has ended."""
        for queue in (self.jobs, self.media, self.selection):
            queue.kill()
        self.workspace.close()

    async def frames_of(self, clip: Clip, *, heatmap: bool = False) -> Job:
        """The finished job with the frames of a clip and its prediction, or with its heat maps."""
        return await self._once(
            self.jobs,
            (clip.id, "heatmap" if heatmap else "frames"),
            lambda folder: VideoRequest(
                *(clip.path, folder, clip.name, clip.interval, clip.boxes),
                predict=not heatmap,
                pictures=not heatmap,
                heatmap=heatmap,
            ),
        )

    async def nearest(self, clip: Clip, count: int) -> Job:
        """The finished job with the clips that are most like one."""
        name = clip_name(clip.path, *clip.interval, clip.boxes)
        return await self._once(
            self.selection,
            (clip.id, "nearest", count),
            lambda folder: NearestRequest(folder, clip.name, name, count),
        )

    async def next_to_label(self, folder: Path, count: int) -> Job:
        """The finished job with the clips of a folder to label next; computed again each time."""
        request = NextRequest(self.selection.new_folder(), folder.name, folder, count)
        job = await self.selection.add(request, listed=False)
        await job.finished.wait()
        return job

    async def media_type(self, key: str, path: Path, name: str) -> Job:
        """The finished job that says whether browsers play a file as it is."""
        return await self._once(self.media, (key, "type"), lambda folder: MediaRequest(path, folder, name))

    async def playable(
        self, key: str, path: Path, name: str, interval: tuple[float, float] = WHOLE
    ) -> tuple[Job, Path]:
        """A finished job, and the file that browsers play: the file itself, or else a copy of the clip."""
        job = await self.media_type(key, path, name)
        if job.state == FAILED or (job.result or {}).get("media_type"):
            return job, path
        made = await self._once(
            self.media, (key, "copy"), lambda folder: MediaRequest(path, folder, name, interval, copy=True)
        )
        return made, made.folder / COPY_NAME

    async def _once(self, queue: JobQueue, key: tuple[Any, ...], request: Callable[[Path], Any]) -> Job:
        """The job of a key, finished; begun where there is none, or it was forgotten."""
        job = queue.jobs.get(self._cached.get(key, ""))
        if job is None or (job.state in FINISHED and job.result is None):
            folder = queue.new_folder()
            job = await queue.add(request(folder), listed=False)
            known = self.jobs.jobs | self.media.jobs | self.selection.jobs
            self._cached = {other: job_id for other, job_id in self._cached.items() if job_id in known}
            self._cached[key] = job.id
        await job.finished.wait()
        return job
