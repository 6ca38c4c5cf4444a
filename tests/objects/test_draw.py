import numpy as np
from objects.fake_detector import CLASSES, HEIGHT, WIDTH, FakeDetector, boxes_at, write_grey
from PIL import Image

from finetune.objects.detect import read_recording
from finetune.objects.draw import draw_recording, drawn_frames
from finetune.objects.predict_frames import predict_frames
from finetune.video.decode.probe import probe


def draw(path, target, *, detector=None):
    recording = read_recording(path, image_rate=25)
    draw_recording(recording, predict_frames(detector or FakeDetector(), recording, CLASSES), target)


def test_a_drawn_video_has_all_frames_at_the_same_rate(tmp_path):
    draw(write_grey(tmp_path / "clip.mp4", frames=15, fps=10), tmp_path / "drawn.mp4")
    info = probe(tmp_path / "drawn.mp4")
    assert (info.num_frames, info.fps, info.width, info.height) == (15, 10, WIDTH, HEIGHT)


def test_boxes_are_drawn_at_their_edges(tmp_path):
    path = write_grey(tmp_path / "clip.mp4", frames=5)
    recording = read_recording(path, image_rate=25)
    frames = list(drawn_frames(recording, predict_frames(FakeDetector(), recording, CLASSES)))
    changed_HW = (np.abs(frames[4].astype(int) - 90) > 20).any(2)
    left, top, width, height = boxes_at(4)[0].astype(int)
    assert changed_HW[top : top + height, left].all()
    assert changed_HW[top + height - 1, left : left + width].all()
    assert not changed_HW[top + 5 : top + height - 5, left + 5 : left + width - 5].any()


def test_a_mask_is_laid_over_the_part_where_it_is_known(tmp_path):
    path = write_grey(tmp_path / "clip.mp4", frames=3)
    recording = read_recording(path, image_rate=25)
    predicted = predict_frames(FakeDetector(missed=range(3), with_mask=True), recording, CLASSES)
    for picture_HWC in drawn_frames(recording, predicted, background=0):
        changed_W = (np.abs(picture_HWC.astype(int) - 90) > 10).any((0, 2))
        assert changed_W[: WIDTH // 2].all()
        assert not changed_W[WIDTH // 2 + 1 :].any()


def test_an_image_is_drawn_as_an_image(tmp_path):
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "one.png")
    draw(tmp_path / "one.png", tmp_path / "drawn.png")
    assert np.ptp(np.asarray(Image.open(tmp_path / "drawn.png"))) > 100
