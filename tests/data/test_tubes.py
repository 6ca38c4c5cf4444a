import numpy as np
import pytest
from grey import make_clip

from finetune.data.manifest import Manifest
from finetune.data.tubes import parse_tube, short_tube_text, tube_problems, tube_text
from finetune.errors import DataError
from finetune.recipe.tasks import Task


def write_csv(folder, lines, header="path,label,split,boxes"):
    make_clip(folder / "a.mp4", 8)
    csv = folder / "clips.csv"
    csv.write_text("\n".join([header, *lines]) + "\n")
    return csv


def test_boxes_change_evenly_between_keyframes_and_stay_before_and_after():
    tube = parse_tube("20:30,0,10,20; 10:10,0,10,40")
    assert tube.boxes_at(np.array([0, 10, 15, 20, 99])).tolist() == [
        [10, 0, 10, 40], [10, 0, 10, 40], [20, 0, 10, 30], [30, 0, 10, 20], [30, 0, 10, 20]
    ]  # fmt: skip
    assert tube_text(tube) == "10:10,0,10,40;20:30,0,10,20"


def test_one_box_without_a_frame_holds_for_all_frames():
    tube = parse_tube("1.004,2.5,10,20")
    assert tube.boxes_at(np.array([0, 7])).tolist() == [[1.0, 2.5, 10, 20]] * 2
    assert tube_text(tube) == "1,2.5,10,20"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("3:1,2,3", "'3:1,2,3' is not frame:left"),
        ("x:1,2,3,4", "'x:1,2,3,4' is not frame:left"),
        ("-1:1,2,3,4", "'-1:1,2,3,4' is not frame:left"),
        ("1:nan,2,3,4", "is not frame:left"),
        ("1:1,2,0,4", "has a box of 0 x 4 pixels; it needs an area"),
        ("1,2,3,4;5:1,2,3,4", "'1,2,3,4' has no frame; several boxes need one each"),
        ("5:1,2,3,4;5:2,2,3,4", "frame 5 has several boxes"),
        (";", "';' has no box"),
    ],
)
def test_a_cell_of_another_form_is_refused(cell, message):
    with pytest.raises(DataError, match=message):
        parse_tube(cell)


def test_the_errors_of_all_rows_are_named_at_once(tmp_path):
    csv = write_csv(tmp_path, ['a.mp4,x,train,"1,2,3"', 'a.mp4,y,train,"1,2,3,4"', 'a.mp4,z,test,"1,2,3,-4"'])
    with pytest.raises(DataError, match=r"line 2: boxes: '1,2,3' is not .*\n.*line 4: boxes: .* 3 x -4 pixels"):
        Manifest.from_csv(csv)


def test_two_objects_of_one_interval_are_different_rows_of_one_group(tmp_path):
    csv = write_csv(tmp_path, ['a.mp4,x,train,"0:1,2,3,4;7:5,2,3,4"', 'a.mp4,y,train,"9, 9,3,4"', "a.mp4,x,train,"])
    manifest = Manifest.from_csv(csv)
    names = [manifest.clip_name(row) for row in range(3)]
    assert len(set(names)) == 3 and names[2].endswith("a.mp4")
    assert names[1].endswith(f"a.mp4 (box 9,9,3,4 {short_tube_text('9,9,3,4').split()[-1]})")
    assert len(set(manifest.units.tolist())) == 1


def test_one_object_with_two_labels_is_refused(tmp_path):
    csv = write_csv(tmp_path, ['a.mp4,x,train,"1,2,3,4"', 'a.mp4,y,train,"1.0,2,3,4"'])
    with pytest.raises(DataError, match="one clip has two labels"):
        Manifest.from_csv(csv)


def test_boxes_are_written_and_read_again_and_taken_with_their_rows(tmp_path):
    csv = write_csv(tmp_path, ['a.mp4,x,train,"0:1,2,3,4;7:5,2,3,4"', 'a.mp4,y,train,"9,9,3,4"', "a.mp4,x,train,"])
    manifest = Manifest.from_csv(csv)
    manifest.to_csv(tmp_path / "again.csv")
    again = Manifest.from_csv(tmp_path / "again.csv")
    assert again.boxes.tolist() == manifest.boxes.tolist() == [b"0:1,2,3,4;7:5,2,3,4", b"9,9,3,4", b""]
    assert manifest.without([0]).boxes.tolist() == [b"9,9,3,4", b""]


def test_labels_of_places_are_refused_beside_boxes(tmp_path):
    csv = write_csv(tmp_path, ['a.mp4,1,1,2,2,"1,2,3,4"'], header="path,x,y,w,h,boxes")
    with pytest.raises(DataError, match=r"tasks.where \(box\) are places in the whole picture"):
        Manifest.from_csv(csv, tasks={"where": Task(kind="box")})


def test_boxes_must_fit_the_frames_of_the_row_and_the_picture():
    tube = parse_tube("3:0,0,4,4;20:70,0,4,4;50:1,1,4,4")
    problems = tube_problems(tube, frames=(10, 20), file_frames=50, size=(40, 60))
    assert [problem.split(",")[0] for problem in problems] == [
        "boxes: no frame 50 in the file",
        "boxes: frame 3 is not in the row",
        "boxes: 70",
    ]
    assert "is outside the picture of 60 x 40 pixels" in problems[2]
    partly = parse_tube("9:-3,0,4,4;21:58,38,4,4")  # one frame beside the row: its end may be the time of that frame
    assert not tube_problems(partly, frames=(10, 20), file_frames=50, size=(40, 60))
