"""What a server remembers of what it computed."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

from finetune.serve.state import ServerState


class ShortQueue:
    """A queue that forgets all jobs but the newest two."""

    def __init__(self):
        self.jobs, self.count = {}, 0

    def new_folder(self):
        return Path("folder")

    async def add(self, request, *, listed):
        self.count += 1
        job = SimpleNamespace(id=str(self.count), state="done", result={}, finished=asyncio.Event())
        job.finished.set()
        self.jobs = dict([*self.jobs.items(), (job.id, job)][-2:])
        return job


def test_of_jobs_that_the_queue_has_forgotten_nothing_is_kept():
    state = object.__new__(ServerState)
    state.jobs = state.media = state.selection = queue = ShortQueue()
    state._cached = {}

    async def ask(*names):
        for name in names:
            await state.media_type(name, Path(name), name)

    asyncio.run(ask("a", "b", "b", "c"))
    assert queue.count == 3, "the second question for b was answered from memory"
    assert set(state._cached.values()) == set(queue.jobs)
