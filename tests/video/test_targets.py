"""Targets of a training clip: transformed like the clip, and unknown where the clip does not show them."""

import numpy as np
import pytest
from grey import make_clip
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune.data.labels import Labels, TargetLayout, output_specs
from finetune.data.manifest import Manifest
from finetune.recipe.schema import Augment, Clip
from finetune.recipe.tasks import OutputSpec, Task
from finetune.video.dataset import ClipDataset
from finetune.video.geometry import Placement, box_is_visible, boxes_to_crop, motion_to_crop
from finetune.video.targets import clip_targets

FRAMES = 20
MIDDLE = FRAMES // 2
TASKS = {
    "action": Task(kind="classify"),
    "box": Task(kind="box"),
    "motion": Task(kind="motion"),
    "size": Task(kind="regress"),
    "tags": Task(kind="multilabel"),
}
WHOLE = Placement(np.array([[1 / 64, 0, 0], [0, 1 / 48, 0]]), 2.0, 0, FRAMES - 1)  # of 64 x 48 pixels


def labels_of(values, known=(True,)):
    """Labels of one row, or of as many rows as `known` has."""
    names = {"box": ("x", "y", "w", "h"), "motion": ("dx", "dy"), "size": ("size",)}
    kinds = {"size": "regress"}
    return {
        name: Labels(kinds.get(name, name), names[name], np.array([row] * len(known), float), np.array(known))
        for name, row in values.items()
    }


def targets_of(labels, place, *, row=0, middle=MIDDLE):
    """{task: its targets, or None where they are unknown}, with the outputs."""
    outputs = output_specs(labels, np.arange(len(next(iter(labels.values())).values)))
    layout = TargetLayout(outputs)
    vector = clip_targets(labels, row, layout, lambda: place, middle=middle)
    known = vector[layout.width - len(outputs) :]
    found = {
        name: vector[at] if there else None for (name, at), there in zip(layout.places.items(), known, strict=True)
    }
    return found, outputs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    for number in range(3):
        make_clip(root / f"{number}.mp4", FRAMES, size=64)
    (root / "clips.csv").write_text(
        "path,split,action,x,y,w,h,dx,dy,size,tags\n"
        "0.mp4,train,run,20,16,24,32,3,-1,10,a;b\n1.mp4,train,,,,,,,,30,\n2.mp4,train,sit,0,0,8,8,-1,0,,b\n"
    )
    return Manifest.from_csv(root / "clips.csv", tasks=TASKS)


@given(
    st.floats(0.005, 0.1),
    st.floats(-1, 1),
    st.tuples(st.floats(-20, 80), st.floats(-20, 80), st.floats(1, 60), st.floats(1, 60)),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    st.floats(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_targets_are_what_is_placed_by_hand_or_unknown(scale, shift, box, motion, step):
    place = Placement(np.array([[-scale, 0, 1 + shift], [0, scale, shift]]), step, 0, FRAMES - 1)
    found, outputs = targets_of(labels_of({"box": box, "motion": motion}), place)
    x, y, w, h = box
    if box_is_visible(np.array(box), place, frame=MIDDLE):
        units = [1 + shift - scale * (x + w / 2), shift + scale * (y + h / 2), scale * w, scale * h]
        said = found["box"] * np.array(outputs["box"].scale) + np.array(outputs["box"].center)
        assert said.tolist() == pytest.approx(units, abs=1e-5)
    else:
        assert found["box"] is None
    if step == 0:
        assert found["motion"] is None
    else:
        said = found["motion"] * np.array(outputs["motion"].scale)
        assert said.tolist() == pytest.approx([-scale * step * motion[0], scale * step * motion[1]], abs=1e-5)


@given(st.floats(-40, 80), st.floats(-40, 80))
def test_a_box_less_than_a_quarter_of_which_is_shown_is_unknown(x, y):
    width = height = 16
    inside = max(0, min(x + width, 64) - max(x, 0)) * max(0, min(y + height, 48) - max(y, 0)) / (width * height)
    assume(abs(inside - 1 / 4) > 0.07)  # the area is measured on a grid of points
    found, _ = targets_of(labels_of({"box": (x, y, width, height)}), WHOLE)
    assert (found["box"] is not None) == (inside > 1 / 4)


@pytest.mark.parametrize(
    ("first", "last", "is_known"), [(0, 19, True), (10, 10, True), (0, 9, False), (11, 19, False), (4, 10, True)]
)
def test_a_box_is_unknown_to_a_clip_that_does_not_span_its_frame(first, last, is_known):
    place = WHOLE._replace(first=first, last=last)
    found, _ = targets_of(labels_of({"box": (20, 10, 20, 20), "motion": (1, 1)}), place)
    assert (found["box"] is not None) == is_known and found["motion"] is not None


def test_a_row_without_a_label_needs_no_placement():
    def never():
        raise AssertionError("asked for where a clip lies")

    labels = labels_of({"box": (1, 1, 1, 1), "size": (3,)}, known=[False])
    layout = TargetLayout(
        {"box": OutputSpec("box", ("x", "y", "w", "h")), "size": OutputSpec("regress", ("size",), (0,), (1,))}
    )
    assert not clip_targets(labels, 0, layout, never, middle=3).any()


def test_numbers_have_mean_0_and_deviation_1():
    values = np.array([[1.0], [2.0], [6.0], [50.0]])
    labels = {"size": Labels("regress", ("size",), values, np.array([True, True, True, False]))}
    found = [targets_of(labels, WHOLE, row=row)[0]["size"] for row in range(4)]
    assert found[3] is None
    assert np.mean(found[:3]) == pytest.approx(0, abs=1e-6) and np.std(found[:3]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sampling", ["segments", "dense", "uniform"])
@pytest.mark.parametrize("augment", [None, Augment(), Augment(preset="none"), Augment(crop="multi_scale", rotate=20)])
def test_a_data_set_gives_the_targets_of_its_own_clips(manifest, augment, sampling):
    outputs = output_specs(manifest.tasks, manifest.rows("train"))
    clip = Clip(num_frames=4, size=32, sampling=sampling)
    dataset = ClipDataset(manifest, "train", clip=clip, views=1, augment=augment, outputs=outputs, seed=3)
    layout = dataset.layout
    for epoch in (1, 2, 3):
        vector = dataset[(epoch, 0)]["label"]
        assert np.array_equal(vector, dataset.target(epoch, 0)) and vector.dtype == np.float32
        place = dataset.placements(epoch, 0)[0]
        box, motion = np.array([20.0, 16, 24, 32]), np.array([3.0, -1])
        is_seen = box_is_visible(box, place, frame=FRAMES // 2)
        wanted = {
            "action": np.array([1, 0]),
            "box": (boxes_to_crop(box[None], place)[0] - outputs["box"].center) / outputs["box"].scale
            if is_seen
            else None,
            "motion": motion_to_crop(motion[None], place)[0] / outputs["motion"].scale,
            "size": np.array([-1.0]),
            "tags": np.array([1, 1]),
        }
        assert np.array_equal(vector, layout.vector(wanted))
    assert dataset.target(1, 1)[layout.width - 5 :].tolist() == [0, 0, 0, 1, 1]
    assert dataset.target(1, 1)[layout.places["size"]].tolist() == [1.0]
    assert dataset.target(1, 2)[layout.width - 5 :][[0, 2, 3, 4]].tolist() == [1, 1, 0, 1]


def test_a_dense_clip_away_from_the_middle_knows_no_box(manifest):
    outputs = output_specs(manifest.tasks, manifest.rows("train"))
    dataset = ClipDataset(
        manifest,
        "train",
        clip=Clip(num_frames=3, size=32, sampling="dense"),
        views=1,
        augment=Augment(),
        outputs=outputs,
    )
    layout = dataset.layout
    places = [dataset.placements(epoch, 0)[0] for epoch in range(30)]
    spans = [place.first <= FRAMES // 2 <= place.last for place in places]
    known = [dataset.target(epoch, 0)[layout.width - 4] > 0 for epoch in range(30)]
    assert any(spans) and not all(spans)
    assert all(there <= span for there, span in zip(known, spans, strict=True)) and any(known)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_the_motion_of_a_clip_that_stands_still_is_unknown(manifest, num_frames):
    outputs = output_specs(manifest.tasks, manifest.rows("train"))
    clip = Clip(num_frames=num_frames, size=32)
    dataset = ClipDataset(
        manifest, "train", clip=clip, views=1, augment=Augment(preset="none", flip=False), outputs=outputs
    )
    layout = dataset.layout
    assert (dataset.target(1, 0)[layout.width - 3] == 1) == (num_frames > 1)


def test_classes_alone_are_taken_without_a_look_at_the_file(manifest, monkeypatch):
    named = {name: manifest.tasks[name] for name in ("action", "tags")}
    outputs = output_specs(named, manifest.rows("train"))
    dataset = ClipDataset(
        manifest.aligned_to_outputs(outputs),
        "train",
        clip=Clip(num_frames=4, size=32),
        views=1,
        augment=Augment(),
        outputs=outputs,
    )
    monkeypatch.setattr(ClipDataset, "placements", lambda *_: pytest.fail("asked for where a clip lies"))
    assert dataset.target(1, 0).tolist() == [1, 0, 1, 1, 1, 1]


def test_the_box_of_an_interval_is_that_of_its_middle_frame_also_in_a_window_of_training(tmp_path):
    make_clip(tmp_path / "whole.mp4", 41, size=64)
    make_clip(tmp_path / "cut.mp4", 11, size=64, start=(16 + 7 * 15) % 256)
    text = "path,start,end,split,x,y,w,h\n{}\nwhole.mp4,,,train,0,0,8,8\n"
    box = {"box": TASKS["box"]}
    (tmp_path / "part.csv").write_text(text.format("whole.mp4,0.6,1.04,train,20,16,24,32"))
    (tmp_path / "cut.csv").write_text(text.format("cut.mp4,,,train,20,16,24,32"))
    part, cut = (Manifest.from_csv(tmp_path / f"{name}.csv", tasks=box) for name in ("part", "cut"))
    outputs = output_specs(part.tasks, part.rows("train"))
    options = {
        "clip": Clip(num_frames=3, size=32, sampling="dense"),
        "augment": Augment(preset="light"),
        "outputs": outputs,
    }
    one, other = (ClipDataset(rows, "train", **options) for rows in (part, cut))
    is_known = []
    for epoch in range(30):
        np.testing.assert_array_equal(one.target(epoch, 0), other.target(epoch, 0))
        is_known.append(one.target(epoch, 0)[-1])
    assert 0 < sum(is_known) < 30  # a short clip spans the middle frame, number 5 of 11, in some epochs
    windows = ClipDataset(part, "train", **options | {"augment": Augment(preset="none", interval_windows=True)})
    for epoch in range(30):
        (place,) = windows.placements(epoch, 0)
        assert bool(windows.target(epoch, 0)[-1]) == (place.first <= 5 <= place.last)
