"""`finetune summarize`: recordings are decoded once; parts, storyboards and figures."""

import csv
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from grey import TINY, make_images

from finetune.metrics.summaries import Correlation
from finetune.recipe.load import load_recipe
from finetune.summaries.figures import correlation_figures
from finetune.summaries.frames import RecordingReader, sampled_frames
from finetune.summaries.length import SummaryLength
from finetune.summaries.recordings import Summarizer
from finetune.summaries.shots import ShotDetector
from finetune.video.encode import write_video

SETTINGS = (f"model.backbone={TINY}", "model.weights=none", "clip.size=32", "train.device=cpu")


def scene(seed, frames, *, moving=True):
    """Frames (T, 48, 64, 3) of coloured blocks, which move with `moving`."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    picture = cv2.resize(colours, (64, 48), interpolation=cv2.INTER_NEAREST)
    return np.stack([np.roll(picture, number if moving else 0, axis=1) for number in range(frames)])


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Twelve seconds at 10 frames a second: a still scene of 6 s, a moving one of 3 s, the still one again."""
    path = tmp_path_factory.mktemp("summaries") / "walk & talk, ä.mp4"
    still = scene(1, 60, moving=False)
    write_video(path, np.concatenate([still, scene(2, 30), still[:30]]), fps=10)
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_shots_begin_at_cuts_and_not_where_the_camera_moves():
    detector = ShotDetector(10)
    for number, picture_HWC in enumerate(np.concatenate([scene(1, 20), scene(2, 20), scene(3, 20)])):
        detector.add(number, picture_HWC)
    assert detector.cuts == [20, 40]


def test_sampled_frames_are_those_shown_in_the_middle_of_equal_parts(monkeypatch):
    assert sampled_frames(np.arange(100) / 25, 4.0).tolist() == [6, 18, 31, 43, 56, 68, 81, 93]
    assert sampled_frames(np.array([0, 0.1, 3.0]), 4.0).tolist() == [1, 1, 1, 1, 1, 1, 2, 2]
    assert sampled_frames(np.zeros(1), 0.0).tolist() == [0]
    monkeypatch.setattr("finetune.summaries.frames.MAX_SAMPLES", 3)
    assert sampled_frames(np.arange(100) / 25, 4.0).tolist() == [16, 50, 83]


def test_every_frame_is_decoded_once(recording, monkeypatch):
    from finetune.summaries import frames

    decoded, stream_frames = [], frames.stream_frames

    def counted(*given, **how):
        for number, picture in stream_frames(*given, **how):
            decoded.append(number)
            yield number, picture

    monkeypatch.setattr(frames, "stream_frames", counted)
    summary = Summarizer(load_recipe("folder", SETTINGS), SummaryLength(seconds=4))(recording)
    assert decoded == list(range(120))
    assert summary.shots == (6.0, 9.0)
    assert (summary.seconds, summary.picture_size) == (pytest.approx(12), (48, 64))
    assert sum(part.seconds for part in summary.parts if 6 <= part.start < 9) >= 1.5


def test_the_features_are_those_of_single_frames(recording):
    summarizer = Summarizer(load_recipe("folder", SETTINGS), SummaryLength(frames=1))
    recipe, model = summarizer.recipe, summarizer.model
    reader = RecordingReader(recording, model, recipe.clip, image_rate=25.0, precision="fp32")
    asked = np.array([0, 7, 50, 119])
    seen = [number for numbers, _ in reader.batches(asked) for number in numbers]
    samples = reader.samples()
    assert seen == asked.tolist()
    assert samples.frames_N.tolist() == list(range(2, 120, 5))
    assert np.linalg.norm(samples.features_ND, axis=1) == pytest.approx(1)
    np.testing.assert_allclose(samples.features_ND[0], samples.features_ND[5], atol=0.01)
    assert samples.features_ND[0] @ samples.features_ND[14] < 0.999


def test_a_video_network_gets_each_frame_as_a_clip(recording):
    settings = ("model.backbone=torchvision/r2plus1d_18", "model.weights=none", "clip.size=32", "clip.num_frames=2")
    summary = Summarizer(load_recipe("folder", settings), SummaryLength(frames=2))(recording)
    assert len(summary.parts) == 2


def test_parts_are_written_and_figures_printed(finetune, recording, tmp_path):
    events = tmp_path / "events.csv"
    events.write_text(f'path,start,end,label\n"{recording}",6.2,8.8,walk\n')
    scores = tmp_path / "ydata-tvsum50-anno.tsv"
    important = ",".join(["1"] * 60 + ["5"] * 30 + ["1"] * 30)
    scores.write_text(f"{recording.stem}\tVT\t{important}\n" * 3 + f"other\tVT\t{'1,2'}\n")
    options = ("--seconds", 4, "--out", tmp_path / "out", "--events", events, "--scores", scores)
    status, out, err = finetune("summarize", recording, *SETTINGS, *options)
    assert status == 0, err
    assert "4.0 s of 12.0 s, 3 shots: most representative parts" in out
    assert "1 event in 1 recording, at the same length:" in out
    assert "Kendall's tau" in out
    rows = rows_of(tmp_path / "out" / "parts.csv")
    assert sum(float(row["end"]) - float(row["start"]) for row in rows) == pytest.approx(4, abs=0.01)
    assert {row["path"] for row in rows} == {str(recording)}


def test_with_a_run_its_events_come_first(finetune, trained_run, recording, tmp_path):
    status, out, err = finetune("summarize", recording, "--run", trained_run, "--share", 0.3, "--out", tmp_path / "out")
    assert status == 0, err
    assert "3 shots: events first" in out
    labels = {row["label"] for row in rows_of(tmp_path / "out" / "parts.csv")}
    assert labels & {"dark ones", "it's bright"}
    status, _, err = finetune("summarize", recording, "clip.size=32", "--run", trained_run)
    assert (status, "clip.size=32: settings are those of the run" in err) == (2, True)


def test_one_frame_images_and_uneven_times_are_summarised(tmp_path):
    one = tmp_path / "one.mp4"
    write_video(one, scene(1, 1), fps=10)
    uneven = tmp_path / "uneven.mkv"
    with av.open(str(uneven), "w") as container:
        stream = container.add_stream("ffv1", rate=1000, width=64, height=48, pix_fmt="bgr0")
        stream.time_base = Fraction(1, 1000)
        for picture, time in zip(scene(2, 4), (0, 40, 80, 5000), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    black = tmp_path / "black.mp4"
    write_video(black, np.zeros((50, 48, 64, 3), np.uint8), fps=10)
    images = make_images(tmp_path / "images", 30)
    summarizer = Summarizer(load_recipe("folder", SETTINGS), SummaryLength(share=0.5))
    for path in (one, uneven, black, images):
        summary = summarizer(path)
        assert 0 < summary.shown_seconds <= summary.seconds, path
    assert summarizer(uneven).seconds > 5


def test_unreadable_files_are_named_and_the_others_summarised(finetune, recording, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    out = tmp_path / "out"
    status, _, err = finetune("summarize", broken, recording, *SETTINGS, "--frames", 2, "--out", out)
    assert (status, "broken.mp4" in err, "1 of 2 recordings have no summary" in err) == (1, True, True)
    assert len(rows_of(out / "parts.csv")) == 2
    for options, message in (
        (("--frames", 2, "--exact"), "--exact is for the summary's video, which --frames and --no-video leave out"),
        (("--no-video", "--exact"), "--exact is for the summary's video, which --frames and --no-video leave out"),
        (("--frames", 2, "--to", "elan"), "--to writes intervals, and --frames chooses single frames"),
    ):
        status, _, err = finetune("summarize", recording, *SETTINGS, *options, "--out", tmp_path / "none")
        assert (status, message in err) == (2, True), err
    status, _, err = finetune("summarize", broken, *SETTINGS, "--out", tmp_path / "none")
    assert (status, "the file cannot be read" in err) == (2, True)
    assert not (tmp_path / "none" / "parts.csv").exists()


def test_ctrl_c_keeps_finished_recordings(finetune, recording, tmp_path, monkeypatch):
    from finetune.summaries import recordings

    other, reader = tmp_path / "other.mp4", recordings._reader

    def interrupted(path, *given):
        if path == other:
            raise KeyboardInterrupt
        return reader(path, *given)

    monkeypatch.setattr(recordings, "_reader", interrupted)
    other.write_bytes(recording.read_bytes())
    out = tmp_path / "out"
    status, _, err = finetune("summarize", recording, other, *SETTINGS, "--out", out)
    assert (status, "writing 1 finished recording" in err) == (130, True)
    assert {row["path"] for row in rows_of(out / "parts.csv")} == {str(recording)}


def test_correlations_compare_summaries_with_people(recording):
    summary = Summarizer(load_recipe("folder", SETTINGS), SummaryLength(share=0.15))(recording)
    people = {recording.stem: np.array([summary.scores, summary.scores[::-1]])}
    figures = correlation_figures([summary], people)
    assert Correlation._fields == ("kendall", "spearman")
    assert abs(figures["random"]["kendall"]) < 0.1
    assert figures["summary"]["kendall"] > figures["people"]["kendall"]
