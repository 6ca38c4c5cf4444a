"""Text of a report: the headline sentence of a classification task, warnings, protocol; numbers as text."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup, escape

from finetune.errors import shorten_list
from finetune.recipe.tasks import DENSE_KINDS, DETECTION_KINDS
from finetune.run.results import Results
from finetune.text import count, percent, whole_percent

MIN_RELIABLE_GROUPS, MIN_RELIABLE_CLIPS, MIN_RELIABLE_CLASS_CLIPS, MIN_RELIABLE_OBJECTS = 5, 50, 5, 20
MIN_CALIBRATION_GAP = 0.05  # |mean confidence - accuracy| from which a warning is given
MAX_WAITING_SHARE, MAX_WAITING_SECONDS = 1 / 3, 60.0  # of the training time


def evaluation_warnings(results: Results, epochs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(problem, what to do) pairs: those that the evaluation stored, then those that follow from its figures."""
    warnings = [(warning["what"], warning["do"]) for warning in results.get("warnings", [])]
    warnings += [*_file_warnings(results, epochs), *_size_warnings(results), *_time_warnings(results, epochs)]
    for name, task in results["tasks"].items():
        if task["kind"] in _WARNINGS_BY_KIND:
            prefix = f"Task “{name}”: " if len(results["tasks"]) > 1 else ""
            warnings += [(prefix + problem, todo) for problem, todo in _WARNINGS_BY_KIND[task["kind"]](task)]
    return list(dict.fromkeys(warnings))


def _file_warnings(results: Results, epochs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    if number := len(results["skipped"]):
        verb = "is" if number == 1 else "are"
        yield (
            f"{count(number, 'file')} could not be read and {verb} not included in these figures.",
            "Repair or remove the files listed under “Data”, then evaluate again.",
        )
    listed = len(results.get("training_skipped", []))
    if number := max([listed, *(epoch.get("skipped", 0) for epoch in epochs)]):
        yield (
            f"Training skipped {count(number, 'file')} that could not be read.",
            "Repair or remove the files listed under “Data”, then train again.",
        )


def _size_warnings(results: Results) -> Iterator[tuple[str, str]]:
    rows, groups = results["num_rows"], results["num_groups"]
    if results["split"] == "train":
        yield (
            "These figures are from the training clips, so they are too optimistic.",
            "Evaluate on the test split.",
        )
    if rows < MIN_RELIABLE_CLIPS or (groups is not None and groups < MIN_RELIABLE_GROUPS):
        size = count(rows, "clip") + (f" from {count(groups, 'group')}" if groups is not None else "")
        or_cross_validate = "" if "folds" in results else ", or cross-validate (finetune kfold)"
        yield (
            f"The test set is small ({size}): the interval is wide, and only approximate.",
            f"Test on more clips, preferably from more people or recordings{or_cross_validate}.",
        )


def _time_warnings(results: Results, epochs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    waiting, computing = (sum(epoch["seconds"][part] for epoch in epochs) for part in ("data", "compute"))
    share = waiting / max(1e-9, waiting + computing)
    if waiting > MAX_WAITING_SECONDS and share > MAX_WAITING_SHARE:
        packed = results["protocol"].get("decoder", "").startswith("the pack")
        workers = "raise data.workers, up to one per core"
        yield (
            f"Training spent {whole_percent(share)} of its time, {duration(waiting)}, waiting for video data.",
            f"{workers[0].upper()}{workers[1:]}." if packed else f"Pack the videos (finetune data pack), or {workers}.",
        )


def _class_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _baseline_warnings(task["top1_ci"], task["majority"]["top1"], "the majority-class baseline")
    if "frozen" in task and task["frozen"]["difference_ci"][0] <= 0:
        frozen = whole_percent(task["frozen"]["top1"])
        yield (
            f"No evidence that unfreezing helped: with the backbone frozen, top-1 accuracy was already {frozen}.",
            "Keep the backbone frozen, which is faster, or train the unfrozen phases longer or on more clips.",
        )
    yield from _calibration_warnings(task)
    if never := never_predicted(task):
        yield (
            f"Never predicted: {_quoted_names(never)}.",
            "The confusion matrix shows which classes were predicted instead; add training clips.",
        )
    if few := [row["class"] for row in task["per_class"] if row["support"] < MIN_RELIABLE_CLASS_CLIPS]:
        yield (
            f"Fewer than {MIN_RELIABLE_CLASS_CLIPS} test clips per class: {_quoted_names(few)}.",
            "Their per-class metrics are unreliable; add test clips.",
        )


def _baseline_warnings(ends: list[float] | None, baseline: float, name: str) -> Iterator[tuple[str, str]]:
    if ends and ends[0] <= baseline:
        no_evidence = f"No evidence that the model beats {name}: the interval includes it."
        yield (
            f"The model is worse than {name}." if ends[1] < baseline else no_evidence,
            "Train longer, unfreeze more stages, or add training clips.",
        )


def _calibration_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    before, after = task.get("calibration"), task.get("calibrated")
    if before is None or before["gap_ci"][0] <= 0 <= before["gap_ci"][1] or abs(before["gap"]) < MIN_CALIBRATION_GAP:
        return
    has_temperature = task.get("temperature") is not None  # missing for pooled folds, whose models are not used later
    helps = has_temperature and (after is None or abs(after["gap"]) < abs(before["gap"]))
    yield (
        f"The model is {_calibration_gap_text(before['gap'])}.",
        "Use finetune predict --calibrated." if helps else "Do not base decisions on its probabilities.",
    )


def calibration_sentence(task: dict[str, Any]) -> str:
    """Whether a model is overconfident, underconfident, or neither as far as the interval shows."""
    before = task["calibration"]
    low, high = before["gap_ci"]
    if low <= 0 <= high:
        return "There is no evidence of over- or underconfidence."
    return f"The model is {_calibration_gap_text(before['gap'])}."


def _calibration_gap_text(gap: float) -> str:
    """`gap` is mean confidence minus accuracy, in -1…1."""
    name, side = ("overconfident", "above") if gap > 0 else ("underconfident", "below")
    return f"{name}: its mean confidence is {format_points(abs(gap), sign=False)} {side} its accuracy"


def slice_name(fact: str, part: dict[str, Any], parts: list[dict[str, Any]]) -> str:
    """The name of a slice of clips, such as "duration 2 to 5 s"."""
    unit = _UNITS.get(fact, "")
    low, high = (f"{end:.4g}" if end < 1000 else f"{end:.0f}" for end in (part["low"], part["high"]))
    if low == high:
        return f"{fact} {low}{unit}"
    if part is parts[0]:
        return f"{fact} up to {high}{unit}"
    return f"{fact} from {low}{unit}" if part is parts[-1] else f"{fact} {low} to {high}{unit}"


_UNITS = {"duration": "\u00a0s", "frame rate": "\u00a0frames/s", "short side": "\u00a0px", "frames": ""}


def _multilabel_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _baseline_warnings(task["map_ci"], task["chance_map"], "a random ranking")
    if few := [row["class"] for row in task["per_class"] if row["support"] < MIN_RELIABLE_CLASS_CLIPS]:
        yield (
            f"Fewer than {MIN_RELIABLE_CLASS_CLIPS} test clips per class: {_quoted_names(few)}.",
            "Their per-class metrics are unreliable; add test clips.",
        )


def _object_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    true = [row for row in task["per_class"] if row["support"]]
    if missed := [row["class"] for row in true if not row["recall"]]:
        yield (
            f"Never found: {_quoted_names(missed)}.",
            "Label more of them, train longer, or lower the score threshold.",
        )
    if few := [row["class"] for row in task["per_class"] if row["support"] < MIN_RELIABLE_OBJECTS]:
        yield (
            f"Fewer than {MIN_RELIABLE_OBJECTS} test objects per class: {_quoted_names(few)}.",
            "Their per-class metrics are unreliable; add test frames with them.",
        )
    if task.get("score_threshold_from", "val") != "val":
        yield (
            "The score threshold was chosen on these frames, so precision and recall are too optimistic.",
            "Train with labelled frames in the split val: the threshold is then chosen there.",
        )


def _mask_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if never := [row["class"] for row in task["per_class"] if row["support"] and not row["recall"]]:
        yield (f"Never predicted: {_quoted_names(never)}.", "Label more frames with them, or train longer.")
    if absent := [row["class"] for row in task["per_class"] if not row["support"]]:
        yield (f"No test pixel of {_quoted_names(absent)}.", "They do not count in the mean IoU; add test frames.")


_WARNINGS_BY_KIND = {
    **dict.fromkeys(DETECTION_KINDS, _object_warnings),
    "segment": _mask_warnings,
    "classify": _class_warnings,
    "multilabel": _multilabel_warnings,
    "ordinal": _class_warnings,
}


METRIC_NAMES = {  # by key in results.json
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "macro_recall": "macro recall",
    "macro_precision": "macro precision",
    "map": "mean average precision",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact": "exact match",
}
SPLIT_ADJECTIVES = {"test": "test", "val": "validation", "train": "training"}


def class_task_summary(task: dict[str, Any], results: Results) -> str:
    """The headline sentence of a task with classes."""
    if task["kind"] == "multilabel":
        key, metric = "map", "Mean average precision (mAP)"
        baseline = f"a random ranking reaches {whole_percent(task['chance_map'])}"
    else:
        key, metric = "top1", "Top-1 accuracy"
        baseline = f"the majority-class baseline reaches {whole_percent(task['majority']['top1'])}"
    ends = task[f"{key}_ci"]
    interval_text = f" (95\u00a0% interval {whole_interval(ends)})" if ends else ""
    return f"{metric} is {whole_percent(task[key])}{interval_text} on {test_set_text(task, results)}; {baseline}."


def test_set_text(task: dict[str, Any], results: Results) -> str:
    """The clips that a task was scored on, such as "120 test clips from 15 unseen groups"."""
    rows = task.get("num_rows", results["num_rows"])  # with several tasks, only clips that have a label of this task
    noun = "frame" if task["kind"] in DENSE_KINDS else "clip"
    text = count(rows, f"{SPLIT_ADJECTIVES.get(results['split'], results['split'])} {noun}")
    if results["num_groups"] is not None:
        unseen = "" if results["split"] == "train" else "unseen "
        text += f" from {count(results['num_groups'], unseen + 'group')}"
    return text + (f", in {len(results['folds'])}-fold cross-validation" if "folds" in results else "")


def never_predicted(task: dict[str, Any]) -> list[str]:
    """Classes that have clips but were never predicted."""
    if "confusion" not in task:
        return []
    was_predicted = [any(column) for column in zip(*task["confusion"], strict=True)]
    rows = zip(task["classes"], task["confusion"], was_predicted, strict=True)
    return [name for name, row, predicted in rows if any(row) and not predicted]


def _quoted_names(names: list[str]) -> str:
    """Names in quotation marks with direction isolates, so that an Arabic name does not reorder the text around it."""
    return shorten_list([f"“\u2068{name}\u2069”" for name in names])


def isolate_quoted_names(text: str) -> str:
    """The text with direction isolates around every quoted name, so that an Arabic name reorders nothing else."""
    return text.replace("“", "“\u2068").replace("”", "\u2069”")


def protocol_rows(protocol: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, explanation) of each protocol entry; an unknown key is shown under its own name."""
    rows = []
    for key, value in protocol.items():
        name, unit, explained = _PROTOCOL.get(key, (key.replace("_", " ").capitalize(), "", ""))
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append((name, f"{text}{unit}", explained))
    return rows


_PROTOCOL = {  # name, unit, explanation
    "data": ("Data set", "", "another set than the run's own; classes are matched by name"),
    "checkpoint": ("Checkpoint", "", "best: of the best epoch by validation score; last: of the last epoch"),
    "views": ("Views per clip", "", "the model predicts each view; the predictions are combined"),
    "num_frames": ("Frames per view", "", ""),
    "frame_stride": ("Frame stride", "", "distance between sampled frames, in frames of the video"),
    "sampling": (
        "Frame sampling",
        "",
        "segments: one frame from each of equal segments; clip: frames at the stride; around: those around the label",
    ),
    "size": ("Input size", " px", "height and width of the network's input"),
    "fit": ("Resize mode", "", "how a frame is made square"),
    "consensus": ("View aggregation", "", "how the predictions of all views are combined"),
    "decoder": ("Video decoder", "", ""),
    "precision": ("Precision", "", "floating-point format of the forward pass"),
    "interval": ("Intervals", "", "jackknife: metrics recomputed without each clip or group"),
}


def interval(ends: list[float] | None, form: Callable[[float], str] = percent) -> str:
    """Such as "90.0–98.0 %"; "unknown" without ends."""
    if not ends:
        return "unknown"
    low, high = (form(end).removesuffix("\u00a0%") for end in ends)
    return f"{low}–{high}\u00a0%"


def whole_interval(ends: list[float] | None) -> str:
    return interval(ends, whole_percent)


def format_points(value: float, *, sign: bool = True) -> str:
    """A difference of two shares, in percentage points."""
    text = f"{abs(100 * value):.1f}"
    mark = "" if not sign or text == "0.0" else "+" if value > 0 else "\u2212"
    return f"{mark}{text}\u00a0points"


def points_interval(ends: list[float]) -> str:
    low, high = (format_points(end).removesuffix("\u00a0points") for end in ends)
    return f"{low} to {high}" if math.isfinite(ends[0]) else "unknown"


def gain(ends: list[float], difference: float) -> str:
    """Top-1 difference between the fine-tuned model and the one with a frozen backbone, with its interval."""
    return f"fine-tuned: {format_points(difference)} ({points_interval(ends)})"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {left}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def keep_options_whole(text: str) -> Markup:
    """The text as HTML in which a line never ends inside of a command-line option."""
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r'<span class="option">\1</span>', str(escape(text))))


def relative_link(href: object) -> str | None:
    """The link if it is a relative path; None for any other, because a run folder may come from anyone."""
    text = str(href)
    has_scheme = ":" in text.partition("/")[0]
    return None if has_scheme or text.startswith(("/", "\\")) or not text.isprintable() else text


FILTERS: dict[str, Callable[..., Any]] = {
    "relative_link": relative_link,
    "keep_options_whole": keep_options_whole,
    "isolate_names": isolate_quoted_names,
    "percent": percent,
    "whole_percent": whole_percent,
    "interval": interval,
    "whole_interval": whole_interval,
    "points": format_points,
    "points_interval": points_interval,
    "gain": gain,
    "duration": duration,
    "count": count,
}
