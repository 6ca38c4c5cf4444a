"""Boxes and motion are transformed like the pixels: a white rectangle moves over black, and is located in clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import write_lossless

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Augment, Clip
from finetune.video.augment import build_augmentation, scaled_size
from finetune.video.dataset import ClipDataset, view_placements
from finetune.video.geometry import (
    Placement,
    box_is_visible,
    boxes_to_crop,
    boxes_to_source,
    motion_to_crop,
    motion_to_source,
    placement,
    unsupported_augment_reason,
)
from finetune.video.pack.write import pack

SIZE = 64
FRAMES = 24
SHAPES = {"landscape": (120, 162), "portrait": (170, 98), "small": (50, 60)}  # heights and widths
CLIP = Clip(num_frames=4, size=SIZE)
STILL = {"preset": "none", "flip": False}
AUGMENTS = {
    "none": STILL,
    "light": {},
    "strong": {"preset": "strong", "auto_augment": "none", "random_erasing": 0.0},
    "flip": {"crop": "center", "color_jitter": 0.0},
    "multi_scale": {"crop": "multi_scale"},
    "blur": {"blur": 0.5},
    "speed": {"speed": (0.5, 2.0), "crop": "multi_scale"},
    "frame_dropout": {"frame_dropout": 0.5},
}
TURNED = {
    "a little": {"rotate": 20.0},
    "in the middle": {"crop": "center", "rotate": 180.0, "blur": 0.5},
    "in any crop": {"crop": "multi_scale", "rotate": 90.0},
}


def box_at(name, frame):
    """Left, top, width and height, of a rectangle that drifts over the middle."""
    height, width = SHAPES[name]
    move = movement(name) * (frame - FRAMES // 2)
    return np.array([width * 0.42 + move[0], height * 0.38 + move[1], width * 0.22, height * 0.18]).round()


def movement(name):
    """Motion in source pixels per frame."""
    return np.array([2.0, -1.0]) if name != "small" else np.array([1.0, 0.0])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    for name, (height, width) in SHAPES.items():
        frames = np.zeros((FRAMES, height, width, 3), np.uint8)
        for number in range(FRAMES):
            x, y, w, h = box_at(name, number).astype(int)
            frames[number, y : y + h, x : x + w] = 255
        path = root / "train" / name / "0.mp4"
        path.parent.mkdir(parents=True)
        write_lossless(path, frames)
    return Manifest.from_folder(root)


def made(manifest, augment=None, **changes):
    """(name, placement, clip_TCHW) for several augmentations of each video, or for each view."""
    clip = CLIP.model_copy(update={key: changes.pop(key) for key in list(changes) if key in Clip.model_fields})
    drawn = None if augment is None else Augment(**augment)
    dataset = ClipDataset(manifest, "train", clip=clip, augment=drawn, seed=5, **{"views": 1, **changes})
    for position, row in enumerate(dataset.rows):
        name = manifest.classes[manifest.labels[row]]
        for epoch in range(1 if augment is None else 6):
            places = dataset.placements(epoch, position)
            clips = dataset[(epoch, position)]["clips"]
            assert len(places) == len(clips)
            yield from ((name, place, frames.numpy()) for place, frames in zip(places, clips, strict=True))


def seen(frame_3HW):
    """(left, top, right, bottom) of the bright pixels; None without any."""
    grey = frame_3HW.astype(float).mean(0)
    if np.ptp(grey) < 60:
        return None
    rows, columns = np.nonzero(grey > (grey.min() + grey.max()) / 2)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def expected(box_4, place):
    """The box in pixels of the model's crop, by the placement."""
    x, y, w, h = boxes_to_crop(box_4[None], place)[0] * SIZE
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_a_box_is_where_it_is_seen(manifest, augment, fit):
    found = 0
    for name, place, clip in made(manifest, augment, fit=fit):
        for frame, picture in ((place.first, clip[0]), (place.last, clip[-1])):
            edges = expected(box_at(name, frame), place)
            if (inside := np.clip(edges, 0, SIZE))[2:].min() < 3 or inside[:2].max() > SIZE - 3:
                continue  # barely visible
            assert seen(picture) == pytest.approx(inside, abs=1), (name, frame)
            found += 1
    assert found >= 20


@pytest.mark.parametrize("augment", TURNED.values(), ids=TURNED)
def test_a_rotated_box_is_within_the_box_around_it(manifest, augment):
    found = 0
    for name, place, clip in made(manifest, augment):
        edges = expected(box_at(name, place.first), place)
        if edges.min() < 8 or edges.max() > SIZE - 8:
            continue
        bright = seen(clip[0])  # without the tips of its corners
        assert ((bright - edges) * [1, 1, -1, -1] >= -0.6).all(), name
        assert bright == pytest.approx(edges, abs=2), name
        found += 1
    assert found >= 5


@pytest.mark.parametrize("augment", [*AUGMENTS.values(), *TURNED.values()], ids=[*AUGMENTS, *TURNED])
def test_the_middle_of_a_box_is_its_middle_to_a_tenth_of_a_pixel(manifest, augment):
    found = 0
    for name, place, clip in made(manifest, augment | {"color_jitter": 0.0}):
        edges = expected(box_at(name, place.first), place)
        if edges.min() < 4 or edges.max() > SIZE - 4:
            continue
        grey = clip[0].astype(float).mean(0)
        middle = [(np.arange(SIZE) + 0.5) @ grey.sum(axis) / grey.sum() for axis in (0, 1)]
        assert middle == pytest.approx((edges[:2] + edges[2:]) / 2, abs=0.12), name
        found += 1
    assert found >= 5


def test_what_is_erased_and_changed_moves_no_box(manifest):
    whole = 0
    for name, place, clip in made(manifest, {"random_erasing": 1.0, "blur": 0.5, "color_jitter": 0.3}):
        edges = np.clip(expected(box_at(name, place.first), place), 0, SIZE)
        if (bright := seen(clip[0])) is None:
            continue
        assert (bright[:2] >= edges[:2] - 1).all() and (bright[2:] <= edges[2:] + 1).all(), name
        whole += np.abs(bright - edges).max() <= 1
    assert whole >= 9


@pytest.mark.parametrize("augment", [None, *AUGMENTS.values(), *TURNED.values()], ids=["views", *AUGMENTS, *TURNED])
def test_movement_is_what_is_seen_to_move(manifest, augment):
    found = 0
    for name, place, clip in made(manifest, augment, sampling="dense", frame_stride=3):
        edges = np.stack([expected(box_at(name, frame), place) for frame in (place.first, place.last)])
        if edges.min() < 4 or edges.max() > SIZE - 4:
            continue
        first, last = seen(clip[0]), seen(clip[-1])
        moved = motion_to_crop(movement(name)[None], place)[0] * SIZE * (CLIP.num_frames - 1)
        assert (last - first).reshape(2, 2).mean(0) == pytest.approx(moved, abs=1), name
        found += 1
    assert found >= 3


@pytest.mark.parametrize("sampling", ["segments", "dense", "uniform", "fps"])
def test_views_are_placed_as_they_are_read(manifest, sampling):
    clip = {"sampling": sampling, "frame_stride": 2, "fps": 10.0 if sampling == "fps" else None}
    for name, place, frames in made(manifest, views=3, **clip):
        for frame, picture in ((place.first, frames[0]), (place.last, frames[-1])):
            edges = np.clip(expected(box_at(name, frame), place), 0, SIZE)
            assert seen(picture) == pytest.approx(edges, abs=1), name


def test_predictions_are_placed_as_evaluation_is(manifest):
    dataset = ClipDataset(manifest, "train", clip=CLIP, views=2)
    path, size = manifest.path(int(dataset.rows[0])), dataset.row_size(int(dataset.rows[0]))
    places = view_placements(path, CLIP, views=2, num_frames=FRAMES, video_size=size)
    assert [str(place) for place in places] == [str(place) for place in dataset.placements(0, 0)]
    assert [(place.first, place.last) for place in places] == [(1, 19), (4, 22)]


def test_clips_of_a_pack_are_placed_in_the_source(manifest, tmp_path):
    pack(manifest, tmp_path, short_side=70)
    for name, place, clip in made(manifest, {"color_jitter": 0.0}, size=48, packed=tmp_path):
        edges = expected(box_at(name, place.first), place) * 48 / SIZE
        if edges.min() > 2 and edges.max() < 46:
            assert seen(clip[0]) == pytest.approx(edges, abs=1), name


def test_fixed_draws_are_placed_each_by_itself(manifest):
    dataset = ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(color_jitter=0.0), drawn_views=4)
    part = dataset.with_rows_and_draws(np.array([1]), (0, 2, 3))
    places = part.placements(0, 0)
    assert [str(place) for place in places] == [str(dataset.placements(epoch, 1)[0]) for epoch in (1, 3, 4)]
    assert len({str(place) for place in places}) == 3


def placed(video_size=(120, 160), indices=(0, 3, 6, 9), draw=1, clip=CLIP, **augment):
    recipe = Augment(**augment) if augment else None
    transform = None if recipe is None else build_augmentation(recipe, size=clip.size, fit=clip.fit)
    return placement(
        video_size, indices, clip=clip, augment=recipe, transform=transform, seed=draw if augment else None
    )


def test_the_middle_is_cropped_by_hand():
    cropped = [[85 / 160 / 64, 0, -10 / 64], [0, 1 / 120, 0]]  # read as 64 × 85, from the tenth pixel on
    assert placed((120, 160)).matrix == pytest.approx(np.array(cropped))
    squash = CLIP.model_copy(update={"fit": "squash"})
    assert placed((120, 160), clip=squash).matrix == pytest.approx(np.array([[1 / 160, 0, 0], [0, 1 / 120, 0]]))


def test_mirroring_turns_movement_round():
    flips = [placed(crop="center", color_jitter=0.0, draw=draw) for draw in range(20)]
    moved = np.array([motion_to_crop([[3.0, 2.0]], place)[0] for place in flips])
    assert set(np.sign(moved[:, 0])) == {-1, 1}
    assert np.abs(moved) == pytest.approx(np.broadcast_to(np.array([3.0, 2.0]) * 3 / 120, (20, 2)), rel=0.01)


def test_the_step_is_the_mean_of_those_forward():
    assert placed(indices=[5]).step == 0
    assert placed(indices=[0, 4, 5, 9])[1:] == (3.0, 0, 9)
    assert placed(indices=[2, 2, 2])[1:] == (0.0, 2, 2)
    assert placed(indices=[4, 6, 1, 3])[1:] == (2.0, 1, 6)  # a short video that is looped


def test_what_stands_still_says_no_movement():
    still = placed(indices=[5])
    assert (motion_to_crop([[3.0, 2.0]], still) == 0).all()
    assert motion_to_source([[0.3, 0.2], [1.0, 0.0]], still).tolist() == [[0.0, 0.0], [0.0, 0.0]]


DRAWS = st.fixed_dictionaries(
    {
        "preset": st.sampled_from(["none", "light"]),
        "crop": st.sampled_from(["random_resized", "multi_scale", "center"]),
        "flip": st.booleans(),
        "blur": st.sampled_from([0.0, 0.5]),
        "random_erasing": st.sampled_from([0.0, 0.5]),
    }
)
SIDES = st.integers(16, 400)
NUMBERS = st.floats(-500, 500)
BOXES = st.tuples(NUMBERS, NUMBERS, st.floats(0, 400), st.floats(0, 400))


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), DRAWS, st.sampled_from(["crop", "squash"]), st.integers(0, 2**32 - 1), BOXES)
def test_boxes_and_movement_come_back(video_size, augment, fit, draw, box):
    clip = CLIP.model_copy(update={"fit": fit, "size": 32})
    place = placed(video_size, clip=clip, draw=draw, **augment)
    assert boxes_to_source(boxes_to_crop([box], place), place)[0] == pytest.approx(box, abs=1e-6)
    assert motion_to_source(motion_to_crop([box[:2]], place), place)[0] == pytest.approx(box[:2], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.tuples(SIDES, SIDES), st.integers(0, 2**32 - 1), BOXES)
def test_a_rotated_box_comes_back_larger_about_the_same_middle(video_size, draw, box):
    place = placed(video_size, draw=draw, rotate=60.0)
    back = boxes_to_source(boxes_to_crop([box], place), place)[0]
    x, y, w, h = box
    assert back[:2] + back[2:] / 2 == pytest.approx([x + w / 2, y + h / 2], abs=1e-6)
    assert (back[2:] >= np.array([w, h]) - 1e-6).all()
    assert motion_to_source(motion_to_crop([box[:2]], place), place)[0] == pytest.approx(box[:2], abs=1e-6)


def test_an_unknown_box_stays_unknown_and_is_not_seen():
    place = placed()
    boxes = np.array([[np.nan] * 4, [20.0, 0.0, 120.0, 120.0]])
    assert np.isnan(boxes_to_crop(boxes, place)).tolist() == [[True] * 4, [False] * 4]
    assert [box_is_visible(box, place, frame=3) for box in boxes] == [False, True]


WHOLE = Placement(np.array([[0.01, 0, 0], [0, 0.01, 0]]), 1.0, 4, 8)


def test_a_quarter_of_a_box_has_to_be_seen_in_a_frame_that_the_clip_spans():
    assert box_is_visible([-20, -20, 40, 40], WHOLE, frame=4)  # a quarter
    assert not box_is_visible([-22, -20, 40, 40], WHOLE, frame=4)
    assert box_is_visible([80, 30, 80, 10], WHOLE, frame=8)
    assert not box_is_visible([81.5, 30, 80, 10], WHOLE, frame=8)
    assert [box_is_visible([10, 10, 20, 20], WHOLE, frame=frame) for frame in (3, 4, 8, 9)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_black_corners_of_a_rotated_picture_show_no_box():
    c = np.sqrt(0.5)
    turn = np.array([[c, c], [-c, c]])
    rotated = WHOLE._replace(matrix=np.hstack([turn / 100, (0.5 - turn @ [0.5, 0.5])[:, None]]))
    assert box_is_visible([45, 45, 10, 10], rotated, frame=5)
    assert not box_is_visible([0, 0, 10, 10], rotated, frame=5)  # a corner of the source leaves the picture
    beside = [-18, 45, 10, 10]  # left of what was cropped, yet within the picture's square
    assert (np.abs(boxes_to_crop([beside], rotated)[0, :2] - 0.5) < 0.5).all()
    assert not box_is_visible(beside, rotated, frame=5)


def test_what_boxes_cannot_follow_is_said():
    assert unsupported_augment_reason(Augment()) is None
    assert (
        unsupported_augment_reason(Augment(preset="strong", auto_augment="none", rotate=10.0, random_erasing=1.0))
        is None
    )
    assert unsupported_augment_reason(Augment(auto_augment="randaugment")) == (
        "augment.auto_augment is 'randaugment', whose transforms cannot be applied to boxes, motion and masks; "
        "set augment.auto_augment=none"
    )
    assert unsupported_augment_reason(Augment(preset="strong")).startswith(
        "augment.auto_augment is 'trivial' in the preset 'strong', whose"
    )


def test_the_short_side_is_scaled_or_all_is_squashed():
    assert scaled_size((480, 854), 112, fit="crop") == (112, 199)
    assert scaled_size((854, 480), 112, fit="crop") == (199, 112)
    assert scaled_size((480, 854), 112, fit="squash") == (112, 112)
