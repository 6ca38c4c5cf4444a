"""Predictions drawn on the videos that they are of: which marks, and into which files."""

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
from finetune.recipe.tasks import primary_task
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS, IMAGE_SUFFIXES


def output_paths(paths: Sequence[Path], out: Path, *, image_sequences: bool = True) -> list[Path]:
    """Where each file is drawn to, in the order in which `predict` takes them.

    One file is drawn to `out`; several, or a folder, into the folder `out`, as deep in it as they are in the folder
    that holds all of them, and under their names: with .mp4 or .png at the end where theirs cannot be written. Raises
    RunError where that cannot be.
    """
    files = [file for path in paths for file in find_media(path, image_sequences=image_sequences)]
    for path in paths:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise RunError(f"{out}: is within {path}, and would be predicted the next time; draw to another place")
    if len(paths) == 1 and files == list(paths):
        targets = [_check_suffix(files[0], out)]
    else:
        _check_output_folder(paths, out, len(files))
        top = Path(os.path.commonpath([file.absolute().parent for file in files]))
        targets = [out / _with_output_suffix(file.absolute().relative_to(top)) for file in files]
    taken = {file.resolve() for file in files}
    for target in targets:
        if target.resolve() in taken:
            raise RunError(f"{target}: is one of the videos themselves; draw to another place")
        if target.is_dir():
            raise RunError(f"{target}: is a folder, and would have to be a file; draw to another place")
    return targets


def draw(prediction: Prediction, target: Path, *, image_rate: float = DEFAULT_IMAGE_FPS) -> None:
    """Write the video, or image, of a prediction with what is said of it on each frame.

    A folder of numbered images becomes a video of `image_rate` frames a second.
    """
    if _is_image(prediction.path):
        draw_image(prediction.path, target, build_overlay(prediction))
    else:
        draw_video(prediction.path, target, build_overlay(prediction), image_rate=image_rate)


def build_overlay(prediction: Prediction) -> Overlay:
    """The class and its probability, what other tasks say as lines of text, boxes, and arrows of movement.

    Of several tasks the first box moves by the first movement, the second by the second; a box without one stays.
    """
    tasks = prediction.tasks
    if not tasks:
        return Overlay((_class_text(prediction.top_k, prediction.named),))
    lines = [_task_line(name, each, alone=name == primary_task(tasks)) for name, each in tasks.items()]
    boxes, motions = ([item for item in tasks.items() if item[1].kind == kind] for kind in ("box", "motion"))
    objects = [_overlay_object(box, motion) for box, motion in zip_longest(boxes, motions)]
    reference_frame = next((each.frame for _, each in boxes), None)
    return Overlay(tuple(filter(None, lines)), tuple(objects), reference_frame or 0)


def _task_line(name: str, said: TaskPrediction, *, alone: bool) -> str:
    if said.kind in {"box", "motion"}:
        return ""
    if said.top_k:
        return _class_text(said.top_k, said.named) if alone else f"{name}: {_class_text(said.top_k, said.named)}"
    if list(said.numbers) == [name]:
        return f"{name} {said.numbers[name]:.3g}"
    return f"{name}: " + "  ".join(f"{key} {value:.3g}" for key, value in said.numbers.items())


def _class_text(top_k: Sequence[tuple[str, float]], named: Sequence[str] | None) -> str:
    if named is not None:
        return ", ".join(named) or "none of the classes"
    likeliest, probability = top_k[0]
    return f"{likeliest} {probability:.2f}"


def _overlay_object(box: tuple[str, TaskPrediction] | None, motion: tuple[str, TaskPrediction] | None) -> OverlayObject:
    name = next(each[0] for each in (box, motion) if each is not None)
    place, goes = ({} if each is None else each[1].numbers for each in (box, motion))
    return OverlayObject(
        name,
        (place["x"], place["y"], place["w"], place["h"]) if place else None,
        (goes["dx"], goes["dy"]) if goes else None,
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()


def _output_suffixes(file: Path) -> tuple[str, ...]:
    return IMAGE_OUTPUT_SUFFIXES if _is_image(file) else VIDEO_OUTPUT_SUFFIXES


def _with_output_suffix(file: Path) -> Path:
    endings = _output_suffixes(file)
    return file if file.suffix.lower() in endings else file.with_name(f"{file.name}{endings[0]}")


def _check_suffix(file: Path, out: Path) -> Path:
    if out.suffix.lower() not in _output_suffixes(file):
        what = "an image is" if _is_image(file) else "videos are"
        raise RunError(f"{out}: {what} drawn to a name that ends in {', '.join(_output_suffixes(file))}")
    return out


def _check_output_folder(paths: Sequence[Path], out: Path, count: int) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is there already and no folder; {count} files are drawn into one")
    if out.suffix.lower() in {*VIDEO_OUTPUT_SUFFIXES, *IMAGE_OUTPUT_SUFFIXES} and not out.is_dir():
        raise RunError(f"{out}: {count} files are drawn into a folder; name one")
