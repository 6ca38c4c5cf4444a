"""The clips of a manifest's rows as tensors: choose frames, read them, crop or augment them.

An item by (epoch, position) is a function of (seed, epoch, row, view) alone: the same for any number of workers and any
batch size.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from finetune.arguments import check_arguments, check_range
from finetune.data.intervals import MICROSECONDS_PER_SECOND, WHOLE
from finetune.data.labels import TargetLayout
from finetune.data.manifest import Manifest
from finetune.errors import RecipeError, VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.recipe.tasks import OutputSpec
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.augment import build_augmentation, center_crop, frame_size
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.probe import frame_times
from finetune.video.decode.read import read_frames
from finetune.video.file_facts import FileFacts, typical_clip_seconds
from finetune.video.geometry import Placement, placement
from finetune.video.pack.read import Pack, manifest_facts
from finetune.video.sampling import Jitter, sample_indices
from finetune.video.targets import clip_targets
from finetune.video.tube_frames import read_around_object


class FrameSource(NamedTuple):
    """Where frames and their times come from: the video files, or a pack of them.

    `image_rate` is the frame rate of videos without times, which are folders of numbered images. `file_range` is the
    first and the last frame of the file of which a source gives a part, numbered as the part's frames are.
    """

    read: Callable[..., tuple[np.ndarray, np.ndarray]] = read_frames
    times: Callable[[Path], np.ndarray] = frame_times
    image_rate: float = DEFAULT_IMAGE_FPS
    file_range: tuple[int, int] | None = None

    def part(self, first: int, num_frames: int, *, file_frames: int) -> "FrameSource":
        """The source of `num_frames` frames from frame `first` on, which it numbers from 0; reads others too.

        The file has `file_frames` frames.
        """
        return FrameSource(
            partial(_read_part, self.read, first),
            partial(_times_of_part, self.times, first, num_frames),
            self.image_rate,
            (-first, file_frames - 1 - first),
        )


def _read_part(
    read: Callable[..., tuple[np.ndarray, np.ndarray]], first: int, path: Path, indices: Sequence[int], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    return read(path, [first + index for index in indices], **options)


def _times_of_part(times: Callable[[Path], np.ndarray], first: int, num_frames: int, path: Path) -> np.ndarray:
    return times(path)[first : first + num_frames]


VIDEO_FILE_SOURCE = FrameSource()


class ClipDataset(Dataset):
    """Rows of one split as {"clips": uint8 (T, C, H, W), "label": class number, "row": int}, for PyTorch's DataLoader.

    With `views` each video has V clips, (V, T, C, H, W). With multi-label rows, `label` is bool (K,), one for each
    class. With the `outputs` of several tasks, it is a float32 vector laid out by `labels.TargetLayout`; boxes, motion
    and masks are transformed like the clip.

    With `augment`, each access by position draws a new clip and a new augmentation, with PyTorch's generator. The key
    (epoch, position) gives what the training of a run reads: draws by `seed`, epoch and row, and with `drawn_views`
    epochs take turns on that many fixed augmentations of each clip. Without `augment`, frames, crop and `views` are
    those of evaluation.

    A file that cannot be read raises VideoError; by (epoch, position) the item is {"row": int, "error": str}. `facts`
    come from `scan_files`; without them the files are examined now, and unreadable ones raise VideoError. Frames come
    from the pack `packed`, or from the video files.
    """

    @check_arguments
    def __init__(
        self,
        manifest: Manifest,
        split: str,
        *,
        clip: Clip,
        augment: Augment | None = None,
        views: int | None = None,
        seed: int = 0,
        facts: FileFacts | None = None,
        packed: Path | str | None = None,
        drawn_views: int | None = None,
        outputs: Mapping[str, OutputSpec] | None = None,
    ) -> None:
        if clip.size is None:
            raise RecipeError("ClipDataset needs the size of clips in pixels; for example ft.Clip(size=224)")
        check_range(1 if views is None else views, 1, name="views")
        check_range(seed, 0, name="seed")
        check_range(1 if drawn_views is None else drawn_views, 1, name="drawn_views")
        self.manifest = manifest
        self.split = split
        self.clip = clip
        self.views = views or 1
        self.has_view_axis = views is not None
        self.seed = seed
        self.augment = augment
        self.drawn_views = drawn_views
        self.item_draws: tuple[int, ...] | None = None
        self.layout = None if outputs is None else TargetLayout(outputs)
        self.facts = _require_readable(manifest_facts(manifest, packed, side=clip.size)) if facts is None else facts
        self.pack = None if packed is None else Pack(packed)
        rows = manifest.rows(split)
        self.rows = rows[~np.isin(rows, list(self.facts.bad))]
        self.window_seconds = None  # length of training windows
        if augment is not None and augment.interval_windows and manifest.intervals is not None:
            self.window_seconds = typical_clip_seconds(manifest, self.facts)
        self.transform = None if augment is None else build_augmentation(augment, size=clip.size, fit=clip.fit)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        axes = ", ".join(
            f"{axis}={length}" for axis, length in zip("VTCHW"[-len(self.shape) :], self.shape, strict=True)
        )
        return f'ClipDataset({self.split}, {len(self)} items: {{"clips": uint8 ({axes}), "label", "row"}})'

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an item's clips, (T, C, H, W), or with `views` (V, T, C, H, W)."""
        assert self.clip.size is not None
        views = self.views if self.item_draws is None else len(self.item_draws)
        clip = (self.clip.num_frames, 3, self.clip.size, self.clip.size)
        return (views, *clip) if self.has_view_axis else clip

    @property
    def labels(self) -> np.ndarray:
        """The label of each position: class numbers (N,), or what else the manifest has."""
        return self.manifest.labels[self.rows]

    def stamp(self, row: int) -> tuple[str | int, ...]:
        """What identifies a row's frames: the path, size in bytes and modification time in nanoseconds of its file.

        With a pack, size and time are as it was packed; of an interval also first frame and number, and of a row boxes.
        """
        path, cell = self.manifest.path(row), self.manifest.boxes_cell(row)
        of_file = stamp(path.absolute()) if self.pack is None else self.pack.stamp(path)
        return str(path.absolute()), *of_file, *self.frame_range(row), *filter(None, (cell,))

    def frame_range(self, row: int) -> tuple[int, ...]:
        """The first frame of a row in its file, and the number of its frames; () where no row is an interval."""
        if self.facts.first_frames is None:
            return ()
        return int(self.facts.first_frames[row]), int(self.facts.num_frames[row])

    def with_rows_and_draws(self, positions: np.ndarray, drawn: tuple[int, ...] = ()) -> "ClipDataset":
        """The rows at some positions (N,), each with its fixed augmentations numbered `drawn`, or all its views."""
        part = copy(self)
        part.rows = self.rows[positions]
        part.item_draws, part.has_view_axis = drawn if self.augment is not None else None, True
        part.layout = None  # targets are computed in each epoch, not cached
        return part

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, position = key if isinstance(key, tuple) else (self._draw_epoch(), key)
        row = int(self.rows[position])
        try:
            clips = self._clips(epoch, row)
            clips = clips if self.has_view_axis else clips[0]
            return {"clips": clips, "label": self.target(epoch, position), "row": row}
        except VideoError as error:
            if not isinstance(key, tuple):
                raise
            return {"row": row, "error": str(error)}

    def _draw_epoch(self) -> int:
        """A random epoch number, from PyTorch's generator, which a DataLoader seeds anew in each epoch and worker."""
        return 0 if self.augment is None else int(torch.randint(2**31, ()))

    def target(self, epoch: int, position: int) -> Any:
        """The label of an item, as `__getitem__` gives it, without decoding a frame."""
        row = int(self.rows[position])
        if self.layout is None:
            return self.manifest.truth[row]
        middle = int(self.facts.num_frames[row]) // 2
        place = partial(self._placement, epoch, position)
        return clip_targets(self.manifest.tasks, row, self.layout, place, middle=middle)

    def _placement(self, epoch: int, position: int) -> Placement:
        return self.placements(epoch, position)[0]

    def placements_of_row(self, row: int) -> list[Placement]:
        """Where the views of a row lie in its video, without augmentation."""
        return self.placements(0, int(np.searchsorted(self.rows, row)))

    def placements(self, epoch: int, position: int) -> list[Placement]:
        """Where each of an item's V clips lies in its video; decodes no frame.

        Raises VideoError where frame times are needed and cannot be read.
        """
        row = int(self.rows[position])
        path, source, video_size = self.manifest.path(row), self.row_source(row), self.row_size(row)
        if self.augment is None:
            num_frames = int(self.facts.num_frames[row])
            return view_placements(
                path, self.clip, views=self.views, num_frames=num_frames, video_size=video_size, source=source
            )
        place = partial(placement, video_size, clip=self.clip, augment=self.augment, transform=self.transform)
        return [place(indices, seed=seed) for seed, indices in self._seeds_and_indices(epoch, row)]

    def _clips(self, epoch: int, row: int) -> Tensor:
        path, source, video_size = self.manifest.path(row), self.row_source(row), self.row_size(row)
        if self.augment is None or self.transform is None:
            num_frames = int(self.facts.num_frames[row])
            return read_views(
                path, self.clip, views=self.views, num_frames=num_frames, video_size=video_size, source=source
            )
        seeds, indices_of_clips = zip(*self._seeds_and_indices(epoch, row), strict=True)
        size = frame_size(video_size, self.clip, self.augment)
        frames_TCHW = _read(path, [index for indices in indices_of_clips for index in indices], size, source=source)
        clips = zip(frames_TCHW.split(self.clip.num_frames), seeds, strict=True)
        return torch.stack([self.transform(clip_TCHW, seed) for clip_TCHW, seed in clips])

    def _seeds_and_indices(self, epoch: int, row: int) -> list[tuple[int, list[int]]]:
        """The seed and the frame indices of each of an item's augmented clips; those of a window may be negative."""
        assert self.augment is not None
        path, clips = self.manifest.path(row), []
        for seed in self._seeds(epoch, row, path):
            jitter = Jitter(Random(seed), speed=self.augment.speed, frame_dropout=self.augment.frame_dropout)
            begin, num_frames = self._draw_window(row, seed)
            source = self.row_source(row, begin, num_frames)
            indices = _clip_indices(path, self.clip, num_frames, source=source, jitter=jitter)
            clips.append((seed, [begin + index for index in indices]))
        return clips

    def _draw_window(self, row: int, seed: int) -> tuple[int, int]:
        """The first frame of a clip, counted from that of the row, and its number of frames: the row, or a window.

        A window of an interval has its middle in the interval, and lies within the file.
        """
        num_frames = int(self.facts.num_frames[row])
        if self.window_seconds is None or self.manifest.interval(row) == WHOLE:
            return 0, num_frames
        assert self.facts.file_rates is not None and self.facts.file_frames is not None
        first, file_frames = self.frame_range(row)[0], int(self.facts.file_frames[row])
        length = min(file_frames, max(1, round(self.window_seconds * float(self.facts.file_rates[row]))))
        begin = Random(f"window {seed}").randrange(num_frames) - length // 2
        return min(max(begin, -first), file_frames - first - length), length

    def _seeds(self, epoch: int, row: int, path: Path) -> list[int]:
        """The seeds of an item's clips, one for each view."""
        if self.item_draws is not None:
            return [fixed_draw_seed(path, view, self.frame_range(row)) for view in self.item_draws]
        if self.drawn_views is not None:
            return [fixed_draw_seed(path, fixed_draw_of_epoch(epoch, self.drawn_views), self.frame_range(row))]
        return [draw_seed(self.seed, epoch, row, 0)]

    def row_size(self, row: int) -> tuple[int, int]:
        return int(self.facts.heights[row]), int(self.facts.widths[row])

    def row_source(self, row: int, begin: int = 0, num_frames: int | None = None) -> FrameSource:
        """Where the frames of a row come from, or `num_frames` frames from its frame `begin` on."""
        if self.pack is not None:
            read, times = self.pack.read_frames, self.pack.frame_times
        else:
            layout = self.facts.layout(row)
            read, times = partial(read_frames, layout=layout), partial(frame_times, layout=layout)
        read = read_around_object(read, self.facts, self.manifest, row)
        source = FrameSource(read, times, self.manifest.image_rate)
        if frame_range := self.frame_range(row):
            assert self.facts.file_frames is not None
            file_frames = int(self.facts.file_frames[row])
            source = source.part(frame_range[0] + begin, num_frames or frame_range[1], file_frames=file_frames)
        return source


def read_views(
    path: Path,
    clip: Clip,
    *,
    views: int,
    num_frames: int,
    video_size: tuple[int, int],
    source: FrameSource = VIDEO_FILE_SOURCE,
) -> Tensor:
    """All views of a video for evaluation and prediction, uint8 (V, T, C, H, W); each frame is decoded once.

    `video_size` is (height, width) in pixels.
    """
    assert clip.size is not None
    indices = [index for view in indices_of_views(path, clip, views, num_frames, source=source) for index in view]
    frames_TCHW = _read(path, indices, frame_size(video_size, clip, None), source=source)
    return center_crop(frames_TCHW, clip.size).unflatten(0, (views, clip.num_frames)).contiguous()


def view_placements(
    path: Path,
    clip: Clip,
    *,
    views: int,
    num_frames: int,
    video_size: tuple[int, int],
    source: FrameSource = VIDEO_FILE_SOURCE,
) -> list[Placement]:
    """Where each of the clips that `read_views` gives lies in its video."""
    place = partial(placement, video_size, clip=clip, augment=None, transform=None, seed=None)
    return [place(indices) for indices in indices_of_views(path, clip, views, num_frames, source=source)]


def indices_of_views(path: Path, clip: Clip, views: int, num_frames: int, *, source: FrameSource) -> list[list[int]]:
    """The frames that each of the clips takes which `read_views` gives."""
    return [_clip_indices(path, clip, num_frames, source=source, view=(view, views)) for view in range(views)]


def _clip_indices(
    path: Path,
    clip: Clip,
    num_frames: int,
    *,
    source: FrameSource,
    view: tuple[int, int] = (0, 1),
    jitter: Jitter | None = None,
) -> list[int]:
    times = None
    if clip.sampling == "fps":
        times = _microseconds(source.times(path), source.image_rate)
        num_frames = len(times)
    try:
        indices = sample_indices(clip, num_frames, view=view[0], views=view[1], jitter=jitter, times=times)
        return _within_file(clip, indices, source.file_range or (0, num_frames - 1))
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from None


def _within_file(clip: Clip, indices: list[int], file_range: tuple[int, int]) -> list[int]:
    """Indices of sampling `around` with those outside of the file replaced by its first or last frame."""
    first, last = file_range
    if clip.sampling != "around" or (first <= min(indices) and max(indices) <= last):
        return indices
    if clip.short_clips == "error":
        raise VideoError(
            f"clip.short_clips is 'error' and a clip around frame {indices[clip.num_frames // 2] - first} needs frames "
            f"outside of the {last - first + 1} frames of the file"
        )
    return [min(max(index, first), last) for index in indices]


def _microseconds(seconds_N: np.ndarray, image_rate: float) -> list[int]:
    """Frame times in microseconds, from seconds (N,); by the image rate where there are none."""
    if np.isnan(seconds_N).all():
        seconds_N = np.arange(len(seconds_N)) / image_rate
    return np.rint(seconds_N * MICROSECONDS_PER_SECOND).astype(np.int64).tolist()


def draw_seed(seed: int, epoch: int, row: int, view: int) -> int:
    """The 32-bit seed of all that is random in one item."""
    return int(np.random.SeedSequence([seed, epoch, row, view]).generate_state(1)[0])


def fixed_draw_of_epoch(epoch: int, views: int) -> int:
    """Which of a clip's fixed augmentations an epoch takes, counted from 0; epochs count from 1."""
    return (epoch - 1) % views


def fixed_draw_seed(path: Path, view: int, frame_range: tuple[int, ...] = ()) -> int:
    """The 32-bit seed of a fixed augmentation of a file, or of a `frame_range`, (first frame, number of frames), of it.

    It depends on the names of the file and its folder and the frames alone, so runs with other seeds, splits or rows
    share it.
    """
    name = os.fsencode("/".join(path.absolute().parts[-2:]))
    numbers = "\0".join(map(str, (view, *frame_range)))
    return int.from_bytes(blake2b(name + b"\0" + numbers.encode(), digest_size=4).digest(), "little")


def _read(path: Path, indices: list[int], size: tuple[int, int], *, source: FrameSource) -> Tensor:
    frames_TCHW, _ = source.read(path, indices, size=size)
    return torch.from_numpy(frames_TCHW)


def _require_readable(facts: FileFacts) -> FileFacts:
    if facts.bad:
        raise VideoError("\n".join(facts.bad.values()))
    return facts
