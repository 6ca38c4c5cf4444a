"""What the page needs to know about the run and about this server."""

from typing import Any

from finetune.errors import FinetuneError
from finetune.metrics.headline import headline_metric
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.run.fitted import read_fitted
from finetune.run.folder import RunFolder
from finetune.run.read import Run, find_evaluation, read_environment, read_results_file
from finetune.serve.state import ServerState


def about(server: ServerState) -> dict[str, Any]:
    """See docs/serve.md."""
    run, clips = server.run, server.clips
    clip, views = run.recipe.clip, run.recipe.evaluate.views
    is_run = run.exported is None
    environment: Any = read_environment(run.folder) or {}
    has_classes = any(output.kind in CATEGORICAL_KINDS for output in run.outputs.values())
    return {
        "name": run.folder.resolve().name,
        "exported": run.exported is not None,
        "tasks": {task: {"kind": output.kind, "names": list(output.names)} for task, output in run.outputs.items()},
        "primary": primary_task(run.outputs),
        "classes": list(run.classes),
        "splits": clips.splits,
        "evaluated_splits": clips.answered_splits,
        "groups": clips.groups[:1000],
        "num_clips": len(clips.clips),
        "manifest": None if server.changes is None else str(server.changes.manifest),
        "can": {
            "heatmap": is_run,
            "events": is_run and has_classes and _has_recordings(server),
            "calibrated": any(fitted.temperature is not None for fitted in read_fitted(run).values()),
            "browse": bool(clips.clips),
            "label": server.changes is not None,
            "suspects": bool(clips.answered_splits) and has_classes,
            "next": is_run and server.settings.new_clips is not None and has_classes,
            "nearest": is_run and has_classes,
        },
        "limits": {"max_bytes": server.settings.access.max_upload_bytes, "max_files": server.settings.max_files},
        "clip": {"num_frames": clip.num_frames, "sampling": clip.sampling, "size": clip.size, "views": views},
        "licence": environment.get("weights"),
        "figures": figures(run),
    }


def figures(run: Run) -> list[dict[str, Any]]:
    """The headline metric of each task, from the evaluation after training; empty where there is none."""
    try:
        results = read_results_file(find_evaluation(run.folder, None).results)
    except FinetuneError:
        return []
    rows = []
    for task, values in results["tasks"].items():
        name, value, (low, high) = headline_metric(values)
        rows.append({"task": task, "metric": name, "value": value, "interval": [low, high], "split": results["split"]})
    return rows


def _has_recordings(server: ServerState) -> bool:
    """Whether the run was trained on intervals of recordings, or its events were fitted."""
    return server.clips.manifest.intervals is not None or RunFolder(server.run.folder).event_settings.is_file()
