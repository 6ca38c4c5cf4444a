"""The result of one request, computed in a worker process: predictions, frames, heat maps and events of a clip."""

from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from finetune.data.intervals import WHOLE
from finetune.errors import FinetuneError, RunError, VideoError
from finetune.evaluation.gradcam import draw_heatmap, grad_cam
from finetune.inference.exported import InferenceModel, load_for_inference
from finetune.model.classifier import VideoClassifier
from finetune.prediction.inputs import InputVideo, find_inputs
from finetune.prediction.predict import Prediction, TaskPrediction, iter_predictions
from finetune.prediction.rejection import usual_share
from finetune.run.manifest import reads_image_sequences
from finetune.run.read import Run
from finetune.runtime.device import resolve_device
from finetune.serve.request import VideoRequest, picture_name, report_progress
from finetune.timeline.event_settings import stored_event_settings
from finetune.timeline.events import EventSettings
from finetune.timeline.timelines import TimelineOptions, TimelinePredictor
from finetune.timeline.window_length import window_length
from finetune.video.dataset import indices_of_views, read_views
from finetune.video.encode import encode_jpeg
from finetune.video.probe_files import ClipOfFile

MAX_PICTURES = 64  # of one clip


class ServedModel:
    """The model of a run, read once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = load_for_inference(run)
        self.device = resolve_device(run.recipe.train.device)
        self.image_sequences = reads_image_sequences(run)
        self.reject = usual_share(run)

    def answer(self, request: VideoRequest) -> dict[str, Any]:
        """The result as JSON has it, or {"error": text} where the file or the request is at fault."""
        try:
            return self._result(request)
        except MemoryError:
            return {"error": f"{request.name}: takes too much memory to decode"}
        except FinetuneError as error:
            return {"error": _without_paths(str(error), request, self.run)}

    def _result(self, request: VideoRequest) -> dict[str, Any]:
        item: Any = request.path if request.interval == WHOLE else (request.path, *request.interval)
        if request.boxes:
            item = ClipOfFile(request.path, request.interval, boxes=request.boxes)
        recipe = self.run.recipe
        video = find_inputs([item], recipe, image_sequences=self.image_sequences)[0]
        if isinstance(video.info, VideoError):
            raise video.info
        result: dict[str, Any] = {"name": request.name, "duration_seconds": video.info.duration_seconds}
        if request.predict:
            result |= self._prediction(request, item)
        report_progress(request.folder, 0.4)
        clip = recipe.clip.model_copy(update={"size": self.model.size})
        pictures = Pictures(request, video, clip, recipe.evaluate.views)
        result["frames"] = pictures.frames()
        report_progress(request.folder, 0.6)
        result["heatmaps"] = pictures.heatmaps(self.model) if request.heatmap else None
        report_progress(request.folder, 0.8)
        result["events"] = self._events(request) if request.events else None
        return result

    def _prediction(self, request: VideoRequest, item: Any) -> dict[str, Any]:
        """The tasks as `finetune predict` gives them; `rejected` is None where the run cannot reject clips."""
        results = iter_predictions(
            self.run,
            [item],
            model=self.model,
            views=None,
            top_k=request.top_k,
            calibrated=request.calibrated,
            reject=self.reject if request.reject is None else request.reject,
            image_sequences=self.image_sequences,
            on_error="fail",
            progress=lambda *_: None,
        )
        prediction = next(result for _, result in results)
        assert isinstance(prediction, Prediction)
        tasks = prediction.tasks or {
            task: TaskPrediction(output.kind, prediction.top_k, prediction.named)
            for task, output in self.run.outputs.items()
        }
        return {"tasks": {name: task_json(task) for name, task in tasks.items()}, "rejected": prediction.rejected}

    def _events(self, request: VideoRequest) -> list[dict[str, Any]]:
        """The events of the primary task, as `finetune timeline` finds them. Raises RunError for an exported model."""
        if not isinstance(self.model, VideoClassifier):
            raise RunError(f"{request.name}: an exported model finds no events; serve the run itself")
        stored = stored_event_settings(self.run)
        options = TimelineOptions(
            window_length(self.run).seconds,
            calibrated=request.calibrated,
            events=EventSettings() if stored is None else stored.settings,
        )

        def progress(seconds: float, total: float) -> None:
            report_progress(request.folder, 0.8 + 0.2 * seconds / max(total, 1e-9))

        timeline = TimelinePredictor(self.run, options, model=self.model, progress=progress)(request.path)
        classes = timeline.primary.classes
        return [
            {
                "class": classes[event.label],
                "start": round(event.start, 3),
                "end": round(event.end, 3),
                "score": round(float(event.score), 4),
            }
            for event in timeline.primary.events
        ]


class Pictures:
    """The frames that a model looks at in a clip, up to MAX_PICTURES, as files in the folder of a request."""

    def __init__(self, request: VideoRequest, video: InputVideo, clip: Any, views: int) -> None:
        assert not isinstance(video.info, VideoError)
        self.request, self.video, self.clip, self.views = request, video, clip, views
        facts: dict[str, Any] = {"num_frames": video.info.num_frames, "source": video.source}
        if request.pictures or request.heatmap:
            size = video.info.height, video.info.width
            self.clips_VTCHW: Tensor = read_views(video.path, clip, views=views, video_size=size, **facts)
        self.indices_VT = indices_of_views(video.path, clip, views, **facts)

    def frames(self) -> list[dict[str, Any]]:
        """Number in the file and time of each frame, with a picture where the request wants pictures."""
        indices = [index for view in self.indices_VT for index in view][:MAX_PICTURES]
        seconds_F = self._seconds(np.array(indices))
        if self.request.pictures:
            _write_jpegs(self.request, "frames", self.clips_VTCHW.flatten(0, 1)[:MAX_PICTURES])
        return [
            {"index": self.video.first_frame + index, "seconds": round(seconds, 6)}
            for index, seconds in zip(indices, seconds_F.tolist(), strict=True)
        ]

    def heatmaps(self, model: InferenceModel) -> int:
        """Write the Grad-CAM pictures of the first view; their number. Raises RunError for an exported model."""
        if not isinstance(model, VideoClassifier):
            raise RunError(f"{self.request.name}: an exported model has no heat maps; serve the run itself")
        clip_TCHW = self.clips_VTCHW[0]
        count = min(len(clip_TCHW), MAX_PICTURES)
        heat_THW = grad_cam(model, clip_TCHW).heatmap_THW
        shown = draw_heatmap(clip_TCHW[:count], heat_THW, range(count), num_frames=len(clip_TCHW))
        _write_jpegs(self.request, "heatmaps", shown)
        return count

    def _seconds(self, indices_F: np.ndarray) -> np.ndarray:
        """The times (F,) of frames in seconds from the beginning of the file."""
        assert not isinstance(self.video.info, VideoError)
        times_N = self.video.source.times(self.video.path) - self.video.info.start_seconds
        seconds_F = times_N[np.minimum(indices_F, len(times_N) - 1)]
        rate = self.video.info.fps or self.video.source.image_rate
        return np.where(np.isfinite(seconds_F), seconds_F, (self.video.first_frame + indices_F) / rate)


def task_json(task: TaskPrediction) -> dict[str, Any]:
    """The prediction of one task as JSON has it."""
    values = asdict(task) | {"predicted": task.predicted, "numbers": dict(task.numbers)}
    return values | {"named": None if task.named is None else list(task.named)}


def _write_jpegs(request: VideoRequest, kind: str, pictures_FCHW: Tensor) -> None:
    for number, picture_CHW in enumerate(pictures_FCHW.numpy()):
        (request.folder / picture_name(kind, number)).write_bytes(encode_jpeg(picture_CHW))


def _without_paths(text: str, request: VideoRequest, run: Run) -> str:
    """A message without the folders of this machine, which are nobody's business."""
    return text.replace(str(request.path), request.name).replace(str(run.folder), run.folder.name)
