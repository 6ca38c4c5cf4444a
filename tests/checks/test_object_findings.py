"""Objects that training or evaluation would read wrongly are found, with the frames that they are in."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from finetune.checks.object_boxes import jumps, object_table
from finetune.checks.object_findings import object_findings
from finetune.checks.rows import Rows
from finetune.data.labels import Labels

WIDTH, HEIGHT = 160, 120
GOOD = {"car": (20.0, 20.0, 40.0, 30.0), "person": (90.0, 40.0, 20.0, 50.0)}


def frames(objects, *, files=None, splits=None, known=None):
    """Rows of labelled frames, a second apart: `objects` lists (class, box, identity) of each row."""
    names = tuple(sorted(GOOD))
    values_NM9 = np.full((len(objects), max(map(len, objects), default=0) or 1, 9), -1.0)
    for row, in_frame in enumerate(objects):
        for slot, (name, box, track) in enumerate(in_frame):
            values_NM9[row, slot] = (names.index(name), *box, np.nan, np.nan, track, 0)
    number = len(objects)
    known_N = np.ones(number, bool) if known is None else np.array(known)
    paths = [Path(file) for file in files or ["a.mp4"] * number]
    return Rows(
        *(Path("objects.csv"), paths, [""] * number, splits or ["train"] * number, [""] * number, False, []),
        labels_by_task={"objects": Labels("detect", names, values_NM9, known_N)},
        intervals=np.array([(row, row + 1.0) for row in range(number)]),
    )


def look(rows):
    info = SimpleNamespace(width=WIDTH, height=HEIGHT, fps=25.0)
    inspection = SimpleNamespace(info=info, file_seconds=float(len(rows)))
    return object_findings(rows, dict.fromkeys(range(len(rows)), inspection))


def kinds(rows):
    return {finding.kind: finding for finding in look(rows)[0]}


def good_frame(track=-1):
    return [(name, box, track) for name, box in GOOD.items()]


def test_objects_are_counted_by_class_split_and_size():
    rows = frames([good_frame()] * 3, splits=["train", "train", "val"])
    car = look(rows)[1][0]
    assert (car["class"], car["objects"], car["train"], car["val"], car["frames"]) == ("car", 3, 2, 1, 3)
    assert (car["small"], car["medium"], car["large"], car["width"]) == (0, 3, 0, 40.0)
    assert abs(car["share"] - (40 * 30 / (160 * 120)) ** 0.5) < 1e-4


def test_boxes_outside_beyond_tiny_and_at_the_border_are_told_apart():
    boxes = [(200.0, 10.0, 20.0, 20.0), (150.0, 10.0, 20.0, 20.0), (50.0, 50.0, 1.0, 20.0), (0.0, 10.0, 20.0, 20.0)]
    found = kinds(frames([[("car", box, -1)] for box in boxes]))
    assert (found["outside"].severity, found["outside"].rows) == ("mend", (0,))
    assert (found["beyond"].severity, found["beyond"].rows) == ("warning", (1,))
    assert "up to 50%" in found["beyond"].what
    assert (found["tiny"].severity, found["tiny"].rows) == ("warning", (2,))
    assert found["border"].what.startswith("tasks.objects: 2 boxes touch the picture's border (50%)")


def test_a_class_without_training_objects_is_an_error_and_one_without_test_objects_a_warning():
    car, person = [[("car", GOOD["car"], -1)]], [[("person", GOOD["person"], -1)]]
    found = kinds(frames(car + person, splits=["train", "test"]))
    assert found["untaught"].severity == "mend"
    assert "“person”" in found["untaught"].what
    assert "“car”" in found["absent"].what


def test_frames_without_objects_and_videos_without_labels_are_counted():
    rows = frames([good_frame(), [], []], files=["a.mp4", "a.mp4", "b.mp4"], known=[True, True, False])
    found = kinds(rows)
    assert found["no_objects"].what == "tasks.objects: 1 of 2 labelled frames have no object."
    assert (found["no_labelled_frame"].severity, found["no_labelled_frame"].rows) == ("warning", (2,))


def test_a_jump_is_found_and_a_fast_steady_motion_is_none():
    steady = [[("car", (10.0 + 100 * row, 20.0, 10.0, 10.0), 4)] for row in range(8)]
    assert "jump" not in kinds(frames(steady))
    still = [[("car", (10.0 + (row == 5) * 120, 20.0 + row, 10.0, 10.0), 4)] for row in range(8)]
    found = kinds(frames(still))["jump"]
    assert found.rows == (5, 6)
    assert "2 objects far from where the same object was before: #4 in “a.mp4”." in found.what


def test_identities_of_different_files_are_different_objects():
    rows = frames(
        [[("car", (10.0 + 100 * (row % 2), 20.0, 10.0, 10.0), 1)] for row in range(8)], files=["a.mp4", "b.mp4"] * 4
    )
    table = object_table(rows.labels_by_task["objects"], np.tile([WIDTH, HEIGHT], (8, 1)), np.arange(8.0))
    assert not len(jumps(table, np.array([0, 1] * 4)))
    assert len(jumps(table, np.zeros(8, np.int64))) == 0  # every step is as long as the others


def test_an_identity_that_changes_its_class_is_found():
    rows = frames([[("car", GOOD["car"], 7)], [("person", GOOD["car"], 7)], [("car", GOOD["car"], 8)]])
    found = kinds(rows)["changed_class"]
    assert (found.rows, "#7 in “a.mp4”" in found.what) == ((0, 1), True)
