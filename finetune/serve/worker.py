"""What runs in worker processes. The server itself imports no torch: it starts quickly, and takes little memory."""

import resource
import sys
from pathlib import Path
from typing import Any

from finetune.recipe.schema import Recipe
from finetune.run.read import Run
from finetune.serve.request import MediaRequest, VideoRequest

MAX_MEMORY = 4 * 2**30  # bytes that one request may take beside the model


class Worker:
    """Computes requests with the model of a run, which each process reads once, in `begin`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: Any = None

    def begin(self) -> None:
        """Called in the worker process before its first request."""
        from finetune.serve.compute import ServedModel

        self.model = ServedModel(self.run)
        if self.model.device.type == "cpu":
            limit_memory(MAX_MEMORY)

    def __call__(self, request: VideoRequest) -> dict[str, Any]:
        """The result as JSON has it, or {"error": text} where the file or the request is at fault."""
        result: dict[str, Any] = self.model.answer(request)
        return result


class MediaWorker:
    """Opens files and makes copies for browsers."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def begin(self) -> None:
        """Called in the worker process before its first request."""
        import finetune.serve.playable  # noqa: F401

        limit_memory(MAX_MEMORY)

    def __call__(self, request: MediaRequest) -> dict[str, Any]:
        """{"media_type": type or None}, or {"error": text}."""
        from finetune.serve.playable import serve_media

        return serve_media(request, self.recipe)


def limit_memory(more_bytes: int) -> None:
    """Let this process map only so many bytes more than now, where the system can limit that."""
    if not sys.platform.startswith("linux"):
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
