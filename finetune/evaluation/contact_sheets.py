"""Contact sheets of the clips that a report shows: their frames as the model saw them."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.evaluation.frame_pictures import FramePicture
from finetune.run.folder import EvaluationFolder
from finetune.storage.atomic import atomic_folder, write_json
from finetune.video.dataset import ClipDataset
from finetune.video.encode import encode_jpeg

MAX_FRAMES, SIDE, GAP = 8, 112, 2  # frames on a sheet, pixels of a frame's side, pixels between frames
MOSAIC = 2  # frames in a row and in a column of a mosaic


def write_sheets(
    folder: Path,
    dataset: ClipDataset,
    paths: Iterable[str],
    frames: Iterable[FramePicture] = (),
    *,
    mosaics: Iterable[str] = (),
) -> dict[str, Any]:
    """Write a sheet of the first view of each row with one of these paths; gives the contents of the index.

    Rows with one of the paths `mosaics` get a mosaic of four frames.

    `dataset` is that of the evaluation, so the frames are the same. A file that is no longer readable has no sheet.
    `frames` are pictures of single frames, the first ones of each task the worst.
    """
    position_of = {dataset.manifest.clip_name(row): place for place, row in enumerate(dataset.rows)}
    index: dict[str, Any] = {}
    with atomic_folder(EvaluationFolder(folder).pictures) as partial:
        with_sheet, with_mosaic = dict.fromkeys(paths), dict.fromkeys(mosaics)
        for path in with_sheet | with_mosaic:
            item = dataset[0, position_of[path]]
            if "clips" not in item:
                continue
            clip_TCHW, entry = item["clips"][0], index.setdefault(path, {})
            if path in with_sheet:
                entry |= {"sheet": sheet_file_name(path), "frames": min(MAX_FRAMES, len(clip_TCHW))}
                (partial / entry["sheet"]).write_bytes(encode_jpeg(make_sheet(clip_TCHW)))
            if path in with_mosaic:
                entry["mosaic"] = sheet_file_name(path, "-mosaic")
                (partial / entry["mosaic"]).write_bytes(encode_jpeg(make_mosaic(clip_TCHW)))
        for rank, frame in enumerate(frames):
            name = sheet_file_name(f"{frame.path}\n{frame.task}")
            (partial / name).write_bytes(frame.jpeg)
            of_tasks = index.setdefault(frame.path, {}).setdefault("tasks", {})
            of_tasks[frame.task] = {"picture": name, "text": frame.text, "rank": rank}
        write_json(partial / EvaluationFolder(folder).pictures_index.name, index)
    return index


def remove_sheets(folder: Path) -> None:
    """Remove the sheets of an earlier evaluation."""
    shutil.rmtree(EvaluationFolder(folder).pictures, ignore_errors=True)


def sheet_file_name(path: str, kind: str = "") -> str:
    """The file name of the sheet of a clip."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16] + kind + ".jpg"


def make_sheet(clip_TCHW: Tensor) -> np.ndarray:
    """At most MAX_FRAMES frames of a clip uint8 (T, C, H, W), side by side and GAP apart: uint8 (3, SIDE, W)."""
    frames = clip_TCHW[sheet_frame_indices(len(clip_TCHW))].float()
    frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    apart = F.pad(frames, (0, GAP), value=128.0)
    return torch.cat(list(apart), dim=2)[..., :-GAP].round().clamp(0, 255).to(torch.uint8).numpy()


def make_mosaic(clip_TCHW: Tensor) -> np.ndarray:
    """Four frames of a clip uint8 (T, C, H, W), from first to last, in two rows, GAP apart: uint8 (3, H, W)."""
    chosen = np.linspace(0, len(clip_TCHW) - 1, MOSAIC**2).round().astype(int)
    frames = F.interpolate(clip_TCHW[chosen].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    apart = F.pad(frames, (0, GAP, 0, GAP), value=128.0)
    rows = [torch.cat(list(apart[first : first + MOSAIC]), dim=2) for first in range(0, MOSAIC**2, MOSAIC)]
    return torch.cat(rows, dim=1)[:, :-GAP, :-GAP].round().clamp(0, 255).to(torch.uint8).numpy()


def sheet_frame_indices(num_frames: int) -> list[int]:
    """The indices of the frames of a clip that are on its sheet."""
    shown = min(MAX_FRAMES, num_frames)
    return np.linspace(0, num_frames - 1, shown).round().astype(int).tolist()
