"""Targets of labelled frames: objects and masks lie where the clip's own pixels show them."""

import csv
import os

import numpy as np
import pytest
from framed import labelled_row, write_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import write_lossless
from PIL import Image

from finetune.data.frame_objects import objects_array
from finetune.data.labels import output_specs
from finetune.data.manifest import Manifest
from finetune.data.object_labels import LabelledObject
from finetune.recipe.object_fields import TARGET_FIELDS, UNLABELLED
from finetune.recipe.schema import Augment, Clip
from finetune.recipe.tasks import Task
from finetune.video.dataset import ClipDataset
from finetune.video.geometry import MIN_VISIBLE_AREA, Placement
from finetune.video.masks import mask_in_crop
from finetune.video.targets import object_targets

SIZE, FRAMES, STRIDE = 64, 9, 2
SHAPES = {"landscape": (120, 162), "portrait": (170, 98), "small": (64, 80)}  # heights and widths
COLOURS = np.array([[70, 70, 70], [30, 200, 30], [220, 30, 30]], np.uint8)  # ground, bar, square
CLASSES = ("ground", "bar", "square")
TASKS = {
    "objects": Task(kind="track"),
    "pixels": Task(kind="segment", classes=CLASSES),
}
CLIP = Clip(num_frames=3, size=SIZE, sampling="around", frame_stride=STRIDE)
PLAIN = {"color_jitter": 0.0, "flip": False}
AUGMENTS = {
    "none": {"preset": "none", "flip": False},
    "light": {"color_jitter": 0.0},
    "strong": {"preset": "strong", "auto_augment": "none", "random_erasing": 0.0, "color_jitter": 0.0},
    "flip": {"crop": "center", "color_jitter": 0.0},
    "multi_scale": {**PLAIN, "crop": "multi_scale"},
}
TURNED = {
    "a little": {**PLAIN, "rotate": 20.0},
    "in any crop": {"crop": "multi_scale", "rotate": 90.0, "color_jitter": 0.0},
}


def objects_at(name, frame):
    """A bar that moves right and up, and a square that moves left, in frames of an even size."""
    height, width = SHAPES[name]
    bar = LabelledObject("bar", width * 5 // 16 + 2 * frame, height * 9 // 16 - frame, width // 4, height // 8, 0)
    square = LabelledObject("square", width * 9 // 16 - frame, height // 4, height // 5, height // 5, 1)
    return [bar, square]


def draw(name, frame):
    """The mask of a frame, uint8 (H, W)."""
    mask_HW = np.zeros(SHAPES[name], np.uint8)
    for item in objects_at(name, frame):
        mask_HW[item.y : item.y + item.h, item.x : item.x + item.w] = CLASSES.index(item.name)
    return mask_HW


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """One labelled frame of each video, its middle one."""
    root, rows = tmp_path_factory.mktemp("frames"), []
    for name in SHAPES:
        write_lossless(root / f"{name}.mp4", np.stack([COLOURS[draw(name, frame)] for frame in range(FRAMES)]))
        write_mask(root / f"{name}.png", draw(name, FRAMES // 2))
        for frame in (FRAMES // 2 - 1, FRAMES // 2, FRAMES // 2 + 1):
            rows.append(labelled_row(f"{name}.mp4", frame, objects_at(name, frame), frames=FRAMES))
            rows[-1] |= {"split": "train", "mask": f"{name}.png" if frame == FRAMES // 2 else ""}
    with (root / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return Manifest.from_csv(root / "clips.csv", tasks=TASKS).without([0, 2, 3, 5, 6, 8])


def dataset_of(manifest, augment, *, clip=CLIP, **options):
    outputs = output_specs(manifest.tasks, manifest.rows("train"), clip_size=clip.size)
    drawn = None if augment is None else Augment(**augment)
    return ClipDataset(manifest, "train", clip=clip, augment=drawn, outputs=outputs, seed=5, **options)


def items(manifest, augment, *, epochs=6, **options):
    """(name, middle frame (3, S, S), targets of objects (M, 8), mask (S, S)) of several augmentations."""
    dataset = dataset_of(manifest, augment, **options)
    for position, row in enumerate(dataset.rows):
        for epoch in range(1, 1 + epochs):
            item = dataset[(epoch, position)]
            places = dataset.layout.places
            objects = item["label"][places["objects"]].reshape(-1, len(TARGET_FIELDS))
            mask = item["label"][places["pixels"]].reshape(SIZE, SIZE)
            assert (item["label"][-2:] == 1).all()
            yield manifest.path(row).stem, item["clips"][1].numpy(), objects, mask


def classes_seen(picture_3SS):
    """The class whose colour is nearest to each pixel's, (S, S); UNLABELLED where it is black."""
    colours = np.concatenate([COLOURS, [[0, 0, 0]]]).astype(int)
    distance = np.abs(picture_3SS.transpose(1, 2, 0)[:, :, None].astype(int) - colours).sum(-1)
    return np.append(np.arange(len(COLOURS)), UNLABELLED)[distance.argmin(-1)]


def is_inner(mask_SS, margin=1):
    """Pixels whose neighbours within `margin` have the same value: pixels at edges are blended."""
    padded = np.pad(mask_SS, margin, mode="edge")
    side = 2 * margin + 1
    around = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return (around == mask_SS[..., None, None]).all((-1, -2))


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("augment", [*AUGMENTS.values(), *TURNED.values()], ids=[*AUGMENTS, *TURNED])
def test_the_mask_is_what_the_picture_shows_at_every_pixel(manifest, augment, fit):
    clip = CLIP.model_copy(update={"fit": fit})
    for name, picture, _, mask in items(manifest, augment, clip=clip):
        seen = classes_seen(picture)
        inner = is_inner(mask) & is_inner(seen)
        assert inner.mean() > 0.6
        assert np.array_equal(mask[inner], seen[inner]), name
        assert (mask == seen).mean() > 0.95, name  # edges lie in the same place


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_boxes_are_around_the_pixels_of_their_class(manifest, augment, fit):
    found = 0
    for name, picture, objects, _ in items(manifest, augment, clip=CLIP.model_copy(update={"fit": fit})):
        seen = classes_seen(picture)
        for state, code, cx, cy, w, h, *_ in objects[objects[:, 0] != 0]:
            rows, columns = np.nonzero(seen == 1 + code)  # the mask's classes begin with the ground
            edges = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * SIZE
            if (edges[2:] - edges[:2]).min() < 3:
                continue
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert corners == pytest.approx(edges, abs=1.5), name
            found += state == 1
    assert found >= 20


@pytest.mark.parametrize("augment", TURNED.values(), ids=TURNED)
def test_a_rotated_object_is_within_its_box(manifest, augment):
    found = 0
    for name, picture, objects, _ in items(manifest, augment):
        seen = classes_seen(picture)
        for state, code, cx, cy, w, h, *_ in objects[objects[:, 0] == 1]:
            rows, columns = np.nonzero(seen == 1 + code)
            assert (
                cx - w / 2 - 1.5 / SIZE <= columns.min() / SIZE
                and (columns.max() + 1) / SIZE <= cx + w / 2 + 1.5 / SIZE
            )
            assert (
                cy - h / 2 - 1.5 / SIZE <= rows.min() / SIZE and (rows.max() + 1) / SIZE <= cy + h / 2 + 1.5 / SIZE
            ), name
            found += state
    assert found >= 10


@pytest.mark.parametrize("augment", [*AUGMENTS.values(), *TURNED.values()], ids=[*AUGMENTS, *TURNED])
def test_motion_is_where_the_object_is_seen_to_move(manifest, augment):
    """Between the first and the last frame of a clip, two sampled steps apart."""
    found, dataset = 0, dataset_of(manifest, augment)
    for position in range(len(dataset)):
        for epoch in range(1, 5):
            item = dataset[(epoch, position)]
            objects = item["label"][dataset.layout.places["objects"]].reshape(-1, len(TARGET_FIELDS))
            first, last = (classes_seen(frame.numpy()) for frame in (item["clips"][0], item["clips"][-1]))
            for row in objects[objects[:, 0] == 1]:
                places = [np.argwhere(seen == 1 + row[1])[:, ::-1] for seen in (first, last)]
                if any(len(place) < 20 or place.min() < 2 or place.max() > SIZE - 3 for place in places):
                    continue  # cut off
                moved = (places[1].mean(0) - places[0].mean(0)) / SIZE / 2
                assert row[6:8] == pytest.approx(moved, abs=0.012)
                found += 1
    assert found >= 8


def test_an_evaluation_without_augmentation_has_the_same_targets(manifest):
    still = [mask for *_, mask in items(manifest, AUGMENTS["none"], epochs=1)]
    plain = [mask for *_, mask in items(manifest, None, epochs=1)]
    assert np.array_equal(still, plain)


boxes = st.tuples(st.floats(-60, 110), st.floats(-60, 90), st.floats(1, 90), st.floats(1, 90))


@given(st.lists(boxes, min_size=1, max_size=5), st.booleans(), st.floats(-3, 3), st.floats(0, 4))
@settings(max_examples=80, deadline=None)
def test_objects_are_cut_at_the_border_ignored_where_little_is_left_and_dropped_outside(found, mirror, speed, step):
    objects = [LabelledObject("a", *box, track) for track, box in enumerate(found)]
    values = objects_array([objects], ("a",))[0]
    values[:, 5:7] = speed, 0
    matrix = np.array([[-1 / 80, 0, 1], [0, 1 / 64, 0]]) if mirror else np.array([[1 / 80, 0, 0], [0, 1 / 64, 0]])
    targets = object_targets(values, Placement(matrix, step, 0, 10), slots=6)
    assert targets.shape == (6, len(TARGET_FIELDS))
    wanted = []
    for x, y, w, h in found:
        left, right, top, bottom = max(x, 0), min(x + w, 80), max(y, 0), min(y + h, 64)
        share = max(0, right - left) * max(0, bottom - top) / (w * h)
        wanted.append((share, left / 80, top / 64, right / 80, bottom / 64))
    given_targets = [row for row in targets if row[0] != 0]
    for share, left, top, right, bottom in wanted:
        if share < 1e-3:
            continue  # so little that no point of the grid may show it
        if mirror:
            left, right = 1 - right, 1 - left
        cut = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        states = [row[0] for row in given_targets if np.allclose(row[2:6], cut, atol=1e-9)]
        if share < 0.06 and not states:
            continue  # between the points of the grid
        assert states, "the object is missing"
        if abs(share - MIN_VISIBLE_AREA) > 0.07:
            assert (1 if share > MIN_VISIBLE_AREA else -1) in states
    assert len(given_targets) <= sum(share > 0 for share, *_ in wanted)
    for row in given_targets:
        assert 0 <= row[2] - row[4] / 2 <= row[2] + row[4] / 2 <= 1 + 1e-9
        if step == 0:
            assert np.isnan(row[6:8]).all()
        else:
            assert row[6:8] == pytest.approx([(-1 if mirror else 1) * speed * step / 80, 0])


def test_objects_to_ignore_stay_so_and_unknown_motion_stays_unknown():
    objects = [LabelledObject("b", 10, 10, 9, 9, ignore=True), LabelledObject("a", 30, 30, 9, 9)]
    values = objects_array([objects], ("a", "b"))[0]
    targets = object_targets(values, Placement(np.array([[1 / 64, 0, 0], [0, 1 / 64, 0]]), 1.0, 0, 5), slots=2)
    assert targets[:, 0].tolist() == [-1, 1] and targets[:, 1].tolist() == [1, 0]
    assert np.isnan(targets[:, 6:]).all()


def test_frames_without_objects_have_a_target_of_no_objects():
    values = objects_array([[], [LabelledObject("a", 1, 1, 9, 9)]], ("a",))[0]
    place = Placement(np.array([[1 / 64, 0, 0], [0, 1 / 64, 0]]), 1.0, 0, 5)
    assert not object_targets(values, place, slots=3).any()


def test_a_mask_placed_by_hand_takes_the_nearest_pixels(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(mask).save(tmp_path / "m.png")
    whole = Placement(np.array([[1 / 4, 0, 0], [0, 1 / 3, 0]]), 1.0, 0, 0)
    assert mask_in_crop(tmp_path / "m.png", whole, 12).tolist() == np.kron(mask, np.ones((4, 3))).tolist()
    mirrored = Placement(np.array([[-1 / 2, 0, 1.5], [0, 1 / 2, -0.5]]), 1.0, 0, 0)  # columns 1 and 2, rows 1 and 2
    assert mask_in_crop(tmp_path / "m.png", mirrored, 2).tolist() == [[6, 5], [10, 9]]
    beyond = Placement(np.array([[1 / 8, 0, 0], [0, 1 / 6, 0]]), 1.0, 0, 0)
    placed = mask_in_crop(tmp_path / "m.png", beyond, 8)
    assert (placed[3 + 1 :, :] == UNLABELLED).all() and (placed[:, 4:] == UNLABELLED).all() and placed[0, 3] == 3


def test_the_path_of_a_mask_may_have_any_characters(tmp_path):
    path = tmp_path / "mäsk ;,#.png"
    write_mask(path, np.full((4, 4), 1, np.uint8))
    place = Placement(np.array([[1 / 4, 0, 0], [0, 1 / 4, 0]]), 1.0, 0, 0)
    assert (mask_in_crop(os.fsdecode(os.fsencode(path)), place, 2) == 1).all()
