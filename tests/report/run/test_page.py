"""The report page, read as a browser and a person would read it, of runs that the tests write."""

import base64
import csv
import hashlib
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from reported import SIX, write_run

from finetune.errors import FinetuneError
from finetune.report.run.page import write_report

ODD = ["<img src=x onerror=alert(1)>", 'a $b$ "c"', "挥手", "يلوّح بيده", "{{ 7 * 7 }}", "bell & </script>"]


def test_the_first_heading_is_the_headline(tmp_path):
    write_run(tmp_path, top1=0.942, top1_ci=[0.9, 0.98])
    assert shown(tmp_path).heading == (
        "Top-1 accuracy is 94 % (95 % interval 90–98 %) on 120 test clips from 15 unseen groups; "
        "the majority-class baseline reaches 17 %."
    )


@pytest.mark.slow
def test_without_groups_and_interval_the_headline_has_neither(tmp_path):
    write_run(tmp_path, groups=None, top1=0.996, top1_ci=None)
    assert shown(tmp_path).heading.startswith("Top-1 accuracy is 99.6 % on 120 test clips; the majority")


@pytest.mark.slow
def test_the_page_shows_the_numbers_of_the_results(tmp_path):
    results = write_run(tmp_path)
    page = shown(tmp_path)
    task = results["tasks"]["label"]
    for measure in ("top1", "top5", "macro_recall", "macro_precision", "macro_f1"):
        low, high = task[f"{measure}_ci"]
        score = f"{100 * task[measure]:.1f} % {100 * low:.1f}–{100 * high:.1f} %"
        assert any(score in row for row in page.rows), measure
    for row in task["per_class"]:
        low, high = row["recall_ci"]
        assert (
            f"{row['class']} {100 * row['recall']:.1f} % {100 * low:.1f}–{100 * high:.1f} % "
            f"{100 * row['precision']:.1f} % {100 * row['f1']:.1f} % {row['support']} {4 * row['support']}"
        ) in page.rows
    counts = Counter(str(count) for row in task["confusion"] for count in row if count)
    assert Counter(text for text in page.svg_texts["confusion-0"] if text.isdigit()) == counts


@pytest.mark.slow
@pytest.mark.parametrize(("number", "is_shown"), [(2, False), (5, False), (6, True)])
def test_top_5_is_shown_only_with_more_than_five_classes(tmp_path, number, is_shown):
    write_run(tmp_path, classes=SIX[:number])
    assert ("Top-5 accuracy" in shown(tmp_path).text) is is_shown


def test_weights_for_research_only_come_with_a_warning(tmp_path):
    write_run(tmp_path)
    assert "Weights of the backbone" not in shown(tmp_path).text
    environment = json.loads((tmp_path / "environment.json").read_text())
    weights = {"source": "timm", "name": "net.<b>", "licence": "cc-by-nc-4.0", "url": "https://example.org/net"}
    (tmp_path / "environment.json").write_text(json.dumps(environment | {"weights": weights}))
    page = shown(tmp_path)
    assert "Weights of the backbone: net.<b> of timm, https://example.org/net; licence cc-by-nc-4.0." in page.text
    assert "weights net.<b> allows non-commercial use or research only: cc-by-nc-4.0." in page.text
    markdown = (tmp_path / "evaluation" / "report.md").read_text()
    assert "allows non-commercial use" in markdown and "licence cc-by-nc-4.0." in markdown


def test_names_show_as_text_and_never_become_markup(tmp_path):
    write_run(tmp_path, classes=ODD, per_class=4, wrong=0.4)
    change(tmp_path, skipped=[{"path": "<b>clip</b>.avi", "reason": "<i>cut off</i>"}], run="<u>run</u>")
    page = shown(tmp_path)
    for name in [*ODD, "<b>clip</b>.avi", "<i>cut off</i>", "<u>run</u>", "folder: data/<ut>"]:
        assert name in page.text
    assert page.svg_texts["confusion-0"].count('a $b$ "c"') == 2
    assert page.tags["img"] == page.tags["u"] == page.tags["i"] == 0
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_names_that_no_encoding_holds_are_shown_as_far_as_they_can_be(tmp_path):
    write_run(tmp_path, classes=["bell\x07", "half \udce9", "line\nbreak"])
    assert {"bell\ufffd", "half \ufffd", "line\ufffdbreak"} <= set(shown(tmp_path).svg_texts["confusion-0"])


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes(tmp_path):
    write_run(tmp_path)
    first = write_report(tmp_path, figures_too=False).read_bytes()
    assert write_report(tmp_path, figures_too=False).read_bytes() == first


@pytest.mark.parametrize("file", ["metrics.jsonl", "recipe.yaml", "environment.json", "evaluation/predictions.csv"])
def test_a_missing_file_is_named_and_the_rest_is_shown(tmp_path, file):
    write_run(tmp_path)
    (tmp_path / file).unlink()
    page = shown(tmp_path)
    assert f"This run has no {Path(file).name}: " in page.text
    assert "Per-class metrics" in page.text


@pytest.mark.slow
def test_an_evaluation_may_lie_outside_the_run(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "evaluation").rename(tmp_path / "elsewhere")
    assert write_report(tmp_path / "run", evaluation=tmp_path / "elsewhere") == tmp_path / "elsewhere" / "report.html"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("evaluation/results.json", None, "does not exist; evaluate the run first"),
        (
            "evaluation/results.json",
            '{"schema": 2}',
            "has format version 2; this finetune reads up to 1: update finetune",
        ),
        ("evaluation/results.json", "{", "results.json: not JSON"),
        ("metrics.jsonl", "{}\n{\n", "metrics.jsonl, line 2: not JSON"),
        (
            "evaluation/predictions.csv",
            "path,label\na,b\n",
            "predictions.csv, row 2: cannot be read as path,label,predicted",
        ),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, file, content, message):
    write_run(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(FinetuneError, match=message):
        write_report(tmp_path, figures_too=False)


def test_of_an_epoch_cut_off_while_written_or_written_twice_the_last_whole_line_counts(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    again = json.dumps(json.loads(lines[-1]) | {"val_top1": 0.987}) + "\n"
    path.write_text("".join([*lines, again, lines[0][:40]]))
    assert "(ringed): 12, top-1 accuracy 98.7 %" in shown(tmp_path).text


@pytest.mark.slow
def test_101_classes_stay_small_and_have_no_text_in_the_cells(tmp_path):
    write_run(tmp_path, classes=[f"class {i:03}" for i in range(101)], per_class=37)
    page = shown(tmp_path)
    assert not [text for text in page.svg_texts["confusion-0"] if text.isdigit()]
    assert "Most frequent confusions" in page.text
    assert (tmp_path / "evaluation" / "report.html").stat().st_size < 300_000


def test_the_page_needs_nothing_from_outside(tmp_path):
    write_run(tmp_path)
    html = write_report(tmp_path, figures_too=False).read_text(encoding="utf-8")
    assert "http://" not in html
    assert "https://" not in html
    links = [attributes[key] for _, attributes in Page(html).elements for key in ("src", "href") if key in attributes]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_the_policy_allows_exactly_the_script_of_the_page(tmp_path):
    write_run(tmp_path)
    html = write_report(tmp_path, figures_too=False).read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)  # a block of JSON is no script
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert f"script-src 'sha256-{digest}'" in html


def test_ids_are_unique_and_links_lead_somewhere(tmp_path):
    write_run(tmp_path)
    elements = shown(tmp_path).elements
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert ids.most_common(1)[0][1] == 1
    assert {a["href"][1:] for tag, a in elements if tag in ("a", "use")} <= set(ids)


@pytest.mark.slow
def test_a_good_run_has_no_warnings(tmp_path):
    write_run(tmp_path)
    assert "No warnings: " in shown(tmp_path).text


@pytest.mark.parametrize(
    ("run", "results", "warning"),
    [
        ({}, {"warnings": [{"what": "A clip is twice here.", "do": "Split anew."}]}, "here. Split anew."),
        ({}, {"skipped": [{"path": "a.avi", "reason": "empty"}]}, "1 file could not be read and is not"),
        ({}, {"training_skipped": [{"path": "a.avi", "reason": "empty"}]}, "Training skipped 1 file that"),
        ({}, {"split": "train"}, "These figures are from the training clips"),
        ({"groups": 4}, {}, "The test set is small (120 clips from 4 groups)"),
        ({"per_class": 8, "groups": None}, {}, "The test set is small (48 clips)"),
        ({"top1_ci": [0.1, 0.4]}, {}, "No evidence that the model beats the majority-class baseline"),
        ({"classes": SIX[:2], "confusion": [[20, 0], [20, 0]]}, {}, "Never predicted: “\u2068hugging"),
        ({"per_class": 4}, {}, "Fewer than 5 test clips per class: “\u2068hand shaking\u2069”, "),
    ],
)  # fmt: skip
def test_a_warning_names_the_problem_and_what_to_do(tmp_path, run, results, warning):
    write_run(tmp_path, **run)
    change(tmp_path, **results)
    page = shown(tmp_path)
    assert warning in page.text
    assert "No warnings: " not in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "decoder", "warning"),
    [
        (4.0, "pyav", None),
        (9.0, "pyav", "spent 43 % of its time, 1 min 48 s, waiting for video data. Pack the videos (finetune data"),
        (9.0, "the pack here", "spent 43 % of its time, 1 min 48 s, waiting for video data. Raise data.workers, up to"),
    ],
)  # fmt: skip
def test_training_that_waits_for_videos_gives_a_warning(tmp_path, data, decoder, warning):
    results = write_run(tmp_path)
    change(tmp_path, protocol=results["protocol"] | {"decoder": decoder})
    path = tmp_path / "metrics.jsonl"
    epochs = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(e | {"seconds": e["seconds"] | {"data": data}}) + "\n" for e in epochs))
    text = shown(tmp_path).text
    assert "waiting for video data" not in text if warning is None else warning in text


def test_the_twenty_most_confident_mistakes_come_in_order_of_confidence(tmp_path):
    write_run(tmp_path, wrong=0.5)
    with (tmp_path / "evaluation" / "predictions.csv").open(newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["label"] != row["predicted"]]
    most_confident = sorted(wrong, key=lambda row: -float(row["probability"]))[:20]
    assert len(wrong) > 20
    mistakes = shown(tmp_path).text.partition("Most confident mistakes")[2].partition("Most frequent confusions")[0]
    assert re.findall(r"\d+/clip\d+\.avi", mistakes) == [row["path"].removeprefix("data/") for row in most_confident]


def test_two_tasks_have_a_headline_and_a_matrix_each(tmp_path):
    results = write_run(tmp_path)
    change(tmp_path, tasks={"action": results["tasks"]["label"], "place": results["tasks"]["label"]})
    page = shown(tmp_path)
    assert page.heading.startswith("action: Top-1 accuracy is")
    assert "place: Top-1 accuracy is" in page.text
    assert {"confusion-0", "confusion-1"} <= set(page.svg_texts)


@pytest.mark.slow
def test_a_write_that_fails_leaves_the_last_report(tmp_path, monkeypatch):
    write_run(tmp_path)
    before = write_report(tmp_path).read_bytes()
    change(tmp_path, run="other")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(FinetuneError, match="cannot be written: disk full"):
        write_report(tmp_path)
    files = sorted(path.name for path in (tmp_path / "evaluation").iterdir())
    assert files == ["figures", "predictions.csv", "report.html", "report.md", "results.json"]
    assert (tmp_path / "evaluation" / "report.html").read_bytes() == before


class Page(HTMLParser):
    """What a page shows: its first heading, its text, the rows of its tables, the text of its figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.svg_texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self._figure = ""
        self._parts: list[str] = []
        self._rows: list[list[str]] = []
        self._heading: list[str] = []
        self.feed(html)
        self.tags = Counter(tag for tag, _ in self.elements)
        self.text, self.heading = tidy(self._parts, between=""), tidy(self._heading, between="")
        self.rows = [tidy(row) for row in self._rows]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)
        if tag == "tr":
            self._rows.append([])
        if "svg" in self._open and attributes.get("id", "").endswith("-figure_1"):
            self._figure = attributes["id"].removesuffix("-figure_1")
            self.svg_texts[self._figure] = []

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "svg" in self._open:
            if self._open[-1] == "text" and self._figure:
                self.svg_texts[self._figure].append(data)
        elif "style" not in self._open and "script" not in self._open:
            self._parts.append(data)
            if "h1" in self._open:
                self._heading.append(data)
            if "tr" in self._open:
                self._rows[-1].append(data)


def tidy(parts: list[str], *, between: str = " ") -> str:
    return re.sub(r"\s+", " ", between.join(parts)).strip()


def shown(run: Path) -> Page:
    return Page(write_report(run, figures_too=False).read_text(encoding="utf-8"))


def change(folder: Path, **keys: Any) -> None:
    path = folder / "evaluation" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
