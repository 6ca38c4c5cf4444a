"""Choose frame indices. Integer arithmetic only: no decoder, no tensors, no global random state.

Every sampler takes the number of frames of the video and the clip's settings, and gives `num_frames` indices.
`view` of `views` shifts the choice evenly for evaluation; `jitter` is a random.Random that draws it for training.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random

from finetune.errors import VideoError
from finetune.recipe import Clip


def sample_indices(
    clip: Clip, video_frames: int, *, view: int = 0, views: int = 1, jitter: Random | None = None
) -> list[int]:
    """The frames of one view of a video, by `clip.sampling`.

    Raises VideoError where the video is shorter than a dense clip and `clip.short` is `error`.
    """
    assert video_frames > 0 and 0 <= view < views
    return SAMPLERS[clip.sampling](clip, video_frames, (view, views), jitter)


def segment_indices(clip: Clip, video_frames: int, view: tuple[int, int], jitter: Random | None) -> list[int]:
    """One frame from each of `num_frames` equal segments of the video.

    With `jitter` any frame of the segment, without it the middle (of the view's equal part of the segment).
    A video shorter than `num_frames` repeats frames, in order. Source: TSN, arXiv:1608.00859.
    """
    parts = clip.num_frames
    if jitter is None:
        this, views = view
        return [(2 * (part * views + this) + 1) * video_frames // (2 * parts * views) for part in range(parts)]
    borders = [part * video_frames // parts for part in range(parts + 1)]
    return [jitter.randrange(low, max(low + 1, high)) for low, high in pairwise(borders)]


def dense_indices(clip: Clip, video_frames: int, view: tuple[int, int], jitter: Random | None) -> list[int]:
    """`num_frames` frames `frame_stride` apart, from a drawn start, or with the views' clips spread evenly.

    One view is centred. A video shorter than the clip ends in its last frame again and again (`repeat_last`),
    starts anew (`loop`) or is an error, by `clip.short`.
    """
    span = (clip.num_frames - 1) * clip.frame_stride + 1
    spare = video_frames - span
    if spare < 0 and clip.short == "error":
        raise VideoError(f"has {video_frames} frames, clip.short is 'error' and a clip spans {span}")
    if spare <= 0:
        start = 0
    elif jitter is not None:
        start = jitter.randrange(spare + 1)
    else:
        this, views = view
        start = (2 * this + 1) * spare // (2 * views)
    indices = [start + step * clip.frame_stride for step in range(clip.num_frames)]
    if clip.short == "loop":
        return [index % video_frames for index in indices]
    return [min(index, video_frames - 1) for index in indices]


def uniform_indices(clip: Clip, video_frames: int, view: tuple[int, int], jitter: Random | None) -> list[int]:
    """`num_frames` frames from the first to the last, both included; the same for every view and draw."""
    if clip.num_frames == 1:
        return [(video_frames - 1) // 2]
    steps = clip.num_frames - 1
    return [(2 * part * (video_frames - 1) + steps) // (2 * steps) for part in range(clip.num_frames)]


SAMPLERS: dict[str, Callable[[Clip, int, tuple[int, int], Random | None], list[int]]] = {
    "segments": segment_indices,
    "dense": dense_indices,
    "uniform": uniform_indices,
}
