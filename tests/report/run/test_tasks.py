"""The report of runs with several tasks, and of runs with a single box, motion or regression task."""

import json
import re

import pytest
from report.run.test_page import ODD, Page, change, shown
from reported import KINDS, write_run_of_tasks

from finetune.report.run.page import write_report

CLIPS = "on 100 test clips from 15 unseen groups; always predicting"
BOX = (
    "Mean IoU with the true boxes is 66 % (95 % interval 61–71 %) "
    f"{CLIPS} the mean box of the training clips reaches 21 %."
)
MOTION = (
    "Correlation with the true motion is 0.874 (95 % interval 0.820 to 0.910), and the mean endpoint error "
    f"0.812 px/frame, {CLIPS} the mean motion of the training clips has an endpoint error of 2.31 px/frame."
)
NUMBER = (
    "R² is 0.741 (95 % interval 0.660 to 0.810), and the mean absolute error 0.631, "
    f"{CLIPS} the mean of the training clips has an error of 1.74."
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


def test_the_headline_is_of_the_first_task_with_classes_wherever_it_stands(tmp_path):
    write_run_of_tasks(tmp_path, {"where": "box", "action": "classify", "level": "ordinal"})
    page = shown(tmp_path)
    assert page.heading.startswith("action: Top-1 accuracy is")
    assert page.tags["h1"] == 1
    assert "level: Top-1 accuracy is" in page.text
    assert "where: Mean IoU with the true boxes is" in page.text


def test_a_table_lists_each_task_with_its_metric_baseline_and_final_weight(page):
    for row in (
        "action classification 87.5 % 83.5–91.5 % top-1 16.7 % 120 1.14",
        "where box 66.2 % 61.0–71.0 % mean IoU 21.4 % 100 0.870",
        "track motion 0.874 0.820 to 0.910 correlation 0 100 0.681",
        "speed regression 0.741 0.660 to 0.810 R² 0 100 0.549",
        "level ordinal 92.2 % 88.2–96.2 % top-1 33.3 % 120 0.456",
    ):
        assert row in page.rows


def test_a_single_task_has_no_table_of_tasks(tmp_path):
    write_run_of_tasks(tmp_path, {"action": "classify"})
    page = shown(tmp_path)
    assert page.heading.startswith("Top-1 accuracy is")
    assert "tasks" not in {attributes.get("id") for _, attributes in page.elements}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "heading", "row"),
    [
        ("box", BOX, "AP50 share of clips with an IoU of at least 0.5 83.0 % 76.0–89.0 %"),
        ("motion", MOTION, "Angle error median angle to the true motion, over clips that move 12.4° 10.1 to 15.2"),
        ("regress", NUMBER, "RMSE root mean squared error: large errors weigh more 0.822"),
    ],
)
def test_a_run_of_one_regression_task_opens_with_its_headline_and_metrics(tmp_path, kind, heading, row):
    write_run_of_tasks(tmp_path, {"it": kind})
    page = shown(tmp_path)
    assert page.heading == heading
    assert row in page.rows
    assert "The prediction for each clip is in predictions-it.csv" in page.text
    assert "Clips per class" not in page.text
    assert "Top-1" not in page.text
    assert "every class was predicted" not in page.text
    assert re.search(r"Best epoch by validation score: 12, (mean IoU|correlation|R²) ", page.text)


def test_an_ordinal_task_is_a_classification_with_distances(page):
    assert "Within one level share of clips off by at most one level 97.8 % 93.0–99.4 %" in page.rows
    assert "Mean level error mean distance from the true level 0.100 0.040 to 0.160" in page.rows
    assert "Weighted kappa quadratic weights: 1 is full agreement, 0 is chance 0.860" in page.rows
    assert "confusion-4" in page.svg_texts


def test_overlaps_and_points_are_drawn_and_each_output_has_a_row(page):
    assert {"overlaps-1", "points-2-0", "points-2-1", "points-3-0"} <= set(page.svg_texts)
    assert {"mean", "baseline"} <= set(page.svg_texts["overlaps-1"])
    assert "true (px/frame)" in page.svg_texts["points-2-0"]
    assert "dy 0.880 0.750 0.620 0.810" in page.rows


def test_each_task_has_its_own_curves_and_conflicting_pairs_come_first(page):
    for number in range(len(KINDS)):
        assert {f"task-{number}-{what}" for what in ("loss", "score", "weight")} <= set(page.svg_texts)
    assert "Below 0, the tasks conflict" in page.text
    assert re.search(r"Mean −\d\.\d\d; negative in every epoch\.", page.text)
    assert re.search(r"Mean −?0\.\d\d; negative in \d of 12 epochs\.", page.text)
    pairs = [f"{first} and {second}" for first, second in (("speed", "level"), ("track", "level"), ("track", "speed"))]
    assert [page.text.index(pair) for pair in pairs] == sorted(page.text.index(pair) for pair in pairs)
    assert "12, mean headline metric 0.776" in page.text


def test_a_run_whose_epochs_have_no_task_values_has_no_task_curves(tmp_path):
    write_run_of_tasks(tmp_path)
    path = tmp_path / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    removed = ("tasks", "weights", "cosines", "val_score")
    records = [{key: value for key, value in record.items() if key not in removed} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = shown(tmp_path)
    assert not [name for name in page.svg_texts if name.startswith(("task-", "cosine-"))]
    assert "Final loss weight" not in page.text
    assert {"loss", "accuracy"} <= set(page.svg_texts)
    path.unlink()
    assert "This run has no metrics.jsonl" in shown(tmp_path).text


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
    for output in speed["per_output"]:
        del output["points"]
    change(tmp_path, tasks=results["tasks"])
    page = shown(tmp_path)
    assert page.heading == "where: Mean IoU with the true boxes is 66 % on 120 test clips from 15 unseen groups."
    assert not [name for name in page.svg_texts if name.startswith(("overlaps", "points"))]
    assert "where box 66.2 % unknown mean IoU – 120 1.14" in " | ".join(page.rows)


@pytest.mark.parametrize(
    ("kind", "changes", "warned"),
    [
        (
            "box",
            {"mean_iou_ci": [0.2, 0.7]},
            "No evidence that the model beats always predicting the mean box of the training clips: the interval",
        ),
        (
            "motion",
            {"correlation_ci": [-0.1, 0.5]},
            "No evidence that the model beats a constant prediction: the interval includes it.",
        ),
        (
            "regress",
            {"r2_ci": [-0.4, 0.5]},
            "No evidence that the model beats a constant prediction: the interval includes it.",
        ),
        ("regress", {"r2_ci": [-0.9, -0.1]}, "The model is worse than a constant prediction."),
        ("box", {}, None),
    ],
)
def test_a_task_that_does_not_beat_a_constant_gives_a_warning(tmp_path, kind, changes, warned):
    write_run_of_tasks(tmp_path, {"it": kind})
    task = results_of(tmp_path)["tasks"]["it"] | changes
    change(tmp_path, tasks={"it": task})
    text = shown(tmp_path).text
    assert "No evidence" not in text if warned is None else warned in text


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


@pytest.mark.slow
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
    assert "| `where` | mean IoU | 66.2 % | 61.0–71.0 % | 21.4 % | 100 | 0.870 |" in text
    assert "| `track` | correlation | 0.874 | 0.820 to 0.910 | 0 | 100 | 0.681 |" in text
    assert "| endpoint error | 0.812 px/frame | 0.700 to 0.930 |" in text
    assert "| MAE of always predicting the mean of the training clips | 1.74 |  |" in text
    assert "| weighted kappa | 0.860 |  |" in text
    assert text.index("Top-1 accuracy is") < text.index("| task |") < text.index("Mean IoU with")


@pytest.mark.slow
def test_of_very_many_outputs_some_are_drawn_and_all_have_a_row(tmp_path):
    write_run_of_tasks(tmp_path, {"it": "regress"})
    task = results_of(tmp_path)["tasks"]["it"]
    column = task["per_output"][0]
    task["per_output"] = [column | {"name": f"column {number}"} for number in range(20)]
    change(tmp_path, tasks={"it": task})
    page = shown(tmp_path)
    assert len([name for name in page.svg_texts if name.startswith("points-")]) == 12
    assert "8 more columns are only in the table." in page.text
    assert sum(row.startswith("column ") for row in page.rows) == 20


def test_seeds_of_a_regression_task_are_shown_as_numbers(tmp_path):
    write_run_of_tasks(tmp_path, {"it": "regress"})
    change(tmp_path, seeds=[{"seed": seed, "value": 0.7 + seed / 10, "href": "x"} for seed in range(3)])
    assert "Mean 0.800, standard deviation 0.100" in shown(tmp_path).text


def test_a_task_of_an_unknown_kind_is_shown_as_key_and_value(tmp_path):
    results = write_run_of_tasks(tmp_path, {"action": "classify", "where": "box"})
    change(tmp_path, tasks=results["tasks"] | {"odd": {"kind": "depth", "error": 0.25}})
    page = shown(tmp_path)
    assert "error 0.25" in page.rows
    assert "All 2 tasks" in page.text


def test_numbers_of_any_size_have_three_digits():
    from finetune.report.headline_text import format_number

    texts = {0.0: "0", 0.00012: "1.2e−04", -0.25: "−0.250", 1.239: "1.24", 45.67: "45.7", 12345.6: "12,346", None: "–"}
    assert {value: format_number(value) for value in texts} == texts
    assert format_number(float("nan")) == "–"
