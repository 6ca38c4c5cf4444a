"""Write the report of an evaluation: one HTML file that opens from the disk and needs no network.

Each section has a module that computes what it shows, and a template in templates/sections:
- headline, metrics, per-class table: task_section.py, with texts from words.py and task_words.py
- figures of a task: confusion_plot.py, calibration_plots.py, regression_plots.py
- detection, tracking, segmentation: dense_section.py, dense_plots.py
- example clips: clips_section.py
- search by example: retrieval_section.py
- training curves: learning_curves.py, task_curves.py
- recipe: changed_settings.py
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.arguments import check_arguments
from finetune.errors import RunError
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.model.backbone.weights_source import WeightsSource, describe_source, licence_warning
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report import headline_text, words
from finetune.report.html_page import load_template, page_assets, write_page
from finetune.report.run import confusion_plot, learning_curves
from finetune.report.run.changed_settings import recipe_changes
from finetune.report.run.clips_section import clips_context
from finetune.report.run.export_figures import write_figures
from finetune.report.run.markdown import escape_markdown, render_markdown_report
from finetune.report.run.retrieval_section import retrieval_context
from finetune.report.run.task_curves import task_learning_curves
from finetune.report.run.task_section import flatten_json, task_context
from finetune.report.run.task_words import regression_warnings
from finetune.report.run.timeline_section import timeline_context
from finetune.report.svg import SvgFigure
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.predictions_csv import read_prediction_rows
from finetune.run.read import read_environment, read_epochs, read_results_file, with_task_metrics
from finetune.run.results import Results, SkippedFile
from finetune.storage.safe_read import check_no_external_links, damage_as_run_error, read_text_file

_MAX_FILES = 200  # in the list of skipped files


@check_arguments
def write_report(run: str | Path, *, evaluation: str | Path | None = None, figures_too: bool = True) -> Path:
    """Write `report.html`, `report.md` and, with `figures_too`, `figures/` beside `results.json` in `evaluation`.

    `evaluation` is by default that of the run. Only results.json must exist; the page names any other file that is
    missing. The same files give the same page, byte for byte. The page is written atomically. Gives the path of
    report.html. Raises RunError where the run is not evaluated, a file is damaged, or the page cannot be written.
    """
    run = Path(run)
    evaluation = RunFolder(run).evaluation().path if evaluation is None else Path(evaluation)
    with damage_as_run_error(run):
        return _write_report(run, evaluation, figures_too=figures_too)


def _write_report(run: Path, evaluation: Path, *, figures_too: bool) -> Path:
    files = EvaluationFolder(evaluation)
    check_no_external_links(run, only_read=files.pictures.name)
    results = read_results_file(files.results)
    context = _page_context(run, files, results)
    html = load_template("report.html.j2").render(**context, **page_assets())
    public_changes = [change for change in context["changes"] if not change.key.startswith("data.")]  # no local paths
    markdown = render_markdown_report(
        results, context["tasks"], context["warnings"], public_changes, context["task_rows"]
    )
    if context["weights"]:
        markdown += f"\n{escape_markdown(context['weights'], as_code=False)}\n"
    try:
        write_page(files.report, html)
        write_page(files.markdown, markdown)
        if figures_too:
            write_figures(files.figures, list(_collect_figures([context["training"], context["tasks"]])))
    except OSError as error:
        raise RunError(f"{evaluation}: the report cannot be written: {error.strerror or error}") from None
    return files.report


def _page_context(run: Path, files: EvaluationFolder, results: Results) -> dict[str, Any]:
    """Everything that report.html.j2 shows."""
    primary = primary_task(results["tasks"])
    kind = results["tasks"][primary]["kind"]
    epochs = with_task_metrics(primary, read_epochs(run))
    predictions = read_prediction_rows(files.path) if kind in CATEGORICAL_KINDS else None
    recipe = read_text_file(RunFolder(run).recipe)
    environment = read_environment(run)
    weights: WeightsSource | None = (environment or {}).get("weights")
    tasks = [task_context(name, results, predictions, evaluation=files) for name in results["tasks"]]
    headline_key, headline_name = HEADLINE_METRICS.get(kind, ("top1", "top-1"))
    return {
        "results": results,
        "tasks": tasks,
        "primary": next(task for task in tasks if task["primary"]),
        "headline_key": headline_key,
        "headline_name": headline_name,
        "task_rows": headline_text.task_rows(results, epochs),
        "split_names": words.SPLIT_ADJECTIVES,
        "weighted": any(epoch.get("weights") for epoch in epochs),
        "warnings": [
            *words.evaluation_warnings(results, epochs),
            *regression_warnings(results),
            *filter(None, [licence_warning(weights or {})]),
        ],
        "weights": None if weights is None else describe_source(weights),
        "protocol": words.protocol_rows(results["protocol"]),
        "counts": _class_counts(results["class_counts"]),
        "epochs": epochs,
        "training": _training_section(epochs, results["tasks"]) if epochs else None,
        "folds": _mean_and_deviation(results.get("folds", [])),
        "seeds": _mean_and_deviation(results.get("seeds", [])),
        **_optional_sections(results, files),
        "clips": None if predictions is None else clips_context(predictions, files, multilabel=kind == "multilabel"),
        "recipe": recipe,
        "changes": recipe_changes(recipe or ""),
        "environment": None if environment is None else flatten_json(environment),
        "on_gpu": environment is not None and bool(environment.get("hardware", {}).get("gpu")),
        "skipped_files": _skipped_files(results),
        "max_files": _MAX_FILES,
        "max_classes_with_text": confusion_plot.MAX_CLASSES_WITH_TEXT,
    }


def _optional_sections(results: Results, files: EvaluationFolder) -> dict[str, Any]:
    return {
        "retrieval": retrieval_context(results.get("retrieval"), files),
        "timeline": timeline_context(results.get("timeline"), files),
    }


def _collect_figures(part: Any) -> Iterator[SvgFigure]:
    """Every figure in nested lists and dictionaries."""
    if isinstance(part, SvgFigure):
        yield part
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _collect_figures(inner)


def _training_section(epochs: list[dict[str, Any]], tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Curves, phases, time and memory, over all epochs."""
    seconds = {part: sum(epoch["seconds"][part] for epoch in epochs) for part in ("data", "compute", "evaluate")}
    has_top1 = any(epoch.get(key) is not None for epoch in epochs for key in ("train_top1", "val_top1"))
    first_of_phases = {epoch["phase"]: epoch for epoch in reversed(epochs)}.values()
    return {
        "loss": learning_curves.loss_curve(epochs),
        "accuracy": learning_curves.accuracy_curve(epochs) if has_top1 else None,
        "rates": learning_curves.learning_rate_map(epochs),
        "task_curves": task_learning_curves(epochs, tasks),
        "phases": learning_curves.phases_from_epochs(epochs),
        "best": learning_curves.best_epoch(epochs),
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "cache_seconds": sum(phase["cache"].get("seconds", 0.0) for phase in first_of_phases if "cache" in phase),
        "peak_gb": max(epoch.get("peak_gb", 0.0) for epoch in epochs),
        "clips_per_second": statistics.median(epoch["clips_per_second"] for epoch in epochs),
    }


def _mean_and_deviation(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation (`spread`) of the headline metric of folds or seeds; None for fewer than two."""
    if len(folds) < 2:
        return None
    if "value" in folds[0]:
        values = [seed["value"] for seed in folds]
        return {"mean": statistics.mean(values), "spread": statistics.stdev(values)}
    key = next(key for key in ("map", *(key for key, _ in HEADLINE_METRICS.values())) if key in folds[0])
    name = {"map": "Mean average precision", "top1": "Top-1 accuracy"}.get(key) or dict(HEADLINE_METRICS.values())[key]
    values = [fold[key] for fold in folds]
    return {"key": key, "name": name, "mean": statistics.mean(values), "spread": statistics.stdev(values)}


def _class_counts(class_counts: dict[str, dict[str, int]]) -> list[tuple[str, list[int]]]:
    """(class, number of clips in each split)."""
    names = dict.fromkeys(name for counts in class_counts.values() for name in counts)
    return [(name, [counts.get(name, 0) for counts in class_counts.values()]) for name in names]


def _skipped_files(results: Results) -> list[SkippedFile]:
    """Files that the evaluation or the training skipped, each listed once."""
    files = [*results["skipped"], *results.get("training_skipped", [])]
    return list({file["path"]: file for file in reversed(files)}.values())[::-1]
