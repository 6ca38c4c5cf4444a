"""The list of runs in a folder, finished, stopped and damaged ones, and the page of it."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

import pytest
from written import answers_of, change, write_run

from finetune.errors import RunError
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.report.pages.runs_index import evaluations_differ, list_runs, write_index
from finetune.storage.atomic import exclusive_lock


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    return Elements(write_index(folder).read_text(encoding="utf-8"))


def scored(folder, **how):
    write_run(folder, answers_of([0, 1]), **how)
    (folder / "evaluation/report.html").write_text("a report")
    return folder


def stopped(folder, *, epochs, **how):
    run = write_run(folder, answers_of(), epochs=epochs, **how)
    for file in (run / "evaluation").iterdir():
        file.unlink()
    return run


def test_runs_are_listed_with_the_values_of_their_files_the_newest_first(tmp_path):
    scored(tmp_path / "old", started="2026-11-20T10:00:00+00:00")
    scored(tmp_path / "new", started="2026-11-21T09:00:00+09:00")
    (tmp_path / "no run").mkdir()
    (tmp_path / "file").write_text("")
    new, old = list_runs(tmp_path)
    assert (new["name"], old["name"]) == ("new", "old")
    assert old["started"].startswith("2026-11-2")
    assert (old["metric"], old["value"], old["ci"]) == ("top-1", 0.95, [pytest.approx(0.9), pytest.approx(1.0)])
    assert (old["split"], old["clips"], old["classes"], old["state"]) == ("test", 40, 4, "finished")
    assert (old["model"], old["source"], old["progress"]) == ("tiny, mean", "clips.csv", "1 phase, 3 epochs")
    assert old["seconds"] == pytest.approx(3 * 3.5)


def test_the_page_shows_each_run_with_a_link_to_its_report(tmp_path):
    scored(tmp_path / "one")
    (scored(tmp_path / "two") / "evaluation/report.html").unlink()
    page = page_of(tmp_path)
    assert "2 runs, newest first" in page.text
    assert [attributes["href"] for tag, attributes in page.elements if tag == "a"] == ["one/evaluation/report.html"]
    assert any("data-sortable" in attributes for tag, attributes in page.elements if tag == "table")
    assert "95.0 %" in page.text


@pytest.mark.parametrize("name", ["50% #1?", "a:b", "挥手 ü", "%20", "a\udce9b"])
def test_links_lead_to_the_report_whatever_a_run_is_called(tmp_path, name):
    try:
        scored(tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    link = next(attributes["href"] for tag, attributes in page_of(tmp_path).elements if tag == "a")
    base = (tmp_path / "index.html").as_uri()
    path = unquote(urljoin(base, link).removeprefix("file://"), errors="surrogateescape")
    assert path == str(tmp_path / name / "evaluation/report.html")


def test_a_stopped_run_shows_the_command_that_resumes_it(tmp_path):
    stopped(tmp_path / "it's half", epochs=2)
    (row,) = list_runs(tmp_path)
    assert row["state"] == "stopped after epoch 2 of 3"
    assert row["todo"] == f"finetune train --resume '{tmp_path}/it'\"'\"'s half'"
    assert row["value"] is None
    assert "next: finetune train --resume" in page_of(tmp_path).text


def test_a_run_that_counts_steps_has_no_planned_number_of_epochs(tmp_path):
    stopped(tmp_path / "run", epochs=2, recipe="phases: [{unfreeze: head, steps: 100}]\n")
    assert list_runs(tmp_path)[0]["state"] == "stopped after epoch 2"


def test_a_trained_run_without_a_score_is_to_be_evaluated(tmp_path):
    stopped(tmp_path / "run", epochs=3)
    (row,) = list_runs(tmp_path)
    assert (row["state"], row["todo"]) == ("trained, not evaluated", f"finetune evaluate {tmp_path / 'run'}")


def test_a_run_that_is_training_is_not_called_stopped(tmp_path):
    run = stopped(tmp_path / "run", epochs=2)
    with exclusive_lock(run / ".lock", "held"):
        assert list_runs(tmp_path)[0]["state"] == "training"
    assert list_runs(tmp_path)[0]["state"] == "stopped after epoch 2 of 3"


def test_a_run_scored_on_validation_alone_and_a_cross_validated_one_are_listed(tmp_path):
    write_run(tmp_path / "swept", answers_of(), split="val")
    folds = scored(tmp_path / "folds")
    (folds / "metrics.jsonl").unlink()
    change(folds / "evaluation/results.json", folds=[{}, {}], seconds=60.0)
    rows = {row["name"]: row for row in list_runs(tmp_path)}
    assert (rows["swept"]["split"], rows["swept"]["state"]) == ("val", "finished")
    assert (rows["folds"]["progress"], rows["folds"]["seconds"]) == ("2 folds", 60.0)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("evaluation/results.json", "{", "evaluation/results.json: not JSON"),
        ("evaluation/results.json", '{"schema": 2}', "has format version 2; this finetune reads up to 1"),
        ("evaluation/results.json", '{"schema": 1, "split": "test", "tasks": {"label": {"kind": "odd"}}}', "KeyError"),
        ("evaluation/results.json", '{"schema": 1, "split": "<b>", "tasks": {}}', "there is no split"),
        ("evaluation/results.json", "[]", "has no format version"),
        ("metrics.jsonl", "[1]\n", "has a line without an epoch number"),
        ("recipe.yaml", "a: [", "recipe.yaml: cannot be read as YAML"),
        ("recipe.yaml", "model: text", "malformed file: "),
        ("environment.json", '{"started": "yesterday"}', "yesterday"),
    ],
)
def test_a_damaged_run_says_what_is_wrong_and_leaves_the_others_listed(tmp_path, file, content, problem):
    scored(tmp_path / "good")
    (scored(tmp_path / "bad") / file).write_text(content)
    rows = {row["name"]: row for row in list_runs(tmp_path)}
    assert rows["good"]["state"] == "finished"
    assert rows["bad"]["state"] == "damaged"
    assert problem in rows["bad"]["problem"]
    assert problem in page_of(tmp_path).text


@pytest.mark.parametrize("value", ["NaN", "2.0", '"much"', "null"])
def test_a_figure_that_is_no_share_is_damage(tmp_path, value):
    path = scored(tmp_path / "run") / "evaluation/results.json"
    path.write_text(re.sub(r'"top1": [\d.]+', f'"top1": {value}', path.read_text()))
    assert list_runs(tmp_path)[0]["state"] == "damaged"
    assert "damaged" in page_of(tmp_path).text


@pytest.mark.parametrize(
    ("kind", "value", "ends", "printed"),
    [
        ("box", 0.5, [0.4, 0.6], "50.0 % 40.0–60.0 %mean IoU"),
        ("motion", -0.125, [-0.5, 0.25], "\N{MINUS SIGN}0.125 \N{MINUS SIGN}0.500 to 0.250correlation"),
        ("regress", -3.5, None, "\N{MINUS SIGN}3.50 unknownR²"),
    ],
)
def test_a_figure_of_numbers_is_listed_as_it_is(tmp_path, kind, value, ends, printed):
    path = scored(tmp_path / "run") / "evaluation/results.json"
    key = HEADLINE_METRICS[kind][0]
    change(path, tasks={"numbers": {"kind": kind, key: value, f"{key}_ci": ends}})
    (row,) = list_runs(tmp_path)
    assert (row["state"], row["value"], row["ci"], row["classes"]) == ("finished", value, ends, None)
    assert printed in page_of(tmp_path).text
    change(path, tasks={"numbers": {"kind": kind, key: 1.5, f"{key}_ci": ends}})
    assert list_runs(tmp_path)[0]["state"] == "damaged"


@pytest.mark.parametrize(
    ("how", "differ"),
    [({}, False), ({"recipe": "data: {folder: elsewhere}\n"}, True), ({"split": "val"}, True)],
)
def test_figures_of_different_tests_are_warned_of(tmp_path, how, differ):
    write_run(tmp_path / "one", answers_of())
    write_run(tmp_path / "two", answers_of(), **how)
    stopped(tmp_path / "three", epochs=1)
    assert evaluations_differ(list_runs(tmp_path)) is differ
    assert ("Not all runs are comparable" in page_of(tmp_path).text) is differ


def test_names_show_as_text_and_never_become_markup(tmp_path):
    recipe = "data: {folder: '<i>here</i>'}\nmodel: {backbone: '<u>big</u>'}\n"
    scored(tmp_path / "<img src=x onerror=alert(1)>", recipe=recipe)
    (scored(tmp_path / "<b>bad<") / "environment.json").write_text('{"started": "<s>never</s>"}')
    page = page_of(tmp_path)
    assert not {"img", "i", "u", "s"} & {tag for tag, _ in page.elements}
    for text in ("<img src=x onerror=alert(1)>", "<i>here</i>", "<u>big</u>", "<b>bad<", "<s>never</s>"):
        assert text in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1


BOX = {"kind": "box", "mean_iou": 0.5, "mean_iou_ci": None}
MOTION = {"kind": "motion", "correlation": 0.8, "correlation_ci": [0.7, 0.9]}
NUMBER = {"kind": "regress", "r2": -2.5, "r2_ci": [-4.0, 0.1]}


def test_a_multi_task_run_is_listed_with_its_primary_task_and_the_others(tmp_path):
    run = scored(tmp_path / "run", more_tasks={"<i>where</i>": BOX, "track": MOTION})
    results = json.loads((run / "evaluation/results.json").read_text())
    change(run / "evaluation/results.json", tasks=dict(reversed(results["tasks"].items())))
    (row,) = list_runs(tmp_path)
    assert (row["metric"], row["value"], row["classes"], row["state"]) == ("top-1", 0.95, 4, "finished")
    page = page_of(tmp_path)
    assert "label; other tasks: track correlation 0.800, <i>where</i> mean IoU 50.0 %" in page.text.replace(
        "\u00a0", " "
    )
    assert "Mean IoU: overlap with the true box" in page.text


@pytest.mark.parametrize(
    ("task", "metric", "value", "text"),
    [
        (BOX, "mean IoU", 0.5, "50.0 % unknown mean IoU"),
        (MOTION, "correlation", 0.8, "0.800 0.700 to 0.900 correlation"),
        (NUMBER, "R²", -2.5, "−2.50 −4.00 to 0.100 R²"),
    ],
)
def test_a_run_without_classes_is_listed_with_its_own_metric(tmp_path, task, metric, value, text):
    change(scored(tmp_path / "run") / "evaluation/results.json", tasks={"it": task})
    (row,) = list_runs(tmp_path)
    assert (row["metric"], row["value"], row["classes"]) == (metric, value, None)
    page = page_of(tmp_path)
    cells = re.sub(r"\s+", "", page.text.replace("\u00a0", ""))
    assert text.replace(" ", "") in cells
    assert "other tasks" not in page.text


@pytest.mark.parametrize("task", [MOTION | {"correlation": -1.2}, NUMBER | {"r2": 1.5}, BOX | {"mean_iou": -0.1}])
def test_a_figure_that_cannot_be_is_damage(tmp_path, task):
    change(scored(tmp_path / "run") / "evaluation/results.json", tasks={"it": task})
    (row,) = list_runs(tmp_path)
    assert (row["state"], row["headlines"]) == ("damaged", [])
    assert "is not between" in row["problem"]


def test_figures_of_different_kinds_are_no_test_of_the_same(tmp_path):
    scored(tmp_path / "one")
    change(scored(tmp_path / "two") / "evaluation/results.json", tasks={"it": BOX})
    assert evaluations_differ(list_runs(tmp_path))


def test_a_folder_that_is_not_there_or_has_no_runs_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such folder; name the folder of your runs"):
        write_index(tmp_path / "gone")
    with pytest.raises(RunError, match="contains no runs"):
        write_index(tmp_path)


def test_the_split_is_that_of_the_results_not_of_the_folder(tmp_path):
    run = scored(tmp_path / "run", split="val")
    for file in list((run / "evaluation/val").iterdir()):  # as training leaves them where there is no split test
        file.rename(run / "evaluation" / file.name)
    assert [row["split"] for row in list_runs(tmp_path)] == ["val"]


def test_runs_of_several_seeds_are_listed_each_with_a_link_that_leads_there(tmp_path):
    for seed in (0, 1):
        scored(tmp_path / "three seeds" / f"seed-{seed}")
    (tmp_path / "three seeds" / "study.json").write_text('{"seeds": 2}')
    assert {row["name"] for row in list_runs(tmp_path)} == {"three seeds/seed-0", "three seeds/seed-1"}
    links = [attributes["href"] for tag, attributes in page_of(tmp_path).elements if tag == "a"]
    assert all((tmp_path / unquote(link)).is_file() for link in links if not link.startswith("#"))
    assert "three%20seeds/seed-1/evaluation/report.html" in links


def test_a_run_in_its_first_epoch_is_listed(tmp_path):
    run = stopped(tmp_path / "run", epochs=1)
    (run / "metrics.jsonl").unlink()
    assert [row["name"] for row in list_runs(tmp_path)] == ["run"]
