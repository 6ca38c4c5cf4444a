"""HMDB51: download and unpack 6,766 clips of 51 actions from films; write a manifest for each official split.

Source: Kuehne, Jhuang, Garrote, Poggio and Serre, ICCV 2011;
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.archives import unpack
from finetune.datasets.clips import find_clips, find_lists, require_clips
from finetune.datasets.disk import write_csv
from finetune.datasets.download import Progress, download
from finetune.errors import DataError, shorten_list

HMDB51_URL = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
LIST_NAME = re.compile(r"(?P<label>.+)_test_split(?P<number>[123])\.txt")
SPLIT_OF_MARK = {"0": None, "1": "train", "2": "test"}


@dataclass(frozen=True)
class _ListedClip:
    """A clip in an official list. `source` is the film or web video that it was cut from."""

    name: str
    label: str
    source: str
    split: str


def prepare_hmdb51(
    root: str | Path,
    *,
    archive: str | Path | None = None,
    splits_archive: str | Path | None = None,
    base_url: str = HMDB51_URL,
    val_fraction: float = 0.1,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `root/split1.csv` to `split3.csv` (path,label,split,source) and return their paths.

    Clips and lists that are anywhere below `root` are used as they are, and nothing is downloaded or unpacked.
    Otherwise `archive` (hmdb51_org.rar, which contains one rar for each class) and `splits_archive` are unpacked, or
    downloaded from `base_url` first: about 2 GB, and as much again for the clips. Clips that a split marks as unused
    are left out of it.

    The film or web video that a clip was cut from is in its name, before `_<class>_`, and is written as `source`. It is
    not the `group`: the official splits divide each class separately, so one video may be in train for one class and in
    test for another (Takeda_Ryu_Iaido in split 1: draw_sword in train, sword in test). With such groups the splits
    would be refused as leaks, which to that extent they are. Results on them compare with the literature, but may be
    too high.

    The lists have train and test only. About `val_fraction` of each class's train clips become val, so that checkpoints
    are not chosen on test clips: all train clips of a source together, and only of sources without test clips. A hash
    of their names decides which. A class whose sources are all too large or shared gets none; 0 leaves train complete.
    Raises DataError with the listed clips that are missing.
    """
    root = Path(root)
    if not 0 <= val_fraction <= 0.5:
        raise DataError(f"val_fraction is {val_fraction}; it is a share of the train clips between 0 and 0.5")
    lists = find_lists(root, "*_test_split1.txt")
    if lists is None:
        lists = _unpack_lists(root, splits_archive, base_url=base_url, progress=progress)
    splits = _read_splits(lists)
    names = [listed.name for split in splits.values() for listed in split]
    clips = find_clips(root)
    if clips.keys().isdisjoint(name.lower() for name in names):
        clips = _unpack_clips(root, archive, base_url=base_url, progress=progress)
    require_clips(root, names, clips=clips)
    for number, split in splits.items():
        held_out = _val_sources(split, val_fraction)
        sides = ["val" if listed.source in held_out else listed.split for listed in split]
        rows = [
            {
                "path": clips[listed.name.lower()],
                "label": listed.label,
                "split": side,
                "source": listed.source,
            }
            for listed, side in zip(split, sides, strict=True)
        ]
        write_csv(root / f"split{number}.csv", rows)
    return [root / f"split{number}.csv" for number in splits]


def _unpack_lists(root: Path, archive: str | Path | None, *, base_url: str, progress: Progress | None) -> Path:
    name = "test_train_splits.rar"
    archive = archive or download(
        f"{base_url.rstrip('/')}/{name}", root / name, progress=progress, option="--splits-archive"
    )
    unpack(archive, root / "testTrainMulti_7030_splits", progress=progress)
    lists = find_lists(root, "*_test_split1.txt")
    if lists is None:
        raise DataError(f"{archive}: contains no list like wave_test_split1.txt; the lists are in {name}")
    return lists


def _unpack_clips(
    root: Path, archive: str | Path | None, *, base_url: str, progress: Progress | None
) -> dict[str, str]:
    archive = archive or download(f"{base_url.rstrip('/')}/hmdb51_org.rar", root / "hmdb51_org.rar", progress=progress)
    unpack(archive, root / "hmdb51_org", inner="*.rar", progress=progress)
    return find_clips(root)


def _read_splits(lists: Path) -> dict[int, list[_ListedClip]]:
    """The clips of each of the three splits, sorted by class, without those that a split does not use."""
    labels = {match["label"] for path in lists.iterdir() if (match := LIST_NAME.fullmatch(path.name))}
    files = {
        number: [(label, lists / f"{label}_test_split{number}.txt") for label in sorted(labels)] for number in (1, 2, 3)
    }
    missing = [path.name for paths in files.values() for _, path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{lists}: {shorten_list(missing)} is missing; each class has three lists")
    return {
        number: [item for label, path in paths for item in _read_list(path, label)] for number, paths in files.items()
    }


def _read_list(path: Path, label: str) -> list[_ListedClip]:
    """The used clips in a list with lines `name.avi mark`, where mark is 1 for train, 2 for test, 0 for unused."""
    listed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, mark = line.strip().rpartition(" ")
        if line.strip() and (mark not in SPLIT_OF_MARK or not name.lower().endswith(".avi")):
            raise DataError(f"{path}: line {number} is {line!r}, not a clip's name and 0, 1 or 2")
        split = SPLIT_OF_MARK.get(mark)
        if split is not None:
            listed.append(_ListedClip(name.strip(), label, _source(name.strip(), label), split))
    return listed


def _source(name: str, label: str) -> str:
    """`Film_2` from `Film_2_wave_u_nm_np1_fr_med_0.avi`; a name without its class is its own source."""
    stem = name[: -len(".avi")]
    return stem.rpartition(f"_{label}_")[0] or stem


def _val_sources(split: Sequence[_ListedClip], fraction: float) -> set[str]:
    """The sources that become val: in the order of their hashes, while each class still needs val clips."""
    tested = {listed.source for listed in split if listed.split == "test"}
    clips_of: dict[str, Counter[str]] = {}
    for listed in split:
        if listed.split == "train":
            clips_of.setdefault(listed.source, Counter())[listed.label] += 1
    num_train = sum(clips_of.values(), Counter())
    room = {label: min(max(1, round(fraction * count)), count - 1) for label, count in num_train.items()}
    chosen: set[str] = set()
    for source in sorted(clips_of.keys() - tested, key=_hash_order):
        if fraction > 0 and all(count <= room[label] for label, count in clips_of[source].items()):
            chosen.add(source)
            room = {label: left - clips_of[source][label] for label, left in room.items()}
    return chosen


def _hash_order(source: str) -> str:
    """A sort key that is unrelated to alphabetical order."""
    return hashlib.sha256(source.encode()).hexdigest()
