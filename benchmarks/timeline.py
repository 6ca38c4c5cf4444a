"""What a timeline costs, compared with its windows one by one; and its memory for ten minutes and for two hours.

Windows of four seconds every second, of a minute of 340 x 256 pixels with a keyframe every ten seconds. One by one,
each window is read and predicted as an interval of the recording is, with its layout known. Both give the same numbers.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from clips import FPS, MINUTE, Kind, make, repeat

from finetune.inference.forward import predict_batch
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.recipe.schema import Clip, Model
from finetune.runtime.threads import run_ahead
from finetune.timeline.one_pass import predict_windows
from finetune.timeline.timelines import BATCHES_AHEAD, picture_batches
from finetune.timeline.windows import plan_windows
from finetune.video.dataset import FrameSource, read_views
from finetune.video.decode.probe import frame_times
from finetune.video.decode.read import read_frames
from finetune.video.probe_files import clip_times, scan_with_times

CLASSES = ("a", "b", "c")
SECONDS = 4.0
NETWORKS = {
    "MobileNetV2, frames by themselves": ("mobilenetv2_100", "late"),
    "MobileNetV3-small, frames by themselves": ("mobilenetv3_small_100", "late"),
    "MobileNetV2, frames mixed (tsm)": ("mobilenetv2_100", "tsm"),
}
MEMORY_MINUTES = (10, 120)
SMALL_MINUTE = Kind("small_minute.mp4", "libx264", MINUTE.options, (48, 64), 60 * FPS)  # quickly decoded


def network(backbone: str, fusion: str, size: int) -> tuple[VideoClassifier, Clip]:
    settings = Model(backbone=backbone, weights="none", fusion=fusion)
    return build_from_settings(settings, CLASSES, num_frames=8, size=size).eval(), Clip(num_frames=8, size=size)


def timeline(path: Path, model: VideoClassifier, clip: Clip) -> torch.Tensor:
    info, layout = scan_with_times(path)
    times = clip_times(path, info, layout)
    windows = plan_windows(times, clip, views=1, window_seconds=SECONDS)
    batches = picture_batches(path, windows.sampled_frames, clip, info=info, layout=layout)
    outputs = predict_windows(model, run_ahead(batches, ahead=BATCHES_AHEAD), windows.sampled_WVT, precision="fp32")
    return torch.cat([output["label"] for output in outputs])


def one_by_one(path: Path, model: VideoClassifier, clip: Clip) -> torch.Tensor:
    info, layout = scan_with_times(path)
    times = clip_times(path, info, layout)
    windows = plan_windows(times, clip, views=1, window_seconds=SECONDS)
    source = FrameSource(partial(read_frames, layout=layout), partial(frame_times, layout=layout))
    probabilities = []
    for first, count in zip(windows.firsts_W.tolist(), windows.counts_W.tolist(), strict=True):
        part = source.part(first, count)
        size = info.height, info.width
        views = read_views(path, clip, views=1, num_frames=count, video_size=size, source=part)
        probabilities.append(predict_batch(model, views[None], precision="fp32")["label"])
    return torch.cat(probabilities)


def cost(run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    before = time.process_time()
    result = run()
    return time.process_time() - before, result


def compare(path: Path, repeats: int) -> None:
    print("| network | one by one, CPU s | timeline, CPU s | ratio |\n|---|---|---|---|")
    for name, (backbone, fusion) in NETWORKS.items():
        model, clip = network(backbone, fusion, 224)
        timeline(path, model, clip)
        pairs = []
        for _ in range(repeats):
            (alone, expected), (together, given) = (
                cost(partial(way, path, model, clip)) for way in (one_by_one, timeline)
            )
            assert (given - expected).abs().max() <= 1e-5
            pairs.append((alone, together))
        alone, together = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(one / other for one, other in pairs)
        print(f"| {name} | {alone:.1f} | {together:.1f} | {ratio:.1f} |", flush=True)


def peak_memory(path: Path) -> float:
    """The peak memory in MB of a process that computes the timeline of a file with a small network."""
    command = [sys.executable, __file__, "--memory-of", str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="where the generated recordings are kept")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        timeline(options.memory_of, *network("test_resnet", "late", 32))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    if options.cache is None:
        parser.error("--cache FOLDER is needed")
    if options.only != "memory":
        compare(make(options.cache, MINUTE), options.repeats)
    if options.only != "speed":
        minute = make(options.cache, SMALL_MINUTE)
        print("| recording | peak memory, MB |\n|---|---|")
        for suffix in ("mp4", "mkv"):
            for minutes in MEMORY_MINUTES:
                path = repeat(minute, options.cache / f"minutes_{minutes}.{suffix}", minutes)
                print(f"| {minutes} minutes, {suffix} | {peak_memory(path):.0f} |", flush=True)


if __name__ == "__main__":
    main()
