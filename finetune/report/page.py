"""Write the report of an evaluation: one HTML file that opens from the disk and needs no network.

The wording is in templates/report.html.j2; here is what the files say and what follows from it.
"""

import base64
import csv
import hashlib
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.errors import RunError
from finetune.files import whole_file
from finetune.report import confusion, figures, words

SCHEMA = 1
_MISTAKES_SHOWN, _PAIRS_SHOWN, _FILES_SHOWN = 20, 10, 200
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Path, *, evaluation: Path | None = None) -> Path:
    """Write `report.html` beside `results.json` in `evaluation`, by default the run's own `evaluation`.

    Only results.json must be there; of any other missing file the page says that it is missing. The same
    files give the same page, byte for byte. It appears whole or not at all.
    """
    evaluation = evaluation or run / "evaluation"
    results = _read_results(evaluation / "results.json")
    epochs = _read_epochs(run / "metrics.jsonl")
    predictions = _read_predictions(evaluation / "predictions.csv")
    recipe, environment = _read_text(run / "recipe.yaml"), _read_text(run / "environment.json")
    html = template("report.html.j2").render(
        results=results,
        tasks=[_task(name, task, results) for name, task in results["tasks"].items()],
        warnings=words.warnings_of(results, epochs or []),
        protocol=words.protocol_rows(results["protocol"]),
        counts=_class_counts(results["class_counts"]),
        epochs=epochs,
        learning=_learning(epochs) if epochs else None,
        folds=_spread(results.get("folds", [])),
        mistakes=None if predictions is None else _surest_mistakes(predictions),
        recipe=recipe,
        environment=None if environment is None else _flat(_json(environment, run / "environment.json")),
        left_out=_left_out(results),
        most_files=_FILES_SHOWN,
        most_classes_with_text=confusion.MOST_CLASSES_WITH_TEXT,
        **script_and_style(),
    )
    path = evaluation / "report.html"
    write_page(path, html)
    return path


def _read_results(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    if text is None:
        raise RunError(f"{path}: there is no such file, so there is nothing to report; evaluate the run first")
    results = _json(text, path)
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path}: schema is {schema!r}, this version reads {SCHEMA}; evaluate the run again")
    return results


def _read_epochs(path: Path) -> list[dict[str, Any]] | None:
    """One record an epoch, in order; an epoch written twice, as after a resume, counts as written last."""
    text = _read_text(path)
    if text is None:
        return None
    lines = text.split("\n")[:-1]  # a last line without its end was cut off when a run was killed
    records = [_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    last = {record["epoch"]: record for record in records}
    return [last[epoch] for epoch in sorted(last)]


def _read_predictions(path: Path) -> list[dict[str, Any]] | None:
    text = _read_text(path)
    if text is None:
        return None
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
        try:
            top_k = {str(name): float(probability) for name, probability in json.loads(row["top_k"] or "[]")}
            rows.append({**row, "probability": float(row["probability"]), "top_k": top_k})
        except (KeyError, TypeError, ValueError) as error:
            what = f"{path}, row {number}: expected path,label,predicted,probability,top_k but {error!r}"
            raise RunError(f"{what}; evaluate the run again") from error
    return rows


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _json(text: str, where: Path | str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunError(
            f"{where}: not JSON ({error}); it is damaged: write it again by evaluating or training again"
        ) from error


def _task(name: str, task: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one task beside its own numbers."""
    index = list(results["tasks"]).index(name)
    shown = {"name": name, "index": index, **task}
    if task["kind"] == "multilabel":
        training = results["class_counts"].get("train", {})
        rows = [
            row | {"training": training.get(row["class"])} | ({} if row["support"] else {"recall": None, "f1": None})
            for row in task["per_class"]
        ]
        return shown | {"rows": sorted(rows, key=lambda row: (_or_infinity(row["ap"]), row["class"]))}
    if task["kind"] != "classify":
        return shown | {"facts": _flat({key: value for key, value in task.items() if key != "kind"})}
    training = results["class_counts"].get("train", {})
    never = words.never_predicted(task)
    rows = [
        row
        | {"training": training.get(row["class"]), "never_predicted": row["class"] in never}
        | ({} if row["support"] else {"recall": None, "f1": None})  # 0 % of no clips would mislead
        for row in task["per_class"]
    ]
    figure = confusion.confusion_matrix(task["classes"], task["confusion"], name=f"confusion-{index}")
    return shown | {
        "figure": Markup(figure),
        "rows": sorted(rows, key=lambda row: (_or_infinity(row["recall"]), row["class"])),
        "pairs": _confused_pairs(task),
    }


def _confused_pairs(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs with most clips; of equal counts, first the one with the larger share of its true class."""
    pairs = [
        {"true": true, "predicted": predicted, "count": count, "of": sum(row)}
        for true, row in zip(task["classes"], task["confusion"], strict=True)
        for predicted, count in zip(task["classes"], row, strict=True)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair["count"], pair["of"]))[:_PAIRS_SHOWN]


def _surest_mistakes(predictions: list[dict[str, Any]]) -> dict[str, Any]:
    wrong = [row for row in predictions if row["label"] != row["predicted"]]
    surest = sorted(wrong, key=lambda row: (-row["probability"], row["path"]))[:_MISTAKES_SHOWN]
    return {"rows": surest, "number": len(wrong), "of": len(predictions)}


def _learning(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves and time, over all epochs."""
    seconds = {part: sum(epoch["seconds"][part] for epoch in epochs) for part in ("data", "compute", "evaluate")}
    first_of_phases = {epoch["phase"]: epoch for epoch in reversed(epochs)}.values()
    return {
        "loss": Markup(figures.loss_curve(epochs)),
        "accuracy": Markup(figures.accuracy_curve(epochs)),
        "rates": Markup(figures.learning_rates(epochs)),
        "phases": figures.phases_of(epochs),
        "best": figures.best_epoch(epochs),
        "seconds": seconds,
        "all_seconds": sum(seconds.values()),
        "seconds_to_keep": sum(phase["cache"].get("seconds", 0.0) for phase in first_of_phases if "cache" in phase),
        "clips_per_second": statistics.median(epoch["clips_per_second"] for epoch in epochs),
    }


def _spread(folds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation of the folds' figure, top-1 or mean average precision."""
    if len(folds) < 2:
        return None
    key, name = ("map", "Mean average precision") if "map" in folds[0] else ("top1", "Top-1")
    values = [fold[key] for fold in folds]
    return {"key": key, "name": name, "mean": statistics.mean(values), "spread": statistics.stdev(values)}


def _class_counts(class_counts: dict[str, dict[str, int]]) -> list[tuple[str, list[int]]]:
    """(class, its clips in each split)."""
    names = dict.fromkeys(name for counts in class_counts.values() for name in counts)
    return [(name, [counts.get(name, 0) for counts in class_counts.values()]) for name in names]


def _left_out(results: dict[str, Any]) -> list[dict[str, str]]:
    """Files that the evaluation or the training left out, each once."""
    files = [*results["skipped"], *results.get("training_skipped", [])]
    return list({file["path"]: file for file in reversed(files)}.values())[::-1]


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as rows of (dotted key, text)."""
    if isinstance(value, dict):
        return [row for key, part in value.items() for row in _flat(part, f"{prefix}.{key}" if prefix else str(key))]
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts]
    return [(prefix, ", ".join(texts) or "none")]


def template(name: str) -> jinja2.Template:
    """One of templates/*; everything put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= words.FILTERS
    return environment.get_template(name)


def script_and_style(*further_styles: str) -> dict[str, Markup]:
    """The page's policy allows the one script with this hash: none in a class name could run."""
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", *further_styles))
    return {"script": Markup(script), "script_hash": Markup(f"sha256-{digest}"), "style": Markup(style)}


def write_page(path: Path, html: str) -> None:
    """A page appears whole or not at all. Halves of surrogate pairs, as in file names, become question marks."""
    with whole_file(path) as partial:
        partial.write_bytes(html.encode("utf-8", errors="replace"))
