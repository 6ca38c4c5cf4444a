"""Clips made by the tests, so that a test knows which frame it got: frame n is grey of level 16 + 7 n."""

import cv2
import numpy as np

from finetune.video.encode import write_video

TINY = "test_resnet"  # timm's own architecture for tests: stem, layer1 … layer4 in 0.5 million parameters


def grey_frames(count, *, size=32, start=16, step=7):
    """uint8 (T, size, size, 3); frame n has level start + step n."""
    levels = (start + step * np.arange(count)) % 256
    return np.broadcast_to(levels[:, None, None, None], (count, size, size, 3)).astype(np.uint8)


def level_of(frames):
    """The frame numbers that grey frames (T, ...) were made from."""
    return np.rint((frames.reshape(len(frames), -1).mean(1) - 16) / 7).astype(int).tolist()


def make_clip(path, count=8, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, grey_frames(count, **kwargs), fps=25)
    return path


def make_images(folder, count=8, *, name="img_{:05}.png", first=1, **kwargs):
    """A folder of numbered images: image n has the number `first` + n and level 16 + 7 n."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame_HWC in enumerate(grey_frames(count, **kwargs), start=first):
        assert cv2.imwrite(str(folder / name.format(number)), frame_HWC)
    return folder
