"""The report of detection, tracking and segmentation tasks."""

import json
import re

import numpy as np
import pytest
from report.run.test_page import shown
from reported import write_run_of_tasks

from finetune.evaluation.contact_sheets import sheet_file_name
from finetune.report.run.confusion_plot import confusion_matrix
from finetune.report.run.page import write_report
from finetune.video.encode import encode_jpeg


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    write_run_of_tasks(run, {"objects": "track", "scene": "segment"})
    return shown(run)


def test_a_detection_run_opens_with_average_precision_and_what_its_threshold_gives(page):
    assert page.heading.startswith("objects: Average precision (AP) is")
    assert "at a score of at least 0.40," in page.heading
    assert "of the detections are right." in page.heading
    assert any(row.startswith("AP50 a box counts as found at an IoU of at least 0.5") for row in page.rows)


def test_the_confusion_matrix_has_missed_and_invented_objects():
    counts = [[5, 1, 2], [0, 4, 0], [3, 0, 0]]
    figure = confusion_matrix(
        ["bus", "car", "(nothing)"], counts, columns=["bus", "car", "(missed)"], noun="object", name="confusion-0"
    )
    titles = re.findall("<title>(.*?)</title>", figure.translate(dict.fromkeys([0x2068, 0x2069])))
    assert titles == [
        "“bus” predicted correctly: 5 of 8 objects",
        "“bus” predicted as “car”: 1 of 8 objects",
        "“bus” missed: 2 of 8 objects",
        "“car” predicted correctly: 4 of 4 objects",
        "“bus” where no object is: 3 of 3 objects",
    ]


def test_tracks_motion_and_sizes_have_their_figures(page):
    assert any(row.startswith("HOTA higher order tracking accuracy") and "61.0 %" in row for row in page.rows)
    assert any(row.startswith("MOTA") and "\u22125.0 %" in row for row in page.rows)
    assert any(row.startswith("Identity switches") and row.endswith(" 12") for row in page.rows)
    assert "Motion of found objects" in page.text
    assert any(row.startswith("Small less than 32² pixels") for row in page.rows)


def test_a_segmentation_task_has_its_iou_by_class_and_the_pixels_that_are_confused(page):
    assert "scene: Mean IoU is" in page.text
    assert any(row.startswith("Steadiness") for row in page.rows)
    assert "Numbers are percent of the pixels of the true class." in page.text


def test_the_learning_curves_show_the_parts_of_the_loss(page):
    assert "Parts of the training loss" in page.text


def test_worst_frames_are_shown_with_their_errors_and_only_from_this_folder(tmp_path):
    write_run_of_tasks(tmp_path, {"objects": "detect"})
    pictures = tmp_path / "evaluation/pictures"
    pictures.mkdir()
    name = sheet_file_name("a.mp4 (1–2 s)objects")
    (pictures / name).write_bytes(encode_jpeg(np.zeros((3, 8, 8), np.uint8)))
    drawn = {"picture": name, "text": "2 of 3 objects missed <b>"}
    outside = {"picture": "../../secret.jpg", "text": "no"}
    index = {"a.mp4 (1–2 s)": {"tasks": {"objects": drawn}}, "b": {"tasks": {"objects": outside}}, "c": {"tasks": 3}}
    (pictures / "index.json").write_text(json.dumps(index))
    page = shown(tmp_path)
    assert "2 of 3 objects missed <b>" in page.text
    assert page.tags["figure"] == 1


@pytest.mark.parametrize("kinds", [{"objects": "detect"}, {"scene": "segment"}, {"a": "classify", "objects": "track"}])
def test_the_markdown_report_has_the_classes_of_each_task(tmp_path, kinds):
    write_run_of_tasks(tmp_path, kinds)
    write_report(tmp_path, figures_too=False)
    text = (tmp_path / "evaluation/report.md").read_text(encoding="utf-8")
    assert ("| class | IoU | recall" if "scene" in kinds else "| class | AP | AP50 | recall") in text
    assert "`person`" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ap": None, "ap_ci": None, "recall": None}, "Average precision (AP) is unknown: nothing is labelled in 100"),
        ({"precision": None, "recall": 0.0}, "; at a score of at least 0.40, nothing is detected."),
    ],
)
def test_frames_without_objects_or_detections_have_a_headline(tmp_path, changes, sentence):
    write_run_of_tasks(tmp_path, {"objects": "detect"})
    file = tmp_path / "evaluation/results.json"
    results = json.loads(file.read_text())
    results["tasks"]["objects"] |= changes
    file.write_text(json.dumps(results))
    assert sentence in shown(tmp_path).heading
