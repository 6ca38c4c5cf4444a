"""What an interval at the end of an hour-long recording costs, compared with the same interval cut into its own file.

Clips of a data set are read in alternation, with the layout of both files known, as training has it after its first
pass. Reported is the CPU time of one clip of eight frames.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import av
from clips import FPS, HOURS, clips

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Clip
from finetune.video.dataset import ClipDataset
from finetune.video.probe_files import scan_files

START, SECONDS = 3570, (2, 4, 10)  # the hour repeats a minute with a keyframe every ten seconds


def dataset(folder: Path, path: Path, start: float, seconds: float) -> ClipDataset:
    manifest = folder / f"{path.stem}.csv"
    rows = f"{path},{start},{start + seconds},one\n{path},{start},{start + seconds / 2},other\n"
    manifest.write_text(f"path,start,end,label\n{rows}", encoding="utf-8")
    rows = Manifest.from_csv(manifest, whole=True)
    return ClipDataset(rows, "train", clip=Clip(num_frames=8, size=224), facts=scan_files(rows))


def copy_packets(source: Path, path: Path, start: float, end: float) -> None:
    """Write the packets of [start, end), which begins at a keyframe, to their own file."""
    with av.open(str(source)) as recording, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(recording.streams.video[0])
        recording.seek(round(start * av.time_base))
        ticks = round(1 / FPS / recording.streams.video[0].time_base)
        number = 0
        for packet in recording.demux(video=0):
            if packet.pts is None or packet.pts * packet.time_base >= end + 1:
                break
            if start <= packet.pts * packet.time_base < end:
                packet.pts -= round(start / packet.time_base)
                packet.dts = (number - 2) * ticks  # Matroska stores none
                packet.stream = stream
                container.mux(packet)
                number += 1


def cost(clips: ClipDataset) -> float:
    before = time.process_time()
    clips[0]
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where the generated clips are kept")
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    hours = [clip.path for clip in clips(options.cache) if clip.name in HOURS]
    print("| file | seconds | ms, in the hour | ms, cut | ratio |\n|---|---|---|---|---|")
    for hour in hours:
        for seconds in SECONDS:
            with TemporaryDirectory() as folder:
                cut = Path(folder) / f"cut{hour.suffix}"
                copy_packets(hour, cut, START, START + seconds)
                pair = dataset(Path(folder), hour, START, seconds), dataset(Path(folder), cut, 0, seconds)
                assert (pair[0][0]["clips"] == pair[1][0]["clips"]).all(), "other frames"
                times = [[cost(clips) for clips in pair] for _ in range(options.repeats)]
            long, short = (1000 * median(column) for column in zip(*times, strict=True))
            ratio = median(one / other for one, other in times)
            print(f"| {hour.name} | {seconds} | {long:.1f} | {short:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
