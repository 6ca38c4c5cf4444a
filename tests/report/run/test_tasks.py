"""The report of runs with several tasks, and of those that tell a box or a number alone."""

import json
import re

import pytest
from report.run.test_page import ODD, Page, change, shown
from reported import KINDS, write_run_of_tasks

from finetune.report.run.page import write_report

BOX = (
    "the model's box overlaps the true one by 66 % in the mean (IoU; 95 % interval 61–71 %); "
    "always the mean box of the training clips would by 21 %."
)
MOTION = (
    "the motion that the model tells goes with the true one at a correlation of 0.874 (95 % interval 0.820 to 0.910) "
    "and is off by 0.812 px a frame; always the mean motion of the training clips would be off by 2.31 px a frame."
)
NUMBER = (
    "the model's values reach an R² of 0.741 (1 at best, 0 for a constant; 95 % interval 0.660 to 0.810) "
    "and are off by 0.631 in the mean; always the mean of the training clips would be off by 1.74."
)


def results_of(run):
    return json.loads((run / "evaluation/results.json").read_text())


def markdown_of(run):
    write_report(run, figures_too=False)
    return (run / "evaluation/report.md").read_text(encoding="utf-8").replace("\u00a0", " ")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    write_run_of_tasks(run)
    return shown(run)


def test_the_first_sentence_is_of_the_first_task_with_classes_wherever_it_stands(tmp_path):
    write_run_of_tasks(tmp_path, {"where": "box", "action": "classify", "level": "ordinal"})
    page = shown(tmp_path)
    assert page.heading.startswith("action: On 120 test clips of 15 unseen groups the model names the right class in")
    assert page.tags["h1"] == 1
    assert "level: On 120 test clips" in page.text
    assert "where: On 100 test clips of 15 unseen groups the model's box overlaps" in page.text


def test_a_table_lists_each_task_with_its_figure_what_it_has_to_beat_and_its_last_weight(page):
    for row in (
        "action one class 87.5 % 83.5–91.5 % top-1 16.7 % 120 1.14",
        "where a box 66.2 % 61.0–71.0 % mean IoU 21.4 % 100 0.870",
        "track a motion 0.874 0.820 to 0.910 correlation 0 100 0.681",
        "speed a number 0.741 0.660 to 0.810 R² 0 100 0.549",
        "level a level 92.2 % 88.2–96.2 % top-1 33.3 % 120 0.456",
    ):
        assert row in page.rows


def test_a_task_of_one_is_not_put_into_a_table_of_tasks(tmp_path):
    write_run_of_tasks(tmp_path, {"action": "classify"})
    page = shown(tmp_path)
    assert page.heading.startswith("On 120 test clips")
    assert "tasks" not in {attributes.get("id") for _, attributes in page.elements}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "heading", "row"),
    [
        ("box", BOX, "Overlap of a half or more AP50: share of such clips 83.0 % 76.0–89.0 %"),
        ("motion", MOTION, "Off in direction by angle error: median over what moves at all 12.4° 10.1 to 15.2"),
        ("regress", NUMBER, "Off by, large errors first RMSE: root of the mean squared error 0.822"),
    ],
)
def test_a_run_of_one_task_of_numbers_opens_with_its_sentence_and_its_figures(tmp_path, kind, heading, row):
    write_run_of_tasks(tmp_path, {"it": kind})
    page = shown(tmp_path)
    assert page.heading == f"On 100 test clips of 15 unseen groups {heading}"
    assert row in page.rows
    assert "what it says of each is in predictions-it.csv" in page.text
    assert "Clips of each class" not in page.text
    assert "Right at the first guess" not in page.text
    assert "no class was overlooked" not in page.text
    assert "number 12, by the figure of its task: " in page.text


def test_an_ordinal_task_is_a_classification_with_distances(page):
    assert "At most one level off share of all clips 97.8 % 93.0–99.4 %" in page.rows
    assert "Levels off mean distance from the true level 0.100 0.040 to 0.160" in page.rows
    assert "Agreement beyond chance quadratic weighted kappa: 1 is full, 0 that of chance 0.860" in page.rows
    assert "confusion-4" in page.svg_texts


def test_overlaps_and_points_are_drawn_and_each_column_told(page):
    assert {"overlaps-1", "points-2-0", "points-2-1", "points-3-0"} <= set(page.svg_texts)
    assert {"mean", "mean box"} <= set(page.svg_texts["overlaps-1"])
    assert "true (px a frame)" in page.svg_texts["points-2-0"]
    assert "dy 0.880 0.750 0.620 0.810" in page.rows


def test_each_task_learns_in_figures_of_its_own_and_pairs_that_pull_apart_come_first(page):
    for number in range(len(KINDS)):
        assert {f"task-{number}-{what}" for what in ("loss", "score", "weight")} <= set(page.svg_texts)
    assert "A negative cosine between two of them means that they are in conflict" in page.text
    assert re.search(r"−\d\.\d\d in the mean; below 0 in every epoch\.", page.text)
    assert re.search(r"0\.\d\d in the mean; below 0 in \d of 12 epochs\.", page.text)
    pairs = [f"{first} and {second}" for first, second in (("speed", "level"), ("track", "level"), ("track", "speed"))]
    assert [page.text.index(pair) for pair in pairs] == sorted(page.text.index(pair) for pair in pairs)
    assert "by the mean of the tasks' figures: 0.776" in page.text


def test_a_run_whose_epochs_say_nothing_of_tasks_has_no_such_figures(tmp_path):
    write_run_of_tasks(tmp_path)
    path = tmp_path / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    told = ("tasks", "weights", "cosines", "val_score")
    kept = [{key: value for key, value in record.items() if key not in told} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    page = shown(tmp_path)
    assert not [name for name in page.svg_texts if name.startswith(("task-", "cosine-"))]
    assert "Weight at the end" not in page.text
    assert {"loss", "accuracy"} <= set(page.svg_texts)
    path.unlink()
    assert "There is no metrics.jsonl" in shown(tmp_path).text


def test_keys_that_are_not_there_are_left_out(tmp_path):
    write_run_of_tasks(tmp_path, {"where": "box", "track": "motion", "speed": "regress"})
    results = results_of(tmp_path)
    where, track, speed = results["tasks"].values()
    for task, keys in (
        (where, ("baseline", "histogram", "mean_iou_ci", "ap75", "ap75_ci", "num_rows")),
        (track, ("baseline", "per_output", "correlation_ci", "r2")),
        (speed, ("baseline", "r2_ci", "rmse")),
    ):
        for key in keys:
            del task[key]
    track |= {"angle_error": None, "angle_error_ci": None}
    for each in speed["per_output"]:
        del each["points"]
    change(tmp_path, tasks=results["tasks"])
    page = shown(tmp_path)
    assert page.heading == (
        "where: On 120 test clips of 15 unseen groups the model's box overlaps the true one by 66 % in the mean (IoU)."
    )
    assert not [name for name in page.svg_texts if name.startswith(("overlaps", "points"))]
    assert "where a box 66.2 % unknown mean IoU – 120 1.14" in " | ".join(page.rows)


@pytest.mark.parametrize(
    ("kind", "changes", "warned"),
    [
        ("box", {"mean_iou_ci": [0.2, 0.7]}, "no better than always the mean box of the training clips"),
        ("motion", {"correlation_ci": [-0.1, 0.5]}, "no better than always the mean motion of the training clips"),
        ("regress", {"r2_ci": [-0.4, 0.5]}, "no better than always the mean of the training clips"),
        ("regress", {"r2_ci": [-0.9, -0.1]}, "This is worse than always the mean of the training clips."),
        ("box", {}, None),
    ],
)
def test_a_task_that_may_know_nothing_is_warned_of(tmp_path, kind, changes, warned):
    write_run_of_tasks(tmp_path, {"it": kind})
    task = results_of(tmp_path)["tasks"]["it"] | changes
    change(tmp_path, tasks={"it": task})
    text = shown(tmp_path).text
    assert "no better" not in text if warned is None else warned in text


@pytest.mark.slow
def test_names_of_tasks_and_columns_show_as_text_and_never_become_markup(tmp_path):
    write_run_of_tasks(tmp_path, dict(zip(ODD, ("classify", "box", "motion", "regress", "ordinal"), strict=False)))
    results = results_of(tmp_path)
    results["tasks"][ODD[2]]["per_output"][0]["name"] = "<s>dx</s>"
    change(tmp_path, tasks=results["tasks"])
    page = shown(tmp_path)
    assert all(name in page.text for name in [*ODD[:5], "<s>dx</s>"])
    assert page.tags["img"] == page.tags["s"] == 0
    text = markdown_of(tmp_path)
    assert "<img" not in text and "<s>" not in text


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in page.elements if tag in ("a", "use")} <= set(ids)


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes(tmp_path):
    write_run_of_tasks(tmp_path)
    first = write_report(tmp_path, figures_too=False).read_bytes()
    assert write_report(tmp_path, figures_too=False).read_bytes() == first


def test_every_figure_is_a_file_too(tmp_path):
    write_run_of_tasks(tmp_path, {"action": "classify", "where": "box"})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    files = {path.stem for path in (tmp_path / "evaluation/figures").glob("*.png")}
    assert files == set(Page(html).svg_texts)
    assert {"overlaps-1", "task-1-weight", "cosine-0", "score"} <= files
    svg = (tmp_path / "evaluation/figures/overlaps-1.svg").read_text()
    assert "#01010" not in svg


def test_the_same_table_is_in_markdown(tmp_path):
    write_run_of_tasks(tmp_path)
    text = markdown_of(tmp_path)
    assert "| <code>where</code> | mean IoU | 66.2 % | 61.0–71.0 % | 21.4 % | 100 | 0.870 |" in text
    assert "| <code>track</code> | correlation | 0.874 | 0.820 to 0.910 | 0 | 100 | 0.681 |" in text
    assert "| endpoint error | 0.812 px | 0.700 to 0.930 |" in text
    assert "| always the mean of the training clips: MAE | 1.74 |  |" in text
    assert "| weighted kappa | 0.860 |  |" in text
    assert text.index("On 120 test clips") < text.index("| task |") < text.index("box overlaps")


@pytest.mark.slow
def test_of_very_many_columns_some_are_drawn_and_all_told(tmp_path):
    write_run_of_tasks(tmp_path, {"it": "regress"})
    task = results_of(tmp_path)["tasks"]["it"]
    column = task["per_output"][0]
    task["per_output"] = [column | {"name": f"column {number}"} for number in range(20)]
    change(tmp_path, tasks={"it": task})
    page = shown(tmp_path)
    assert len([name for name in page.svg_texts if name.startswith("points-")]) == 12
    assert "8 more columns are in the table alone." in page.text
    assert sum(row.startswith("column ") for row in page.rows) == 20


def test_seeds_of_a_run_of_numbers_are_told_as_numbers(tmp_path):
    write_run_of_tasks(tmp_path, {"it": "regress"})
    change(tmp_path, seeds=[{"seed": seed, "value": 0.7 + seed / 10, "href": "x"} for seed in range(3)])
    assert "0.800 in the mean, with a standard deviation of 0.100" in shown(tmp_path).text


def test_a_kind_of_task_that_is_not_known_is_shown_as_it_stands(tmp_path):
    results = write_run_of_tasks(tmp_path, {"action": "classify", "where": "box"})
    change(tmp_path, tasks=results["tasks"] | {"odd": {"kind": "depth", "error": 0.25}})
    page = shown(tmp_path)
    assert "error 0.25" in page.rows
    assert "All 2 tasks" in page.text


def test_figures_are_of_any_size():
    from finetune.report.headline_text import number

    told = {0.0: "0", 0.00012: "1.2e−04", -0.25: "−0.250", 1.239: "1.24", 45.67: "45.7", 12345.6: "12,346", None: "–"}
    assert {value: number(value) for value in told} == told
    assert number(float("nan")) == "–"
