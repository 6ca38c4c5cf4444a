"""Cells of a CSV are changed, and every other byte stays."""

import codecs
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.labelling.csv_text import CsvText


def table(text, encoding="utf-8", mark=b""):
    return CsvText(mark + text.encode(encoding), Path("clips.csv"))


def test_a_changed_cell_keeps_its_quotes_and_blanks_and_nothing_else_changes():
    text = 'Path, "Label" ,note\r\n"a, b.mp4", wave,"say ""hi"""\r\n\r\nc.mp4,  "jump"\r\nd.mp4,x,\r\n'
    text = text.replace('"Label" ', '"Label"')
    csv_text = table(text)
    assert csv_text.columns == ["Path", "Label", "note"]
    assert [csv_text.value(row, "label") for row in range(len(csv_text))] == ["wave", "jump", "x"]
    assert csv_text.value(0, "note") == 'say "hi"'
    csv_text.set_value(0, "label", "run")
    csv_text.set_value(1, "label", "sit")
    csv_text.set_value(2, "note", "a,b")
    expected = text.replace(" wave", " run").replace('"jump"', '"sit"').replace("d.mp4,x,", 'd.mp4,x,"a,b"')
    assert csv_text.to_bytes().decode() == expected


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_encoding_mark_and_separator_line_stay(mark, encoding):
    text = "sep=;\r\npath;label\r\nä.mp4;grün\r\n"
    csv_text = table(text, encoding, mark)
    csv_text.set_value(0, "label", "blau")
    assert csv_text.to_bytes() == mark + text.replace("grün", "blau").encode(encoding)


def test_rows_and_columns_are_added_in_the_style_of_the_file():
    csv_text = table('"path"\t"label"\r\n"a.mp4"\t"wave"\r\n\r\n')
    csv_text.append({"label": "jump", "path": "b.mp4"})
    csv_text.add_column("split", ["train", "val"])
    lines = ['"path"\t"label"\t"split"', '"a.mp4"\t"wave"\t"train"', '"b.mp4"\t"jump"\t"val"', "", ""]
    assert csv_text.to_bytes().decode() == "\r\n".join(lines)


def test_a_file_without_a_last_line_end_still_has_none():
    csv_text = table("path,label\na,x\nb,y")
    csv_text.append({"path": "c", "label": "z"})
    csv_text.remove({0})
    assert csv_text.to_bytes() == b"path,label\nb,y\nc,z"


CELLS = st.text(alphabet='ab ,;"\né', max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.data())
def test_what_is_not_changed_stays_byte_for_byte(rows, data):
    lines = io.StringIO(newline="")
    writer = csv.writer(
        lines,
        quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator=data.draw(st.sampled_from(["\r\n", "\n"])),
    )
    writer.writerows([["path", "label"], *([f"f{number}{a}", b] for number, (a, b) in enumerate(rows))])
    text = lines.getvalue()
    csv_text = table(text)
    assert csv_text.to_bytes().decode() == text
    wanted = [[value.strip() for value in row] for row in csv.reader(io.StringIO(text, newline=""))]
    assert [[csv_text.value(row, name) for name in ("path", "label")] for row in range(len(csv_text))] == wanted[1:]
    row, value = data.draw(st.integers(0, len(rows) - 1)), data.draw(CELLS).strip()
    csv_text.set_value(row, "label", value)
    wanted[row + 1][1] = value
    edited = csv.reader(io.StringIO(csv_text.to_bytes().decode(), newline=""), skipinitialspace=True, strict=True)
    assert [[cell.strip() for cell in record] for record in edited] == wanted
