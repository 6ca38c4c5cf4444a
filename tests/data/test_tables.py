"""Tables as people have them: read by the names of their columns, or refused with what to do."""

import codecs
import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.data.tables import read_table
from finetune.errors import DataError
from finetune.recipe.tasks import Task

ROWS = "a.mp4,x,train\nb.mp4,y é,train\nc.mp4,x,test\n"
PLAIN = f"path,label,split\n{ROWS}"


def write(root, text, name="clips.csv", encoding="utf-8"):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return root / name


def read(root, text, **settings):
    return Manifest.from_csv(write(root, text), packed=True, **settings)


def contents(manifest):
    rows = range(len(manifest))
    return [(manifest.path(row).name, manifest.label(row), str(manifest.splits[row])) for row in rows]


WANTED = [("a.mp4", "x", "train"), ("b.mp4", "y é", "train"), ("c.mp4", "x", "test")]


def columns(header, *rows):
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        columns("path,label,note,note,split", "a.mp4,x,1,2,train", "b.mp4,y é,,,train", "c.mp4,x,3,4,test"),
        columns(",path,label,,split,", "0,a.mp4,x,,train,", "1,b.mp4,y é,,train,", "2,c.mp4,x,,test,"),
        columns("Unnamed: 0,x,x,split,label,path", "0,,,train,x,a.mp4", "1,,,train,y é,b.mp4", "2,,,test,x,c.mp4"),
        PLAIN.replace("path,label,split", " Path , LABEL,Split "),
        "\ufeff" + PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "sep=;\r\n" + PLAIN.replace(",", ";"),
        '\ufeff"sep=;"\n' + PLAIN.replace(",", ";"),
        "\ufeff\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\n" + PLAIN.replace("b.mp4", "\n\nb.mp4") + ",,\n ,\n",
        columns('path, "label", "split"', 'a.mp4, "x", "train"', '"b.mp4", "y é",train', 'c.mp4,x, "test"'),
        columns("path,label,split,more", "a.mp4,x,train", "b.mp4,y é,train,,,,", "c.mp4,x,test,7"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-8-sig"),
        b"\xff\xfe" + PLAIN.replace(",", "\t").encode("utf-16-le"),
        b"\xfe\xff" + PLAIN.replace(",", ";").encode("utf-16-be"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_columns_are_found_by_name_however_the_table_is_written(tmp_path, text):
    assert contents(read(tmp_path, text)) == WANTED


@pytest.mark.parametrize("name", ["path", "label", "split", "group"])
def test_a_repeated_column_is_refused_only_where_it_is_used(tmp_path, name):
    header = "path,label,split,group"
    rows = [f"{clip}.mp4,{label},train,g,7" for clip, label in ("ax", "by")]
    for other in (name, name.upper() if name != "group" else name):
        text = columns(f"{header},{other}", *rows)
        if other == name:
            with pytest.raises(DataError, match=f"clips.csv: 2 columns are named {name}; rename all but one"):
                read(tmp_path, text)
        else:  # the exact name goes first
            assert len(read(tmp_path, text)) == 2
    both = columns(f"{header.replace(name, name.title())},{name.upper()}", *rows)
    with pytest.raises(DataError, match=f"2 columns are named {name}"):
        read(tmp_path, both)


def test_a_tasks_column_is_found_by_the_same_rules(tmp_path):
    text = columns("path,split,Size,note,note,it", "a,train,1,,,u", "b,train,2,,,v", "c,test,3,,,u")
    tasks = {"size": Task(kind="regress"), "it": Task(kind="classify")}
    manifest = read(tmp_path, text, tasks=tasks)
    assert manifest.tasks["size"].values.ravel().tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="2 columns are named note"):
        read(tmp_path, text, tasks={"it": Task(kind="regress", columns="note")})
    own = write(tmp_path, "PATH;Size;x;x\nb;5;;\na;7;;\n", "own.csv")
    manifest = read(tmp_path, text, tasks={**tasks, "size": Task(kind="regress", manifest=own)})
    assert manifest.tasks["size"].values.ravel().tolist() == [7, 5, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.mp4,x\nb.mp4,y\n",
            "no column path and no column label; the first line looks like a row: add a header line above",
        ),
        ("file,class\na.mp4,x\n", "; rename file to path and rename class to label; it has file, class"),
        ("Video;Category\na.mp4;x\n", "; rename Video to path and rename Category to label; it has Video, Category"),
        ("path,lable\na.mp4,x\n", r"no column label \(nearest: lable\); it has path, lable"),
        ("path,label\na.mp4,cat, big\n", "line 2 has more values than the 2 columns of the header; put values that"),
        ('path,label\n"a.mp4,x\nb.mp4,y\n', "line 2 cannot be read: .*close every double quote"),
        ('path,label\na.mp4,"x" or "y"\n', "line 2 cannot be read: .*close every double quote"),
        ("", "is empty; it needs a header, path,label"),
        ("\n\n", "is empty; it needs a header, path,label"),
        ("path,label\n,,\n", "has a header but no rows"),
        ("path,label\na.mp4,x\n\n\n,y\n", "no path in line 5"),
        ('path,label,note\na.mp4,x,"1\n2"\nb.mp4,\n', "no label in line 4"),
        (
            "path,label\na.mp4,x\nb.mp4,caf\xe9\n".encode("cp1252"),
            "line 3 cannot be read as UTF-8: 'b.mp4,café'.*“CSV UTF-8”.*iconv",
        ),
        (
            b"path,label\n" + b"x" * 90 + "é.mp4,y\n".encode("cp1252"),
            "line 2 cannot be read as UTF-8: 'x{40}é.mp4,y'",
        ),
        ("path,label\ra.mp4,x\rb.mp4,é\r".encode("cp1252"), "line 3 cannot be read as UTF-8: 'b.mp4,é'"),
        (codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le") + b"x", "cannot be read as UTF-16.*; save it as “CSV UTF-8”"),
        ("path,label\na.mp4,x\npath,label\nb.mp4,y\n", "line 3 repeats the header; remove it"),
        ("Clips of May\npath,label\na.mp4,x\n", "the first line, 'Clips of May', is not a header such as path,label"),
        ("\u200bpath,label\na.mp4,x\n", r"no column path \(nearest: \\u200bpath\)"),
        ("File Name,Class Name\na.mp4,x\n", "; rename File Name to path and rename Class Name to label"),
        (
            PLAIN.encode("utf-16-le"),
            r"is not a text file \(a spreadsheet, or UTF-16 without its mark\?\); save it as “CSV UTF-8”",
        ),
        (b"PK\x03\x04 an office file", "is not a text file"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'clips.csv'}: ")


def test_paths_of_windows_are_named_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"2 of 2 files do not exist: .*clips\\a.mp4.*; write / instead of \\ in paths"):
        Manifest.from_csv(write(tmp_path, "path,label\nclips\\a.mp4,x\nclips\\b.mp4,y\n"))


def test_a_folder_and_a_missing_file_are_no_tables(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; set data.folder to it"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="there is no folder .*clips.csv'; it is a file: use data.manifest for a CSV"):
        Manifest.from_folder(write(tmp_path, PLAIN))
    with pytest.raises(DataError, match="there is no manifest"):
        read_table(tmp_path / "nothing.csv")


def test_a_check_reads_a_table_by_the_same_rules(tmp_path):
    path = write(tmp_path, PLAIN.replace("path,label,split", "Path;Label;note;note;Split").replace(",", ";"))
    path.write_text("Path;Label;note;note;Split\na.mp4;x;;;train\nb.mp4;y;;;test\n", encoding="utf-16")
    rows = read_rows(path, group_pattern=None, shares=(0.15, 0.2, 0))
    assert (rows.labels, rows.splits) == (["x", "y"], ["train", "test"])
    tasks = {"size": Task(kind="regress", columns="size")}
    path.write_text("path,Size,note,note,split\na.mp4,1,,,train\nb.mp4,2,,,test\n", encoding="utf-8")
    rows = read_rows(path, group_pattern=None, shares=(0.15, 0.2, 0), tasks=tasks)
    assert rows.labels_by_task["size"].values.tolist() == [[1], [2]]


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=100, deadline=None)
def test_what_a_spreadsheet_program_writes_reads_back(tmp_path_factory, rows, delimiter, encoding, quoting):
    path = tmp_path_factory.mktemp("table") / "clips.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerow(["path", "label"])
        writer.writerows([f"{number}{first}.mp4", second] for number, (first, second) in enumerate(rows))
    table = read_table(path)
    assert list(table["path"]) == [f"{number}{first}.mp4" for number, (first, _) in enumerate(rows)]
    assert list(table["label"]) == [second.strip() for _, second in rows]
