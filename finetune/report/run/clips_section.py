"""The example clips of a report: which are shown, with their predictions, frames, Grad-CAM and attention weights."""

import base64
import os.path
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.data.labels import LABEL_SEPARATOR
from finetune.errors import RunError
from finetune.evaluation.choose_clips import choose_clips
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import PredictionRow
from finetune.storage.safe_read import read_json

_MAX_PICTURE_BYTES, _MAX_FRAMES = 400_000, 64
_PICTURE_NAME = re.compile(r"[0-9a-f]{16}(-cam|-mosaic)?\.jpg")


def clips_context(
    predictions: Sequence[PredictionRow], evaluation: EvaluationFolder, *, multilabel: bool
) -> dict[str, Any]:
    """The clips that `choose_clips` picks, with their pictures as far as there are any."""
    chosen, root = choose_clips(predictions, multilabel=multilabel), common_root(predictions)
    pictures = read_picture_index(evaluation)

    def cards(clips: Sequence[PredictionRow]) -> list[dict[str, Any]]:
        shown = [_card(clip, root, pictures.get(clip.path, {}), evaluation.pictures) for clip in clips]
        return [_split_multilabel(card) for card in shown] if multilabel else shown

    return {
        "root": root,
        "of": len(predictions),
        "number_wrong": sum(not prediction.is_correct for prediction in predictions),
        "pictures": bool(pictures),
        "explained": any("cam" in entry for entry in pictures.values()),
        "attended": any(entry.get("weights") for entry in pictures.values()),
        "mistakes": cards(chosen.mistakes),
        "uncertain": cards(chosen.uncertain),
        "right": cards(chosen.right),
        "pairs": [pair._asdict() | {"clips": cards(pair.clips)} for pair in chosen.pairs],
    }


def _card(prediction: PredictionRow, root: str, pictures: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "path": relative_to_root(root, prediction.path),
        "label": prediction.label,
        "predicted": prediction.predicted,
        "right": prediction.is_correct,
        "true": [prediction.label],
        "top_k": prediction.top_k,
        "frames": _frame_count(pictures.get("frames")),
        "sheet": read_picture(folder, pictures.get("sheet")),
        "cam": read_picture(folder, pictures.get("cam")),
        "weights": _attention_weights(pictures.get("weights")),
    }


def _split_multilabel(card: dict[str, Any]) -> dict[str, Any]:
    """The card of a clip that may have several classes, or none."""
    true = [name for name in card["label"].split(LABEL_SEPARATOR) if name]
    return card | {"true": true, **{key: card[key].replace(LABEL_SEPARATOR, ", ") for key in ("label", "predicted")}}


def read_picture_index(evaluation: EvaluationFolder) -> dict[str, dict[str, Any]]:
    """The entries of index.json by clip path; entries of another shape are left out, as is a file that is damaged."""
    try:
        index = read_json(evaluation.pictures_index)
    except RunError:
        return {}
    entries = index.items() if isinstance(index, dict) else ()
    return {path: entry for path, entry in entries if isinstance(entry, dict)}


def _frame_count(number: object) -> int:
    """0 for a value that cannot be a number of frames."""
    return number if isinstance(number, int) and 0 < number <= _MAX_FRAMES else 0


def _attention_weights(weights: object) -> list[float]:
    """Empty where one of them is outside 0…1, or all are 0."""
    listed = weights if isinstance(weights, list) and len(weights) <= _MAX_FRAMES else []
    shares = [float(weight) for weight in listed if isinstance(weight, (int, float)) and 0 <= weight <= 1]
    return shares if len(shares) == len(listed) and any(shares) else []


def read_picture(folder: Path, name: object) -> Markup | None:
    """A JPEG file as a data URI. A run folder may come from anyone: any other file, or a link, is refused with None."""
    if not isinstance(name, str) or not _PICTURE_NAME.fullmatch(name):
        return None
    path = folder / name
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_PICTURE_BYTES:
            return None
        jpeg = path.read_bytes()
    except OSError:
        return None
    if not jpeg.startswith(b"\xff\xd8\xff"):
        return None
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def common_root(predictions: Sequence[PredictionRow]) -> str:
    """The folder that contains all clips; empty where there is none, or where all clips lie directly in it."""
    paths = [prediction.path for prediction in predictions]
    root = common_folder(paths)
    return root if any(os.path.dirname(path) != root for path in paths) else ""  # noqa: PTH120 (a Path takes long)


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that contains all paths; empty where there is none."""
    try:
        folder = os.path.commonpath({os.path.dirname(path) for path in paths})  # noqa: PTH120 (a Path takes long)
    except ValueError:  # relative and absolute paths, or two drives
        return ""
    return "" if folder == os.path.sep else folder


def relative_to_root(root: str, path: str) -> str:
    return os.path.relpath(path, root) if root else path
