"""Labels of frames: objects with classes, boxes and identities, and masks."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from framed import labelled_row
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.labels import TargetLayout, empty_labels, output_specs
from finetune.data.manifest import Manifest, tasks_for_csv
from finetune.data.object_labels import LabelledObject, objects_text
from finetune.data.read_labels import read_labels
from finetune.data.splits import assign_splits
from finetune.errors import DataError, RecipeError
from finetune.recipe.tasks import OutputSpec, Task

DETECT, TRACK, SEGMENT = Task(kind="detect"), Task(kind="track"), Task(kind="segment", classes=("floor", "cat"))


def read_objects(cells, *, task=DETECT, files=None, intervals=None, **options):
    """The labels of frames with these cells, of files 0, 1, …."""
    files = [f"/f/{number}.mp4" for number in range(len(cells))] if files is None else files
    table = {"objects": cells}
    source = options.pop("source", "/f/clips.csv")
    return read_labels({"it": task}, table, list(map(Path, files)), intervals, source=Path(source), **options)["it"]


def of_one_file(objects_by_frame, *, fps=25, frames=1000):
    """The labels of frames {number: objects} of one file."""
    rows = [
        labelled_row("a.mp4", frame, objects, frames=frames, fps=fps) for frame, objects in objects_by_frame.items()
    ]
    times = [(float(row["start"]), float(row["end"] or "inf")) for row in rows]
    cells, files = [row["objects"] for row in rows], ["/f/a.mp4"] * len(rows)
    return read_objects(cells, task=TRACK, files=files, intervals=np.array(times))


def test_objects_are_arrays_and_frames_without_objects_or_labels_differ():
    labels = read_objects(["cat:1,2,3,4#7;dog:5,6,7,8!", "", ";;", "cat:9,9,1,1"])
    assert labels.names == ("cat", "dog") and labels.known.tolist() == [True, True, False, True]
    assert labels.values.shape == (4, 2, 9)
    cat, dog = labels.values[0]
    assert cat.tolist()[:5] == [0, 1, 2, 3, 4] and cat.tolist()[7:] == [7, 0] and np.isnan(cat[5:7]).all()
    assert dog.tolist()[:5] == [1, 5, 6, 7, 8] and dog.tolist()[7:] == [-1, 1]
    assert (labels.values[1:3, :, 0] == -1).all() and labels.values[3, :, 0].tolist() == [0, -1]
    assert labels.presence().tolist() == [[True, False], [False, False], [False, False], [True, False]]
    assert labels.counts(np.array([0, 3])) == [2, 0]  # the dog is to be ignored
    assert [labels.text(row) for row in (1, 2)] == [[""], [";;"]]


def test_objects_take_the_classes_of_a_run_and_rows_with_others_are_unlabelled():
    labels = read_objects(["cat:1,2,3,4", "dog:5,6,7,8;cat:1,1,1,1", "", "cat:1,1,1,1;dog:1,1,1,1!"])
    named = labels.named(("ant", "cat", "cow", "dog"))
    assert named.values[1, :, 0].tolist() == [3, 1] and named.values[2, :, 0].tolist() == [-1, -1]
    assert [named.text(row) for row in range(4)] == [labels.text(row) for row in range(4)]
    cats = labels.among(("ant", "cat"))
    assert cats.known.tolist() == [True, False, True, True]
    assert cats.text(0) == ["cat:1,2,3,4"] and cats.text(3) == ["cat:1,1,1,1"]


def test_errors_of_all_rows_are_named_at_once_with_their_lines():
    cells = ["cat:1,2,3", "cat:1,2,3,4", "dog:1,2,3,-4;cat:1,2,0,3", "a:1,1,1,1#2;b:1,1,1,1#2"]
    with pytest.raises(DataError) as error:
        read_objects(cells)
    lines = str(error.value).splitlines()
    assert [line.split(":")[1] for line in lines] == [" line 2", " line 4", " line 5"]
    assert all("tasks.it" in line for line in lines) and lines[1].count("needs an area") == 2


def test_a_file_with_many_errors_names_the_first_ones():
    with pytest.raises(DataError, match="15 more lines with such errors"):
        read_objects(["cat"] * 25)


def test_detection_takes_one_class_but_not_none():
    assert read_objects(["cat:1,1,1,1", ""]).names == ("cat",)
    with pytest.raises(DataError, match=r"no labelled frame has an object, so tasks\.it has no class to learn"):
        read_objects(["", "cat:1,1,1,1!", ";;"])
    with pytest.raises(DataError, match=r"tasks\.it has no labels"):
        read_objects([";;", ";;"])
    assert read_objects(["", ""], for_training=False).names == ()


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"no column objects \(nearest: object\), for tasks\.it"):
        read_labels({"it": DETECT}, {"object": ["a:1,1,1,1"]}, [Path("/f/a.mp4")], source=Path("/f/c.csv"))


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    st.sampled_from([10, 25, 30, 59.94]),
)
@settings(max_examples=60, deadline=None)
def test_steady_motion_is_found_in_pixels_per_frame_wherever_a_neighbour_is_near(frames, velocity, fps):
    frames = sorted(frames)
    steady = {
        frame: [LabelledObject("cat", 50 + velocity[0] * frame, 40 + velocity[1] * frame, 6, 4, 3)] for frame in frames
    }
    motion = of_one_file(steady, fps=fps).values[:, 0, 5:7]
    for place, frame in enumerate(frames):
        neighbours = [other for other in frames[max(0, place - 1) : place + 2] if 0 < abs(other - frame) <= 10]
        if neighbours:
            assert motion[place] == pytest.approx(velocity, abs=0.02 + 0.02 * np.abs(velocity).max())
        else:
            assert np.isnan(motion[place]).all()


def test_motion_is_between_the_labelled_frames_before_and_after_and_of_one_identity():
    def cat(x, track):
        return LabelledObject("cat", x, 0, 2, 2, track)

    labels = of_one_file(
        {0: [cat(0, 1), cat(90, 2)], 2: [cat(4, 1), cat(80, None)], 4: [cat(10, 1), cat(70, 2)], 30: [cat(0, 1)]}
    )
    motion = labels.values[..., 5]
    assert motion[:3, 0].tolist() == pytest.approx([2, 2.5, 3])
    assert motion[0, 1] == pytest.approx(-5) and np.isnan(motion[1, 1]) and motion[2, 1] == pytest.approx(-5)
    assert np.isnan(motion[3, 0])  # 26 frames after the last one


def test_identities_of_different_files_do_not_meet():
    cells = ["cat:0,0,2,2#1", "cat:50,0,2,2#1"]
    intervals = np.array([[0.02, 0.06], [0.06, 0.1]])
    apart = read_objects(cells, task=TRACK, files=["/f/a.mp4", "/f/b.mp4"], intervals=intervals)
    assert np.isnan(apart.values[..., 5:7]).all()
    together = read_objects(cells, task=TRACK, files=["/f/a.mp4"] * 2, intervals=intervals)
    assert together.values[0, 0, 5] == pytest.approx(50)


def test_slots_are_the_most_objects_of_a_training_frame():
    labels = {"it": read_objects(["a:1,1,1,1", "a:1,1,1,1;a:2,2,1,1!", "", "a:1,1,1,1;a:2,2,1,1;a:3,3,1,1"])}
    output = output_specs(labels, np.arange(3))["it"]
    assert output.slots == 2 and output.target_width == 16 and output.center == output.scale == ()
    assert output_specs(labels, np.array([2]))["it"].slots == 1
    assert TargetLayout({"it": output}).width == 17


def test_the_mask_of_segmentation_is_as_large_as_the_clip(tmp_path):
    table = {"mask": ["m/a.png", ""]}
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    labels = read_labels({"it": SEGMENT}, table, files, source=tmp_path / "clips.csv")
    assert labels["it"].names == ("floor", "cat") and labels["it"].known.tolist() == [True, False]
    assert os.fsdecode(labels["it"].values[0]) == str(tmp_path / "m/a.png")
    assert labels["it"].text(0) == [str(tmp_path / "m/a.png")] and labels["it"].text(1) == [""]
    assert labels["it"].counts(np.arange(2)) == [] and labels["it"].presence().tolist() == [[True], [False]]
    assert output_specs(labels, np.arange(2), clip_size=32)["it"].target_width == 32 * 32
    with pytest.raises(RecipeError, match=r"tasks\.it: segmentation needs the size of clips in pixels; set clip\.size"):
        output_specs(labels, np.arange(2))


@pytest.mark.parametrize("kind", ["detect", "track", "segment"])
def test_a_set_without_labels_of_a_task_has_the_same_shape(kind):
    labels = empty_labels(OutputSpec(kind, ("a", "b"), slots=4), 3)
    assert len(labels.values) == 3 and not labels.known.any() and labels.names == ("a", "b")
    assert labels.at(np.array([1])).text(0) == [";;" if kind != "segment" else ""]
    assert not labels.presence().any()


objects_of_a_frame = st.none() | st.lists(
    st.builds(
        LabelledObject,
        st.sampled_from(["a", "b:c", "é!"]),
        st.floats(-50, 50),
        st.floats(-50, 50),
        st.floats(0.5, 99),
        st.floats(0.5, 99),
        st.none(),
        st.booleans(),
    ),
    max_size=4,
)


@given(st.lists(objects_of_a_frame, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_saved_manifest_gives_the_same_labels(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("saved")
    frames = [[LabelledObject("a", 1, 1, 2, 2, 5)], *frames, [LabelledObject("a", 4, 1, 2, 2, 5)]]
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "split", "objects", "mask"])
        for number, objects in enumerate(frames):
            row = labelled_row("v.mp4", number, objects or [])
            cell = ";;" if objects is None else row["objects"]
            writer.writerow(["v.mp4", row["start"], row["end"], "train", cell, f"m/{number}.png" if number % 2 else ""])
    tasks = {"boxes": TRACK, "pixels": SEGMENT}
    manifest = Manifest.from_csv(folder / "clips.csv", packed=True, tasks=tasks, checked=False)
    (folder / "run").mkdir()
    manifest.to_csv(folder / "run" / "manifest.csv")
    again = Manifest.from_csv(folder / "run" / "manifest.csv", packed=True, tasks=tasks_for_csv(tasks), checked=False)
    for name, labels in manifest.tasks.items():
        assert again.tasks[name].names == labels.names and np.array_equal(again.tasks[name].known, labels.known)
        values, saved = labels.values[labels.known], again.tasks[name].values[labels.known]
        assert np.array_equal(values, saved, equal_nan=name == "boxes")


def test_labels_follow_their_rows_and_classes(tmp_path):
    rows = [labelled_row("v.mp4", frame, [LabelledObject("ab"[frame % 2], frame, 1, 2, 2)]) for frame in range(4)]
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    manifest = Manifest.from_csv(tmp_path / "clips.csv", packed=True, tasks={"it": DETECT}, whole=True)
    part = manifest.without([0, 2])
    assert [part.tasks["it"].text(row) for row in range(2)] == [["b:1,1,2,2"], ["b:3,1,2,2"]]
    aligned = part.aligned_to_outputs({"it": OutputSpec("detect", ("a", "b", "c"), slots=1)})
    assert aligned.tasks["it"].values[:, 0, 0].tolist() == [1, 1]


def test_rows_of_one_video_stay_together_and_all_classes_are_in_train():
    cells = [objects_text([LabelledObject("ab"[number % 2], 1, 1, 2, 2)]) for number in range(10)] * 4
    labels = read_objects(cells, files=[f"/f/{number // 4}.mp4" for number in range(40)])
    units = np.array([f"{number // 4}" for number in range(40)])
    splits = assign_splits([labels], units, (0.2, 0.2, 0), source="clips.csv")
    assert all(len(set(splits[units == unit])) == 1 for unit in set(units))
    assert labels.at(np.flatnonzero(splits == "train")).presence().any(0).all()
    assert set(splits) == {"train", "val", "test"}


def test_a_frame_that_is_listed_twice_with_different_objects_is_refused(tmp_path):
    rows = 'v.mp4,0,0.02,train,"a:1,1,1,1"\nv.mp4,0,0.02,train,\n'
    (tmp_path / "clips.csv").write_text(f"path,start,end,split,objects\n{rows}")
    with pytest.raises(DataError, match=r"one clip has two labels: .*\(a:1,1,1,1\) and .*\(no object\)"):
        Manifest.from_csv(tmp_path / "clips.csv", packed=True, tasks={"it": DETECT})
