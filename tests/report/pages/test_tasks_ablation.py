"""The page that compares multi-task with single-task training."""

import json

import pytest
from report.run.test_page import Page
from reported import write_ablation_of

from finetune.errors import RunError
from finetune.report.pages.tasks_ablation import write_ablation


def page_of(folder):
    return Page(write_ablation(folder).read_text(encoding="utf-8"))


def markdown_of(folder):
    write_ablation(folder)
    return (folder / "ablation.md").read_text(encoding="utf-8").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("mean", "ends", "verdict"),
    [
        (2.14, [0.4, 3.9], "Multi-task training is better: the mean relative gain ΔM over 3 tasks is +2.1 % (95 % int"),
        (-3.0, [-5.0, -1.0], "Multi-task training is worse: the mean relative gain ΔM over 3 tasks is −3.0 % (95 %"),
        (-0.4, [-2.9, 2.1], "There is no evidence of a difference between multi-task and single-task training: the"),
        (1.0, [0.0, 2.0], "There is no evidence of a difference"),
        (1.0, None, "Without an interval, multi-task and single-task training cannot be compared: the mean"),
    ],
)  # fmt: skip
def test_the_headline_is_the_verdict(tmp_path, mean, ends, verdict):
    write_ablation_of(tmp_path, delta_m=mean, delta_m_ci=ends)
    assert page_of(tmp_path).heading.startswith(verdict)
    assert verdict in markdown_of(tmp_path)


def test_the_table_compares_single_task_with_multi_task_for_each_task(tmp_path):
    page = page_of(write_ablation_of(tmp_path))
    rows = [
        "action classification, top-1 91.0 % ± 1.0 points 94.0 % ± 1.0 points +3.3 % +1.2 to +5.4 % Multi-task better",
        "where box, mean IoU 70.0 % ± 1.0 points 66.0 % ± 1.0 points −5.7 % −8.8 to −2.6 % Single-task better",
        "track motion, correlation 0.820 ± 0.020 0.830 ± 0.010 +1.2 % −3.1 to +5.5 % No evidence of a difference",
        "ΔM mean relative gain −0.4 % −2.9 to +2.1 % No evidence of a difference",
        "track 0.800, 0.840, 0.820 0.830, 0.820, 0.840",
    ]
    assert [row for row in rows if row not in page.rows] == []
    assert "evaluated on 120 test clips, 3 seeds" in page.text


def test_markdown_has_the_same_table(tmp_path):
    text = markdown_of(write_ablation_of(tmp_path))
    assert "| `where` | mean IoU | 70.0 % ± 1.0 points | 66.0 % ± 1.0 points | −5.7 % | −8.8 to" in text
    assert "| ΔM, mean relative gain | | | | −0.4 % | −2.9 to +2.1 % | no evidence of a difference |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {8}


def test_one_seed_has_no_deviation_and_no_interval(tmp_path):
    tasks = {"action": {"kind": "classify", "headline": "top1", "name": "top-1", "alone": [0.9], "together": [0.8]}}
    tasks["action"] |= {"gain": -11.1, "gain_ci": None}
    write_ablation_of(tmp_path, tasks=tasks, seeds=[0], delta_m=-11.1, delta_m_ci=None)
    page = page_of(tmp_path)
    assert "action classification, top-1 90.0 % 80.0 % −11.1 % no interval Too few seeds" in page.rows
    assert "over 1 task is" in page.heading and "± 1.0" not in page.text


def test_one_seed_gives_no_verdict_whatever_its_intervals_say(tmp_path):
    page = page_of(write_ablation_of(tmp_path, seeds=[0], delta_m=-3.0, delta_m_ci=[-5.0, -1.0]))
    assert page.heading.startswith("One seed is not enough to compare multi-task with single-task training")
    assert "ΔM mean relative gain −3.0 % no interval Too few seeds" in page.rows
    assert not any(row.endswith("task better") for row in page.rows)


def test_links_to_runs_are_relative_paths_only(tmp_path):
    bad = ["javascript:alert(1)", "https://example.org", "//example.org/x", "/etc/passwd", "data:text/html,x"]
    runs = [{"href": href, "tasks": ["action", "<b>box</b>"], "seed": 0} for href in ["a%20b/report.html", *bad]]
    page = page_of(write_ablation_of(tmp_path, runs=runs))
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["a%20b/report.html"]
    assert page.text.count("action, <b>box</b>, seed 0") == 6
    assert "https://" not in (tmp_path / "ablation.html").read_text()


def test_names_show_as_text_and_never_become_markup(tmp_path):
    ablation = json.loads((write_ablation_of(tmp_path) / "ablation.json").read_text())
    odd = "<img src=x onerror=alert(1)>"
    page = page_of(write_ablation_of(tmp_path, recipe=odd, tasks={f"{odd}|": ablation["tasks"]["action"]}))
    assert page.tags["img"] == 0 and page.tags["script"] == 1
    assert page.text.count(odd) >= 3
    text = markdown_of(tmp_path)
    assert "<img" not in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8}


def test_a_gain_beyond_every_scale_stays_on_the_page(tmp_path):
    page = page_of(write_ablation_of(tmp_path, delta_m=400.0, delta_m_ci=[100.0, 700.0]))
    places = [
        float(attributes["x"].rstrip("%"))
        for tag, attributes in page.elements
        if tag == "rect" and attributes.get("x", "").endswith("%")
    ]
    assert places and all(0 <= place <= 100 for place in places)
    assert "−700 to +700 %" in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; make it with `finetune tasks-ablation`"),
        ("{", "not JSON"),
        ('{"schema": 2}', "schema is 2, this version reads 1"),
        ('{"schema": 1, "tasks": {}}', "has no task in it"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named_with_what_to_do(tmp_path, content, message):
    if content is not None:
        (tmp_path / "ablation.json").write_text(content)
    with pytest.raises(RunError, match=message):
        write_ablation(tmp_path)


def test_the_same_file_gives_the_same_bytes(tmp_path):
    first = write_ablation(write_ablation_of(tmp_path)).read_bytes()
    assert write_ablation(tmp_path).read_bytes() == first


def test_a_page_that_cannot_be_written_is_a_run_error(tmp_path, monkeypatch):
    write_ablation_of(tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(RunError, match="cannot be written: disk full"):
        write_ablation(tmp_path)
