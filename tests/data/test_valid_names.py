"""Names of files, classes and groups: what is accepted reads back the same, the rest is refused before training."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest, tasks_for_csv
from finetune.data.valid_names import escape_invisible, name_notes, name_problems
from finetune.errors import DataError
from finetune.recipe.tasks import Task

ODD = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "a;b",
    "a,b",
    '"',
    "'",
    'say "no"',
    "a|b",
    "a\\b",
    "#1",
    "%s",
    "{x}",
    "<b>&amp;",
    "$HOME",
]
ODD += [
    "null",
    "1",
    "1.0",
    "True",
    "बैठना",
    "走る",
    "e\u0301",
    "🦘",
    "\u202ex",
    "\u200d",
    "a  b",
    "a.",
    "x" * 200,
    ";;",
    "a\xa0b",
]
REFUSED = ["a\nb", "a\rb", "a\tb", "\x1b[31m", "a\x00b", "a\x7f", "a\x85b", "a\u2028b", "caf\udce9"]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def assert_equal(again, manifest):
    assert again.classes == manifest.classes and again.paths.tolist() == manifest.paths.tolist()
    assert again.labels.tolist() == manifest.labels.tolist() and again.splits.tolist() == manifest.splits.tolist()
    assert (again.groups is None) == (manifest.groups is None)
    assert manifest.groups is None or again.groups.tolist() == manifest.groups.tolist()
    assert manifest.targets is None or again.targets.tolist() == manifest.targets.tolist()
    for name, labels in manifest.tasks.items():
        assert again.tasks[name].names == labels.names, name
        assert again.tasks[name].values.tolist() == labels.values.tolist(), name


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_of_a_class_and_a_file_reads_back_the_same(tmp_path, name):
    touch(
        tmp_path,
        *(f"data/{split}/{label}/{name[:190]} .mp4" for split in ("train", "test") for label in (name, "other")),
    )
    manifest = Manifest.from_folder(tmp_path / "data")
    assert set(manifest.classes) == {name, "other"}
    manifest.to_csv(tmp_path / "copy.csv")
    assert_equal(Manifest.from_csv(tmp_path / "copy.csv"), manifest)
    findings = read_rows(tmp_path / "data", group_pattern=None, shares=(0.15, 0.2, 0)).findings
    assert [finding.kind for finding in findings if finding.severity == "mend"] == []


@pytest.mark.parametrize("name", [name for name in REFUSED if "\0" not in name])
@pytest.mark.parametrize("where", ["class", "file", "folder"])
def test_a_name_that_a_run_cannot_keep_is_refused_before_training_and_by_a_check(tmp_path, name, where):
    odd = {"class": f"train/{name}/0.mp4", "file": f"train/b/{name}.mp4", "folder": f"train/b/{name}/0.mp4"}[where]
    touch(tmp_path, "data/train/a/0.mp4", "data/train/b/0.mp4", "data/test/a/1.mp4", f"data/{odd}")
    what = "bytes that are not UTF-8" if "\udce9" in name else "control characters or line breaks"
    with pytest.raises(DataError, match=f"names of files with {what}: ") as error:
        Manifest.from_folder(tmp_path / "data")
    assert str(error.value).isprintable() or "\n" in str(error.value)
    assert ("names of classes" in str(error.value)) == (where == "class")
    rows = read_rows(tmp_path / "data", group_pattern=None, shares=(0.15, 0.2, 0))
    assert any(what in finding.what for finding in rows.findings if finding.severity == "mend")
    "".join(rows.labels).encode()  # a page can show them


def test_a_folder_whose_name_is_blank_is_no_class(tmp_path):
    touch(tmp_path, "train/ /0.mp4", "train/a/0.mp4", "train/b/0.mp4")
    with pytest.raises(DataError, match="names of classes that are blank; rename them"):
        Manifest.from_folder(tmp_path)


@pytest.mark.parametrize("column", ["path", "label", "group"])
def test_the_rules_for_names_in_a_table_are_those_in_a_folder(tmp_path, column):
    row = {"path": "a.mp4", "label": "x", "split": "train", "group": "g"}
    text = "path,label,split,group\nb.mp4,y,train,h\n" + ",".join(
        f'"{value}"' for value in (row | {column: "o\tdd"}).values()
    )
    (tmp_path / "clips.csv").write_text(text, encoding="utf-8")
    kind = {"path": "files", "label": "classes", "group": "groups"}[column]
    with pytest.raises(DataError, match=rf"names of {kind} with control characters or line breaks: .*o\\tdd"):
        Manifest.from_csv(tmp_path / "clips.csv", packed=True)


def test_blanks_at_the_ends_of_a_name_are_no_part_of_it_in_folders_tables_and_patterns(tmp_path):
    folders = [f"{split}/{label}" for split in ("train", "test") for label in ("cat ", "cat", " dog")]
    touch(tmp_path, *(f"{folder}/p {number}.mp4" for folder in folders for number in (1, 2)))
    manifest = Manifest.from_folder(tmp_path, group_pattern=r"^((?:train|test)/.{5})")
    assert manifest.classes == ("cat", "dog") and not manifest.notes
    assert {"train/cat /", "train/cat/p", "train/ dog/"} <= set(manifest.groups)
    assert {"test/cat"} == {group[:8] for group in manifest.groups if group.startswith("test/c")}
    manifest.to_csv(tmp_path / "copy.csv")
    assert_equal(Manifest.from_csv(tmp_path / "copy.csv"), manifest)
    (tmp_path / "clips.csv").write_text("path,label,group\na.mp4, x ,g\nb.mp4,x, g\nc.mp4,y ,h\n", encoding="utf-8")
    table = Manifest.from_csv(tmp_path / "clips.csv", packed=True, whole=True)
    assert table.classes == ("x", "y") and table.groups.tolist() == ["g", "g", "h"]


@pytest.mark.parametrize("blank", [" ", "\xa0", "\u3000"])
def test_a_folder_of_images_with_a_blank_at_the_end_of_its_name_is_refused(tmp_path, blank):
    touch(tmp_path, *(f"{label}/{video}{blank}/{frame}.jpg" for label in "ab" for video in "12" for frame in "123"))
    touch(tmp_path, "a/1/1.jpg", "a/1/2.jpg")
    message = rf"names of files with leading or trailing whitespace: “.*a/1{escape_invisible(blank)}”.*; rename them"
    with pytest.raises(DataError, match=message.replace("\\", "\\\\")):
        Manifest.from_folder(tmp_path, val=0, test=0)
    rows = read_rows(tmp_path, group_pattern=None, shares=(0, 0, 0))
    assert any("leading or trailing whitespace" in each.what for each in rows.findings)


def test_a_pattern_that_finds_nothing_but_blanks_finds_no_group(tmp_path):
    touch(tmp_path, *(f"{label}/p  {n}.mp4" for label in "ab" for n in range(9)))
    for pattern in ("p( *) 0?", "(x)?p"):
        with pytest.raises(DataError, match="finds no group in a/p"):
            Manifest.from_folder(tmp_path, group_pattern=pattern)


NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6) | st.sampled_from(
    [*ODD, *REFUSED]
)


@given(
    names=st.lists(NAME, min_size=2, max_size=4, unique=True),
    groups=st.lists(NAME | st.just(""), min_size=8, max_size=8),
    kind=st.sampled_from(["one", "several", "tasks"]),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_manifest_that_is_accepted_reads_back_equal(tmp_path_factory, names, groups, kind, data):
    import csv

    root = tmp_path_factory.mktemp("names")
    stem = data.draw(NAME)
    with (root / "clips.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group", "split"])
        for number, group in enumerate(groups):
            label = ";".join(names[: number % 3]) if kind == "several" else names[number % len(names)]
            writer.writerow([f"{number}{stem}.mp4", label, group, "train"])
    tasks = {"it": Task(kind="classify", columns="label"), "all": Task(kind="multilabel", columns="label")}
    tasks = tasks if kind == "tasks" else {}
    settings = {"packed": True, "multilabel": kind == "several"}
    try:
        manifest = Manifest.from_csv(root / "clips.csv", tasks=tasks, **settings)
    except DataError:
        return
    manifest.to_csv(root / "copy.csv")
    assert_equal(Manifest.from_csv(root / "copy.csv", tasks=tasks_for_csv(tasks), **settings), manifest)


ALIKE = [
    ("Cat", "cat"),
    ("é", "e\u0301"),
    ("1", "1.0"),
    ("1", "01"),
    ("a", "a\u200b"),
    ("end", "end."),
    ("a b", "a  b"),
]
ALIKE += [("a_b", "a b"), ("ＡＢ", "ab"), ("a\xa0b", "a b"), ("Straße", "STRASSE"), ("x", "x\u200d"), ("2.50", "2.5")]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_are_a_warning(one, other):
    (note,) = name_notes("classes", [one, other, "else"])
    assert note.startswith("classes that look alike: “") and note.isprintable()
    assert escape_invisible(one) != escape_invisible(other)  # the difference can be seen
    assert all(f"“{escape_invisible(name)}”" in note for name in (one, other))


@pytest.mark.parametrize(
    "names", [("cat", "dog"), ("1", "-1"), ("1", "10"), ("c", "c++"), ("a", "b", "."), ("a-1", "a1")]
)
def test_names_that_differ_are_no_warning(names):
    assert name_notes("classes", names) == []


def test_another_separator_in_a_list_of_classes_is_a_warning_that_names_the_one_to_use(tmp_path):
    lines = ["path,label,split", "0,a|b,train", "1,a;c,train", "2,,train", '3,"a,c",train', "4,b,test", "5,b,train"]
    (tmp_path / "clips.csv").write_text("\n".join(lines), encoding="utf-8")
    manifest = Manifest.from_csv(tmp_path / "clips.csv", packed=True, multilabel=True)
    assert manifest.notes == ("classes that contain “|” or “,”: “a,c”, “a|b”; separate several classes with “;”",)
    rows = read_rows(tmp_path / "clips.csv", group_pattern=None, shares=(0.15, 0.2, 0), multilabel=True)
    (finding,) = [each for each in rows.findings if each.kind == "names"]
    assert finding.severity == "warning" and finding.what == f"C{manifest.notes[0][1:]}."
    tasks = {"it": Task(kind="multilabel", columns="label")}
    manifest = Manifest.from_csv(tmp_path / "clips.csv", packed=True, tasks=tasks)
    assert manifest.notes[0].startswith("classes of tasks.it that contain “|” or “,”: ")
    single = Manifest.from_csv(
        tmp_path / "clips.csv", packed=True, tasks={"it": Task(kind="classify", columns="label")}
    )
    assert single.notes == ()


def test_groups_that_look_alike_are_a_warning_too(tmp_path):
    lines = ["path,label,split,group", "0,a,train,P1", "1,b,train,p1", "2,a,test,p2"]
    (tmp_path / "clips.csv").write_text("\n".join(lines), encoding="utf-8")
    (note,) = Manifest.from_csv(tmp_path / "clips.csv", packed=True).notes
    assert note == "groups that look alike: “P1” and “p1”; if they are the same, spell them the same way"


def test_ten_thousand_names_are_looked_at_in_no_time():
    assert name_problems("files", (os.fsdecode(b"clip \xff%d" % n) for n in range(10_000)))[0].endswith("; rename them")
