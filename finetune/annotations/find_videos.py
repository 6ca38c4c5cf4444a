"""Find the video that an annotation file names, by its name in a folder; suffixes may differ."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.storage.folder_walk import walk_files
from finetune.storage.numbered_images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, folder_kind, is_media

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the names of uploaded files
_SOUND_SUFFIXES = frozenset([".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".aif", ".aiff"])
_LANGUAGE = re.compile(r"\.[a-z]{2,3}(-[a-z]{2,4})?$")  # of subtitles: talk.en.vtt
_BEFORE_IDS = "v_"  # ActivityNet's files are v_<ID>.mp4


@dataclass(frozen=True)
class VideoFolder:
    """The videos below a folder by their names, in lower case, with and without suffix.

    `only` is the one video that all annotations are about, whatever name they give.
    """

    folder: Path
    by_name: dict[str, list[Path]]
    only: Path | None = None

    @staticmethod
    def scan(folder: Path, *, subfolders: bool = True) -> VideoFolder:
        """Videos, images, and folders of images; or a single file. Raises DataError if there is nothing."""
        if folder.is_file():
            return VideoFolder(folder.parent, {}, only=folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: does not exist; --videos names the folder of the videos")
        files = walk_files(folder)[0] if subfolders else sorted(path for path in folder.iterdir() if path.is_file())
        media = [path for path in files if is_media(path.name)]
        folders = {path.parent for path in media if path.suffix.lower() in IMAGE_SUFFIXES} - {folder}
        by_name: dict[str, list[Path]] = defaultdict(list)
        for path in [*media, *sorted(folders)]:
            for name in {path.name.casefold(), path.stem.casefold()}:
                by_name[name].append(path)
        return VideoFolder(folder, dict(by_name))

    def find(self, name: str, *, suggest: bool = True) -> Path:
        """The video of a name or a path, also of another computer. Raises DataError if it is missing or ambiguous.

        Of several videos with this name, the one that shares most of the last folders of the path is taken. The error
        names similar names if it is to `suggest` them, which takes time.
        """
        if self.only is not None:
            return self.only
        parts = path_parts(name)
        for candidate in _spellings(parts[-1] if parts else ""):
            paths = self.by_name.get(candidate, [])
            shared = [_shared_folders(path, parts) for path in paths]
            best = [path for path, number in zip(paths, shared, strict=True) if number == max(shared)]
            if len(best) > 1:
                listed = shorten_list([str(path.relative_to(self.folder)) for path in best])
                raise DataError(f"{len(best)} videos in {self.folder} have this name: {listed}; give its path")
            if best:
                return best[0]
        nearest = suggest_similar(parts[-1].casefold(), self.by_name) if parts and suggest else ""
        raise DataError(f"not found in {self.folder}{nearest}")


def path_parts(name: str) -> list[str]:
    """The folders and the name of a path, of Windows or not, or of a URL, which may hold the path after `?d=`."""
    is_url = re.match(r"[a-z][a-z0-9+]+://|/data/|file:", name)
    path = unquote(name.partition("?d=")[2] or name.partition("?")[0].partition("#")[0]) if is_url else name
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]


def local_path(name: str) -> str:
    """The path in a URL of a local file; others as they are."""
    return unquote(re.sub(r"^file:/*", "/", name)) if name.startswith("file:") else name


def video_at_its_path(name: str, source: Path, videos: VideoFolder | None) -> Path | None:
    """The video at its path from the folder of the annotation file, or without `videos` from the current folder."""
    if videos is not None and videos.only is not None:
        return None
    path = Path(local_path(name))
    candidates = [source.parent / path, *([] if videos else [path])]
    return next((candidate for candidate in candidates if _is_video(candidate) and candidate != source), None)


def _is_video(path: Path) -> bool:
    """Whether it is a file, or a folder of numbered images."""
    try:
        return path.is_file() or (path.is_dir() and folder_kind([entry.name for entry in path.iterdir()]) == "sequence")
    except (OSError, ValueError):  # a name that is too long, or holds a zero
        return False


def _spellings(name: str) -> list[str]:
    """The names to look for, in this order: as it is, without suffix, and as tools change names."""
    name = name.casefold()
    stem, dot, suffix = name.rpartition(".")
    stems = [stem] if dot and f".{suffix}" in VIDEO_SUFFIXES | IMAGE_SUFFIXES | _SOUND_SUFFIXES else []
    spellings = [name, *stems]
    for spelling in list(spellings):
        spellings += [_UPLOADED.sub("", spelling, count=1), _LANGUAGE.sub("", spelling), _BEFORE_IDS + spelling]
    return [spelling for spelling in dict.fromkeys(spellings) if spelling]


def _shared_folders(path: Path, parts: Sequence[str]) -> int:
    own = [part.casefold() for part in path.parent.parts]
    folders = [part.casefold() for part in parts[:-1]]
    number = 0
    while number < min(len(own), len(folders)) and own[-1 - number] == folders[-1 - number]:
        number += 1
    return number
