"""UCF101: download and unpack 13,320 clips of 101 actions; write a manifest for each official split.

Source: Soomro, Zamir and Shah 2012, arXiv:1212.0402; https://www.crcv.ucf.edu/data/UCF101.php.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.archives import unpack
from finetune.datasets.clips import find_clips, find_lists, require_clips
from finetune.datasets.disk import write_csv
from finetune.datasets.download import Progress, download
from finetune.errors import DataError, shorten_list

UCF101_URL = "https://www.crcv.ucf.edu/data/UCF101"
CLIP_NAME = re.compile(r"(?P<label>[^/\\]+)/(?P<name>v_\w+_(?P<group>g\d+)_c\d+\.avi)", re.IGNORECASE)


@dataclass(frozen=True)
class _ListedClip:
    """A clip in an official list. `group` is unique over all classes."""

    name: str
    label: str
    group: str


def prepare_ucf101(
    root: str | Path,
    *,
    archive: str | Path | None = None,
    splits_archive: str | Path | None = None,
    base_url: str = UCF101_URL,
    val_groups: int = 2,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `root/split1.csv` to `split3.csv` (path,label,split,group) and return their paths.

    Clips and lists that are anywhere below `root` are used as they are, and nothing is downloaded or unpacked.
    Otherwise `archive` (UCF101.rar) and `splits_archive` are unpacked, or downloaded from `base_url` first: about 7 GB,
    and as much again for the clips.

    A group is `<class>_gNN`, not the gNN of the file names, which counts the recordings of one class: g01 of Archery
    has nothing to do with g01 of Biking. The official lists keep each group in one split. They have train and test
    only, so `val_groups` groups of each class (of about 18) are moved from train to val, so that checkpoints are not
    chosen on test clips; 0 leaves train complete. A hash of their names decides which groups, the same on every
    machine.

    Names are matched without regard to case: the lists write HandStandPushups, the videos are in HandstandPushups.
    Raises DataError with the listed clips that are missing. Clips that no list names are left out. A subset of the
    classes works too, if its lists name no others.
    """
    root = Path(root)
    if val_groups < 0:
        raise DataError(f"val_groups is {val_groups}; it is the number of groups of each class, 0 or more")
    lists = find_lists(root, "trainlist01.txt")
    if lists is None:
        lists = _unpack_lists(root, splits_archive, base_url=base_url, progress=progress)
    splits = {number: _read_split(lists, number, val_groups=val_groups) for number in (1, 2, 3)}
    names = [listed.name for split in splits.values() for listed in split]
    clips = find_clips(root)
    if clips.keys().isdisjoint(name.lower() for name in names):
        clips = _unpack_clips(root, archive, base_url=base_url, progress=progress)
    require_clips(root, names, clips=clips)
    for number, split in splits.items():
        rows = [
            {"path": clips[listed.name.lower()], "label": listed.label, "split": side, "group": listed.group}
            for listed, side in split.items()
        ]
        write_csv(root / f"split{number}.csv", rows)
    return [root / f"split{number}.csv" for number in splits]


def _unpack_lists(root: Path, archive: str | Path | None, *, base_url: str, progress: Progress | None) -> Path:
    name = "UCF101TrainTestSplits-RecognitionTask.zip"
    archive = archive or download(
        f"{base_url.rstrip('/')}/{name}", root / name, progress=progress, option="--splits-archive"
    )
    unpack(archive, root / "ucfTrainTestlist", progress=progress)
    lists = find_lists(root, "trainlist01.txt")
    if lists is None:
        raise DataError(f"{archive}: contains no trainlist01.txt; the lists for recognition are in {name}")
    return lists


def _unpack_clips(
    root: Path, archive: str | Path | None, *, base_url: str, progress: Progress | None
) -> dict[str, str]:
    archive = archive or download(f"{base_url.rstrip('/')}/UCF101.rar", root / "UCF101.rar", progress=progress)
    unpack(archive, root / "UCF-101", progress=progress)
    return find_clips(root)


def _read_split(lists: Path, number: int, *, val_groups: int) -> dict[_ListedClip, str]:
    """The split, train, val or test, of each clip in an official split."""
    train = _read_list(lists / f"trainlist{number:02d}.txt")
    test = _read_list(lists / f"testlist{number:02d}.txt")
    held_out = _held_out_groups(train, val_groups, lists=lists)
    divided = {listed: "val" if listed.group in held_out else "train" for listed in train}
    return divided | dict.fromkeys(test, "test")


def _read_list(path: Path) -> list[_ListedClip]:
    """Lines of `Class/v_Class_g01_c01.avi`, with or without a class number after it."""
    if not path.is_file():
        raise DataError(f"{path}: is missing; trainlist01.txt to testlist03.txt are needed together")
    listed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = CLIP_NAME.fullmatch(line.split()[0])
        if match is None:
            raise DataError(f"{path}: line {number} is {line!r}, not Class/v_Class_g01_c01.avi")
        label, group = match["label"], match["group"].lower()
        listed.append(_ListedClip(match["name"], label, f"{label}_{group}"))
    if not listed:
        raise DataError(f"{path}: is empty")
    return listed


def _held_out_groups(train: Sequence[_ListedClip], val_groups: int, *, lists: Path) -> set[str]:
    groups_of: dict[str, set[str]] = {}
    for listed in train:
        groups_of.setdefault(listed.label, set()).add(listed.group)
    short = [label for label, groups in groups_of.items() if len(groups) <= val_groups]
    if short:
        raise DataError(
            f"{lists}: {shorten_list(short)} would have no group left for training; set val_groups below {val_groups}"
        )
    return {group for groups in groups_of.values() for group in sorted(groups, key=_hash_order)[:val_groups]}


def _hash_order(group: str) -> str:
    """A sort key that is unrelated to the order of recording."""
    return hashlib.sha256(group.encode()).hexdigest()
