"""Write the report of an evaluation: one HTML file that opens from the disk and needs no network.

The wording is in templates/report.html.j2; here is what the files say and what follows from it.
"""

import base64
import hashlib
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.errors import RunError
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report import headline_text as headlines
from finetune.report import words
from finetune.report.run import confusion_plot as confusion
from finetune.report.run import learning_curves as figures
from finetune.report.run import regression_words as measured
from finetune.report.run.changed_settings import recipe_changes
from finetune.report.run.export_figures import write_figures
from finetune.report.run.markdown import render_markdown_report
from finetune.report.run.task_curves import task_learning_curves
from finetune.report.run.task_view import clips_context, flatten_json, task_context
from finetune.report.svg import SvgFigure
from finetune.run.predictions_csv import PredictionRow, read_prediction_rows
from finetune.run.read import read_epochs, read_results_file, with_task_metrics
from finetune.run.results import Environment
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import check_no_external_links, damage_as_run_error, read_json, read_text

_MAX_FILES = 200
_TEMPLATES = Path(__file__).parents[1] / "templates"


def write_report(run: Path, *, evaluation: Path | None = None, figures_too: bool = True) -> Path:
    """Write `report.html`, `report.md` and, with `figures_too`, `figures/` beside `results.json` in `evaluation`.

    By default that is the run's own. Only results.json must be there; of any other missing file the page says that it
    is missing. The same files give the same page, byte for byte. It appears whole or not at all.
    """
    evaluation = evaluation or run / "evaluation"
    with damage_as_run_error(run):
        return _write_report(run, evaluation, figures_too=figures_too)


def _write_report(run: Path, evaluation: Path, *, figures_too: bool) -> Path:
    check_no_external_links(run, only_read="pictures")
    results = read_results_file(evaluation / "results.json")
    name = primary_task(results["tasks"])
    epochs = with_task_metrics(name, read_epochs(run))
    answers = read_prediction_rows(evaluation) if results["tasks"][name]["kind"] in CATEGORICAL_KINDS else None
    recipe = read_text(run / "recipe.yaml")
    tasks = [task_context(each, task, results, answers or []) for each, task in results["tasks"].items()]
    warnings = [*words.warnings_of(results, epochs), *measured.warnings_of(results)]
    beside, changes = headlines.task_rows(results, epochs), recipe_changes(recipe or "")
    learning = _learning_section(epochs, results["tasks"]) if epochs else None
    html = load_template("report.html.j2").render(
        results=results,
        tasks=tasks,
        primary=next(task for task in tasks if task["primary"]),
        headline_key=HEADLINE_METRICS.get(results["tasks"][name]["kind"], ("top1", ""))[0],
        beside=beside,
        weighted=any(epoch.get("weights") for epoch in epochs),
        warnings=warnings,
        protocol=words.protocol_rows(results["protocol"]),
        counts=_class_counts(results["class_counts"]),
        epochs=epochs,
        learning=learning,
        folds=_mean_and_deviation(results.get("folds", [])),
        seeds=_mean_and_deviation(results.get("seeds", [])),
        clips=None if answers is None else _clips(answers, evaluation, results["tasks"][name]),
        recipe=recipe,
        changes=changes,
        **_environment(run / "environment.json"),
        left_out=_skipped_files(results),
        most_files=_MAX_FILES,
        most_classes_with_text=confusion.MAX_CLASSES_WITH_TEXT,
        **page_assets(),
    )
    path = evaluation / "report.html"
    try:
        write_page(path, html)
        told = [each for each in changes if not each.key.startswith("data.")]  # paths of this machine are nobody's
        with atomic_file(evaluation / "report.md") as partial:
            text = render_markdown_report(results, tasks, warnings, told, beside)
            partial.write_bytes(text.encode("utf-8", errors="replace"))
        if figures_too:
            write_figures(evaluation / "figures", list(_drawings([learning, tasks])))
    except OSError as error:
        raise RunError(f"{evaluation}: the report cannot be written: {error.strerror or error}") from None
    return path


def _clips(answers: list[PredictionRow], evaluation: Path, task: dict[str, Any]) -> dict[str, Any]:
    return clips_context(answers, evaluation, multilabel=task["kind"] == "multilabel")


def _environment(path: Path) -> dict[str, Any]:
    known = read_json(path, Environment) if path.is_file() else None
    on_gpu = known is not None and bool(known.get("hardware", {}).get("gpu"))
    return {"environment": None if known is None else flatten_json(known), "on_gpu": on_gpu}


def _drawings(part: Any) -> Iterator[SvgFigure]:
    """Every figure in what a page is given."""
    if isinstance(part, SvgFigure):
        yield part
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _drawings(inner)


def _learning_section(epochs: list[dict[str, Any]], tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Curves and time, over all epochs."""
    seconds = {part: sum(epoch["seconds"][part] for epoch in epochs) for part in ("data", "compute", "evaluate")}
    guessed = any(epoch.get(key) is not None for epoch in epochs for key in ("train_top1", "val_top1"))
    first_of_phases = {epoch["phase"]: epoch for epoch in reversed(epochs)}.values()
    return {
        "loss": figures.loss_curve(epochs),
        "accuracy": figures.accuracy_curve(epochs) if guessed else None,
        "rates": figures.learning_rate_map(epochs),
        "together": task_learning_curves(epochs, tasks),
        "phases": figures.phases_from_epochs(epochs),
        "best": figures.best_epoch(epochs),
        "seconds": seconds,
        "all_seconds": sum(seconds.values()),
        "seconds_to_keep": sum(phase["cache"].get("seconds", 0.0) for phase in first_of_phases if "cache" in phase),
        "peak_gb": max(epoch.get("peak_gb", 0.0) for epoch in epochs),
        "clips_per_second": statistics.median(epoch["clips_per_second"] for epoch in epochs),
    }


def _mean_and_deviation(folds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation of the figure of folds or seeds, top-1 or mean average precision."""
    if len(folds) < 2:
        return None
    if "value" in folds[0]:
        values = [each["value"] for each in folds]
        return {"mean": statistics.mean(values), "spread": statistics.stdev(values)}
    key = next(each for each in ("map", *(key for key, _ in HEADLINE_METRICS.values())) if each in folds[0])
    name = {"map": "Mean average precision", "top1": "Top-1"}.get(key) or dict(HEADLINE_METRICS.values())[key]
    values = [fold[key] for fold in folds]
    return {"key": key, "name": name, "mean": statistics.mean(values), "spread": statistics.stdev(values)}


def _class_counts(class_counts: dict[str, dict[str, int]]) -> list[tuple[str, list[int]]]:
    """(class, its clips in each split)."""
    names = dict.fromkeys(name for counts in class_counts.values() for name in counts)
    return [(name, [counts.get(name, 0) for counts in class_counts.values()]) for name in names]


def _skipped_files(results: dict[str, Any]) -> list[dict[str, str]]:
    """Files that the evaluation or the training left out, each once."""
    files = [*results["skipped"], *results.get("training_skipped", [])]
    return list({file["path"]: file for file in reversed(files)}.values())[::-1]


def load_template(name: str) -> jinja2.Template:
    """One of templates/*; everything put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= words.FILTERS | headlines.FILTERS
    return environment.get_template(name)


def page_assets(*further_styles: str) -> dict[str, Markup]:
    """The page's policy allows the one script with this hash: none in a class name could run."""
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", *further_styles))
    return {"script": Markup(script), "script_hash": Markup(f"sha256-{digest}"), "style": Markup(style)}


def write_page(path: Path, html: str) -> None:
    """A page appears whole or not at all. Halves of surrogate pairs, as in file names, become question marks."""
    with atomic_file(path) as partial:
        partial.write_bytes(html.encode("utf-8", errors="replace"))
