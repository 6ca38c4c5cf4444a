"""The page of tasks alone and together."""

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
        (2.14, [0.4, 3.9], "Together is better: the mean of their relative gains, ΔM, is +2.1 % (95 % interval +0.4"),
        (-3.0, [-5.0, -1.0], "Together is worse: the mean of their relative gains, ΔM, is −3.0 % (95 % interval −5.0"),
        (-0.4, [-2.9, 2.1], "There is no evidence either way whether the 3 tasks are better learned together: the"),
        (1.0, [0.0, 2.0], "There is no evidence either way"),
        (1.0, None, "Whether the 3 tasks are better learned together cannot be settled without an interval: the mean"),
    ],
)  # fmt: skip
def test_the_first_sentence_is_the_verdict(tmp_path, mean, ends, verdict):
    write_ablation_of(tmp_path, delta_m=mean, delta_m_ci=ends)
    assert page_of(tmp_path).heading.startswith(verdict)
    assert verdict in markdown_of(tmp_path)


def test_the_table_holds_each_task_alone_against_together(tmp_path):
    page = page_of(write_ablation_of(tmp_path))
    rows = [
        "action one class, top-1 91.0 % ± 1.0 points 94.0 % ± 1.0 points +3.3 % +1.2 to +5.4 % Better together",
        "where a box, mean IoU 70.0 % ± 1.0 points 66.0 % ± 1.0 points −5.7 % −8.8 to −2.6 % Better alone",
        "track a motion, correlation 0.820 ± 0.020 0.830 ± 0.010 +1.2 % −3.1 to +5.5 % No evidence either way",
        "ΔM mean of the gains −0.4 % −2.9 to +2.1 % No evidence either way",
        "track 0.800, 0.840, 0.820 0.830, 0.820, 0.840",
    ]
    assert [row for row in rows if row not in page.rows] == []
    assert "measured on 120 test clips, 3 seeds" in page.text


def test_markdown_has_the_same_table(tmp_path):
    text = markdown_of(write_ablation_of(tmp_path))
    assert "| <code>where</code> | mean IoU | 70.0 % ± 1.0 points | 66.0 % ± 1.0 points | −5.7 % | −8.8 to" in text
    assert "| ΔM, their mean | | | | −0.4 % | −2.9 to +2.1 % | no evidence either way |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {8}


def test_one_seed_has_no_deviation_and_no_interval(tmp_path):
    tasks = {"action": {"kind": "classify", "headline": "top1", "name": "top-1", "alone": [0.9], "together": [0.8]}}
    tasks["action"] |= {"gain": -11.1, "gain_ci": None}
    write_ablation_of(tmp_path, tasks=tasks, seeds=[0], delta_m=-11.1, delta_m_ci=None)
    page = page_of(tmp_path)
    assert "action one class, top-1 90.0 % 80.0 % −11.1 % no interval Not settled" in page.rows
    assert "the 1 task" in page.heading and "± 1.0" not in page.text


def test_one_seed_gives_no_verdict_whatever_its_intervals_say(tmp_path):
    page = page_of(write_ablation_of(tmp_path, seeds=[0], delta_m=-3.0, delta_m_ci=[-5.0, -1.0]))
    assert page.heading.startswith("One seed cannot settle whether the 3 tasks are better learned together")
    assert "ΔM mean of the gains −3.0 % no interval Not settled" in page.rows
    assert not any("Better" in row for row in page.rows)


def test_runs_are_led_to_where_they_lie_beside_it_and_nowhere_else(tmp_path):
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
    assert "− 700 to + 700 %" in page.text


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


def test_a_page_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    write_ablation_of(tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(RunError, match="cannot be written: disk full"):
        write_ablation(tmp_path)
