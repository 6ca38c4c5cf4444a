"""`finetune predict --tracks`: what each tracked object of a recording does, as text or JSON, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import count_predicted_files
from finetune.cli.predict_objects import ObjectOptions
from finetune.cli.predict_output import json_items, prediction_json, prediction_text
from finetune.cli.progress import progress_bars
from finetune.cli.wrap import print_wrapped
from finetune.text import escape_control_characters

if TYPE_CHECKING:
    from finetune.objects.classify_tracks import ClassifiedRecording, ClassifiedTrack
    from finetune.run.read import Run


def predict_tracks(
    classifier: Run,
    detector: Run,
    files: Sequence[Path],
    options: ObjectOptions,
    of_clips: Mapping[str, Any],
    *,
    window: float | None = None,
) -> tuple[int, int]:
    """Print what `classifier` predicts for each object that `detector` finds in the files, and draw it.

    `of_clips` are options of `iter_predictions`. Tracks that are longer than `window`, in seconds, are predicted in
    parts. Counts files predicted and files skipped; the latter are named on stderr. Raises DataError where no file can
    be read.
    """
    import_quickly("finetune.objects.classify_tracks")
    from finetune.inference.exported import load_for_inference
    from finetune.objects.classify_tracks import classify_tracks
    from finetune.objects.predict_frames import ObjectPredictor
    from finetune.objects.track_rows import RowLengths

    predictor = ObjectPredictor(detector, every=options.every, score=options.score)
    model = load_for_inference(classifier)
    of_rows = {**of_clips, "on_error": "fail"}
    with (
        _writer(as_json=options.as_json) as write,
        progress_bars() as progress,
        count_predicted_files(options.on_error) as counts,
    ):
        for place, file in enumerate(files):
            with counts.count_file():
                classified = classify_tracks(
                    predictor,
                    file,
                    classifier,
                    model=model,
                    lengths=RowLengths(window=window),
                    options={**of_rows, "progress": progress},
                )
                write(classified)
                if options.targets:
                    _draw(classified, options.targets[place])
            progress("tracking objects", place + 1, len(files))
    return counts.done, counts.skipped


@contextmanager
def _writer(*, as_json: bool) -> Iterator[Callable[[ClassifiedRecording], None]]:
    if as_json:
        with json_items() as write_item:
            yield lambda classified: write_item(_recording_json(classified))
    else:
        yield lambda classified: print_wrapped(escape_control_characters(_text(classified)))


def _text(classified: ClassifiedRecording) -> str:
    lines = [str(classified.recording.path)]
    lines += [f"    {_track_text(track)}" for track in classified.tracks]
    return "\n".join(lines if classified.tracks else [*lines, "    no tracked object"])


def _track_text(track: ClassifiedTrack) -> str:
    start, end = track.row.clip.interval
    prediction = prediction_text(track.prediction).replace("\n", "\n    ")
    return f"{track.row.track.name} {track.row.track.number}, {start:.2f} to {end:.2f} s\n    {prediction}"


def _recording_json(classified: ClassifiedRecording) -> dict[str, Any]:
    """A recording with an item for each row of a track: the object, its time, its boxes, and the prediction."""
    tracks = [
        {
            "track": track.row.track.number,
            "object": track.row.track.name,
            "score": round(track.row.track.score, 4),
            **{name: value for name, value in prediction_json(track.prediction).items() if name != "path"},
        }
        for track in classified.tracks
    ]
    return {"path": str(classified.recording.path), "tracks": tracks}


def _draw(classified: ClassifiedRecording, target: Path) -> None:
    from finetune.objects.classify_tracks import frames_named_by_action
    from finetune.objects.draw import draw_recording  # with OpenCV, which predictions alone do not need

    draw_recording(classified.recording, frames_named_by_action(classified), target)
