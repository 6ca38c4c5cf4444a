"""A corrected manifest has the changes of its journal, and everything else as it was."""

import shutil

import pytest

from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.labelling.apply import ApplyOptions, apply_changes
from finetune.labelling.journal import Change, Journal

TEXT = """sep=;\r
path;Label;note;split;group\r
a.mp4;"wave";"x;y";train;p1\r
b.mp4;wave;;train;p1\r
c.mp4; jump;é;training;p2\r
d.mp4;jump;last;test;p3\r
e.mp4;wave;;test;p4\r
"""


@pytest.fixture
def manifest(tmp_path):
    for name in "abcdefg":
        (tmp_path / f"{name}.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    return path


def change(manifest, path, field, value, **interval):
    journal = Journal(manifest)
    times = {"start": interval.get("start", 0.0), "end": interval.get("end", float("inf"))}
    return journal.append(Change(path, field, value, journal.value(path, field, **times), **interval))


def text_of(path):
    return path.read_bytes().decode("utf-8-sig")


def test_only_changed_cells_and_bad_rows_differ(manifest):
    change(manifest, "a.mp4", "label", "jump")
    change(manifest, "c.mp4", "note", "new; text")
    change(manifest, "e.mp4", "bad", True)
    change(manifest, "d.mp4", "label", "wave")
    change(manifest, "d.mp4", "label", "jump")  # back again
    before = manifest.read_bytes()
    applied = apply_changes(manifest)
    assert applied.out == manifest.with_name("clips.corrected.csv")
    expected = TEXT.replace('"wave"', '"jump"').replace(";é;", ';"new; text";').replace("e.mp4;wave;;test;p4\r\n", "")
    assert applied.out.read_bytes() == b"\xef\xbb\xbf" + expected.encode()
    assert manifest.read_bytes() == before
    assert applied.lines() == [
        "label: 1 × wave → jump",
        "note: 1 × é → new; text",
        "1 clip marked bad and left out: e.mp4",
    ]
    assert len(applied.manifest) == 4


def test_applying_twice_gives_the_same_also_into_the_manifest_itself(manifest):
    change(manifest, "a.mp4", "label", "jump")
    change(manifest, "e.mp4", "bad", True)
    change(manifest, "f.mp4", "label", "wave")
    first = apply_changes(manifest).out.read_bytes()
    assert not apply_changes(manifest).is_written
    with pytest.raises(DataError, match=r"clips\.csv: exists and has other content"):
        apply_changes(manifest, out=manifest)
    before = manifest.read_bytes()
    apply_changes(manifest, ApplyOptions(overwrite=True), out=manifest)
    assert manifest.with_name("clips.csv.bak").read_bytes() == before
    assert manifest.read_bytes() == first
    again = apply_changes(manifest, out=manifest)
    assert not again.is_written
    assert again.lines() == ["3 changes in the manifest already"]
    change(manifest, "a.mp4", "label", "wave")
    apply_changes(manifest, ApplyOptions(overwrite=True), out=manifest)
    assert text_of(manifest) == text_of(manifest.with_name("clips.csv.bak2")).replace('"jump"', '"wave"')


def test_new_clips_become_rows_in_the_split_of_their_group_or_in_train(manifest):
    change(manifest, "f.mp4", "label", "wave")
    change(manifest, "f.mp4", "group", "p3")
    change(manifest, "g.mp4", "label", "jump")
    applied = apply_changes(manifest)
    assert text_of(applied.out) == TEXT + "f.mp4;wave;;test;p3\r\ng.mp4;jump;;train;\r\n"
    assert applied.notes == ("1 new clip without a split put into train",)
    (manifest.parent / "g.mp4").unlink()
    with pytest.raises(DataError, match=r"g\.mp4: was labelled, but there is no such file"):
        apply_changes(manifest)


def test_a_group_in_two_splits_is_refused_before_anything_is_written(manifest):
    change(manifest, "a.mp4", "split", "test")
    with pytest.raises(DataError, match=r"would refuse it:\n.*clips\.corrected\.csv: group p1 is in train and in test"):
        apply_changes(manifest)
    assert not list(manifest.parent.glob("*corrected*"))
    change(manifest, "b.mp4", "split", "test")
    change(manifest, "e.mp4", "split", "train")
    assert apply_changes(manifest).lines() == ["split: 2 × train → test, 1 × test → train"]


def test_a_class_that_no_row_had_must_be_meant(manifest):
    change(manifest, "a.mp4", "label", "wvae")
    with pytest.raises(DataError, match=r"new in label: wvae \(nearest: wave\); if a new class is meant, name it with"):
        apply_changes(manifest)
    assert apply_changes(manifest, ApplyOptions(new_classes=["wvae"])).manifest.classes == ("jump", "wave", "wvae")


def test_rows_that_were_edited_since_are_noticed_one_by_one(manifest):
    change(manifest, "a.mp4", "label", "jump")
    change(manifest, "c.mp4", "label", "wave")
    change(manifest, "d.mp4", "label", "wave")
    edited = text_of(manifest).replace('"wave"', "run").replace("d.mp4;jump", "d.mp4;wave")
    edited = "\r\n".join(line for line in edited.split("\r\n") if not line.startswith("c.mp4"))
    manifest.write_text(edited, newline="")
    with pytest.raises(DataError) as error:
        apply_changes(manifest)
    lines = str(error.value).splitlines()
    assert "a.mp4: label is 'run' in the manifest; it was 'wave' when it was changed to 'jump'" in lines[0]
    assert "c.mp4: its row is not in the manifest any more" in lines[1]
    assert lines[2] == "decide with --conflicts journal or --conflicts manifest"
    assert "a.mp4;run;" in text_of(apply_changes(manifest, ApplyOptions(of_journal=False, new_classes=["jump"])).out)
    taken = apply_changes(manifest, ApplyOptions(of_journal=True, new_classes=["jump"], overwrite=True))
    assert "a.mp4;jump;" in text_of(taken.out)
    assert "c.mp4" not in text_of(taken.out)


def test_paths_still_lead_to_the_files_from_another_folder(manifest):
    change(manifest, "a.mp4", "label", "jump")
    change(manifest, "f.mp4", "label", "jump")
    applied = apply_changes(manifest, out=manifest.parent / "sub/new.csv")
    assert applied.manifest.path(0).resolve() == (manifest.parent / "a.mp4").resolve()
    assert len(applied.manifest) == 6


def test_intervals_of_one_file_are_changed_and_added(tmp_path):
    (tmp_path / "r.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_text("path,start,end,label\nr.mp4,0,2.50,wave\nr.mp4,2.5,,jump\n")
    change(path, "r.mp4", "label", "wave", start=2.5)
    change(path, "r.mp4", "label", "jump", start=1.25, end=2.0)
    applied = apply_changes(path)
    assert applied.out.read_text() == "path,start,end,label\nr.mp4,0,2.50,wave\nr.mp4,2.5,,wave\nr.mp4,1.25,2,jump\n"


def test_a_folder_becomes_a_csv_beside_it(tmp_path):
    clips = tmp_path / "clips"
    for name in ("wave/0.mp4", "wave/1.mp4", "jump/2.mp4"):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).touch()
    change(clips, "wave/0.mp4", "label", "jump")
    applied = apply_changes(clips)
    assert applied.out == tmp_path / "clips.corrected.csv"
    lines = ["path,label", "clips/jump/2.mp4,jump", "clips/wave/0.mp4,jump", "clips/wave/1.mp4,wave", ""]
    assert applied.out.read_text().splitlines() == lines[:-1]


def test_multi_label_lists_are_compared_as_sets(tmp_path):
    (tmp_path / "0.mp4").touch()
    (tmp_path / "1.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_text("path,label\n0.mp4,b; a\n1.mp4,\n")
    journal = Journal(path)
    journal.append(Change("0.mp4", "label", "a", "a;b"))
    journal.append(Change("1.mp4", "label", "b;a", ""))
    assert apply_changes(path).out.read_text() == "path,label\n0.mp4,a\n1.mp4,b;a\n"
    journal.append(Change("1.mp4", "label", "b;c", "a;b"))
    with pytest.raises(DataError, match="new in label: c"):
        apply_changes(path, ApplyOptions(overwrite=True))


def test_a_changed_split_needs_those_that_training_assigned(trained_run, clip_folder, tmp_path):
    rows = Manifest.from_folder(clip_folder)
    path = tmp_path / "clips.csv"
    path.write_text("path,label\n" + "".join(f"{rows.path(row)},{rows.label(row)}\n" for row in range(len(rows))))
    first = str(rows.path(int(rows.rows("train")[0])))
    Journal(path).append(Change(first, "split", "val", "train"))
    with pytest.raises(DataError, match="has no splits, so training assigns them.*--run RUN"):
        apply_changes(path)
    from finetune.run.read import open_run

    applied = apply_changes(path, ApplyOptions(run=open_run(trained_run)))
    assert applied.lines() == ["split: 1 × train → val"]
    splits = dict(zip(applied.manifest.paths.tolist(), applied.manifest.splits.tolist(), strict=True))
    expected = dict(zip(rows.paths.tolist(), rows.splits.tolist(), strict=True)) | {first.encode(): "val"}
    assert splits == expected


def test_a_class_that_lost_its_last_clip_is_noted(manifest):
    change(manifest, "c.mp4", "label", "wave")
    change(manifest, "d.mp4", "bad", True)
    manifest.write_bytes(manifest.read_bytes() + b"f.mp4;sit;;train;p5\r\n")
    assert apply_changes(manifest).notes == ("no clip is left with the label jump",)


def test_without_changes_there_is_nothing_to_apply(manifest):
    with pytest.raises(DataError, match="there is no manifest or folder"):
        apply_changes(manifest.with_name("none.csv"))
    with pytest.raises(DataError, match=r"nothing was corrected: .*clips\.csv\.changes\.jsonl has no change"):
        apply_changes(manifest)


def test_the_command_says_what_changed(manifest, capsys):
    from finetune.cli.main import app

    change(manifest, "a.mp4", "label", "jump")
    shutil.copy(manifest, manifest.with_name("copy.csv"))
    app(["data", "apply", str(manifest)], standalone_mode=False)
    out = capsys.readouterr().out.splitlines()
    assert out == ["label: 1 × wave → jump", str(manifest.with_name("clips.corrected.csv"))]
