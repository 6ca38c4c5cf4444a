import cv2
import numpy as np
import pytest
import torch

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError, VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.video.dataset import ClipDataset
from finetune.video.pack.write import pack
from finetune.video.tube_frames import STEADY_FRAMES, tube_crop

SIDE, FRAMES, VIDEO = 16, 12, (90, 120)  # of the object and the video, in pixels
CLIP = Clip(num_frames=FRAMES, sampling="uniform", size=20)


def path_of(speed, frame):
    """Left and top of the object."""
    return 10.0 + speed[0] * frame, 30.0 + speed[1] * frame


def draw(folder, *, speed=(4.0, 1.0)):
    """A dark square on a bright ramp, which moves by `speed` in pixels per frame."""
    folder.mkdir()
    for frame in range(FRAMES):
        picture = np.repeat(np.linspace(150, 250, VIDEO[1])[None], VIDEO[0], 0)
        left, top = map(int, path_of(speed, frame))
        picture[max(top, 0) : top + SIDE, max(left, 0) : left + SIDE] = 0
        cv2.imwrite(str(folder / f"{frame:03}.png"), np.repeat(picture[..., None], 3, 2))
    return folder


def keyframes(speed, frames):
    return ";".join("{}:{:g},{:g},{},{}".format(frame, *path_of(speed, frame), SIDE, SIDE) for frame in frames)


def tube_dataset(folder, cell, *, clip=CLIP, **options):
    csv = folder / "clips.csv"
    csv.write_text(f'path,label,split,boxes\nclip,x,train,"{cell}"\nclip,y,train,\n')
    return ClipDataset(Manifest.from_csv(csv), "train", clip=clip, **options)


def object_box(frame_CHW):
    """Left, top, right and bottom of the dark pixels."""
    ys, xs = np.nonzero(np.asarray(frame_CHW[0]) < 75)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def test_a_moving_object_is_centred_and_stands_still_in_its_tube(tmp_path):
    draw(tmp_path / "clip")
    clip_TCHW = tube_dataset(tmp_path, keyframes((4, 1), (0, FRAMES - 1)))[0]["clips"]
    assert clip_TCHW.shape == (FRAMES, 3, 20, 20)
    # The crop of 1.25 × 16 = 20 pixels has the object in its middle, pixel by pixel.
    assert {object_box(frame) for frame in clip_TCHW} == {(2, 2, 18, 18)}


def test_the_row_without_boxes_shows_the_whole_picture(tmp_path):
    draw(tmp_path / "clip")
    dataset = tube_dataset(tmp_path, keyframes((4, 1), (0, 5)))
    whole = ClipDataset(Manifest.from_csv(tmp_path / "clips.csv").without([0]), "train", clip=CLIP)
    assert torch.equal(dataset[1]["clips"], whole[0]["clips"])
    assert (dataset.facts.heights.tolist(), dataset.facts.widths.tolist()) == ([20, 90], [20, 120])


def test_a_box_of_the_whole_picture_gives_the_whole_picture(tmp_path):
    draw(tmp_path / "clip")
    dataset = tube_dataset(tmp_path, f"0,0,{VIDEO[1]},{VIDEO[0]}", augment=Augment(), seed=1, drawn_views=1)
    assert torch.equal(dataset[(1, 0)]["clips"], dataset[(1, 1)]["clips"])


def test_pictures_are_decoded_at_the_scale_of_the_crop(tmp_path):
    draw(tmp_path / "clip")
    half = tube_dataset(tmp_path, keyframes((4, 1), (0, FRAMES - 1)), clip=Clip(num_frames=FRAMES, size=10))
    assert {object_box(frame) for frame in half[0]["clips"]} == {(1, 1, 9, 9)}
    double = tube_dataset(tmp_path, keyframes((4, 1), (0, FRAMES - 1)), clip=Clip(num_frames=FRAMES, size=40))
    assert {object_box(frame) for frame in double[0]["clips"]} == {(4, 4, 36, 36)}


def test_beyond_the_picture_its_edge_is_repeated(tmp_path):
    draw(tmp_path / "clip", speed=(-2, 0))
    last_HW = tube_dataset(tmp_path, keyframes((-2, 0), (0, FRAMES - 1)))[0]["clips"][-1, 0]
    # The box begins at -12, the crop 2 pixels before it: its first 14 columns are outside.
    assert (last_HW[:, :14] == last_HW[:, 14:15]).all()
    assert last_HW[10, 14] == 0 and last_HW[0, 0] == 150


def test_the_crop_has_one_size_for_a_large_box_and_follows_without_jitter():
    sides = [10 + frame for frame in range(30)]
    sides[7] = 90  # a wrong box
    jitter = np.random.default_rng(0).uniform(-2, 2, (30, 2))
    cell = ";".join(
        f"{frame}:{50 - side / 2 + dx},{40 - side / 2 + dy},{side},{side}"
        for frame, (side, (dx, dy)) in enumerate(zip(sides, jitter, strict=True))
    )
    crop = tube_crop(cell, (0, 30), (200, 300))
    assert crop.size == (47, 47)  # 1.25 × 37.1, rounded up: 37 is the third largest of 30
    inner = crop.centres_F2[STEADY_FRAMES:-STEADY_FRAMES]
    assert np.abs(np.diff(inner, axis=0)).max() < np.abs(np.diff(jitter, axis=0)).max() / STEADY_FRAMES
    assert np.abs(inner - (50, 40)).max() < 1


def test_boxes_that_fit_neither_frames_nor_picture_make_a_row_unreadable(tmp_path):
    draw(tmp_path / "clip")
    with pytest.raises(VideoError, match=r"clip \(box .*\): boxes: no frame 99 in the file, whose frames are 0 to 11"):
        tube_dataset(tmp_path, "0:1,1,4,4;99:1,1,4,4")
    with pytest.raises(VideoError, match="500,1,4,4 is outside the picture of 120 x 90 pixels"):
        tube_dataset(tmp_path, "500,1,4,4")


def test_rows_of_two_objects_have_different_stamps(tmp_path):
    draw(tmp_path / "clip")
    dataset = tube_dataset(tmp_path, "1,1,4,4")
    assert dataset.stamp(0) == (*dataset.stamp(1), "1,1,4,4")


def test_an_interval_counts_its_keyframes_from_the_beginning_of_the_file(tmp_path):
    draw(tmp_path / "clip")
    csv = tmp_path / "clips.csv"
    csv.write_text(f'path,start,end,label,split,boxes\nclip,0.16,0.32,x,train,"{keyframes((4, 1), (4, 8))}"\n'
                   f'clip,0,0.16,y,train,"{keyframes((4, 1), (0, 3))}"\n')  # fmt: skip
    dataset = ClipDataset(Manifest.from_csv(csv), "train", clip=Clip(num_frames=4, size=20))
    assert {object_box(frame) for position in (0, 1) for frame in dataset[position]["clips"]} == {(2, 2, 18, 18)}


def test_crops_come_from_a_pack_of_all_frames(tmp_path):
    draw(tmp_path / "clip")
    dataset = tube_dataset(tmp_path, keyframes((4, 1), (0, FRAMES - 1)))
    pack(dataset.manifest, tmp_path / "pack", short_side=VIDEO[0])
    packed = ClipDataset(dataset.manifest, "train", clip=CLIP, packed=tmp_path / "pack")
    assert {object_box(frame) for frame in packed[0]["clips"]} == {(2, 2, 18, 18)}
    pack(dataset.manifest, tmp_path / "few", short_side=VIDEO[0], frames=4)
    with pytest.raises(RecipeError, match="has 4 frames of each video, but boxes are of frames by their number"):
        ClipDataset(dataset.manifest, "train", clip=CLIP, packed=tmp_path / "few")
