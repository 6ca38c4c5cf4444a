"""A row that is an interval of a file gives the very frames of that interval cut into its own file."""

import random
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from grey import level_of, make_clip, make_images
from moving import KINDS, write

from finetune.data.background import Background
from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.video import probe_files
from finetune.video.background import with_background
from finetune.video.dataset import ClipDataset
from finetune.video.pack.read import Pack
from finetune.video.pack.write import pack
from finetune.video.probe_files import scan_files

CLIPS = [
    Clip(num_frames=4, size=32),
    Clip(num_frames=3, size=48, sampling="dense", frame_stride=2, short_clips="loop"),
    Clip(num_frames=5, size=32, sampling="uniform", fit="squash"),
    Clip(num_frames=3, size=32, sampling="fps", fps=10),
]
# The others store colours or fields that the lossless encoder stores in another way.
CUTTABLE = [kind for kind in KINDS if kind not in {"gif", "mjpeg_avi", "h264_interlaced", "vp9", "av1"}]


def decode(path):
    """Every frame, and its time in microseconds from the beginning of the file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        begin = max(0, container.start_time or 0)
        if "avi" in container.format.name:
            return frames, [40_000 * number for number in range(len(frames))]
        return frames, [round(1e6 * frame.time) - begin for frame in frames]


def cut(path, frames):
    """Frames at 25 a second in a file without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.codec_context.time_base = Fraction(1, 25)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 25), 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_csv(path, rows, header="path,start,end,label,split"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return Manifest.from_csv(path, whole=True)


def draw_intervals(times, draw):
    """Six intervals (start, end) in microseconds, and the numbers of the frames in each; an end may be open."""
    for _ in range(6):
        first = draw.randrange(len(times))
        last = draw.randrange(first, len(times))
        # The times of frames themselves, and times between them, are the border cases.
        start = max(0, times[first] - draw.choice([0, 0, 1, 7_000]))
        end = times[last] + draw.choice([1, 9_000]) if draw.random() < 0.8 else None
        chosen = [n for n, time in enumerate(times) if start <= time and (end is None or time < end)]
        yield (start / 1e6, "" if end is None else end / 1e6), chosen


@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_has_the_frames_whose_time_is_in_it(tmp_path, kind):
    source = write(tmp_path, kind, 31)
    times = decode(source)[1]
    intervals, chosen = zip(*draw_intervals(times, random.Random(kind)), strict=True)
    facts = scan_files(
        write_csv(tmp_path / "a.csv", [(source.name, *times, "ab"[n % 2], "") for n, times in enumerate(intervals)])
    )
    assert facts.first_frames.tolist() == [frames[0] for frames in chosen]
    assert facts.num_frames.tolist() == [len(frames) for frames in chosen]


@pytest.mark.parametrize("kind", CUTTABLE)
def test_an_interval_gives_the_frames_of_the_same_interval_cut_without_loss(tmp_path, kind):
    source = write(tmp_path, kind, 31)
    frames, times = decode(source)
    rows, cuts = [], []
    for number, (interval, chosen) in enumerate(draw_intervals(times, random.Random(kind))):
        cut(tmp_path / f"{number}.mp4", [frames[n] for n in chosen])
        rows.append((source.name, *interval, "ab"[number % 2], "train"))
        cuts.append((f"{number}.mp4", "", "", "ab"[number % 2], "train"))
    parts, wholes = write_csv(tmp_path / "parts.csv", rows), write_csv(tmp_path / "wholes.csv", cuts)
    for clip in CLIPS:
        for options in ({"views": 2}, {"augment": Augment(preset="light", frame_dropout=0.2), "seed": 3}):
            of_parts, of_cuts = (ClipDataset(rows, "train", clip=clip, **options) for rows in (parts, wholes))
            for position in range(len(rows)):
                one, other = of_parts[5, position], of_cuts[5, position]
                assert torch.equal(one["clips"], other["clips"]), (clip, options, rows[position])


def test_frames_are_those_from_the_start_to_before_the_end(tmp_path):
    make_clip(tmp_path / "a.mp4", 20)
    rows = [("a.mp4", 0.2, 0.4, "a", ""), ("a.mp4", 0.21, 0.41, "b", ""), ("a.mp4", "", 0.04, "a", "")]
    manifest = write_csv(tmp_path / "clips.csv", [*rows, ("a.mp4", 0.72, "", "b", "")])
    facts = scan_files(manifest)
    assert facts.first_frames.tolist() == [5, 6, 0, 18]
    assert facts.num_frames.tolist() == [5, 5, 1, 2]
    np.testing.assert_allclose(facts.seconds, [0.2, 0.2, 0.04, 0.08])
    dataset = ClipDataset(manifest, "train", clip=Clip(num_frames=5, size=32, sampling="uniform"))
    assert [level_of(dataset[position]["clips"].numpy()) for position in range(4)] == [
        [5, 6, 7, 8, 9],
        [6, 7, 8, 9, 10],
        [0, 0, 0, 0, 0],
        [18, 18, 19, 19, 19],
    ]


def test_the_time_of_a_recording_that_begins_late_counts_from_its_beginning(tmp_path):
    source = write(tmp_path, "h264_ts", 31)
    with av.open(str(source)) as container:
        assert container.start_time > 0
    facts = scan_files(
        write_csv(tmp_path / "clips.csv", [(source.name, 0.4, 0.8, "a", ""), (source.name, "", "", "b", "")])
    )
    assert (facts.first_frames.tolist(), facts.num_frames.tolist()) == ([10, 0], [10, 31])


def test_a_file_with_many_rows_is_opened_once(tmp_path, monkeypatch):
    make_clip(tmp_path / "a.mp4", 20)
    manifest = write_csv(tmp_path / "clips.csv", [("a.mp4", n / 25, "", "ab"[n % 2], "train") for n in range(19)])
    looked, scan = [], probe_files.scan
    monkeypatch.setattr(probe_files, "scan", lambda path: looked.append(path) or scan(path))
    first = scan_files(manifest)
    assert len(looked) == 1
    again = scan_files(manifest)
    assert len(looked) == 1
    assert first.first_frames.tolist() == again.first_frames.tolist() == list(range(19))


def test_a_file_whose_rows_become_intervals_is_examined_again(tmp_path):
    make_clip(tmp_path / "a.mp4", 20)
    make_clip(tmp_path / "b.mp4", 20)
    whole = write_csv(tmp_path / "clips.csv", [("a.mp4", "", "", "a", ""), ("b.mp4", "", "", "b", "")])
    assert scan_files(whole).first_frames is None
    part = write_csv(tmp_path / "clips.csv", [("a.mp4", 0.4, "", "a", ""), ("b.mp4", "", "", "b", "")])
    facts = scan_files(part)
    assert (facts.first_frames.tolist(), facts.num_frames.tolist()) == ([10, 0], [10, 20])


def test_an_interval_without_a_frame_is_named_with_the_length_of_its_file(tmp_path):
    make_clip(tmp_path / "a.mp4", 20)
    manifest = write_csv(tmp_path / "clips.csv", [("a.mp4", 3, 4, "a", ""), ("a.mp4", 0.01, 0.02, "b", "")])
    facts = scan_files(manifest)
    assert facts.bad == {
        0: f"{tmp_path / 'a.mp4'}: has no frame in 3–4 s; it lasts 0.80 s",
        1: f"{tmp_path / 'a.mp4'}: has no frame in 0.01–0.02 s; it lasts 0.80 s",
    }
    with pytest.raises(VideoError, match="has no frame in 3–4 s"):
        ClipDataset(manifest, "train", clip=Clip(size=32))


def test_an_interval_of_numbered_images_goes_by_the_image_rate(tmp_path):
    make_images(tmp_path / "a", 20)
    make_clip(tmp_path / "b.mp4", 20)
    rows = [("a", 0.4, 0.8, "a", ""), ("b.mp4", 0.4, 0.8, "b", "")]
    (tmp_path / "clips.csv").write_text(
        "path,start,end,label,split\n" + "".join(f"{','.join(map(str, r))}\n" for r in rows)
    )
    manifest = replace(Manifest.from_csv(tmp_path / "clips.csv", whole=True), image_rate=10.0)
    facts = scan_files(manifest)
    assert (facts.first_frames.tolist(), facts.num_frames.tolist()) == ([4, 10], [4, 10])


@pytest.mark.parametrize("kind", ["h264_b", "h264_ts", "mpeg4_avi"])
def test_a_pack_has_the_same_intervals(tmp_path, kind):
    source = write(tmp_path, kind, 31)
    rows = [(source.name, 0.2, 0.61, "a", "train"), (source.name, 0.8, "", "b", "train")]
    manifest = write_csv(tmp_path / "clips.csv", rows)
    pack(manifest, tmp_path / "pack", short_side=48)
    facts, packed = scan_files(manifest), Pack(tmp_path / "pack").facts(manifest, side=32)
    assert facts.first_frames.tolist() == packed.first_frames.tolist() == [5, 20]
    assert facts.num_frames.tolist() == packed.num_frames.tolist() == [11, 11]
    clip = Clip(num_frames=4, size=48)
    one, other = (ClipDataset(manifest, "train", clip=clip, packed=folder) for folder in (None, tmp_path / "pack"))
    for position in range(2):
        difference = one[position]["clips"].float() - other[position]["clips"].float()
        assert difference.abs().mean() < 8  # JPEG


def test_training_windows_have_the_median_length_and_their_middle_in_the_row(tmp_path):
    make_clip(tmp_path / "a.mp4", 31)
    rows = [("a.mp4", 0.4, 0.8, "a", ""), ("a.mp4", 0.04, 0.44, "b", ""), ("a.mp4", 0.72, 1.24, "a", "")]
    manifest = write_csv(tmp_path / "clips.csv", rows)  # 10, 10 and 13 frames
    clip = Clip(num_frames=10, size=32, sampling="uniform")
    augment = Augment(preset="none", interval_windows=True)
    windows = ClipDataset(manifest, "train", clip=clip, augment=augment)
    firsts = [{level_of(windows[epoch, row]["clips"].numpy())[0] for epoch in range(300)} for row in range(3)]
    assert firsts[0] == set(range(5, 15))  # their middles are frames 10 to 19
    assert firsts[1] == set(range(6))  # not before the beginning of the file
    assert firsts[2] == set(range(13, 22))  # nor beyond its end
    for row in range(3):
        assert np.diff(level_of(windows[1, row]["clips"].numpy())).tolist() == [1] * 9
    assert level_of(ClipDataset(manifest, "train", clip=clip)[0]["clips"].numpy())[0] == 10


def test_whole_files_have_no_windows(tmp_path):
    make_clip(tmp_path / "a.mp4", 31)
    make_clip(tmp_path / "b.mp4", 10)
    manifest = write_csv(tmp_path / "clips.csv", [("a.mp4", 0.4, 0.8, "a", ""), ("b.mp4", "", "", "b", "")])
    clip, augment = Clip(num_frames=10, size=32, sampling="uniform"), Augment(preset="none", interval_windows=True)
    dataset = ClipDataset(manifest, "train", clip=clip, augment=augment)
    assert {level_of(dataset[epoch, 1]["clips"].numpy())[0] for epoch in range(20)} == {0}


def test_windows_change_nothing_else_that_is_drawn(tmp_path):
    make_clip(tmp_path / "a.mp4", 31, size=64)
    manifest = write_csv(tmp_path / "clips.csv", [("a.mp4", 0.4, 0.8, "a", ""), ("a.mp4", 0.8, 1.2, "b", "")])
    clip, augment = Clip(num_frames=4, size=32, sampling="uniform"), Augment(preset="light")
    plain = ClipDataset(manifest, "train", clip=clip, augment=augment)
    windows = ClipDataset(manifest, "train", clip=clip, augment=augment.model_copy(update={"interval_windows": True}))
    for epoch in range(20):
        one, other = plain.placements(epoch, 0)[0], windows.placements(epoch, 0)[0]
        np.testing.assert_array_equal(one.matrix, other.matrix)
        assert other.last - other.first == one.last - one.first


def test_the_window_of_a_short_row_is_as_long_as_that_of_others(tmp_path):
    make_clip(tmp_path / "a.mp4", 31)
    rows = [("a.mp4", 0.4, 0.8, "a", ""), ("a.mp4", 0.8, 1.2, "b", ""), ("a.mp4", 0.6, 0.61, "a", "")]
    manifest = write_csv(tmp_path / "clips.csv", [*rows, ("a.mp4", 0.64, 0.6404, "b", "")])
    clip = Clip(num_frames=10, size=32, sampling="uniform")
    dataset = ClipDataset(manifest, "train", clip=clip, augment=Augment(preset="none", interval_windows=True))
    dataset.window_seconds = 0.4
    for row in range(4):
        assert {np.ptp(level_of(dataset[epoch, row]["clips"].numpy())) for epoch in range(20)} == {9}


def test_a_folder_of_images_with_intervals_is_examined_once(tmp_path, monkeypatch):
    make_images(tmp_path / "a", 20)
    manifest = write_csv(tmp_path / "clips.csv", [("a", 0, 0.2, "a", ""), ("a", 0.2, 0.4, "b", "")])
    scan_files(manifest)
    monkeypatch.setattr(probe_files, "scan", lambda path: pytest.fail(f"{path} was examined again"))
    assert scan_files(manifest).first_frames.tolist() == [0, 5]


def test_drawing_background_leaves_the_facts_of_other_files_in_the_cache(tmp_path, monkeypatch):
    make_clip(tmp_path / "a.mp4", 100)
    make_clip(tmp_path / "b.mp4", 20)
    manifest = write_csv(tmp_path / "clips.csv", [("a.mp4", 0.4, 0.8, "a", ""), ("b.mp4", "", "", "b", "")])
    whole = with_background(manifest, Background("none", 0.5, 0.0))
    assert whole.counts("train") == {"a": 1, "b": 1, "none": 2}
    monkeypatch.setattr(probe_files, "scan", lambda path: pytest.fail(f"{path} was examined again"))
    assert scan_files(whole).bad == {}
