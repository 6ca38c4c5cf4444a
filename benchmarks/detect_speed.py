"""Where the time goes when a run detects and tracks objects in 720p video, and what `--every` saves and costs.

The video is the quickstart's test clips, enlarged to 720 pixels. CPU time of one thread; each stage is run by itself.
HOTA is that of the run's own detections in the test clips.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from tracking import read_clips, sequences

from finetune.data.manifest import Manifest
from finetune.metrics.tracking import score_tracks
from finetune.objects.detect import Detector, FrameOutput, Recording, frames_around, read_recording
from finetune.objects.draw import draw_recording, drawn_frames
from finetune.objects.predict_frames import ObjectPredictor, predict_frames
from finetune.recipe.tasks import Task
from finetune.run.read import open_run
from finetune.timeline.timelines import picture_batches
from finetune.video.decode.read import read_frames, stream_frames
from finetune.video.encode import write_frames

HEIGHT, WIDTH, CLIPS, RATE = 720, 1280, 8, 25
STEPS = (1, 2, 5)


def enlarged(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """The frames of square clips, 720 pixels high, in the middle of a grey ground of 1280 pixels."""
    for path in paths:
        recording = read_recording(path, image_rate=RATE)
        frames_TCHW, _ = read_frames(path, range(recording.info.num_frames))
        for frame_CHW in frames_TCHW:
            picture_HWC = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
            left = (WIDTH - HEIGHT) // 2
            square = np.ascontiguousarray(frame_CHW.transpose(1, 2, 0))
            picture_HWC[:, left : left + HEIGHT] = cv2.resize(square, (HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC)
            yield picture_HWC


def cpu_seconds(items: Iterable) -> float:
    before = time.process_time()
    deque(items, maxlen=0)
    return time.process_time() - before


def stored(outputs: dict[int, FrameOutput]) -> Detector:
    return lambda _, frames_W: (outputs[frame] for frame in frames_W.tolist())


def stage_seconds(predictor: ObjectPredictor, recording: Recording, every: int, target: Path) -> dict[str, float]:
    """CPU seconds of each stage for the whole recording."""
    detect, count = predictor.detect, recording.info.num_frames
    frames_W = np.unique(np.append(np.arange(0, count, every), count - 1))
    windows_WT = frames_around(frames_W, detect.clip.num_frames, detect.clip.frame_stride, video_frames=count)
    pictures = picture_batches(
        recording.path, np.unique(windows_WT), detect.clip, info=recording.info, layout=recording.layout
    )
    decoding = cpu_seconds(pictures)
    outputs: dict[int, FrameOutput] = {}
    before = time.process_time()
    for output in detect(recording, frames_W):
        outputs[output.frame] = output
    network = time.process_time() - before - decoding
    arguments = stored(outputs), recording, predictor.classes
    options = {"every": every, "score": predictor.score}
    tracking = cpu_seconds(predict_frames(*arguments, **options))
    size = recording.info.height, recording.info.width
    full_size = cpu_seconds(stream_frames(recording.path, np.arange(count), size=size, layout=recording.layout))
    drawing = cpu_seconds(drawn_frames(recording, predict_frames(*arguments, **options))) - tracking - full_size
    before = time.process_time()
    draw_recording(recording, predict_frames(*arguments, **options), target)
    encoding = time.process_time() - before - drawing - full_size - tracking
    return {
        "decoding": decoding,
        "network": network,
        "tracking": tracking,
        "decoding at full size": full_size,
        "drawing": drawing,
        "encoding": encoding,
    }


def print_stages(predictor: ObjectPredictor, video: Path, repeats: int) -> None:
    recording = read_recording(video, image_rate=RATE)
    count, target = recording.info.num_frames, video.with_name("drawn.mp4")
    runs: dict[int, list[dict[str, float]]] = {every: [] for every in STEPS}
    for _ in range(repeats):
        for every in STEPS:
            runs[every].append(stage_seconds(predictor, recording, every, target))
    print(f"\n| CPU ms per frame | {' | '.join(f'every {every}' for every in STEPS)} |\n|---|---|---|---|")
    stages = {name: [1000 * median(run[name] for run in runs[every]) / count for every in STEPS] for name in runs[1][0]}
    for name, costs in stages.items():
        print(f"| {name} | {' | '.join(f'{cost:.1f}' for cost in costs)} |")
    without_drawing = [sum(of_step) for of_step in zip(*list(stages.values())[:3], strict=True)]
    drawn = [sum(of_step) for of_step in zip(*stages.values(), strict=True)]
    for name, costs in (("frames per CPU second", without_drawing), ("the same with --draw", drawn)):
        print(f"| {name} | {' | '.join(f'{1000 / cost:.0f}' for cost in costs)} |")


def print_hota(predictor: ObjectPredictor, clips: dict[Path, list[np.ndarray]]) -> None:
    cells = []
    for every in STEPS:
        predictor.every = every
        of_clips = [part for path, frames in clips.items() for part in sequences(frames, list(predictor(path)[1]))]
        scored = score_tracks(of_clips, groups=range(len(of_clips)))
        cells.append(f"{scored['hota']:.3f} / {scored['switches']}")
    print(f"| HOTA / switches | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run of quickstart_detection")
    parser.add_argument("data", type=Path, help="the quickstart's objects.csv")
    parser.add_argument("--cache", type=Path, required=True, help="where the enlarged video is kept")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_clips(Manifest.from_csv(options.data, tasks={"objects": Task(kind="track")}))
    video = options.cache / "720p.mp4"
    if not video.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        write_frames(video, enlarged(list(clips)[:CLIPS]), fps=RATE)
    predictor = ObjectPredictor(open_run(options.run))
    print_stages(predictor, video, options.repeats)
    print_hota(predictor, clips)


if __name__ == "__main__":
    main()
