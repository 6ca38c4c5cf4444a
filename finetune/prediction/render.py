"""Draw predictions on their videos: what is drawn, and into which files."""

import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from finetune.data.read import find_media
from finetune.errors import RunError
from finetune.prediction.overlay import (
    IMAGE_OUTPUT_SUFFIXES,
    VIDEO_OUTPUT_SUFFIXES,
    Overlay,
    OverlayObject,
    draw_image,
    draw_video,
)
from finetune.prediction.predict import Prediction, TaskPrediction
from finetune.prediction.rejection import NONE_OF_THE_CLASSES
from finetune.recipe.tasks import primary_task
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS, IMAGE_SUFFIXES


def output_paths(paths: Sequence[Path], out: Path, *, image_sequences: bool = True) -> list[Path]:
    """The output path of each file, in the order of `predict`.

    One file is drawn to `out`. Several files, or a folder, are drawn into the folder `out`, under their names and in
    the same subfolders as in the folder that holds all of them; .mp4 or .png is appended where a format cannot be
    written. Raises RunError where an output path is not usable.
    """
    files = [file for path in paths for file in find_media(path, image_sequences=image_sequences)]
    for path in paths:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise RunError(f"{out}: lies inside {path}, so the next prediction would include it; draw to another place")
    if len(paths) == 1 and files == list(paths):
        targets = [_check_suffix(files[0], out)]
    else:
        _check_output_folder(out, len(files))
        top = Path(os.path.commonpath([file.absolute().parent for file in files]))
        targets = [out / _with_output_suffix(file.absolute().relative_to(top)) for file in files]
    sources = {file.resolve() for file in files}
    for target in targets:
        if target.resolve() in sources:
            raise RunError(f"{target}: is one of the input videos; draw to another place")
        if target.is_dir():
            raise RunError(f"{target}: is a folder, not a file; draw to another place")
    return targets


def draw(prediction: Prediction, target: Path, *, image_rate: float = DEFAULT_IMAGE_FPS) -> None:
    """Write the video, or image, of a prediction with the prediction drawn on each frame.

    A folder of numbered images becomes a video with `image_rate` frames a second.
    """
    if _is_image(prediction.path):
        draw_image(prediction.path, target, build_overlay(prediction))
    else:
        draw_video(prediction.path, target, build_overlay(prediction), image_rate=image_rate)


def build_overlay(prediction: Prediction) -> Overlay:
    """The class with its probability and the numbers of other tasks as lines of text, boxes, and arrows of motion.

    The first box task moves by the first motion task, the second by the second; a box without a motion task stays.
    """
    tasks = prediction.tasks
    if not tasks:
        likeliest = _class_text(prediction.top_k, prediction.named)
        return Overlay((NONE_OF_THE_CLASSES, f"nearest: {likeliest}") if prediction.rejected else (likeliest,))
    lines = [_task_line(name, task, is_primary=name == primary_task(tasks)) for name, task in tasks.items()]
    boxes, motions = ([item for item in tasks.items() if item[1].kind == kind] for kind in ("box", "motion"))
    objects = [_overlay_object(box, motion) for box, motion in zip_longest(boxes, motions)]
    reference_frame = next((box.frame for _, box in boxes), None)
    return Overlay(tuple(filter(None, lines)), tuple(objects), reference_frame or 0)


def _task_line(name: str, task: TaskPrediction, *, is_primary: bool) -> str:
    """One task as a line of text, without its name if it is the primary one; empty for boxes and motion."""
    if task.kind in {"box", "motion"}:
        return ""
    if task.top_k:
        return _class_text(task.top_k, task.named) if is_primary else f"{name}: {_class_text(task.top_k, task.named)}"
    if list(task.numbers) == [name]:
        return f"{name} {task.numbers[name]:.3g}"
    return f"{name}: " + "  ".join(f"{key} {value:.3g}" for key, value in task.numbers.items())


def _class_text(top_k: Sequence[tuple[str, float]], named: Sequence[str] | None) -> str:
    if named is not None:
        return ", ".join(named) or NONE_OF_THE_CLASSES
    likeliest, probability = top_k[0]
    return f"{likeliest} {probability:.2f}"


def _overlay_object(box: tuple[str, TaskPrediction] | None, motion: tuple[str, TaskPrediction] | None) -> OverlayObject:
    name = next(task[0] for task in (box, motion) if task is not None)
    box_numbers, motion_numbers = ({} if task is None else task[1].numbers for task in (box, motion))
    return OverlayObject(
        name,
        (box_numbers["x"], box_numbers["y"], box_numbers["w"], box_numbers["h"]) if box_numbers else None,
        (motion_numbers["dx"], motion_numbers["dy"]) if motion_numbers else None,
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()


def _output_suffixes(file: Path) -> tuple[str, ...]:
    return IMAGE_OUTPUT_SUFFIXES if _is_image(file) else VIDEO_OUTPUT_SUFFIXES


def _with_output_suffix(file: Path) -> Path:
    suffixes = _output_suffixes(file)
    return file if file.suffix.lower() in suffixes else file.with_name(f"{file.name}{suffixes[0]}")


def _check_suffix(file: Path, out: Path) -> Path:
    if out.suffix.lower() not in _output_suffixes(file):
        what = "an image" if _is_image(file) else "a video"
        raise RunError(f"{out}: {what} must have a name that ends in {', '.join(_output_suffixes(file))}")
    return out


def _check_output_folder(out: Path, count: int) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: exists and is not a folder; {count} files need a folder, name another one")
    if out.suffix.lower() in {*VIDEO_OUTPUT_SUFFIXES, *IMAGE_OUTPUT_SUFFIXES} and not out.is_dir():
        raise RunError(f"{out}: {count} files need a folder; name a folder, not a file")
