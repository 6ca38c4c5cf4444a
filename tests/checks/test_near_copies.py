"""Changed copies of drawn clips are found; other movements in the same scene, and other parts of one clip, are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.checks import near_copies
from finetune.checks.copy_alignment import match_motion, register, window_affine
from finetune.checks.copy_candidates import content_box, find_candidates, without_bars
from finetune.checks.near_copies import find_near_copies
from finetune.errors import VideoError
from finetune.video.decode.probe import VideoInfo
from finetune.video.encode import write_video
from finetune.video.fingerprints import thumbnail
from finetune.video.grey_frames import MAX_SECONDS, SIDE, GreyFrames, PartOfClip, read_grey_frames
from finetune.video.probe_files import ClipOfFile, FileInspection, inspect_files
from finetune.video.still_edges import WHOLE_FRAME

FPS, HEIGHT, WIDTH = 24, 96, 128


def draw(scene, movement, seconds=3.0, *, noise=2.0):
    """uint8 (T, H, W, 3): `scene` chooses the background, `movement` how three discs move over it."""
    random = np.random.default_rng(scene)
    background = cv2.resize(random.integers(30, 220, (12, 16, 3)).astype(np.float32), (WIDTH, HEIGHT))
    random = np.random.default_rng([scene, movement])
    frames, count = [], round(seconds * FPS)
    turns = random.uniform(0.1, 0.5, (3, 2)) * random.choice([-1, 1], (3, 2))
    starts, colours = random.uniform(0, 2 * np.pi, (3, 2)), random.integers(0, 256, (3, 3))
    for number in range(count):
        frame = background.copy()
        for turn, start, colour in zip(turns, starts, colours, strict=True):
            x, y = 0.5 + 0.33 * np.sin(2 * np.pi * turn * number / FPS + start)
            cv2.circle(frame, (round(WIDTH * x), round(HEIGHT * y)), 11, colour.tolist(), -1, cv2.LINE_AA)
        frames.append(frame + random.normal(0, noise, frame.shape))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def crop(frames, top, bottom, left, right):
    return np.stack([cv2.resize(frame[top:bottom, left:right], (WIDTH, HEIGHT)) for frame in frames])


def grey_of(frames):
    return np.stack([cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for frame in frames])


def with_text(frames):
    frames = frames.copy()
    for frame in frames:
        cv2.rectangle(frame, (88, 4), (122, 16), (250, 30, 30), -1)
        cv2.putText(frame, "NEWS", (90, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255))
    return frames


ORIGINAL, SECOND, THIRD = (draw(scene, 1) for scene in (1, 5, 6))
# The original, its copy, the frame rate of the copy, and what is said of it.
COPIES = {
    "brighter": (ORIGINAL, np.clip(ORIGINAL * 1.2 + 10, 0, 255).astype(np.uint8), FPS, []),
    "half the frames": (ORIGINAL, ORIGINAL[::2], FPS // 2, []),
    "cropped in the centre": (ORIGINAL, crop(ORIGINAL, 10, 86, 13, 115), FPS, ["cropped to about 80"]),
    "mirrored": (ORIGINAL, ORIGINAL[:, :, ::-1], FPS, ["mirrored"]),
    "grey": (SECOND, grey_of(SECOND), FPS, []),
    "cropped in a corner": (SECOND, crop(SECOND, 0, 76, 0, 102), FPS, ["cropped to about 80"]),
    "with bars": (SECOND, np.pad(SECOND[:, 8:-8], ((0, 0), (8, 8), (0, 0), (0, 0))), FPS, ["cropped to about 9"]),
    "a second later": (SECOND, SECOND[FPS:], FPS, ["shifted by 1.0 s"]),
    "with text": (THIRD, with_text(THIRD), FPS, []),
    "faster": (THIRD, THIRD, 30, ["1.25 × as fast"]),
    "all of it": (THIRD, crop(THIRD[12:, :, ::-1], 5, 91, 6, 122), FPS, ["mirrored", "cropped to about 9", "by 0.5 s"]),
}
ORIGINALS = {"original": ORIGINAL, "second": SECOND, "third": THIRD}
OTHERS = {
    "same scene": draw(1, 2),
    "same scene again": draw(1, 3),
    "other scene": draw(2, 1),
    "first part": draw(3, 1, 5.0)[: 2 * FPS],
    "last part": draw(3, 1, 5.0)[3 * FPS :],
    "still": np.repeat(draw(4, 1)[:1], 40, 0),
    "still again": np.repeat(draw(4, 1)[:1], 48, 0),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The near copies among all clips, by the set of the names of both."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {name: (frames, FPS) for name, frames in (ORIGINALS | OTHERS).items()}
    clips |= {name: copy[1:3] for name, copy in COPIES.items()}
    for name, (frames, fps) in clips.items():
        write_video(folder / f"{name}.mp4", np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2]), fps=fps)
    parts = [ClipOfFile(folder / f"{name}.mp4") for name in clips]
    calls = []
    copies = find_near_copies(
        parts,
        inspect_files(parts, seconds=60),
        np.arange(len(parts)),
        reading=(25.0, 60.0),
        progress=lambda *numbers: calls.append(numbers),
    )
    assert calls and calls[-1][0] == calls[-1][1]
    names = list(clips)
    return {frozenset((names[copy.whole], names[copy.part])): copy for copy in copies}


@pytest.mark.parametrize("name", COPIES)
def test_a_changed_copy_is_found_and_its_change_is_named(found, name):
    (original,) = (key for key, frames in ORIGINALS.items() if frames is COPIES[name][0])
    copy, words = found[frozenset((original, name))], COPIES[name][3]
    text = ", ".join(copy.changes)
    assert not copy.still and all(word in text for word in words)
    for word in ("mirrored", "shifted", "fast"):
        assert (word in text) == any(word in each or (word == "shifted" and "by" in each) for each in words)


def test_other_movements_in_one_scene_and_parts_that_do_not_overlap_are_no_copies(found):
    assert [pair for pair in found if pair & {"same scene", "same scene again", "other scene"}] == []
    assert [pair for pair in found if pair & {"first part", "last part"}] == []
    assert [pair for pair in found if pair <= set(ORIGINALS)] == []


def test_where_nothing_moves_the_same_scene_is_reported_and_no_copy(found):
    assert found[frozenset(("still", "still again"))].still
    assert sum(copy.still for copy in found.values()) == 1


def test_many_clips_that_look_the_same_are_read_few_times(monkeypatch):
    """Of 30 clips of one scene, 435 pairs look the same."""
    picture = thumbnail(draw(1, 1, seconds=0.1)[0].transpose(2, 0, 1))
    look = FileInspection(
        VideoInfo(72, "index", True, 24.0, 128, 96, 3.0, "h264", False), 1000, np.stack([picture] * 5), b""
    )
    read = []

    def unreadable(parts, **_):
        read.append(len(parts))
        return [VideoError("cannot be read")] * len(parts)

    monkeypatch.setattr(near_copies, "read_grey_frames", unreadable)
    monkeypatch.setattr(near_copies, "_PARTS_AT_ONCE", 20)
    clips, steps = [ClipOfFile(Path(f"/{number}.mp4")) for number in range(30)], []
    found = find_near_copies(
        clips, [look] * 30, np.arange(30), reading=(25.0, 60.0), progress=lambda *step: steps.append(step)
    )
    assert len(found) == 435 and steps[-1] == (435, 435)
    assert sum(read) <= 90 and max(read) <= 20


def test_clips_of_one_file_and_no_clips_are_not_compared(tmp_path):
    write_video(tmp_path / "a.mp4", ORIGINAL, fps=FPS)
    parts = [ClipOfFile(tmp_path / "a.mp4", (0, 2)), ClipOfFile(tmp_path / "a.mp4", (1, 3))]
    looks = inspect_files(parts, seconds=60)
    assert find_near_copies(parts, looks, np.zeros(2, int), reading=(25.0, 60.0)) == []
    assert len(find_near_copies(parts, looks, np.arange(2), reading=(25.0, 60.0))) == 1
    assert find_near_copies([], [], np.empty(0, int), reading=(25.0, 60.0)) == []


def thumbnails(frames_THWC):
    places = [len(frames_THWC) * quarter // 4 for quarter in range(4)] + [-1]
    return np.stack([thumbnail(frame.transpose(2, 0, 1)) for frame in frames_THWC[places]])


@pytest.mark.parametrize("seed", range(10, 16))
def test_the_search_finds_the_crop_among_other_scenes(seed):
    random = np.random.default_rng(seed)
    frames, (down, right) = draw(seed, 0, 1.0), random.choice([0, 0.5, 1], 2)
    share = random.choice([0.7, 0.8, 0.9])
    top, left = round(down * HEIGHT * (1 - share)), round(right * WIDTH * (1 - share))
    copy = crop(frames, top, top + round(HEIGHT * share), left, left + round(WIDTH * share))
    pictures = np.stack([thumbnails(clip) for clip in (*(draw(seed + 50 + n, 0, 1.0) for n in range(5)), frames, copy)])
    best = max(find_candidates(pictures, np.arange(7), np.arange(7)), key=lambda candidate: candidate.similarity)
    assert best.pair == (5, 6) and not best.mirrored and best.similarity > 0.6
    assert find_candidates(pictures, np.array([0, 0, 0, 0, 0, 1, 1]), np.array([5, 6])) == []


def test_bars_are_left_out_and_dark_pictures_are_kept():
    pictures = np.full((5, 32, 32), 100, np.uint8)
    assert content_box(pictures) == WHOLE_FRAME
    pictures[:, :4] = pictures[:, -6:] = 5
    assert content_box(pictures) == (0, 5 / 32, 1, 25 / 32)
    assert without_bars(pictures, content_box(pictures)).min() == 100
    assert content_box(np.zeros((5, 32, 32), np.uint8)) == WHOLE_FRAME
    pictures[:] = 0
    pictures[:, 10:14] = 100  # a lamp at night
    assert content_box(pictures) == WHOLE_FRAME


@pytest.mark.parametrize("window", [(0.1, 0.1, 0.9, 0.9), (0.0, 0.25, 0.75, 1.0)])
def test_pictures_are_laid_over_each_other_from_a_rough_guess(window):
    left, top, right, bottom = window
    whole = cv2.resize(draw(7, 0, 0.1)[0].mean(2).astype(np.float32), (128, 128))
    rows, columns = (slice(round(128 * low), round(128 * high)) for low, high in ((top, bottom), (left, right)))
    part = cv2.resize(whole[rows, columns], (SIDE, SIDE))
    guess = window_affine((left + 0.03, top - 0.03, right + 0.02, bottom + 0.03))
    affine = register(cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA), part, guess)
    assert np.abs(affine - window_affine(window)).max() < 0.01
    assert register(np.zeros((SIDE, SIDE)), part, guess) is None


def grey(frames, fps):
    pictures = [cv2.resize(frame.mean(2), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return GreyFrames(np.stack(pictures).astype(np.uint8), np.arange(len(frames)) / fps)


@pytest.mark.parametrize(("start", "speed"), [(0.0, 1.0), (0.7, 1.0), (1.0, 1.25), (0.4, 0.8)])
def test_shift_and_speed_of_a_part_are_measured(start, speed):
    whole, part = grey(ORIGINAL[::2], FPS / 2), ORIGINAL[round(start * FPS) :: 2]
    match, _ = match_motion(whole, grey(part, speed * FPS / 2), window_affine(WHOLE_FRAME))
    assert match.correlation > 0.9 and match.same_edges > 0.9
    assert match.speed == speed and match.shift == pytest.approx(start, abs=0.08)


def test_too_few_frames_have_no_alignment():
    whole, part = grey(ORIGINAL[::2], FPS / 2), grey(ORIGINAL[:3], FPS)
    assert match_motion(whole, part, window_affine(WHOLE_FRAME))[0].frames == 0


def test_frames_are_read_at_a_fixed_rate_and_at_most_some_seconds_of_them(tmp_path):
    write_video(tmp_path / "short.mp4", ORIGINAL[:12], fps=24)
    write_video(tmp_path / "long.mp4", np.repeat(ORIGINAL[::12], 60, 0), fps=24)
    short, long, end = (
        PartOfClip(ClipOfFile(tmp_path / name), start)
        for name, start in (("short.mp4", 0), ("long.mp4", 0), ("long.mp4", 10))
    )
    missing = PartOfClip(ClipOfFile(Path(tmp_path / "none.mp4")))
    *read, error = read_grey_frames([short, long, end, missing], image_rate=25.0, seconds=60.0)
    assert isinstance(error, VideoError)
    assert [each.frames_TSS.shape for each in read] == [(12, SIDE, SIDE), (144, SIDE, SIDE), (60, SIDE, SIDE)]
    assert read[1].times_T[-1] < MAX_SECONDS and read[2].times_T[0] == 10
    assert np.diff(read[1].times_T) == pytest.approx(2 / 24)
