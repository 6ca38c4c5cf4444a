"""Choose frame indices. Integer arithmetic only: no decoder, no tensors, no global random state.

Every sampler takes the number of frames of the video and the clip's settings, and returns `num_frames` indices. In
evaluation, `view` of `views` shifts them evenly; in training, `jitter` draws them at random.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from finetune.data.intervals import MICROSECONDS_PER_SECOND
from finetune.errors import VideoError
from finetune.recipe.schema import Clip


@dataclass(frozen=True)
class Jitter:
    """Random temporal augmentation of one training clip; every random number comes from `random`.

    `speed` is a range of factors: at 2 the clip covers the video twice as fast. `frame_dropout` is the probability, 0
    to 1, that a frame is replaced by the one before it.
    """

    random: Random
    speed: tuple[float, float] = (1.0, 1.0)
    frame_dropout: float = 0.0

    def draw_speed(self) -> int:
        """A speed in thousandths."""
        low, high = self.speed_per_mille
        return self.random.randint(low, high) if low < high else low

    @property
    def speed_per_mille(self) -> tuple[int, int]:
        return round(1000 * self.speed[0]), round(1000 * self.speed[1])


View = tuple[int, int]  # (view, views): which view, counted from 0, of how many


def sample_indices(
    clip: Clip,
    video_frames: int,
    *,
    view: int = 0,
    views: int = 1,
    jitter: Jitter | None = None,
    times: Sequence[int] | None = None,
) -> list[int]:
    """The indices of the frames of one view of a video, by `clip.sampling`.

    Those of sampling `around` may be below 0 or above the last frame. `times` are the presentation times of all frames
    in microseconds, rising; only `fps` sampling needs them. Raises VideoError where the video is shorter than the clip
    and `clip.short_clips` is `error`.
    """
    assert video_frames > 0 and 0 <= view < views
    if clip.sampling == "fps":
        assert times is not None and len(times) == video_frames
        indices = fps_indices(clip, times, (view, views), jitter)
    else:
        indices = SAMPLERS[clip.sampling](clip, video_frames, (view, views), jitter)
    if jitter is None:
        return indices
    return _drop_frames(indices, jitter, middle=clip.num_frames // 2 if clip.sampling == "around" else None)


def segment_indices(clip: Clip, video_frames: int, view: View, jitter: Jitter | None) -> list[int]:
    """One frame from each of `num_frames` equal segments of the video.

    With `jitter` any frame of the segment, without it the middle (of the view's equal part of the segment).
    A video shorter than `num_frames` repeats frames, in order. Source: TSN, arXiv:1608.00859.
    """
    _refuse_short(clip, video_frames, needed=clip.num_frames)
    parts = clip.num_frames
    if jitter is None:
        this, views = view
        return [(2 * (part * views + this) + 1) * video_frames // (2 * parts * views) for part in range(parts)]
    start, length = _jittered_span(video_frames, jitter)
    borders = [start + part * length // parts for part in range(parts + 1)]
    return [jitter.random.randrange(low, max(low + 1, high)) for low, high in pairwise(borders)]


def dense_indices(clip: Clip, video_frames: int, view: View, jitter: Jitter | None) -> list[int]:
    """`num_frames` frames `frame_stride` apart, from a random start, or with the clips of all views spread evenly.

    A single view is centred. Where the video is shorter than the clip, `clip.short_clips` repeats the last frame
    (`repeat_last`), starts again from the first (`loop`) or raises VideoError (`error`).
    """
    speed = 1000 if jitter is None else jitter.draw_speed()
    steps = [step * clip.frame_stride * speed // 1000 for step in range(clip.num_frames)]
    span = steps[-1] + 1
    _refuse_short(clip, video_frames, needed=span)
    start = _start(video_frames - span, view, jitter)
    indices = [start + step for step in steps]
    if clip.short_clips == "loop":
        return [index % video_frames for index in indices]
    return [min(index, video_frames - 1) for index in indices]


def uniform_indices(clip: Clip, video_frames: int, view: View, jitter: Jitter | None) -> list[int]:
    """`num_frames` frames evenly from the first to the last, both included; `jitter` changes only their speed.

    V views interleave: they share V times as many evenly spaced frames. A shorter video repeats frames, in order.
    """
    _refuse_short(clip, video_frames, needed=clip.num_frames)
    this, views = view
    start, length = (0, video_frames) if jitter is None else _jittered_span(video_frames, jitter)
    steps = clip.num_frames * views - 1
    if steps == 0:
        return [start + (length - 1) // 2]
    return [start + (2 * part * (length - 1) + steps) // (2 * steps) for part in range(this, steps + 1, views)]


def around_indices(clip: Clip, video_frames: int, view: View, jitter: Jitter | None) -> list[int]:
    """`num_frames` frames `frame_stride` apart; the one at place `num_frames // 2` is the video's middle frame.

    They may lie before the first or after the last frame: the video is a part of a file, whose other frames are read
    too. `jitter` changes only their speed.
    """
    speed = 1000 if jitter is None else jitter.draw_speed()
    places = range(-(clip.num_frames // 2), clip.num_frames - clip.num_frames // 2)
    steps = [abs(place) * clip.frame_stride * speed // 1000 for place in places]
    return [video_frames // 2 + (step if place > 0 else -step) for place, step in zip(places, steps, strict=True)]


def fps_indices(clip: Clip, times: Sequence[int], view: View, jitter: Jitter | None) -> list[int]:
    """The frames displayed at `num_frames` instants `1 / clip.fps` seconds apart, from a random start or as views.

    This resamples videos of any frame rate, constant or variable, to one rate. Short videos are treated as in dense
    sampling. The last frame is taken to last as long as the others on average.
    """
    assert clip.fps is not None
    speed = 1000 if jitter is None else jitter.draw_speed()
    rate = round(1000 * clip.fps)
    steps = [step * MICROSECONDS_PER_SECOND * speed // rate for step in range(clip.num_frames)]
    first, last = times[0], times[-1]
    gap = (last - first) // (len(times) - 1) if len(times) > 1 else MICROSECONDS_PER_SECOND * 1000 // rate
    duration = max(1, last - first + gap)
    if clip.short_clips == "error" and steps[-1] >= duration:
        raise VideoError(
            f"lasts {duration / MICROSECONDS_PER_SECOND:.2f} s, clip.short_clips is 'error' and a clip lasts "
            f"{steps[-1] / MICROSECONDS_PER_SECOND:.2f} s"
        )
    start = _start(duration - 1 - steps[-1], view, jitter)
    instants = [start + step for step in steps]
    if clip.short_clips == "loop":
        instants = [instant % duration for instant in instants]
    return [max(0, bisect_right(times, first + instant) - 1) for instant in instants]


def _start(spare: int, view: View, jitter: Jitter | None) -> int:
    """The start of a clip among `spare` + 1 possible ones; 0 where the video is too short."""
    if spare <= 0:
        return 0
    if jitter is not None:
        return jitter.random.randrange(spare + 1)
    this, views = view
    return (2 * this + 1) * spare // (2 * views)


def _jittered_span(video_frames: int, jitter: Jitter) -> tuple[int, int]:
    """Start and length in frames of the part that a clip covers: all at the highest speed, less at a lower one."""
    low, high = jitter.speed_per_mille
    if low == high:
        return 0, video_frames
    length = max(1, video_frames * jitter.draw_speed() // high)
    return jitter.random.randrange(video_frames - length + 1), length


def _drop_frames(indices: list[int], jitter: Jitter, *, middle: int | None) -> list[int]:
    """Replace each index, with probability `frame_dropout`, by the one before it; the one at place `middle` stays."""
    per_mille = round(1000 * jitter.frame_dropout)
    if not per_mille:
        return indices
    result = indices[:1]
    for place, index in enumerate(indices[1:], 1):
        is_dropped = place != middle and jitter.random.randrange(1000) < per_mille
        result.append(result[-1] if is_dropped else index)
    return result


def _refuse_short(clip: Clip, video_frames: int, *, needed: int) -> None:
    if clip.short_clips == "error" and video_frames < needed:
        raise VideoError(f"has {video_frames} frames, clip.short_clips is 'error' and a clip spans {needed}")


SAMPLERS: dict[str, Callable[[Clip, int, View, Jitter | None], list[int]]] = {
    "segments": segment_indices,
    "dense": dense_indices,
    "uniform": uniform_indices,
    "around": around_indices,
}
