"""report.md, as Markdown readers read it: names stay names whatever they are made of."""

import html
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report.run.test_page import change, write_run

from finetune.report.run.markdown import escape_markdown
from finetune.report.run.page import write_report

ODD = [
    "a | b",
    "`rm`",
    "<img src=x onerror=alert(1)>",
    "![x](http://example.org/x.png)",
    "[x](javascript:alert(1))",
    "*bold* _it_ ~no~",
    "@octocat and #12",
    "# heading",
    "line\nbreak\r\n\n- list",
    "bell\x07 \x1b[31m \x85 \u2028 \u202eevil\u202c \u2066x\u2069",
    "https://example.org www.example.org a@b.org",
    "&amp; &lt; \\| \\",
    "</code><b>",
    "挥手 é",
]  # fmt: skip
RAW = re.compile(r"[|`<>\[\]!*@~\\{}$\"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
@example("".join(map(chr, range(0x300))))
@example("\ud800 \u061c \u200f \ufeff")
def test_an_escaped_name_has_no_characters_with_a_meaning_in_markdown_or_html(text):
    escaped = escape_markdown(text, as_code=False)
    assert not RAW.search(escaped)
    assert not re.search(r"&(?!#\d+;)", escaped)
    assert not re.search(r"#(?!\d+;)", escaped)
    assert not re.search(r"(?<![^\W_])_|_(?![^\W_])", escaped), "an underscore at the end of a word"
    assert len(escaped.splitlines()) <= 1
    cleaned = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", re.sub(r"[\u202a-\u202e\u2066-\u2069]", "", text))
    codes = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), escaped)
    assert codes.replace("\u2060", "") == cleaned.replace("\u2060", ""), "the name is complete"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("hand_shaking", "`hand_shaking`"),
        ("it's 50 % (or so)", "`it's 50 % (or so)`"),
        ("_edge_ *a* \u2066b\u2069", "`_edge_ *a* b`"),
        ("a`b", "<code>a&#96;b</code>"),
        ("a_b<c>", "<code>a_b&#60;c&#62;</code>"),
        ("a|b", "<code>a&#124;b</code>"),
        ("a&b", "<code>a&#38;b</code>"),
        (" a", "<code> a</code>"),
        ("", "<code></code>"),
    ],
)
def test_code_is_html_only_where_a_code_span_would_end(text, code):
    assert escape_markdown(text) == code


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab_`<>&|*[]\\ #!~'", max_size=12))
def test_a_cell_with_a_name_as_code_shows_the_name(text):
    table = f"| name | number |\n|---|---|\n| {escape_markdown(text)} | 1 |\n"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(table)
    (shown,) = re.findall(r"<td><code>(.*)</code></td>\n<td>1</td>", page)
    assert html.unescape(shown).replace("\u2060", "") == text


@pytest.mark.parametrize("text", ["https://example.org", "WWW.example.org", "@octocat", "#12", "a@b.org", "ftp://x.y"])
def test_neither_addresses_nor_mentions_nor_issues_are_left_for_who_looks_in_the_text(text):
    seen = html.unescape(escape_markdown(text, as_code=False))
    assert not re.search(r"://|www\.|@\w|#\d", seen, re.IGNORECASE)
    assert seen.replace("\u2060", "") == text


def test_a_report_of_odd_names_is_a_line_a_row(tmp_path):
    write_run(tmp_path, classes=ODD, per_class=4, wrong=0.4)
    warned = [{"what": f"Of “{ODD[6]}” {ODD[8]} {ODD[10]}", "do": f"See {ODD[2]}"}]
    change(tmp_path, run=ODD[3], warnings=warned, protocol={"views": 1, "new_key": ODD[0], "size": ODD[8]})
    (tmp_path / "recipe.yaml").write_text("model: {backbone: 'a | b'}\ndata: {folder: /home/me}\n'<i>': '![x](y)'\n")
    write_report(tmp_path, figures_too=False)
    text = (tmp_path / "evaluation/report.md").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    assert set(re.findall(r"<[^>]*>", text)) == {"<code>", "</code>"}
    lines = text.splitlines()
    assert not re.search(r"://|@\w|\]\(|!\[", text)
    assert not re.search(r"://|@\w", html.unescape(text))
    tables = [line for line in lines if line.startswith("|")]
    starts = [number for number, line in enumerate(lines) if line.startswith("| ") and lines[number - 1] == ""]
    for start in starts:
        columns = lines[start].count("|")
        body = lines[start : lines.index("", start) if "" in lines[start:] else len(lines)]
        assert {line.count("|") for line in body} == {columns}
        tables = [line for line in tables if line not in body]
    assert tables == [] and len(starts) == 4
    for line in lines:
        assert re.match(
            r"$|# <code>|\*\*Top-1 |\||- (⚠|<code>|`)|Most frequent confusions:$|Evaluated on the ", line
        ), line
    assert sum(line.startswith(f"| {escape_markdown(ODD[0])} |") for line in lines) == 1
    assert "/home/me" not in text


def test_it_has_headline_metrics_and_protocol_of_the_page(tmp_path):
    results = write_run(
        tmp_path,
        top1=0.942,
        top1_ci=[0.9, 0.98],
        frozen={"top1": 0.9, "difference": 0.042, "difference_ci": [0.01, 0.07]},
    )
    write_report(tmp_path, figures_too=False)
    text = (tmp_path / "evaluation/report.md").read_text(encoding="utf-8")
    assert "**Top-1 accuracy is 94\u00a0%" in text
    assert "| top-1 accuracy | 94.2\u00a0% | 90.0–98.0\u00a0% |" in text
    assert "| top-1 accuracy with a frozen backbone | 90.0\u00a0% |  |" in text
    assert f"| majority-class baseline | {100 * results['tasks']['label']['majority']['top1']:.1f}\u00a0% |  |" in text
    for row in results["tasks"]["label"]["per_class"]:
        assert f"| `{row['class']}` | {100 * row['recall']:.1f}\u00a0% |" in text
    assert "Evaluated on the test split:\n\n| protocol | value |\n|---|---|\n| Checkpoint | best |\n" in text
    assert "| Intervals | 95" in text
