"""Rows that follow objects: errors in their boxes are findings, and their pictures are those of the crops."""

from scenes import make_scene

from finetune.checks.check_data import audit, write_fixed
from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.video.probe_files import ClipOfFile, inspect_files


def test_rows_with_boxes_that_do_not_fit_are_unreadable_and_the_others_stay(tmp_path):
    for number in range(3):
        make_scene(tmp_path / f"{number}.mp4", number)
    csv = tmp_path / "clips.csv"
    lines = [
        '0.mp4,x,train,"0:1,1,20,20;5:9,1,20,20"',
        '0.mp4,y,train,"30,1,16,24"',
        '1.mp4,x,train,"1,1,1"',
        '1.mp4,y,train,"0:1,1,20,20;6:1,1,20,20"',
        '2.mp4,y,test,"900,1,20,20"',
        "2.mp4,x,test,",
    ]
    csv.write_text("\n".join(["path,label,split,boxes", *lines]) + "\n")
    rows = read_rows(csv, group_pattern=None, shares=(0.15, 0.2, 0))
    clips = [ClipOfFile(path, rows.interval(row), boxes=rows.boxes_cell(row)) for row, path in enumerate(rows.paths)]
    looks = inspect_files(clips, seconds=60)
    result, left = audit(rows, looks)
    reasons = [unreadable["reason"] for unreadable in result["unreadable"]]
    assert "line 4: boxes: '1,1,1' is not frame:left" in reasons[0]
    assert "no frame 6 in the file, whose frames are 0 to 5" in reasons[1]
    assert "900,1,20,20 is outside the picture" in reasons[2]
    assert left == [0, 1, 5] and result["noun"] == "clip"
    assert [(looks[row].info.height, looks[row].info.width) for row in (0, 1)] == [(25, 25), (30, 30)]
    write_fixed(tmp_path / "fixed.csv", rows, left)
    fixed = Manifest.from_csv(tmp_path / "fixed.csv", checked=False)
    assert fixed.boxes.tolist() == [b"0:1,1,20,20;5:9,1,20,20", b"30,1,16,24", b""]
