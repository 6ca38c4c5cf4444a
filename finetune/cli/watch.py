"""`finetune watch`: predictions of a camera or a stream while it runs, as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.arguments import OwnParts, RunArgument, check_positive_seconds
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.timeline import print_event_settings, print_window_length
from finetune.errors import RunError
from finetune.recipe.own_parts import import_named_parts
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.storage.atomic import check_writable
from finetune.text import count

if TYPE_CHECKING:
    from finetune.prediction.predict import Prediction, TaskPrediction
    from finetune.timeline.live import EventLine, Line, Watcher, WindowLine

SOURCE_HELP = "A camera's number, rtsp://, http:// or udp://, or a file, which is played at its own speed."


def watch(
    run: RunArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    step: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time between predictions. Default: a quarter of a window.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Length of a window. Default: that of the training clips.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="OUT.mp4", help="Write what was seen, with the class drawn on it.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show it on the screen; the key q ends it.")] = False,
    give_up: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End where a lost source does not come back for so long. Default: never."),
    ] = None,
    parts: OwnParts = None,
) -> None:
    """Predict a camera, a stream or a file while it runs.

    Every step a JSON line is printed for the window of the newest frames, and one where an event starts or ends.
    A model that is slower than the source skips frames and counts them. A lost source is opened again. Ctrl-C ends it.

    Example: finetune watch runs/mine rtsp://192.168.1.20/stream --record seen.mp4
    """
    from finetune.run.read import open_run, require_checkpoint

    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    require_checkpoint(opened, "watch")
    check_positive_seconds({"--step": step, "--window": window, "--give-up": give_up})
    _check_recording(record)
    if show:
        from finetune.timeline.screen import check_screen

        check_screen()
    from finetune.video.decode.live_source import LiveSource

    live_source = LiveSource(source)
    import_quickly("finetune.timeline.live")
    from finetune.timeline.live import Watcher, WatchSettings
    from finetune.timeline.windows import STEPS_PER_WINDOW

    length, events = window or print_window_length(opened), print_event_settings(opened)
    settings = WatchSettings(length, step or length / STEPS_PER_WINDOW, events, give_up, record, show)
    print(f"{live_source.name}: a window every {settings.step_seconds:.3g} s; Ctrl-C ends it", file=sys.stderr)
    watcher = Watcher(opened, live_source, settings)
    try:
        with watcher:
            try:
                _print_lines(watcher.lines())
            except BrokenPipeError:  # what reads the lines has ended, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            finally:
                _print_lines(watcher.finish())
    except KeyboardInterrupt:
        print(f"Stopped after {count(watcher.windows, 'window')}", file=sys.stderr)
        raise
    finally:
        _print_recording(watcher)


def _check_recording(path: Path | None) -> None:
    """Raises RunError where the recording cannot be written, or would replace a file."""
    if path is None:
        return
    if path.suffix.lower() != ".mp4":
        raise RunError(f"{path}: a recording is an MP4 file; give a name that ends in .mp4")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: exists already; give another name, or remove it first")
    check_writable(path)
    if not path.parent.exists():
        raise RunError(f"{path}: there is no folder {path.parent}; make it first, or give another name")


def _print_lines(lines: Iterable[Line]) -> None:
    from finetune.timeline.live import EventLine, Notice

    for line in lines:
        if isinstance(line, Notice):
            print(f"finetune: {line.text}", file=sys.stderr, flush=True)
        else:
            values = _event_json(line) if isinstance(line, EventLine) else _window_json(line)
            print(json.dumps(values, ensure_ascii=False), flush=True)


def _window_json(line: WindowLine) -> dict[str, Any]:
    return {
        "time": round(line.seconds, 3),
        "clock": line.clock.isoformat(timespec="milliseconds"),
        **_prediction_json(line.prediction),
        "age_ms": round(1000 * line.age_seconds),
        "dropped": line.dropped,
    }


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    classes = _classes_json(prediction) if prediction.top_k else {}
    if not prediction.tasks:
        return classes
    return classes | {"tasks": {name: _task_json(task) for name, task in prediction.tasks.items()}}


def _task_json(task: TaskPrediction) -> dict[str, Any]:
    return {"kind": task.kind, **(_classes_json(task) if task.top_k else task.numbers)}


def _classes_json(predicted: Prediction | TaskPrediction) -> dict[str, Any]:
    """The likeliest class, or where a window may have several all that are predicted, and the likeliest five."""
    named = {"class": predicted.top_k[0][0]} if predicted.named is None else {"classes": list(predicted.named)}
    probabilities = {name: round(probability, 6) for name, probability in predicted.top_k}
    return {**named, "probability": round(predicted.top_k[0][1], 6), "probabilities": probabilities}


def _event_json(line: EventLine) -> dict[str, Any]:
    start = {
        "event": "end" if line.has_ended else "start",
        **({} if line.task == DEFAULT_TASK else {"task": line.task}),
        "class": line.label,
        "start": round(line.start, 3),
    }
    return start | ({"end": round(line.end, 3), "score": round(line.score, 6)} if line.has_ended else {})


def _print_recording(watcher: Watcher) -> None:
    recorder = watcher.recorder
    if recorder is None or not recorder.written:
        return
    left_out = f"; encoding was too slow for {count(recorder.left_out, 'other')}" if recorder.left_out else ""
    print(f"{recorder.path}: {count(recorder.written, 'frame')}{left_out}", file=sys.stderr)
