"""`finetune predict`: what a trained run says of videos, as text, JSON or CSV, and drawn on them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.results import Run

if TYPE_CHECKING:
    from finetune.prediction import Prediction, TaskPrediction


def predict(
    run: Run,
    paths: Annotated[list[Path], typer.Argument(help="Videos, images, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a CSV file instead of printing.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes a video.")] = 5,
    views: Annotated[int | None, typer.Option(min=1, help="Clips a video whose answers become one.")] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Probabilities at the temperature fitted on val; same answers.")
    ] = False,
    image_sequences: Annotated[
        bool | None,
        typer.Option(
            help="Folders of numbered images: one clip each, or each image a clip; by default as in training."
        ),
    ] = None,
    drawn: Annotated[
        Path | None, typer.Option("--draw", help="Write the video with it drawn on; of several videos a folder.")
    ] = None,
) -> None:
    """Say of videos what the run's tasks are: the class, and boxes, motion and numbers."""
    from finetune import prediction
    from finetune.checkpoint import open_run
    from finetune.drawing import draw, targets_of

    together = prediction.reads_image_sequences(run) if image_sequences is None else image_sequences
    targets = [] if drawn is None else targets_of(paths, drawn, image_sequences=together)
    predictions = prediction.predict(
        run, paths, views=views, top_k=top_k, calibrated=calibrated, image_sequences=together
    )
    if image_sequences is None:
        _say_how_images_are_taken(paths, together)
    if csv_file is not None:
        _write_csv(csv_file, predictions)
        print(csv_file)
    elif as_json:
        json.dump([_item(each) for each in predictions], sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        for each in predictions:
            print(f"{each.path}\n{_text(each)}")
    for each, target in zip(predictions, targets, strict=drawn is not None):
        draw(each, target, image_rate=open_run(run)[0].data.image_rate)
    if drawn is not None and not as_json:
        print(drawn)


def _say_how_images_are_taken(paths: Sequence[Path], together: bool) -> None:
    """What was decided about folders of numbered images, where there are any."""
    from finetune.manifest_files import find_media
    from finetune.numbered_images import clips_of
    from finetune.report.words import count

    files = [file for path in paths if path.is_dir() for file in find_media(path, image_sequences=False)]
    folders = sum(clip.is_dir() for clip in clips_of(files)[0])
    if not folders:
        return
    if together:
        words = "one clip each; --no-image-sequences takes each image by itself"
    else:
        words = "taken image by image, as in training; --image-sequences takes each as one clip"
    print(f"{count(folders, 'folder')} of numbered images: {words}", file=sys.stderr)


def _text(each: Prediction) -> str:
    if not each.tasks:
        verdict = "" if each.named is None else f"    is {', '.join(each.named) or 'none of the classes'}\n"
        return f"{verdict}    {_listed(each.top_k)}"
    longest = max(map(len, each.tasks))
    return "\n".join(f"    {name:{longest}}   {_of_task(said)}" for name, said in each.tasks.items())


def _of_task(said: TaskPrediction) -> str:
    if not said.top_k:
        where = "" if said.frame is None else f"   at frame {said.frame}"
        return "   ".join(f"{name} {value:.6g}" for name, value in said.numbers.items()) + where
    verdict = "" if said.named is None else f"is {', '.join(said.named) or 'none of the classes'}:   "
    return verdict + _listed(said.top_k)


def _listed(top_k: Sequence[tuple[str, float]]) -> str:
    return "   ".join(f"{name} {probability:.3f}" for name, probability in top_k)


def _item(each: Prediction) -> dict[str, Any]:
    return {
        "path": str(each.path),
        "predicted": each.predicted,
        "probability": each.probability,
        **({} if each.named is None else {"named": list(each.named)}),
        "top_k": _named_parts("class", each.top_k),
        **({"tasks": {name: _task_item(said) for name, said in each.tasks.items()}} if each.tasks else {}),
    }


def _task_item(said: TaskPrediction) -> dict[str, Any]:
    if not said.top_k:
        return {"kind": said.kind, **said.numbers, **({} if said.frame is None else {"frame": said.frame})}
    if said.named is not None:
        return {"kind": said.kind, "classes": list(said.named), "top_k": _named_parts("class", said.top_k)}
    what = "level" if said.kind == "ordinal" else "class"
    likeliest, probability = said.top_k[0]
    return {"kind": said.kind, what: likeliest, "probability": probability, "top_k": _named_parts(what, said.top_k)}


def _named_parts(what: str, top_k: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{what: name, "probability": probability} for name, probability in top_k]


def _write_csv(path: Path, predictions: Sequence[Prediction]) -> None:
    """Columns of the first task with classes, then, of all others, as `box.x` and `box.frame`, or `level.predicted`."""
    from finetune.tasks import primary_of

    tasks = predictions[0].tasks
    others = [name for name in tasks if not (name == primary_of(tasks) and tasks[name].top_k)]
    columns = [f"{name}.{part}" for name in others for part in _cells(tasks[name])]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "predicted", "probability", "top_k", *columns])
        for each in predictions:
            first = [each.path, each.predicted, each.probability, json.dumps(each.top_k, ensure_ascii=False)]
            writer.writerow([*first, *(cell for name in others for cell in _cells(each.tasks[name]).values())])


def _cells(said: TaskPrediction) -> dict[str, Any]:
    if said.top_k:
        listed = json.dumps(said.top_k, ensure_ascii=False)
        return {"predicted": said.predicted, "probability": said.top_k[0][1], "top_k": listed}
    numbers = {name: f"{value:.6g}" for name, value in said.numbers.items()}
    return numbers if said.frame is None else numbers | {"frame": said.frame}
