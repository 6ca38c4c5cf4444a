"""Find the video and the frame in it that an entry of a file of objects is about."""

from __future__ import annotations

import re
from pathlib import Path

from finetune.annotations.find_videos import VideoFolder, path_parts, video_at_its_path
from finetune.annotations.objects.frame_objects import FrameObjects
from finetune.errors import DataError
from finetune.storage.numbered_images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, folder_kind, frame_names, is_media

MAX_NAME = 200  # characters of a name in messages
_SIBLINGS = ("images", "../images", "../JPEGImages", "..")  # where images are, from the folder of the annotations
_ROBOFLOW = re.compile(r"_(?:jpe?g|png)\.rf\.[0-9a-zA-Z]+$")  # after the name of an image, before its suffix
_NUMBERED = re.compile(r"(?P<video>.*?)[ _.-]*(?:frames?|frm|img|image)?[ _.-]*(?P<number>[0-9]{1,9})", re.IGNORECASE)
_VIDEO_SUFFIX = re.compile(r"_(mp4|mov|avi|mkv|webm|m4v)$", re.IGNORECASE)  # Roboflow's name of rec.mp4: rec_mp4-0012


class FrameFinder:
    """Finds videos, images and frames; remembers folders and names that were looked up.

    `first_frame` is the number of a video's first frame where images are named by numbers.
    """

    def __init__(self, videos: VideoFolder | None, *, first_frame: int = 0) -> None:
        self._videos = videos
        self._first_frame = first_frame
        self._folders: dict[Path, VideoFolder] = {}
        self._sequences: dict[Path, dict[str, int] | None] = {}
        self._videos_by_name: dict[tuple[Path, str], Path | DataError] = {}
        self._name_of_only: str | None = None

    def frame(self, source: Path, entry: FrameObjects) -> tuple[Path, int]:
        """The video and the number of the frame, from 0: a folder of numbered images is a video, and so is an image.

        An image that exists goes first, then the video that the entry names, then one that the name of the image
        names: `rec1_000012.jpg` and `rec1/frame_000012.png` are frame 12 of rec1. Raises DataError.
        """
        reason = "the entry names neither a video nor an image"
        if entry.image:
            image, reason = self._image(source, entry.image)
            if image is not None:
                return self._frame_of_image(image)
        if entry.video and entry.frame is not None:
            return self.video(source, entry.video), entry.frame - (self._first_frame if entry.image else 0)
        if entry.image and (named := self._named_frame(source, entry.image)):
            return named
        if not entry.image:
            raise DataError(reason)
        hint = "" if self._videos else "; --videos names the folder of the images or videos"
        raise DataError(f"image “{entry.image[:MAX_NAME]}”: {reason}, and neither is a video with its name{hint}")

    def video(self, source: Path, name: str) -> Path:
        """The video of a name or a path. Raises DataError if it is missing or ambiguous."""
        key = source.parent, name
        if key not in self._videos_by_name:
            try:
                self._videos_by_name[key] = video_at_its_path(name, source, self._videos) or self._find(source, name)
            except DataError as error:
                hint = "" if self._videos else "; --videos names the folder of the videos"
                self._videos_by_name[key] = DataError(f"video “{name[:MAX_NAME]}”: {error}{hint}")
        video = self._videos_by_name[key]
        if isinstance(video, DataError):
            raise video
        self._check_one_video(name)
        return video

    def _check_one_video(self, name: str) -> None:
        """Raise DataError where several videos are named, but only one is given."""
        if self._videos is None or self._videos.only is None:
            return
        self._name_of_only = self._name_of_only or name
        if name != self._name_of_only:
            raise DataError(
                f"--videos is one file, but frames are of “{self._name_of_only[:MAX_NAME]}” and “{name[:MAX_NAME]}”; "
                "give a folder"
            )

    def _find(self, source: Path, name: str) -> Path:
        if self._videos is not None:
            return self._videos.find(name)
        if source.parent not in self._folders:
            self._folders[source.parent] = VideoFolder.scan(source.parent, subfolders=False)
        return self._folders[source.parent].find(name)

    def _image(self, source: Path, name: str) -> tuple[Path | None, str]:
        """The image of a name, or None and the reason."""
        if self._videos is not None and self._videos.only is not None:
            only = self._videos.only
            return (only, "") if only.suffix.lower() in IMAGE_SUFFIXES else (None, "its name has no number of a frame")
        for folder in ("", *_SIBLINGS):
            place = video_at_its_path(f"{folder}/{name}" if folder else name, source, self._videos)
            if place is not None and place.suffix.lower() in IMAGE_SUFFIXES:
                return place, ""
        try:
            image = self._videos.find(name, suggest=False) if self._videos else self._find(source, name)
        except DataError as error:
            return None, str(error)
        is_image = image.suffix.lower() in IMAGE_SUFFIXES and image.is_file()
        return (image, "") if is_image else (None, "there is no such image")

    def _frame_of_image(self, image: Path) -> tuple[Path, int]:
        """The folder and the place of an image that is one of its numbered frames, else the image alone."""
        folder = image.parent
        if folder not in self._sequences:
            names = [entry.name for entry in folder.iterdir() if is_media(entry.name) and not entry.is_dir()]
            is_sequence = folder_kind(names) == "sequence"
            self._sequences[folder] = (
                {name: number for number, name in enumerate(frame_names(names))} if is_sequence else None
            )
        numbers = self._sequences[folder]
        if numbers is None:
            return image, 0
        if image.name not in numbers:
            raise DataError(f"image “{image}” is none of the numbered frames of its folder")
        return folder, numbers[image.name]

    def _named_frame(self, source: Path, image: str) -> tuple[Path, int] | None:
        """The video that the name of an image names, and the number of the frame; None where there is no such video."""
        parts = path_parts(image)
        stem = parts[-1] if parts else ""
        if is_media(stem):
            stem = stem.rpartition(".")[0]
        match = _NUMBERED.fullmatch(_ROBOFLOW.sub("", stem))
        if match is None:
            return None
        number = int(match["number"]) - self._first_frame
        names = [match["video"], _VIDEO_SUFFIX.sub("", match["video"])] if match["video"] else []
        names = ["/".join([*parts[:-1], name]) for name in dict.fromkeys(names)]
        names += ["/".join(parts[:-1])] if parts[:-1] else []
        if self._videos is not None and self._videos.only is not None:
            self._check_one_video(names[0] if names else "")
            return self._videos.only, number
        for name in [*names, source.stem]:
            try:
                video = self.video(source, name)
            except DataError:
                continue
            if video.suffix.lower() in VIDEO_SUFFIXES:
                return video, number
        return None
