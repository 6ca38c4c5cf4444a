"""What is drawn on frames is where it was said to be, in any size and script, and the file is whole or not there."""

import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from grey import grey_frames, make_clip

from finetune.errors import RunError, VideoError
from finetune.prediction.overlay import (
    COLOURS,
    VIDEO_OUTPUT_SUFFIXES,
    Overlay,
    OverlayObject,
    draw_image,
    draw_video,
    overlay_frames,
)
from finetune.video.decode.container import decode_frames
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video
from finetune.video.render_text import render_text

BOX, ARROW = COLOURS[:2]
IDENTITY, QUARTER = (
    b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    for numbers in (
        (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30),
        (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30),
    )
)


def on_grey(marks, *, count=5, size=(100, 120), level=128, rate=25.0):
    """Frames of one grey level with marks, (T, H, W, 3)."""
    return np.stack(list(overlay_frames([np.full((*size, 3), level, np.uint8)] * count, marks, rate=rate)))


def extent(frame_HWC, colour):
    """Left, top, width and height of all that has a colour."""
    rows, columns = np.nonzero((frame_HWC == colour).all(-1))
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


def test_a_box_is_where_it_is_said_and_moves_by_the_said_movement_on_other_frames():
    frames = on_grey(Overlay((), (OverlayObject("box", (40, 30, 30, 20), (3.0, -2.0)),), 2))
    alone = on_grey(Overlay((), (OverlayObject("box", (40, 30, 30, 20)),), 2))
    for number, frame_HWC in enumerate(frames):
        left, top, width, height = extent(frame_HWC, BOX)
        centre = left + (width - 1) / 2, top + (height - 1) / 2
        assert np.allclose(centre, (54.5 + 3 * (number - 2), 39.5 - 2 * (number - 2)), atol=1)
        assert 30 <= width <= 34 and 20 <= height <= 24, "the middle of the line is the box's edge"
        assert (extent(alone[number], BOX)[0] + 1, 30) == pytest.approx((40, 30), abs=2), "without movement it stays"
        assert (frame_HWC[0] == 128).all(), "nothing is far from the box"


def test_the_line_is_thickest_on_the_frame_that_the_box_is_said_for():
    frames = on_grey(Overlay((), (OverlayObject("box", (40, 30, 30, 20)),), 2))
    inked = [(frame_HWC == BOX).all(-1).sum() for frame_HWC in frames]
    assert inked[2] > 1.5 * inked[1]
    assert inked[0] == inked[1] == inked[3] == inked[4]


@pytest.mark.parametrize("motion", [(0.1, 0.0), (0.0, -0.3), (40.0, 0.0), (-2.0, 0.0)])
def test_an_arrow_shows_the_direction_whatever_the_speed_and_begins_at_the_middle_without_a_box(motion):
    frame_HWC = on_grey(Overlay((), (OverlayObject("motion", None, motion),)), count=1)[0]
    left, top, width, height = extent(frame_HWC, ARROW)
    along = np.array([(left + width / 2 - 60), (top + height / 2 - 50)])
    assert along @ motion > 0
    assert 100 / 8 <= max(width, height) <= 100 / 3 + 6
    assert left <= 61 and left + width >= 59 and top <= 51 and top + height >= 49, "it begins at the middle"


def test_what_hardly_moves_has_no_arrow():
    assert (on_grey(Overlay((), (OverlayObject("motion", None, (0.01, 0.02)),))) == 128).all()


def test_arrows_are_as_long_as_the_way_of_a_second_where_that_fits():
    def length(rate):
        return extent(on_grey(Overlay((), (OverlayObject("motion", None, (0.0, 1.0)),)), rate=rate, count=1)[0], ARROW)[
            3
        ]

    assert length(28) - length(20) == pytest.approx(8, abs=1)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_text_is_light_on_dark_on_any_picture(level):
    frame_HWC = on_grey(Overlay(("jumps 0.97",)), level=level, count=1)[0]
    rows, columns = np.nonzero((frame_HWC != level).any(-1))
    panel = frame_HWC[: rows.max() + 1, : columns.max() + 1]
    assert frame_HWC.max() >= 250
    assert np.median(panel) <= 64
    assert (frame_HWC[rows.max() + 1 :] == level).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (8, 8), (16, 16), (32, 32), (31, 33), (300, 20)])
@pytest.mark.parametrize("count", [1, 12])
def test_marks_stay_within_small_frames_whatever_their_text(size, count):
    marks = Overlay(
        ("a class with a very long name " * 3 + "0.97",) * count,
        (OverlayObject("box", (-9, 3, 400, 9), (1e9, -1e9)),),
        1,
    )
    assert on_grey(marks, size=size, count=3).shape == (3, *size, 3)


def test_a_line_that_is_too_long_keeps_its_number():
    whole, cut = (render_text(f"{'jump' * count} 0.97", size=12, width=90) for count in (1, 9))
    number = render_text("0.97", size=12, width=90)
    assert cut.shape[1] <= 90 < render_text("jump" * 9, size=12, width=900).shape[1]
    wide = number.shape[1] - 4
    tails = [ink[:, np.flatnonzero(ink.any(0))[-1] + 1 - wide :][:, :wide] for ink in (whole, cut, number)]
    assert np.abs(tails[0].astype(int) - tails[2]).mean() < 25 and np.abs(tails[1].astype(int) - tails[2]).mean() < 25


@pytest.mark.parametrize("text", ["прыжок", "$x_1$ \\frac", "a\nb\tc", "\udce9t\udce9", "é" * 300, "🦘 跳"])
def test_text_in_any_script_is_drawn_as_it_is_or_as_boxes(text):
    assert render_text(text, size=12, width=200).any()
    assert render_text(text, size=12, width=200).shape[1] <= 200


def test_no_text_is_no_ink():
    assert render_text("", size=12, width=200).size == 0
    assert render_text("wide", size=12, width=3).size == 0
    assert not render_text("\x00\x07", size=12, width=200).any()
    assert (on_grey(Overlay(("", "  "))) == 128).all()


def test_several_things_are_told_apart_by_colour_and_name():
    objects = OverlayObject("ball", (10, 60, 20, 20), (1.0, 0.0)), OverlayObject("hand", (60, 60, 30, 20))
    frame_HWC = on_grey(Overlay((), objects), size=(120, 120), count=1)[0]
    for colour, (left, width) in zip(COLOURS, ((10, 20), (60, 30)), strict=False):
        shown = frame_HWC[60:80] == colour
        columns = np.flatnonzero(shown.all(-1).any(0))
        assert columns.min() == pytest.approx(left, abs=2)
        assert columns.max() >= left + width - 1
    assert (np.abs(frame_HWC[:40].astype(int) - COLOURS[1]) < 12).all(-1).any(), "its name is in its colour"


def test_text_keeps_away_from_a_box_at_the_top():
    frame_HWC = on_grey(Overlay(("jumps 0.97",), (OverlayObject("box", (5, 3, 30, 20)),)), count=1)[0]
    assert frame_HWC[:30].max() == 240, "of the box, not of letters"
    assert frame_HWC[60:].max() >= 250


@pytest.mark.parametrize("suffix", VIDEO_OUTPUT_SUFFIXES)
def test_every_frame_of_the_source_is_there_at_its_size_and_rate(tmp_path, suffix):
    source = make_clip(tmp_path / "a.mp4", 15, size=64, step=14)
    target = tmp_path / "out" / f"it's 50 % : é{suffix}"
    draw_video(source, target, Overlay((), (OverlayObject("box", (30, 40, 16, 12), (0.5, 0.0)),), 7))
    info = probe(target)
    assert (info.num_frames, info.width, info.height, info.has_audio) == (15, 64, 64, False)
    assert info.fps == pytest.approx(25)
    frames, _ = read_frames(target, range(15))
    levels = frames[..., :20, :20].reshape(15, -1).mean(1)
    assert np.abs(levels - (16 + 14 * np.arange(15))).max() < 6
    row = frames[7].transpose(1, 2, 0)[46, :30].astype(int)
    assert np.abs(row - BOX).sum(-1).argmin() in {28, 29, 30}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("suffix", VIDEO_OUTPUT_SUFFIXES)
def test_an_odd_side_gets_one_more_pixel_and_a_single_frame_is_a_video(tmp_path, suffix):
    source, target = tmp_path / "a.gif", tmp_path / f"b{suffix}"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 33, 31, "rgb8"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((31, 33, 3), 200, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    draw_video(source, target, Overlay(("x",)))
    info = probe(target)
    assert (info.width, info.height, info.num_frames) == (34, 32, 1)


def test_a_turned_video_is_drawn_upright(tmp_path):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :, :16] = 255  # the left quarter, which is the top when it is turned
    source = tmp_path / "a.mp4"
    write_video(source, frames)
    data = source.read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    source.write_bytes(data[:at] + QUARTER + data[at + len(QUARTER) :])
    assert (probe(source).width, probe(source).height) == (48, 64)
    draw_video(source, tmp_path / "b.mp4", Overlay((), (OverlayObject("box", (30, 40, 12, 12)),), 1))
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (48, 64)
    before, after = (
        read_frames(path, [1])[0][0].transpose(1, 2, 0).astype(int) for path in (source, tmp_path / "b.mp4")
    )
    assert np.abs(before[:30] - after[:30]).mean() < 6
    assert np.abs(after[46, 27:33] - BOX).sum(-1).min() < 150 < np.abs(before[46, 27:33] - BOX).sum(-1).min()


def test_a_varying_rate_becomes_its_mean(tmp_path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame_HWC in enumerate(grey_frames(15, step=14)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            frame.pts, frame.time_base = 40 * number + 25 * (number % 2), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    draw_video(source, tmp_path / "b.mp4", Overlay())
    levels = read_frames(tmp_path / "b.mp4", range(15))[0].reshape(15, -1).mean(1)
    assert np.abs(levels - (16 + 14 * np.arange(15))).max() < 6
    assert probe(tmp_path / "b.mp4").fps == pytest.approx(probe(source).fps, rel=0.01)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(120001, 1000), Fraction(1, 4), 999, 77777])
def test_odd_rates_can_be_written(tmp_path, rate):
    write_video(tmp_path / "a.mkv", grey_frames(4), fps=rate)
    draw_video(tmp_path / "a.mkv", tmp_path / "b.mp4", Overlay())
    assert probe(tmp_path / "b.mp4").num_frames == 4
    assert probe(tmp_path / "b.mp4").fps == pytest.approx(min(float(rate), 1000), rel=0.02)


@pytest.mark.parametrize("suffix", VIDEO_OUTPUT_SUFFIXES)
def test_a_full_disk_is_said_and_the_file_before_stays(tmp_path, suffix):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "a.mp4", rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))
    target = tmp_path / f"b{suffix}"
    target.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(RunError, match=rf"b\{suffix}: cannot be written: File too large"):
            draw_video(tmp_path / "a.mp4", target, Overlay())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    clip = make_clip(tmp_path / "a.mp4")
    with pytest.raises(RunError, match=r"a.mp4/b.mp4: cannot be written: (Not a directory|File exists)"):
        draw_video(clip, clip / "b.mp4", Overlay())


def test_a_source_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", 8)

    def breaks_off(path, container, stream):
        yield next(decode_frames(path, container, stream))
        raise VideoError(f"{path}: cannot be decoded after frame 1")

    monkeypatch.setattr("finetune.prediction.overlay.decode_frames", breaks_off)
    with pytest.raises(VideoError, match=r"a.mp4: cannot be decoded after frame 1"):
        draw_video(source, tmp_path / "b.mp4", Overlay())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_an_image_is_drawn_to_an_image(tmp_path, suffix):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 61, 3), 128, np.uint8))
    draw_image(tmp_path / "a.png", tmp_path / f"b{suffix}", Overlay((), (OverlayObject("box", (20, 10, 20, 20)),)))
    found = cv2.imread(str(tmp_path / f"b{suffix}"))
    assert found.shape == (40, 61, 3)
    assert (np.abs(found[..., ::-1].astype(int) - BOX).sum(-1) < 60).any()


def test_memory_does_not_grow_with_a_video():
    seen = []

    def frames():
        for _ in range(300):
            seen.append(np.zeros((16, 16, 3), np.uint8))
            yield seen[-1]

    stream = overlay_frames(frames(), Overlay(("x",)), rate=25.0)
    next(stream)
    assert len(seen) == 1, "frames are taken one at a time"
