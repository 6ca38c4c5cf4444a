"""Comparisons of multi-task runs: paired tests of the primary task, and the headline metrics of all tasks."""

import json

import pytest
from report.compare.test_page import page_of
from written import answers_of, change, write_run

from finetune.errors import RunError
from finetune.report.compare.compare_runs import compare_runs

BOX = {"kind": "box", "mean_iou": 0.5, "mean_iou_ci": [0.4, 0.6]}
MOTION = {"kind": "motion", "correlation": 0.8, "correlation_ci": None}


@pytest.fixture
def run(tmp_path):
    """Write the run `name` with these clips wrong and these tasks beside."""
    return lambda name, wrong=(), **how: write_run(tmp_path / name, answers_of(wrong), **how)


def change_tasks(run, of):
    path = run / "evaluation/results.json"
    change(path, tasks=of(json.loads(path.read_text())["tasks"]))


def test_the_primary_task_is_compared_clip_by_clip_and_all_tasks_by_their_metric(run, tmp_path):
    one = run("one", range(20), more_tasks={"where": BOX, "track": MOTION})
    two = run("two", more_tasks={"where": BOX | {"mean_iou": 0.75}})
    change_tasks(one, lambda tasks: dict(reversed(tasks.items())))
    result = compare_runs([one, two])
    assert (result["metric"], result["primary"], result["pairs"][0]["verdict"]) == ("top-1", "label", "other")
    page = page_of(result, tmp_path)
    rows = [row.replace("\u00a0", " ") for row in page.rows]
    assert "where box 50.0 % 40.0–60.0 % mean IoU 75.0 % 40.0–60.0 % mean IoU" in rows
    assert any(row.startswith("label classification 50.0 %") for row in rows)
    assert not [row for row in rows if row.startswith("track ")]
    assert "The paired tests below are only for the primary task, label" in page.text


def test_a_task_that_one_of_three_runs_lacks_is_a_dash_there(run, tmp_path):
    runs = [run("a", more_tasks={"where": BOX}), run("b"), run("c", more_tasks={"where": BOX, "track": MOTION})]
    change_tasks(runs[1], lambda tasks: tasks | {"where": MOTION})  # of another kind, so another task
    result = compare_runs(runs)
    where = next(row for row in result["tasks"] if row["name"] == "where")
    assert [cell and cell["text"] for cell in where["runs"]] == ["50.0\u00a0%", None, "50.0\u00a0%"]
    assert "mean IoU – 50.0" in " | ".join(page_of(result, tmp_path).rows).replace("  ", " ")


def test_runs_of_one_task_each_have_no_table_of_tasks(run, tmp_path):
    result = compare_runs([run("a"), run("b")])
    assert result["tasks"] == []
    assert "tasks" not in {attributes.get("id") for _, attributes in page_of(result, tmp_path).elements}


def test_levels_are_compared_as_classes(run):
    runs = [run(name, wrong, kind="ordinal") for name, wrong in (("a", range(20)), ("b", ()))]
    assert compare_runs(runs)["pairs"][0]["verdict"] == "other"


def test_runs_without_a_task_of_classes_are_refused_with_what_to_do(run):
    runs = [run("a"), run("b")]
    for folder in runs:
        change_tasks(folder, lambda tasks: {"where": BOX})
    with pytest.raises(RunError, match=r"needs a task with classes; this run has where \(box\); `finetune runs` lists"):
        compare_runs(runs)


def test_the_curve_is_of_the_primary_task_where_epochs_have_only_task_values(run, tmp_path):
    runs = [run("a"), run("b")]
    for folder in runs:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        records = [{key: value for key, value in json.loads(line).items() if key != "val_top1"} for line in lines]
        records = [record | {"tasks": {"label": {"val_top1": 0.25 * record["epoch"]}}} for record in records]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page_of(compare_runs(runs), tmp_path)
    assert "A from 25.0% to 75.0%; B from 25.0% to 75.0%" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_names_of_tasks_show_as_text(run, tmp_path):
    odd = "<img src=x onerror=alert(1)>"
    page = page_of(compare_runs([run("a", more_tasks={odd: BOX}), run("b", more_tasks={odd: BOX})]), tmp_path)
    assert odd in page.text
    assert "img" not in {tag for tag, _ in page.elements}
