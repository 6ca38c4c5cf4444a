"""Labels of several tasks: which rows have them, where they come from, and what is said of those that are wrong."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.labels import (
    INITIAL_BOX,
    TARGET_SCALE,
    UNKNOWN_LABELS,
    Labels,
    TargetLayout,
    class_targets,
    output_specs,
)
from finetune.data.manifest import Manifest, tasks_for_csv
from finetune.data.read_labels import read_labels
from finetune.errors import DataError
from finetune.recipe.tasks import CATEGORICAL_KINDS, OutputSpec, Task

BOX = Task(kind="box")
BOXES = "x,y,w,h,path\n9,9,9,9,../other.mp4\n1,2,3,4,../b.mp4\n5,6,7,8,../sub/../a.mp4\n"
CLASSES = ("sit", "walk a", "é")


def columns_of(text):
    rows = list(csv.reader(io.StringIO(text)))
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}


def read(tmp_path, text, **tasks):
    table = columns_of(text)
    files = [tmp_path / path for path in table["path"]]
    return read_labels(tasks, table, files, source=tmp_path / "clips.csv")


def beside(tmp_path, text, name="own.csv"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(tmp_path, text, **tasks):
    with pytest.raises(DataError) as error:
        read(tmp_path, text, **tasks)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def test_rows_without_a_label_are_unknown_and_the_others_are_numbered_by_name(tmp_path):
    labels = read(tmp_path, "path,it\na,x\nb,\nc,z\nd,x\n", it=Task(kind="classify"))["it"]
    assert labels.names == ("x", "z") and labels.kind == "classify"
    assert labels.known.tolist() == [True, False, True, True]
    assert labels.values[labels.known].tolist() == [0, 1, 0]
    assert [labels.text(row) for row in range(4)] == [["x"], [""], ["z"], ["x"]]
    assert labels.at(np.array([2, 1])).known.tolist() == [True, False]


def test_each_task_has_its_own_mask(tmp_path):
    text = "path,a,x,y,w,h,dx,dy\nr0,u,1,2,3,4,,\nr1,,,,,,0,-1.5\nr2,v,0,0,1e1,.5,2,2\n"
    labels = read(tmp_path, text, a=Task(kind="classify"), box=BOX, motion=Task(kind="motion"))
    masks = {name: each.known.tolist() for name, each in labels.items()}
    assert masks == {"a": [True, False, True], "box": [True, False, True], "motion": [False, True, True]}
    assert labels["box"].values[[0, 2]].tolist() == [[1, 2, 3, 4], [0, 0, 10, 0.5]]
    assert labels["motion"].values[[1, 2]].tolist() == [[0, -1.5], [2, 2]]
    assert labels["box"].names == ("x", "y", "w", "h")


def test_levels_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    labels = read(tmp_path, "path,it\na,10\nb,9\nc,\nd,-1\n", it=Task(kind="ordinal"))["it"]
    assert labels.names == ("-1", "9", "10")
    assert labels.values[labels.known].tolist() == [2, 1, 0]


def test_levels_with_names_keep_their_order_also_those_that_no_row_has(tmp_path):
    task = Task(kind="ordinal", levels=("poor", "fair", "good"))
    labels = read(tmp_path, "path,it\na,good\nb,poor\nc,\n", it=task)["it"]
    assert labels.names == task.levels and labels.values[:2].tolist() == [2, 0] and not labels.known[2]


def test_an_empty_list_of_classes_says_that_none_is_there(tmp_path):
    labels = read(tmp_path, f"path,it\na,x; y\nb,\nc,{UNKNOWN_LABELS}\nd,y;\n", it=Task(kind="multilabel"))["it"]
    assert labels.names == ("x", "y")
    assert labels.values.tolist() == [[True, True], [False, False], [False, False], [False, True]]
    assert labels.known.tolist() == [True, True, False, True]


def test_in_a_manifest_of_its_own_an_empty_list_is_no_label_and_a_semicolon_says_none(tmp_path):
    own = beside(tmp_path, "path,it\na,x\nb,\nc,;\nd,y\n")
    labels = read(tmp_path, "path\na\nb\nc\nd\ne\n", it=Task(kind="multilabel", manifest=own))["it"]
    assert labels.known.tolist() == [True, False, True, True, False]
    assert labels.values[[0, 2, 3]].tolist() == [[True, False], [False, False], [False, True]]


def test_a_manifest_of_its_own_is_joined_by_path_and_not_by_order(tmp_path):
    own = beside(tmp_path, BOXES, "boxes/b.csv")
    labels = read(tmp_path, "path\na.mp4\nmissing.mp4\n./b.mp4\n", box=Task(kind="box", manifest=own))["box"]
    assert labels.known.tolist() == [True, False, True]
    assert labels.values[[0, 2]].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]


def test_a_path_through_a_link_is_the_file_that_it_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    own = beside(tmp_path, "path,it\nreal/a.mp4,3\n")
    labels = read(tmp_path, "path\nlink/a.mp4\n", it=Task(kind="regress", manifest=own))["it"]
    assert labels.values.tolist() == [[3.0]]


def test_decimal_commas_are_refused_with_how_to_write_them(tmp_path):
    (line,) = refusal(tmp_path, 'path,size\na,"0,5"\nb,1\n', it=Task(kind="regress", columns="size"))
    assert line.endswith(
        "0,5 in line 2: tasks.it needs numbers, or empty cells in all its columns; write decimals with a point, 0.5"
    )


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ("1,2,3,wide", "1, 2, 3, wide in line 3"),
        ("1,2,3,", "1, 2, 3, (empty) in line 3"),
        (",2,3,4", "(empty), 2, 3, 4 in line 3"),
        ("1,2,3,nan", "1, 2, 3, nan in line 3"),
        ("inf,2,3,4", "inf, 2, 3, 4 in line 3"),
        ("1,2,0,4", "a box of 0 x 4 pixels in line 3"),
        ("1,2,3,-4", "a box of 3 x -4 pixels in line 3"),
    ],
)
def test_a_box_that_is_none_is_named_with_its_line_and_its_task(tmp_path, row, shown):
    text = f"path,x,y,w,h\na,1,1,1,1\nb,{row}\nc,,,,\n"
    wanted = [f"clips.csv: {shown}: tasks.car needs numbers, or empty cells in all its columns"]
    assert refusal(tmp_path, text, car=BOX) == wanted


def test_the_line_is_that_of_the_file_in_which_the_label_is(tmp_path):
    own = beside(tmp_path, "path,dx,dy\nz,1,1\ny,1,1\na,far,1\nb,1,2\n")
    (line,) = refusal(tmp_path, "path\na\nb\n", it=Task(kind="motion", manifest=own))
    assert line == "own.csv: far, 1 in line 4: tasks.it needs numbers, or empty cells in all its columns"


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        (
            "path,lable\na,x\n",
            Task(kind="classify", columns="label"),
            "clips.csv: no column label (nearest: lable), for tasks.it; it has path, lable",
        ),
        ("path,x\na,1\n", BOX, "clips.csv: no column y and no column w and no column h, for tasks.it; it has path, x"),
        ("path,it\na,\nb,\n", Task(kind="regress"), "clips.csv: no row has a value in it, so tasks.it has no labels"),
        (
            "path,it\na,x\nb,x\n",
            Task(kind="classify"),
            "clips.csv: x is the only class of tasks.it; it needs at least two",
        ),
        (
            "path,it\na,3\nb,low\n",
            Task(kind="ordinal"),
            "clips.csv: levels that are not numbers: low; give their order, for example tasks.it.levels=[low, high]",
        ),
        (
            "path,it\na,low\nb,mid\n",
            Task(kind="ordinal", levels=("low", "high")),
            "clips.csv: levels that are not in tasks.it.levels: mid",
        ),
        (
            "path,it\na,1\nb,1.0\nc,2\n",
            Task(kind="ordinal"),
            "clips.csv: 1 and 1.0 are the same number; write each level of tasks.it in one way",
        ),
    ],
)
def test_what_is_wrong_with_a_column_is_said_with_the_task(tmp_path, text, task, message):
    assert refusal(tmp_path, text, it=task) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,it\na,1\n", "own.csv: no column path; tasks.it.manifest needs one, to join rows by"),
        ("path,it\na,1\n./a,2\n", "own.csv: lists a clip in several lines; tasks.it needs one label per clip"),
        ("path,it\nz,1\n", "own.csv: lists none of the 2 files to label for tasks.it; paths in a CSV are relative"),
        ("path,that\na,1\n", "own.csv: no column it, for tasks.it; it has path, that"),
        (None, "tasks.it.manifest: there is no manifest 'own.csv'"),
    ],
)
def test_what_is_wrong_with_a_manifest_of_its_own_is_said_with_the_task(tmp_path, text, message):
    own = tmp_path / "own.csv" if text is None else beside(tmp_path, text)
    (line,) = refusal(tmp_path, "path\na\nb\n", it=Task(kind="regress", manifest=own))
    assert line.startswith(message)


def test_all_tasks_that_are_wrong_are_said_at_once(tmp_path):
    lines = refusal(tmp_path, "path,a\nr,1\n", a=Task(kind="classify"), box=BOX, b=Task(kind="motion"))
    assert [name in line for name, line in zip(("tasks.a", "tasks.box", "tasks.b"), lines, strict=True)] == [True] * 3


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
ROW = st.fixed_dictionaries(
    {
        "one": st.none() | st.sampled_from(CLASSES),
        "some": st.none() | st.sets(st.sampled_from(CLASSES)),
        "level": st.none() | st.sampled_from(["-3", "2", "10.5"]),
        "size": st.none() | NUMBERS,
        "box": st.none() | st.tuples(NUMBERS, NUMBERS, st.floats(0.1, 1e4), st.floats(0.1, 1e4)),
        "motion": st.none() | st.tuples(NUMBERS, NUMBERS),
    }
)
EVERY = {
    "one": Task(kind="classify"),
    "some": Task(kind="multilabel"),
    "level": Task(kind="ordinal"),
    "size": Task(kind="regress"),
    "box": BOX,
    "motion": Task(kind="motion"),
}
FULL = [  # so that each task has labels
    {"one": one, "some": {one}, "level": level, "size": 1.5, "box": (0.0, 0.0, 1.0, 1.0), "motion": (0.0, 1.0)}
    for one, level in ((CLASSES[0], "2"), (CLASSES[1], "-3"))
]


def as_row(row):
    texts = [
        row["one"] or "",
        UNKNOWN_LABELS if row["some"] is None else ";".join(sorted(row["some"])),
        row["level"] or "",
    ]
    numbers = [("" if row["size"] is None else repr(row["size"]),), row["box"] or [""] * 4, row["motion"] or [""] * 2]
    return [*texts, *(str(number) for each in numbers for number in each)]


@given(st.lists(ROW, max_size=6))
@settings(max_examples=40, deadline=None)
def test_what_is_written_reads_back_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    rows = [*rows, *FULL]
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "one", "some", "level", "size", "x", "y", "w", "h", "dx", "dy"])
        writer.writerows([f"{number}.mp4", "train", *as_row(row)] for number, row in enumerate(rows))
    manifest = Manifest.from_csv(folder / "clips.csv", packed=True, tasks=EVERY)
    manifest.to_csv(folder / "copy.csv")
    again = Manifest.from_csv(folder / "copy.csv", packed=True, tasks=tasks_for_csv(EVERY))
    assert (again.classes, again.labels.tolist()) == (manifest.classes, manifest.labels.tolist())
    for name, labels in manifest.tasks.items():
        other = again.tasks[name]
        assert labels.known.tolist() == other.known.tolist() == [row[name] is not None for row in rows], name
        assert (labels.kind, len(labels.names)) == (other.kind, len(other.names))
        assert np.array_equal(labels.values[labels.known], other.values[other.known]), name
        if labels.kind in CATEGORICAL_KINDS:
            assert labels.names == other.names


def test_a_list_that_a_manifest_of_its_own_lacks_stays_unknown_where_it_is_written(tmp_path):
    own = beside(tmp_path, "path,it\na,x\nb,y\nd,;\n")
    path = beside(tmp_path, "path,split\na,train\nb,train\nc,train\nd,train\n", "clips.csv")
    tasks = {"it": Task(kind="multilabel", manifest=own)}
    manifest = Manifest.from_csv(path, packed=True, tasks=tasks)
    manifest.to_csv(tmp_path / "copy.csv")
    again = Manifest.from_csv(tmp_path / "copy.csv", packed=True, tasks=tasks_for_csv(tasks)).tasks["it"]
    assert again.known.tolist() == manifest.tasks["it"].known.tolist() == [True, True, False, True]
    assert again.values.tolist() == manifest.tasks["it"].values.tolist()


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        ("classify", [1, 0, 2], [0, 2, 3]),
        ("multilabel", [[True, False], [True, True], [False, False]], [[0, 0, 1], [1, 0, 1], [0, 0, 0]]),
    ],
)
def test_labels_are_put_among_more_names(kind, values, wanted):
    known = np.array([True, True, False])
    labels = Labels(kind, ("c", "a"), np.array(values), known).named(("a", "b", "c"))
    assert labels.names == ("a", "b", "c") and labels.known is known
    assert labels.values.astype(int).tolist() == wanted


def test_numbers_are_brought_to_mean_0_and_deviation_1_of_the_known_rows_asked_for():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 99.0], [1000.0, 0.0]])
    labels = Labels("regress", ("a", "b"), values, np.array([True, True, False, True]))
    output = output_specs({"it": labels}, np.array([0, 1, 2]))["it"]
    assert output.center == (2.0, 5.0) and output.scale == (1.0, 1.0)  # b does not vary
    assert output_specs({"it": labels}, np.array([2]))["it"] == OutputSpec(
        "regress", ("a", "b"), (0.0, 0.0), (1.0, 1.0)
    )


def test_boxes_are_in_tenths_from_the_middle_and_motion_in_tenths_or_finer():
    box = Labels("box", ("x", "y", "w", "h"), np.ones((2, 4)), np.ones(2, bool))
    motion = Labels("motion", ("dx", "dy"), np.array([[8.0, 1.0], [-8.0, -1.0], [0, 99]]), np.array([1, 1, 0], bool))
    outputs = output_specs({"box": box, "motion": motion}, np.arange(2))
    assert outputs["box"].center == INITIAL_BOX and outputs["box"].scale == (TARGET_SCALE,) * 4
    assert outputs["motion"].center == (0, 0) and outputs["motion"].scale == pytest.approx(
        (TARGET_SCALE, TARGET_SCALE / 8)
    )
    still = Labels("motion", ("dx", "dy"), np.zeros((3, 2)), np.ones(3, bool))
    assert output_specs({"it": still}, np.arange(3))["it"].scale == pytest.approx((TARGET_SCALE, TARGET_SCALE))


def test_a_vector_has_all_targets_and_then_which_are_known():
    outputs = {
        "action": OutputSpec("classify", ("a", "b", "c")),
        "skill": OutputSpec("ordinal", ("low", "high")),
        "box": OutputSpec("box", ("x", "y", "w", "h")),
    }
    layout = TargetLayout(outputs)
    assert layout.width == 3 + 2 + 4 + 3
    assert layout.places == {"action": slice(0, 3), "skill": slice(3, 5), "box": slice(5, 9)}
    vector = layout.vector({"action": np.array([0, 1, 0]), "skill": None, "box": np.array([0.5, -1, 2, 3])})
    assert vector.dtype == np.float32
    assert vector.tolist() == [0, 1, 0, 0, 0, 0.5, -1, 2, 3, 1, 0, 1]


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=5))
def test_each_task_finds_its_own_targets_in_a_vector(shapes):
    outputs = {f"t{n}": OutputSpec("regress", tuple(map(str, range(width)))) for n, (width, _) in enumerate(shapes)}
    layout = TargetLayout(outputs)
    targets = {
        name: np.full(len(output.names), number + 1.0) if shapes[number][1] else None
        for number, (name, output) in enumerate(outputs.items())
    }
    vector = layout.vector(targets)
    assert len(vector) == layout.width
    for number, (name, place) in enumerate(layout.places.items()):
        there = shapes[number][1]
        assert vector[place].tolist() == [(number + 1.0) * there] * shapes[number][0], name
        assert vector[layout.width - len(outputs) + number] == there


def test_shares_are_1_for_what_is_there():
    one = Labels("classify", ("a", "b", "c"), np.array([2]), np.ones(1, bool))
    many = Labels("multilabel", ("a", "b", "c"), np.array([[True, False, True]]), np.ones(1, bool))
    assert (class_targets(one, 0).tolist(), class_targets(many, 0).tolist()) == ([0, 0, 1], [1, 0, 1])
