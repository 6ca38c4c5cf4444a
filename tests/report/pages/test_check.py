"""The page of a check, of results that the tests write."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest

from finetune.errors import DataError
from finetune.report.pages.check import MAX_PER_CLASS, MAX_PICTURES, write_check_page
from finetune.text import count

EVIL = "<img src=x onerror=alert(1)>.mp4\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.raw = [], "", text
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


MARK = {
    "task": "", "kind": "mark", "classes": ["jump", "run"], "anchor": "whole picture", "found": 0.95, "mistaken": 0.01,
    "balanced_accuracy": 0.97, "grouped": True, "groups": 8, "clips": 40, "example": "run/1.mp4",
    "places": [{"where": "upper right corner", "box": [0.85, 0.05, 0.08, 0.05]}],
}  # fmt: skip


def result(files=(), **changes):
    return {
        "schema": 1, "source": "clips.csv", "root": ".", "noun": "file", "num_clips": len(files),
        "num_files": len(files), "size": count(len(files), "file"), "splits": "given",
        "num_groups": None, "findings": [], "unreadable": [], "classes": [], "spread": [], "shortcuts": [],
        "marks": [], "copies": [],
        "files": [{"file": name, "label": label, "split": "train", "group": ""} for name, label in files],
    } | changes  # fmt: skip


def finding(severity, what, **changes):
    return {"severity": severity, "kind": "leak", "what": what, "todo": "Do it.", "files": []} | changes


def shown(tmp_path, checked, pictures=None, mean_pictures=()):
    write_check_page(checked, pictures or {}, mean_pictures, path=tmp_path / "sub/check.html")
    return Page((tmp_path / "sub/check.html").read_text())


@pytest.mark.parametrize(
    ("severities", "headline"),
    [
        ([], "No problems found in 2 files."),
        (["note"], "No problems found in 2 files."),
        (["warning"], "No errors in 2 files, but 1 warning."),
        (["mend", "warning"], "Finding 0."),
        (["mend", "mend"], "2 problems in 2 files must be fixed before training."),
    ],
)
def test_the_first_heading_is_the_headline_and_the_findings_follow(tmp_path, severities, headline):
    findings = [finding(severity, f"Finding {number}.") for number, severity in enumerate(severities)]
    page = shown(tmp_path, result([("a", "x"), ("b", "y")], findings=findings))
    assert unescape(re.search(r"<h1[^>]*>(.*?)</h1>", page.raw)[1]) == headline
    places = [page.text.rindex(f"Finding {number}. Do it.") for number in range(len(severities))]
    assert places == sorted(places)


def test_names_show_as_text_and_run_no_script(tmp_path):
    checked = result(
        [(EVIL, EVIL)],
        source=EVIL,
        findings=[finding("mend", EVIL, files=[EVIL])],
        unreadable=[{"file": EVIL, "reason": EVIL}],
        classes=[{"class": EVIL, "train": 1, "val": 0, "test": 0, "readable": 1, "unreadable": 1}],
        copies=[{"files": [EVIL, EVIL], "labels": [EVIL] * 2, "splits": ["train", "test"], "exact": True}
                | {"mirrored": False, "across": True}],
        shortcuts=[{"fact": "shape", "balanced_accuracy": 1.0, "chance": 0.5, "alarm": True, "told":
                    [{"name": EVIL, "found": 1.0, "mistaken": 0.0, "median": 0.5, "median_of_others": 2.0}]}],
        marks=[MARK | {"classes": [EVIL], "example": EVIL}],
    )  # fmt: skip
    page = shown(tmp_path, checked, {EVIL: b"jpeg"}, [b"jpeg"])
    assert page.text.count(EVIL) >= 11
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert {attributes["src"] for attributes in page.attributes("img")} == {"data:image/jpeg;base64,anBlZw=="}
    assert len(page.attributes("script")) == 1


def test_a_mark_is_shown_in_a_frame_with_its_mean_and_metrics(tmp_path):
    checked = result([("run/1.mp4", "run")], marks=[MARK], num_groups=8)
    page = shown(tmp_path, checked, {"run/1.mp4": b"frame"}, [b"mean"])
    text = page.text.replace("\u00a0", " ")
    for words in (
        "jump, run: mark",
        "upper right corner, 8 % × 5 %",
        "Balanced accuracy97.0 %",
        "Recall95.0 %",
        "False positive rate1.0 %",
        "Tested on40 clips of 8 groups of these classes",
    ):
        assert words in text
    (box,) = page.attributes("i")
    assert box["style"] == "left: 85.00%; top: 5.00%; width: 8.00%; height: 5.00%"
    assert [a["src"] for a in page.attributes("img")][:2] == [
        "data:image/jpeg;base64,ZnJhbWU=",
        "data:image/jpeg;base64,bWVhbg==",
    ]


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    page = shown(tmp_path, result([("a", "x")]), {"a": b"jpeg"})
    links = [a.get("href", "") for a in page.attributes("a")] + [a["src"] for a in page.attributes("img")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not page.attributes("link")
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    (policy,) = [a["content"] for a in page.attributes("meta") if "content" in a and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(("classes", "per_class"), [(2, 100), (100, 10), (700, 2)])
def test_pictures_are_bounded_and_taken_evenly_over_each_class(tmp_path, classes, per_class):
    files = [(f"{label}/{number}", f"class {label:03}") for label in range(classes) for number in range(per_class)]
    page = shown(tmp_path, result(files), {name: b"jpeg" for name, _ in files})
    most = min(per_class, MAX_PER_CLASS, max(1, MAX_PICTURES // classes))
    assert len(page.attributes("img")) == classes * most
    titles = [a["title"] for a in page.attributes("li") if "title" in a and a["title"].startswith("0/")]
    assert titles == [f"0/{number * per_class // most}" for number in range(most)]


def test_a_file_without_a_picture_has_no_place_in_the_contact_sheet(tmp_path):
    page = shown(tmp_path, result([("good", ""), ("bad", "")]), {"good": b"jpeg"})
    assert len(page.attributes("img")) == 1
    assert "1 of 1 file" in page.text


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "sub").write_text("")
    with pytest.raises(DataError, match=r"check.html: cannot be written"):
        shown(tmp_path, result())


def test_values_of_file_properties_have_units_that_a_reader_knows(tmp_path):
    row = {"unit": "pixels", "least": 28160, "median": 84616, "most": 2073600, "distinct": 3}
    rates = {"unit": "bit/s", "least": 900, "median": 268912, "most": 1684000}
    page = shown(tmp_path, result(spread=[row | {"fact": "size"}, row | rates | {"fact": "bit rate"}]))
    assert "Sizepixels28,16084,6162,073,6003" in page.text
    assert "Bit rate900 bit/s269 kbit/s1.68 Mbit/s3" in page.text


def test_objects_have_a_table_with_their_sizes(tmp_path):
    row = {
        "task": "objects", "class": "car", "number": 0, "objects": 3, "train": 2, "val": 1, "test": 0, "frames": 3,
        "small": 1, "medium": 2, "large": 0, "width": 40.0, "height": 30.0, "share": 0.25,
    }  # fmt: skip
    page = shown(tmp_path, result([("a.mp4 (1–2 s)", "")], objects=[row], noun="frame"))
    assert "40 × 30" in page.text
    assert "Every labelled frame was decoded." in page.text
