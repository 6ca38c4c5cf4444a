"""What a worker process computes from the features of many clips: which are alike, and which to label next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run
from finetune.serve.request import report_progress


@dataclass(frozen=True)
class NearestRequest:
    """The clips of the run that are most like the one of this name."""

    folder: Path
    name: str
    clip_name: str
    count: int


@dataclass(frozen=True)
class NextRequest:
    """The clips of a folder to label next."""

    folder: Path
    name: str
    clips: Path
    count: int


class SelectionWorker:
    """Features of clips, computed once by each process and kept in the run folder."""

    def __init__(self, run: Run, data_root: Path | None) -> None:
        self.run, self.data_root = run, data_root
        self.features: Any = None

    def begin(self) -> None:
        """Called in the worker process before its first request; features are computed when they are needed."""

    def __call__(self, request: NearestRequest | NextRequest) -> dict[str, Any]:
        """{"clips": …}, or {"error": text}."""
        try:
            return {"clips": self._nearest(request) if isinstance(request, NearestRequest) else self._next(request)}
        except FinetuneError as error:
            return {"error": str(error).replace(f"{self.run.folder}: ", "")}

    def _nearest(self, request: NearestRequest) -> list[tuple[str, float]]:
        """Names and cosines."""
        from finetune.labelling.clip_features import clip_features

        if self.features is None:
            manifest = saved_manifest(self.run, data_root=self.data_root, needs_files=False)
            self.features = clip_features(self.run, manifest, progress=_progress(request.folder))
        if request.clip_name not in self.features.names:
            return []
        row = self.features.names.index(request.clip_name)
        return [(self.features.names[other], cosine) for other, cosine in self.features.nearest(row, request.count)]

    def _next(self, request: NextRequest) -> list[dict[str, Any]]:
        from finetune.labelling.next_to_label import next_to_label
        from finetune.labelling.unlabelled import find_unlabelled

        inside = request.clips.resolve()
        paths = [
            path for path in find_unlabelled(self.run, request.clips) if path.resolve().is_relative_to(inside)
        ]  # a link that leads out of the folder is not served
        labelled = saved_manifest(self.run, data_root=self.data_root, needs_files=False)
        clips = next_to_label(self.run, paths, labelled, count=request.count, progress=_progress(request.folder))
        return [
            {"path": clip.path, "guess": clip.guess, "probability": clip.probability, "reason": clip.reason}
            for clip in clips
        ]


def _progress(folder: Path) -> Any:
    return lambda done, total: report_progress(folder, done / max(total, 1))
