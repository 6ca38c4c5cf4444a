"""The queue of jobs: order, limits, and what a job that hangs, crashes or is cancelled costs: itself."""

import asyncio
from pathlib import Path

import pytest
from serving import OddWorker

from finetune.serve.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, JobLimits, JobQueue, QueueFullError
from finetune.serve.request import VideoRequest
from finetune.serve.workspace import PREFIX, Workspace, remove_left_behind


def with_queue(use, *, workers=1, **limits):
    """Run `use(queue)` in an event loop; nothing of the queue is left."""

    async def run():
        workspace = Workspace()
        queue = JobQueue(OddWorker(), workspace, limits=JobLimits(**limits), workers=workers)
        queue.start()
        try:
            return await use(queue)
        finally:
            await queue.close()
            workspace.close()
            assert not workspace.path.exists()

    return asyncio.run(asyncio.wait_for(run(), 60))


async def add(queue, *names, **options):
    jobs = []
    for name in names:
        jobs.append(await queue.add(VideoRequest(Path("none"), queue.new_folder(), name), **options))
    return jobs


async def finished(*jobs):
    for job in jobs:
        await job.finished.wait()
    return [job.state for job in jobs]


def test_jobs_are_computed_in_order_and_their_positions_count_down():
    async def use(queue):
        jobs = await add(queue, "a", "b", "c")
        assert [queue.position(job) for job in jobs] == [0, 1, 2]
        assert await finished(*jobs) == [DONE] * 3
        assert [job.result["name"] for job in jobs] == ["a", "b", "c"]
        assert [queue.position(job) for job in jobs] == [0, 0, 0]

    with_queue(use)


def test_a_job_that_fails_crashes_or_hangs_costs_itself_alone():
    async def use(queue):
        jobs = await add(queue, "bad file", "crash file", "hang file", "bug file", "good file")
        assert await finished(*jobs) == [FAILED] * 4 + [DONE]
        return [job.error for job in jobs[:4]]

    bad, crash, hang, bug = with_queue(use, seconds_each=1.0)
    assert bad == "bad file: cannot be read"
    assert crash == "crash file: crashed the process that read it (SIGSEGV)"
    assert hang == "hang file: took longer than 1 s to read"
    assert bug == "bug file: could not be computed; the server's terminal says why"


def test_memory_is_limited():
    async def use(queue):
        return await finished(*await add(queue, "memory"))

    assert with_queue(use) == [FAILED]


def test_a_running_job_can_be_cancelled_and_the_next_one_runs():
    async def use(queue):
        hanging, waiting, last = await add(queue, "hang", "hang", "good")
        while hanging.state != RUNNING:
            await asyncio.sleep(0.01)
        queue.remove(waiting)
        queue.remove(hanging)
        assert await finished(hanging, waiting, last) == [CANCELLED, CANCELLED, DONE]
        assert not hanging.folder.exists() and not waiting.folder.exists() and last.folder.exists()
        assert list(queue.jobs) == [last.id]

    with_queue(use)


def test_the_queue_has_an_end():
    async def use(queue):
        await add(queue, "hang", "b", "c")
        await asyncio.sleep(0.2)  # the first one runs
        await add(queue, "d")
        with pytest.raises(QueueFullError, match="3 videos wait already"):
            queue.new_folder()

    with_queue(use, queued=3)


def test_finished_jobs_are_forgotten_oldest_first():
    async def use(queue):
        jobs = await add(queue, "a", "b", "c", "d")
        await finished(*jobs)
        await asyncio.sleep(0.1)
        assert list(queue.jobs) == [jobs[2].id, jobs[3].id]
        assert [job.folder.exists() for job in jobs] == [False, False, True, True]

    with_queue(use, kept=2)


def test_finished_jobs_make_room_for_uploads():
    async def use(queue):
        jobs = await add(queue, "write a", "write b")
        await finished(*jobs)
        await asyncio.sleep(0.1)
        queue.reserve(1400)
        assert list(queue.jobs) == [jobs[1].id]
        queue.reserve(1500)
        assert not queue.jobs
        with pytest.raises(QueueFullError, match="room"):
            queue.reserve(200)
        queue.release(2900)
        queue.reserve(3000)

    with_queue(use, bytes_kept=3000)


def test_several_workers_share_the_jobs():
    async def use(queue):
        jobs = await add(queue, "hang", "a", "b")
        assert await finished(*jobs[1:]) == [DONE] * 2
        assert jobs[0].state == RUNNING

    with_queue(use, workers=2)


def test_what_a_killed_server_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / ".lock").touch()
    (left / "video.mp4").write_bytes(b"v")
    running = Workspace()
    remove_left_behind(tmp_path)
    assert not left.exists() and running.path.exists()
    assert running.path.stat().st_mode & 0o077 == 0  # nobody else can look into it
    running.close()


def test_new_jobs_wait():
    async def use(queue):
        (job,) = await add(queue, "hang")
        assert job.state == QUEUED and queue.progress(job) == 0.0

    with_queue(use)
