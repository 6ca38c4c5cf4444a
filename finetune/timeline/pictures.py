"""A small picture of each event: the frame in its middle."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from finetune.errors import VideoError
from finetune.metrics.event_matching import Event
from finetune.timeline.timeline import Timeline
from finetune.video.decode.read import read_frames
from finetune.video.encode import encode_jpeg

LONGER_SIDE = 160  # pixels


def event_pictures(
    timelines: Sequence[Timeline], events: Mapping[int, Sequence[Event]]
) -> dict[tuple[int, Event], bytes]:
    """JPEG bytes by recording, a place in `timelines`, and event; `events` are those that get one, by recording.

    A file that can no longer be read has none.
    """
    pictures: dict[tuple[int, Event], bytes] = {}
    for place, of_recording in events.items():
        timeline = timelines[place]
        by_frame: dict[int, list[Event]] = defaultdict(list)
        for event in of_recording:
            by_frame[timeline.middle_frame(event)].append(event)
        scale = min(1.0, LONGER_SIDE / max(timeline.picture_size))
        height, width = (max(1, round(scale * side)) for side in timeline.picture_size)
        try:
            frames_TCHW, _ = read_frames(timeline.path, sorted(by_frame), size=(height, width))
        except VideoError:
            continue
        for frame_CHW, frame in zip(frames_TCHW, sorted(by_frame), strict=True):
            jpeg = encode_jpeg(frame_CHW)
            pictures |= {(place, event): jpeg for event in by_frame[frame]}
    return pictures
