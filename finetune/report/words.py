"""Say in words what an evaluation's numbers mean: warnings, protocol, percentages, durations."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from finetune.errors import shorten_list
from finetune.text import count, percent, whole_percent

MIN_RELIABLE_GROUPS, MIN_RELIABLE_CLIPS, MIN_RELIABLE_CLASS_CLIPS = 5, 50, 5
MIN_CALIBRATION_GAP = 0.05  # sureness from accuracy, which matters
MAX_WAITING_SHARE, MAX_WAITING_SECONDS = 1 / 3, 60.0  # share of the training time, and seconds


def warnings_of(results: dict[str, Any], epochs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(what, what to do): what the evaluation warned of, then what its numbers warn of."""
    found = [(warning["what"], warning["do"]) for warning in results.get("warnings", [])]
    found += [*_file_warnings(results, epochs), *_size_warnings(results), *_time_warnings(results, epochs)]
    for name, task in results["tasks"].items():
        if task["kind"] in _WARNINGS_BY_KIND:
            prefix = f"Task “{name}”: " if len(results["tasks"]) > 1 else ""
            found += [(prefix + what, do) for what, do in _WARNINGS_BY_KIND[task["kind"]](task)]
    return list(dict.fromkeys(found))


def _file_warnings(results: dict[str, Any], epochs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    if number := len(results["skipped"]):
        verb = "is" if number == 1 else "are"
        yield (
            f"{count(number, 'file')} could not be read and {verb} not in these figures.",
            "Repair or remove what is listed under “The data”, then evaluate again.",
        )
    listed = len(results.get("training_skipped", []))
    if number := max([listed, *(epoch.get("skipped", 0) for epoch in epochs)]):
        yield (
            f"Training left out {count(number, 'file')} that could not be read.",
            "Repair or remove what is listed under “The data”, then train again.",
        )


def _size_warnings(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows, groups = results["num_rows"], results["num_groups"]
    if results["split"] == "train":
        yield (
            "These are the clips that the model learned from, so the figures flatter it.",
            "Evaluate on the test split.",
        )
    if rows < MIN_RELIABLE_CLIPS or (groups is not None and groups < MIN_RELIABLE_GROUPS):
        size = count(rows, "clip") + (f" of {count(groups, 'group')}" if groups is not None else "")
        yield (
            f"{size} cannot settle much: the interval is wide, and itself only rough.",
            "Test on more clips, best from more people or recordings, or cross-validate.",
        )


def _time_warnings(results: dict[str, Any], epochs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    waiting, computing = (sum(epoch["seconds"][part] for epoch in epochs) for part in ("data", "compute"))
    share = waiting / max(1e-9, waiting + computing)
    if waiting > MAX_WAITING_SECONDS and share > MAX_WAITING_SHARE:
        packed = results["protocol"].get("decoder", "").startswith("the pack")
        workers = "raise data.workers, to at most one for each core"
        yield (
            f"Training waited for videos for {whole_percent(share)} of its time, {duration(waiting)}.",
            f"{workers[0].upper()}{workers[1:]}." if packed else f"Pack the videos (finetune data pack), or {workers}.",
        )


def _class_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if task["top1_ci"] and task["top1_ci"][0] <= task["majority"]["top1"]:
        yield (
            "This may be no better than always guessing the most frequent class: the interval includes it.",
            "Train longer, unfreeze more stages, or add training clips.",
        )
    if "frozen" in task and task["frozen"]["difference_ci"][0] <= 0:
        before = whole_percent(task["frozen"]["top1"])
        yield (
            f"Unfreezing may not have helped: with the backbone frozen {before} were right, and the rest may be luck.",
            "Keep it frozen, which is faster, or train the unfrozen phases longer or on more clips.",
        )
    yield from _calibration_warnings(task)
    if never := never_predicted(task):
        yield (
            f"The model never named {_names(never)}.",
            "See under “What it confuses” what it said instead; add training clips of it.",
        )
    if few := [row["class"] for row in task["per_class"] if row["support"] < MIN_RELIABLE_CLASS_CLIPS]:
        yield (
            f"Fewer than {MIN_RELIABLE_CLASS_CLIPS} test clips each: {_names(few)}; one clip moves such a class far.",
            "Read these rows of “Class by class” with care, or add test clips.",
        )


def _calibration_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    before, after = task.get("calibration"), task.get("calibrated")
    if before is None or before["gap_ci"][0] <= 0 <= before["gap_ci"][1] or abs(before["gap"]) < MIN_CALIBRATION_GAP:
        return
    how = "surer" if before["gap"] > 0 else "less sure"
    has_temperature = task.get("temperature") is not None  # a fold has one, but is not what is put to use
    helps = has_temperature and (after is None or abs(after["gap"]) < abs(before["gap"]))
    yield (
        f"The model is {how} than it is right, by {points(abs(before['gap']), sign=False)} in the mean.",
        "Take probabilities from predict with --calibrated." if helps else "Do not decide by its probabilities.",
    )


def calibration_sentence(task: dict[str, Any]) -> str:
    """Whether a model is as sure as it is right, in a sentence."""
    before = task["calibration"]
    low, high = before["gap_ci"]
    if low <= 0 <= high:
        return "No evidence that it is surer, or less sure, than it is right."
    how = "surer" if before["gap"] > 0 else "less sure"
    return f"It is {how} than it is right, by {points(abs(before['gap']), sign=False)} in the mean."


def slice_name(fact: str, part: dict[str, Any], parts: list[dict[str, Any]]) -> str:
    """Clips of a part, as "duration 2 to 5 s"."""
    unit = _UNITS.get(fact, "")
    low, high = (f"{end:.4g}" if end < 1000 else f"{end:.0f}" for end in (part["low"], part["high"]))
    if low == high:
        return f"{fact} {low}{unit}"
    if part is parts[0]:
        return f"{fact} up to {high}{unit}"
    return f"{fact} from {low}{unit}" if part is parts[-1] else f"{fact} {low} to {high}{unit}"


_UNITS = {"duration": "\u00a0s", "frame rate": "\u00a0frames/s", "short side": "\u00a0px", "frames": ""}


def _multilabel_warnings(task: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if task["map_ci"] and task["map_ci"][0] <= task["chance_map"]:
        yield (
            "This may be no better than chance: the interval includes what a random order gets.",
            "Train longer, unfreeze more stages, or add training clips.",
        )
    if few := [row["class"] for row in task["per_class"] if row["support"] < MIN_RELIABLE_CLASS_CLIPS]:
        yield (
            f"Fewer than {MIN_RELIABLE_CLASS_CLIPS} test clips each: {_names(few)}; one clip moves such a class far.",
            "Read these rows of “Class by class” with care, or add test clips.",
        )


_WARNINGS_BY_KIND = {
    "classify": _class_warnings,
    "multilabel": _multilabel_warnings,
    "ordinal": _class_warnings,
}


FIGURES = {  # by key in results.json
    "top1": "top-1",
    "top5": "top-5",
    "macro_recall": "macro recall",
    "macro_precision": "macro precision",
    "map": "mean average precision",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact": "all of it right",
}
KINDS = {"test": "test", "val": "validation", "train": "training"}


def answer(task: dict[str, Any], results: dict[str, Any]) -> str:
    """The first sentence of a report, of a task whose answers are classes."""
    folds = f"s of {len(results['folds'])} folds" if "folds" in results else ""
    verb = ("find" if task["kind"] == "multilabel" else "name") + ("" if folds else "s")
    if task["kind"] == "multilabel":
        key, what, beat = "map", "the classes with a mean average precision of", "a list in random order would get"
        chance = task["chance_map"]
    else:
        key, what, chance = "top1", "the right class in", task["majority"]["top1"]
        beat = "always guessing the most frequent class would be right in"
    interval_text = f" (95\u00a0% interval {whole_interval(task[f'{key}_ci'])})" if task[f"{key}_ci"] else ""
    return (
        f"On {test_set_text(task, results)} the model{folds} {verb} {what} {whole_percent(task[key])}{interval_text}; "
        f"{beat} {whole_percent(chance)}."
    )


def test_set_text(task: dict[str, Any], results: dict[str, Any]) -> str:
    """The clips of a task, as "120 test clips of 15 unseen groups"."""
    unseen = "" if results["split"] == "train" else "unseen "
    rows = task.get("num_rows", results["num_rows"])  # of several tasks each counts the clips with a label of its own
    clips = count(rows, f"{KINDS.get(results['split'], results['split'])} clip")
    return clips + ("" if results["num_groups"] is None else f" of {count(results['num_groups'], unseen + 'group')}")


def never_predicted(task: dict[str, Any]) -> list[str]:
    """Classes that the model named for no clip, though there were clips of them."""
    if "confusion" not in task:
        return []
    named = [any(column) for column in zip(*task["confusion"], strict=True)]
    rows = zip(task["classes"], task["confusion"], named, strict=True)
    return [name for name, row, was_named in rows if any(row) and not was_named]


def _names(names: list[str]) -> str:
    """Each set apart, so that an Arabic one does not turn its neighbours round."""
    return shorten_list([f"“\u2068{name}\u2069”" for name in names])


def isolate_quoted_names(text: str) -> str:
    """A sentence in which no name in quotation marks turns its neighbours round, whatever its direction."""
    return text.replace("“", "“\u2068").replace("”", "\u2069”")


def protocol_rows(protocol: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, what it means); a key that is not known here keeps its own name."""
    rows = []
    for key, value in protocol.items():
        name, unit, explained = _PROTOCOL.get(key, (key.replace("_", " ").capitalize(), "", ""))
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append((name, f"{text}{unit}", explained))
    return rows


_PROTOCOL = {
    "data": ("Another data set", "", "not the data that the run was trained on; classes are matched by name"),
    "checkpoint": ("Weights", "", "best: as they were after the best epoch; last: as they were at the end"),
    "views": ("Views of a clip", "", "looked at apart; their answers become one"),
    "num_frames": ("Frames", "", "looked at in each view"),
    "frame_stride": ("Frame stride", "", "from one frame that is looked at to the next, counted in frames"),
    "sampling": (
        "Sampling",
        "",
        "segments: one frame from each of as many equal parts; clip: frames in a row",
    ),
    "size": ("Picture size", " px", "each side of what the network sees"),
    "fit": ("Fit", "", "how a frame is made square"),
    "consensus": ("Consensus", "", "how the answers for all views become one"),
    "decoder": ("Decoder", "", "the library that reads the videos"),
    "precision": ("Number format", "", "of the arithmetic"),
    "interval": (
        "Intervals",
        "",
        "jackknife: the test repeated without each clip or group",
    ),
}


def interval(ends: list[float] | None, form: Callable[[float], str] = percent) -> str:
    if not ends:
        return "unknown"
    low, high = (form(end).removesuffix("\u00a0%") for end in ends)
    return f"{low}–{high}\u00a0%"


def whole_interval(ends: list[float] | None) -> str:
    return interval(ends, whole_percent)


def points(value: float, *, sign: bool = True) -> str:
    """A difference of shares, in percentage points."""
    text = f"{abs(100 * value):.1f}"
    mark = "" if not sign or text == "0.0" else "+" if value > 0 else "\u2212"
    return f"{mark}{text}\u00a0points"


def points_interval(ends: list[float]) -> str:
    low, high = (points(end).removesuffix("\u00a0points") for end in ends)
    return f"{low} to {high}" if math.isfinite(ends[0]) else "unknown"


def gain(ends: list[float], difference: float) -> str:
    """How much better the fine-tuned model is than with its backbone frozen, with its interval."""
    return f"fine-tuned vs. frozen: {points(difference)} ({points_interval(ends)})"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {left}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def relative_link(href: object) -> str | None:
    """A link to what lies on the disk beside the page; None for all else, as a run folder may come from anyone."""
    text = str(href)
    has_scheme = ":" in text.partition("/")[0]
    return None if has_scheme or text.startswith(("/", "\\")) or not text.isprintable() else text


FILTERS: dict[str, Callable[..., Any]] = {
    "relative_link": relative_link,
    "set_apart": isolate_quoted_names,
    "percent": percent,
    "whole_percent": whole_percent,
    "interval": interval,
    "whole_interval": whole_interval,
    "points": points,
    "points_interval": points_interval,
    "gain": gain,
    "duration": duration,
    "count": count,
}
