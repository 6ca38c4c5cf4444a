"""HMDB51's manifests from small trees and archives with the official layout."""

import csv
import shutil
import zipfile
from collections import Counter, defaultdict

import pytest

from finetune.data.manifest import Manifest
from finetune.datasets.hmdb51 import prepare_hmdb51
from finetune.errors import DataError, FinetuneError

LISTS = "testTrainMulti_7030_splits/"
TAILS = [f"u_{camera}_np1_fr_med_{number}.avi" for camera in ("cm", "nm") for number in range(2)]
# Four clips of each. Kill_Bill is a source of both classes: trained on in one, tested in the other.
SOURCES = {
    "sword": ["Kill_Bill", *(f"draw_sword_{number}" for number in range(6)), "#20060723_(a)_&b!"],
    "draw_sword": ["Kill_Bill", *(f"Film_{number}" for number in range(6)), "sword_fight_sword_"],
}


def names_of(label):
    return [f"{source}_{label}_{tail}" for source in SOURCES[label] for tail in TAILS]


def list_files(folder=LISTS):
    """Two sources of each class are tested, others in each split; the last clip of each class is never used."""
    lists = {}
    for label, split in ((label, split) for label in SOURCES for split in (1, 2, 3)):
        first = {"sword": 1, "draw_sword": 0}[label]
        tested = [SOURCES[label][(first + 2 * (split - 1) + step) % 8] for step in (0, 1)]
        marks = [
            "2" if any(name.startswith(f"{source}_{label}_") for source in tested) else "1" for name in names_of(label)
        ]
        marks[-1] = "0"
        text = "".join(f"{name} {mark} \n" for name, mark in zip(names_of(label), marks, strict=True))
        lists[f"{folder}{label}_test_split{split}.txt"] = text.encode()
    return lists


def video_files(folder="hmdb51_org/"):
    return {f"{folder}{label}/{name}": b"video" for label in SOURCES for name in names_of(label)}


def write_tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_class_archives(path, write):
    """An archive with one archive for each class."""
    inner = {}
    for label in SOURCES:
        files = {f"{label}/{name}": b"video" for name in names_of(label)}
        inner[f"{label}.rar"] = write(path.with_name(f"{label}.tmp"), files).read_bytes()
    return write(path, inner)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "hmdb51"
    write_tree(root, video_files() | list_files())
    return root


def test_a_tree_gives_three_manifests_without_any_network(tree):
    paths = prepare_hmdb51(tree, base_url="http://127.0.0.1:1")
    assert paths == [tree / "split1.csv", tree / "split2.csv", tree / "split3.csv"]
    for path in paths:
        rows = read(path)
        assert list(rows[0]) == ["path", "label", "split", "source"]
        assert Counter(row["label"] for row in rows) == {"sword": 31, "draw_sword": 31}
        assert all((tree / row["path"]).is_file() for row in rows)


def test_marks_1_2_and_0_are_train_test_and_left_out(tree):
    for number, path in enumerate(prepare_hmdb51(tree, val_fraction=0), start=1):
        found = {row["path"].rpartition("/")[2]: row["split"] for row in read(path)}
        for label in SOURCES:
            text = (tree / LISTS / f"{label}_test_split{number}.txt").read_text()
            for name, mark in (line.split() for line in text.splitlines()):
                assert found.get(name) == {"0": None, "1": "train", "2": "test"}[mark]


def test_the_source_is_what_stands_before_the_class_in_the_name(tree):
    found = {row["path"].rpartition("/")[2]: row["source"] for row in read(prepare_hmdb51(tree)[0])}
    for label, sources in SOURCES.items():
        for source in sources:
            assert found[f"{source}_{label}_{TAILS[0]}"] == source


def test_val_is_of_sources_that_are_in_no_other_split(tree):
    for path in prepare_hmdb51(tree, val_fraction=0.25):
        sides = defaultdict(set)
        for row in read(path):
            sides[row["source"]].add(row["split"])
        held_out = {source for source, splits in sides.items() if "val" in splits}
        assert held_out
        assert all(sides[source] == {"val"} for source in held_out)


@pytest.mark.parametrize("val_fraction", [0, 0.1, 0.2, 0.4, 0.5])
def test_val_is_at_most_its_share_of_each_class_in_whole_sources(tree, val_fraction):
    for path in prepare_hmdb51(tree, val_fraction=val_fraction):
        rows = read(path)
        train = Counter(row["label"] for row in rows if row["split"] != "test")
        val = Counter(row["label"] for row in rows if row["split"] == "val")
        for label, count in train.items():
            share = round(val_fraction * count)
            assert share - 4 < val[label] <= share, (path, label)


def test_val_sources_do_not_depend_on_the_machine(tree):
    rows = read(prepare_hmdb51(tree, val_fraction=0.2)[0])
    assert {row["source"] for row in rows if row["split"] == "val"} == {"#20060723_(a)_&b!", "Film_5"}


@pytest.mark.parametrize("val_fraction", [-0.1, 0.6])
def test_a_share_that_is_none_is_refused(tree, val_fraction):
    with pytest.raises(DataError, match=rf"val_fraction is {val_fraction}; .* between 0 and 0\.5"):
        prepare_hmdb51(tree, val_fraction=val_fraction)


def test_the_manifests_are_what_the_trainer_reads_though_a_source_crosses(tree):
    path = prepare_hmdb51(tree)[0]
    crossing = {row["split"] for row in read(path) if row["source"] == "Kill_Bill"}
    assert crossing == {"train", "test"}
    manifest = Manifest.from_csv(path)
    assert manifest.classes == ("draw_sword", "sword")
    assert manifest.groups is None
    assert len(manifest) == 62


def test_missing_clips_are_counted_and_the_first_five_named(tree):
    shutil.rmtree(tree / "hmdb51_org" / "sword")
    with pytest.raises(DataError) as error:
        prepare_hmdb51(tree)
    message = str(error.value)
    assert "31 of 62 listed clips are missing: Kill_Bill_sword_u_cm_np1_fr_med_0.avi, " in message
    assert "and 26 more" in message
    assert not (tree / "split1.csv").exists()


def test_a_missing_list_is_named(tree):
    (tree / LISTS / "sword_test_split3.txt").unlink()
    with pytest.raises(DataError, match=r"sword_test_split3\.txt is missing; each class has three lists"):
        prepare_hmdb51(tree)


@pytest.mark.parametrize("line", ["a_sword_u_cm_np1_fr_med_0.avi 3", "a_sword_u_cm_np1_fr_med_0.avi", "a.txt 1"])
def test_a_line_that_is_no_clip_and_mark_is_quoted(tree, line):
    with (tree / LISTS / "sword_test_split2.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=rf"sword_test_split2\.txt: line 33 is '{line}', not a clip's name"):
        prepare_hmdb51(tree)


def test_an_archive_of_archives_is_unpacked_and_the_second_run_needs_it_no_more(tmp_path):
    root = tmp_path / "hmdb51"
    videos = write_class_archives(tmp_path / "hmdb51_org.rar", write_zip)
    lists = write_zip(tmp_path / "lists.rar", list_files())
    first = [read(path) for path in prepare_hmdb51(root, archive=videos, splits_archive=lists)]
    assert first[0][0]["path"].startswith("hmdb51_org/draw_sword/Kill_Bill_draw_sword_")
    videos.unlink()
    assert [read(path) for path in prepare_hmdb51(root)] == first
    assert not list(root.rglob("*.rar"))


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="bsdtar is not installed")
def test_a_rar_of_rars_is_fetched_and_unpacked_with_bsdtar(tmp_path, server, write_rar):
    videos = write_class_archives(tmp_path / "hmdb51_org.rar", write_rar)
    server.files["hmdb51_org.rar"] = videos.read_bytes()
    server.files["test_train_splits.rar"] = write_rar(tmp_path / "lists.rar", list_files()).read_bytes()
    root = tmp_path / "hmdb51"
    prepare_hmdb51(root, base_url=server.url)
    assert [path for path, _ in server.requests] == ["/test_train_splits.rar", "/hmdb51_org.rar"]
    assert sorted(path.name for path in (root / "hmdb51_org").iterdir()) == ["draw_sword", "sword"]
    assert len(read(root / "split3.csv")) == 62


def test_an_interrupted_class_leaves_nothing_that_looks_done(tmp_path):
    root = tmp_path / "hmdb51"
    write_tree(root, list_files())
    videos = write_class_archives(tmp_path / "hmdb51_org.rar", write_zip)

    def interrupt(text, done, total):
        if text == "unpack sword.rar":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_hmdb51(root, archive=videos, progress=interrupt)
    assert [path.name for path in root.iterdir()] == ["testTrainMulti_7030_splits"]


def test_without_a_network_the_message_says_what_to_fetch_by_hand(tmp_path, no_pauses):
    with pytest.raises(FinetuneError, match=r"/test_train_splits\.rar: cannot be reached.* --splits-archive$"):
        prepare_hmdb51(tmp_path, base_url="http://127.0.0.1:1")
    write_tree(tmp_path, list_files())
    with pytest.raises(FinetuneError, match=r"/hmdb51_org\.rar: cannot be reached.*by hand .* --archive$"):
        prepare_hmdb51(tmp_path, base_url="http://127.0.0.1:1")


def test_an_archive_without_lists_is_told(tmp_path):
    other = write_zip(tmp_path / "other.zip", {"a.txt": b""})
    with pytest.raises(DataError, match=r"other\.zip: contains no list like wave_test_split1\.txt"):
        prepare_hmdb51(tmp_path / "one", splits_archive=other)
