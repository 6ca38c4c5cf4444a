"""Files of objects are recognised by their content, and read as the tool that wrote them means them."""

import json

import object_files as files
import pytest
from grey import make_images

from finetune.annotations.document import Document, open_document
from finetune.annotations.objects.import_objects import ObjectImportOptions, import_objects
from finetune.annotations.objects.object_formats import holds_objects, read_objects, recognise_objects
from finetune.data.object_labels import objects_text
from finetune.errors import DataError

CAR, PERSON = "car:8,12,16,6", "person:40,20,8,16"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """rec1.mp4 of 8 frames."""
    return files.make_video(tmp_path_factory.mktemp("videos") / "rec1.mp4").parent


def imported(path, videos, **options):
    return import_objects([path], ObjectImportOptions(videos=videos, **options))


def cells(result):
    """The objects of each labelled frame by its number."""
    return {row.frame: objects_text(row.objects) for row in result.rows}


def without_identities(cell):
    return ";".join(text.split("#")[0] for text in cell.split(";"))


def edited(tmp_path, sample, *changes):
    path = files.write_sample(sample, tmp_path)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.mark.parametrize("sample", files.SAMPLES)
def test_a_file_is_recognised_by_its_content(sample, tmp_path):
    _, content, kind = files.SAMPLES[sample]
    for encoding in ("utf-8", "utf-8-sig"):
        for text in (content, content.replace("\n", "\r\n")):
            assert recognise_objects(Document(tmp_path / "x", text.encode(encoding))) == kind
    assert holds_objects([files.write_sample(sample, tmp_path)], None, None)


@pytest.mark.parametrize("sample", sorted(set(files.SAMPLES) - {"voc"}))
def test_the_sample_of_each_tool_gives_the_same_objects_in_frame_2(sample, videos, tmp_path):
    result = imported(files.write_sample(sample, tmp_path), videos)
    assert result.problems == []
    person = PERSON.replace("person", "pedestrian" if sample == "mot" else "person")
    assert without_identities(cells(result)[2]) == f"{CAR};{person}"
    assert cells(result)[2 if sample.startswith("lab") else 4] is not None
    assert all(row.path == videos / "rec1.mp4" for row in result.rows)


def test_images_of_coco_without_boxes_are_labelled_frames_and_other_frames_are_not(videos, tmp_path):
    assert cells(imported(files.write_sample("coco", tmp_path), videos)) == {2: f"{CAR}#1;{PERSON}#2", 4: ""}


def test_coco_crowds_are_ignored_polygons_get_boxes_and_masks_are_left_out(videos, tmp_path):
    annotations = [
        {"image_id": 12, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1, "segmentation": {"counts": "x"}},
        {"image_id": 12, "category_id": 90, "segmentation": [[5, 6, 9, 6, 9, 16], [7, 20, 8, 20, 8, 21]]},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(files.COCO | {"annotations": annotations}))
    result = imported(path, videos)
    assert cells(result)[2] == "car:1,2,3,4!;person:5,6,4,15"
    assert [note.split(": ", 1)[1] for note in result.notes] == [
        "1 mask left out: only boxes are read",
        "1 polygon read as the box around it",
    ]


def test_frames_with_an_unknown_category_are_named_and_not_taken_for_empty(videos, tmp_path):
    path = edited(tmp_path, "coco", ('"category_id": 3,', '"category_id": 4,'))
    result = imported(path, videos)
    assert cells(result) == {4: ""}
    assert result.problems == [f"{path}: annotations[0]: there is no category with the ID 4"]


def test_tracks_of_cvat_move_linearly_between_shapes_and_are_gone_where_they_are_outside(videos, tmp_path):
    assert cells(imported(files.write_sample("cvat video", tmp_path), videos)) == {
        0: "car:4,12,16,6#0",
        1: "car:6,12,16,6#0",
        2: f"{CAR}#0;{PERSON}#7",
        3: "car:10,12,16,6#0",
        4: "car:12,12,16,6#0",
        **dict.fromkeys((5, 6, 7), ""),
    }


def test_a_track_of_cvat_stays_until_the_end_of_its_task(videos, tmp_path):
    path = edited(
        tmp_path, "cvat video", ('frame="5" outside="1"', 'frame="5" outside="0"'), ("<stop_frame>7", "<stop_frame>6")
    )
    result = cells(imported(path, videos))
    assert [number for number, cell in result.items() if "car" in cell] == [0, 1, 2, 3, 4, 5, 6] and 7 not in result


def test_objects_of_cvat_are_ignored_from_the_shape_that_says_so_to_the_one_that_takes_it_back(videos, tmp_path):
    box = '<box frame="{}" outside="0" xtl="1" ytl="2" xbr="4" ybr="6">{}</box>'
    attribute = '<attribute name="ignore">{}</attribute>'
    shapes = {0: "", 2: attribute.format("true"), 3: "", 5: attribute.format("false")}
    track = "".join(box.format(frame, text) for frame, text in shapes.items())
    (tmp_path / "a.xml").write_text(
        "<annotations><meta><task><start_frame>0</start_frame><stop_frame>7</stop_frame><source>rec1.mp4</source>"
        f'</task></meta><track id="0" label="car">{track}</track></annotations>'
    )
    rows = imported(tmp_path / "a.xml", videos).rows
    assert [row.frame for row in rows if row.objects[0].ignore] == [2, 3, 4]


def test_steps_of_cvat_tasks_leave_frames_out(videos, tmp_path):
    path = edited(tmp_path, "cvat video", ("<frame_filter>", "<frame_filter>step=2"), ('frame="5"', 'frame="6"'))
    assert list(cells(imported(path, videos))) == [0, 2, 4, 6]


def test_shapes_of_cvat_become_the_boxes_around_them(videos, tmp_path):
    shapes = (
        '<ellipse label="a" cx="20" cy="10" rx="4" ry="2"/><polyline label="b" points="1,2;5,9"/>'
        '<box label="c" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>'
        '<mask label="d" rle="1" left="3" top="4" width="5" height="6"/>'
        '<skeleton label="e"><points label="1" points="3,4"/><points label="2" points="8,9"/></skeleton>'
    )
    path = edited(
        tmp_path,
        "cvat images",
        (
            '<image id="4" name="frame_000004" width="64" height="48">',
            '<image id="4" name="frame_000004" width="64" height="48">' + shapes,
        ),
    )
    result = imported(path, videos)
    assert cells(result)[4] == "a:16,8,8,4;b:1,2,4,7;c:13,7,4,10;d:3,4,5,6;e:3,4,5,5"
    assert result.notes == [f"{path}: 6 shapes read as the box around it"]


def test_mot_counts_from_1_and_takes_what_does_not_count_as_objects_to_ignore(videos, tmp_path):
    result = imported(files.write_sample("mot", tmp_path), videos)
    assert cells(result) == {
        2: f"{CAR}#1;pedestrian:40,20,8,16#2",
        3: "car:9,12,16,6#1",
        4: "pedestrian:1,1,5,5#3!",
        **dict.fromkeys((0, 1, 5, 6, 7), ""),
    }
    assert [note.split(": ", 1)[1] for note in result.notes] == [
        "1 box left out: the file says that they do not count",
        "1 object to ignore: the file says that they do not count",
    ]


def test_mot_without_seqinfo_is_labelled_to_its_last_line_and_labels_txt_names_classes(videos, tmp_path):
    path = tmp_path / "rec1" / "gt" / "gt.txt"
    path.parent.mkdir(parents=True)
    path.write_text("1,1,8,12,16,6,1,2,1\n3,1,8,12,16,6,0,1,1\n")
    (path.parent / "labels.txt").write_text("bus\ntram\n")
    result = imported(tmp_path / "rec1", videos)
    assert cells(result) == {0: "tram:8,12,16,6#1", 1: "", 2: "bus:8,12,16,6#1!"}
    assert "no seqinfo.ini" in result.notes[1]


def test_detections_of_mot_have_scores_and_no_identity(videos, tmp_path):
    path = tmp_path / "rec1.txt"
    path.write_text("1,-1,8,12,16,6,0.75,-1,-1,-1\n2,-1,8,12,16,6,1,-1,-1,-1\n")
    (content, result) = read_objects(open_document(path), "mot"), imported(path, videos)
    assert [frame.scores for frame in content.frames] == [(0.75,), (1.0,)]
    assert cells(result) == {0: "pedestrian:8,12,16,6", 1: "pedestrian:8,12,16,6"}


def test_an_empty_gt_txt_is_a_sequence_without_objects(videos, tmp_path):
    (tmp_path / "rec1" / "gt").mkdir(parents=True)
    (tmp_path / "rec1" / "gt" / "gt.txt").write_text("")
    (tmp_path / "rec1" / "seqinfo.ini").write_text(files.SEQINFO)
    assert cells(imported(tmp_path / "rec1", videos)) == dict.fromkeys(range(8), "")
    assert holds_objects([tmp_path / "rec1"], None, None)


def test_images_of_mot_beside_the_file_are_the_video(tmp_path):
    make_images(tmp_path / "rec1" / "img1", 4, name="{:06}.jpg", size=64)
    path = tmp_path / "rec1" / "gt" / "gt.txt"
    path.parent.mkdir()
    path.write_text("2,1,8,12,16,6,1,1,1\n")
    (empty, row) = import_objects([path], ObjectImportOptions()).rows
    assert row.path == tmp_path / "rec1" / "img1" and (row.frame, empty.frame, row.size) == (1, 0, (64, 64))


def test_voc_names_images_of_a_folder_of_frames_and_difficult_objects_are_ignored(tmp_path):
    files.make_frames(tmp_path / "frames" / "rec1")
    files.make_frames(tmp_path / "frames" / "rec2")
    path = files.write_sample("voc", tmp_path / "Annotations")
    result = imported(path.parent, tmp_path / "frames")
    assert result.problems == []
    assert cells(result) == {2: f"{CAR};{PERSON}!"}
    assert result.rows[0].path == tmp_path / "frames" / "rec1"


@pytest.mark.parametrize(
    "names", ["names: [person, car]", "names:\n  1: car\n  0: person", "nc: 2\nnames: ['person', 'car']"]
)
def test_yolo_reads_images_with_text_files_and_names_as_list_or_mapping(names, tmp_path):
    path = files.write_sample("yolo", tmp_path)
    path.write_text(f"train: ../images/train\nval: images/val.txt\n{names}\n")
    images = make_images(tmp_path / "images/train", 3, name="rec1_{}.png", first=2, size=48)
    result = imported(tmp_path, None)
    assert result.problems == [f"{path}: 'images/val.txt' is no folder of images or labels, and no list of images"]
    (tmp_path / "images/val.txt").write_text("")
    result = imported(tmp_path, None)
    assert result.problems == []
    assert [(row.path, row.frame, row.split) for row in result.rows] == [(images, 0, "train"), (images, 2, "train")]
    assert objects_text(result.rows[0].objects) == "car:6,12,12,6;person:30,20,6,16"
    assert any("1 image without a text file left out" in note for note in result.notes)


def test_yolo_without_splits_has_its_images_in_the_folder_of_that_name(tmp_path):
    path = files.write_sample("yolo", tmp_path)
    path.write_text("nc: 2\nnames: [person, car]\n")
    images = make_images(tmp_path / "images/train", 3, name="rec1_{}.png", first=2, size=48)
    result = imported(tmp_path, None)
    assert [(row.path, row.frame, row.split) for row in result.rows] == [(images, 0, ""), (images, 2, "")]


def test_splits_that_divide_a_video_are_left_out_with_a_note(tmp_path):
    path = files.write_sample("yolo", tmp_path)
    path.write_text("train: images/train.txt\nval: images/val.txt\nnames: [person, car]\n")
    make_images(tmp_path / "images/train", 3, name="rec1_{}.png", first=2, size=48)
    (tmp_path / "images/train.txt").write_text("train/rec1_2.png\n")
    (tmp_path / "images/val.txt").write_text("train/rec1_4.png\n")
    result = imported(path, None)
    assert [row.split for row in result.rows] == ["", ""]
    assert result.notes == [
        "the splits of the file are left out: frames of one video are in several (train); training divides the videos"
    ]


def test_yolo_lines_may_have_scores_identities_or_polygons(videos, tmp_path):
    path = files.write_sample("yolo", tmp_path)
    lines = ["1 0.5 0.5 0.5 0.5 0.9 7", "0 0.5 0.5 0.25 0.5 3", "0 0.25 0.25 0.5 0.25 0.5 0.75"]
    (tmp_path / "labels/train/rec1_2.txt").write_text("\n".join(lines))
    result = imported(path, videos)
    assert cells(result)[2] == "car:16,12,32,24#7;person:24,12,16,24#3;person:16,12,16,24"
    assert {row.split for row in result.rows} == {"train"}
    (tmp_path / "labels/train/rec1_2.txt").write_text("5 0.5 0.5 0.5 0.5\n0 0.5 0.5\n")
    result = imported(path, videos)
    assert cells(result) == {4: ""}
    assert [problem.split(": ", 1)[1] for problem in result.problems] == [
        "rec1_2.txt, line 1: names has no class 5",
        "rec1_2.txt, line 2: '0 0.5 0.5' is no class, x, y, width and height",
    ]


def test_label_studio_counts_from_1_and_objects_leave_after_a_keyframe_that_is_not_enabled(videos, tmp_path):
    result = cells(imported(files.write_sample("label studio video", tmp_path), videos))
    assert list(result.values()) == [
        *("car:4,12,16,6#0", "car:6,12,16,6#0", f"{CAR}#0;{PERSON}#1", "car:10,12,16,6#0", "car:12,12,16,6#0"),
        *("", "", ""),
    ]
    path = edited(tmp_path, "label studio video", ('{"frame": 5, "enabled": false', '{"frame": 5, "enabled": true'))
    assert list(cells(imported(path, videos)).values())[4:] == ["car:12,12,16,6#0"] * 4


def test_label_studio_may_count_at_another_rate_than_the_video(videos, tmp_path):
    """At half the rate of the video, its frame 2 is frame 4 of the video."""
    path = edited(tmp_path, "label studio video", ('"framesCount": 8', '"framesCount": 4'))
    result = cells(imported(path, videos))
    assert result[4] == f"{CAR}#0;{PERSON}#1" and list(result)[:4] == [0, 2, 4, 6]
    path = edited(tmp_path, "label studio video", ('"framesCount": 8, "duration": 0.32', '"framesCount": 4'))
    assert cells(imported(path, videos)) == result


def test_frames_that_label_studio_counts_more_densely_than_the_video_are_taken_once(videos, tmp_path):
    path = edited(tmp_path, "label studio video", ('"framesCount": 8', '"framesCount": 16'))
    result = imported(path, videos)
    assert result.problems == []
    assert list(cells(result)) == list(range(8))
    assert cells(result)[0] == "car:4,12,16,6#0"


def test_tasks_of_label_studio_without_annotations_are_no_labelled_frames(videos, tmp_path):
    result = imported(files.write_sample("label studio images", tmp_path), videos)
    assert cells(result) == {2: f"{CAR};{PERSON}", 4: ""}
    assert any("1 task without annotations left out" in note for note in result.notes)


def test_files_of_events_hold_no_objects_unless_that_is_asked_for(tmp_path):
    import annotation_files

    for name, (file, content, _) in annotation_files.SAMPLES.items():
        (tmp_path / file).write_text(content)
        assert holds_objects([tmp_path / file], None, None) == (name == "cvat"), name
        assert holds_objects([tmp_path / file], None, "objects") and not holds_objects(
            [tmp_path / file], None, "events"
        )


def test_files_of_objects_and_of_events_are_not_imported_together(tmp_path):
    path = files.write_sample("coco", tmp_path)
    (tmp_path / "rec1.txt").write_text("0\t1\ta\n")
    with pytest.raises(DataError, match=r"objects.json hold objects, but .*rec1.txt events; import them one after"):
        holds_objects([path, tmp_path / "rec1.txt"], None, None)


def test_notes_and_problems_of_many_files_are_listed_together(videos, tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.xml").write_text(files.CVAT_VIDEO.replace('ytl="20.0"', 'ytl="x"'))
    paths = sorted(tmp_path.iterdir())
    result = import_objects(paths, ObjectImportOptions(videos=videos))
    assert result.notes[0].startswith(f"{paths[0]} and 199 more: 1 track read as objects;")
    assert len(result.problems) == 101 and result.problems[-1] == "100 more problems"


def test_a_folder_without_annotations_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"without data.yaml \(YOLO\), gt/gt.txt"):
        import_objects([tmp_path], ObjectImportOptions())


@pytest.mark.parametrize(
    "name",
    [
        "rec1_000002.jpg",
        "rec1/frame_000002.PNG",
        "sub/rec1.mp4/2.jpg",
        "rec1_mp4-0002_jpg.rf.0ab1.jpg",
        "rec1-frame2.jpg",
    ],
)
def test_the_name_of_an_image_names_a_video_and_a_frame(name, videos, tmp_path):
    image = {"id": 12, "file_name": name, "width": 64, "height": 48}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(files.COCO | {"images": [image]}))
    assert cells(imported(path, videos)) == {2: f"{CAR}#1;{PERSON}#2"}
    assert cells(imported(path, videos, first_frame=1)) == {1: f"{CAR}#1;{PERSON}#2"}


def test_images_that_are_no_numbered_frames_are_videos_of_one_frame(tmp_path):
    images = make_images(tmp_path / "images", 2, size=48, name="{}.png")
    (images / "1.png").rename(images / "street.png")
    (images / "2.png").rename(images / "park.png")
    image = {"id": 12, "file_name": "street.png", "width": 48, "height": 48}
    (tmp_path / "a.json").write_text(json.dumps(files.COCO | {"images": [image]}))
    (row,) = import_objects([tmp_path / "a.json"], ObjectImportOptions(videos=images)).rows
    assert (row.path, row.frame, row.start, row.end) == (images / "street.png", 0, 0.0, float("inf"))


def test_files_that_hold_neither_objects_nor_events_go_with_the_others(tmp_path):
    path = files.write_sample("cvat video", tmp_path)
    empty = tmp_path / "empty.xml"
    empty.write_text("<annotations><image id='0' name='a.jpg'></image></annotations>")
    assert holds_objects([path, empty], None, None) and not holds_objects([empty], None, None)
    assert recognise_objects(open_document(empty), with_events=True) == "cvat"


def test_videos_of_label_studio_without_a_box_are_left_out_with_a_note(videos, tmp_path):
    path = tmp_path / "a.json"
    tasks = [*files.LABEL_STUDIO_VIDEO, {"id": 8, "data": {"video": "rec1.mp4"}, "annotations": [{"result": []}]}]
    path.write_text(json.dumps(tasks))
    result = imported(path, videos)
    assert len(result.rows) == 8 and not result.problems
    assert result.notes == [f"{path}: 1 task of videos without a box left out: the file does not say how long they are"]
