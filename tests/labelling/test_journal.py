"""Changes are appended: none is lost, overwritten or half written, whoever else writes, and whenever a program ends."""

import errno
import json
import math
import os
import threading

import pytest
from appending import run_and_kill

from finetune.errors import DataError
from finetune.labelling.journal import Change, ConflictError, Journal


@pytest.fixture
def manifest(tmp_path):
    for name in range(3):
        (tmp_path / f"{name}.mp4").touch()
    path = tmp_path / "clips.csv"
    path.write_text("path,label,split,group\n0.mp4,a,train,\n1.mp4,b,training,p\n2.mp4,a,test,q\n")
    return path


def test_a_change_is_in_the_file_and_the_manifest_stays(manifest):
    before = manifest.read_bytes()
    journal = Journal(manifest)
    assert journal.append(Change("0.mp4", "label", "b", "a", by="me")) == 1
    assert journal.append(Change(str(manifest.parent / "sub/../1.mp4"), "bad", True, False)) == 2
    lines = [json.loads(line) for line in (manifest.parent / "clips.csv.changes.jsonl").read_text().splitlines()]
    assert [(line["number"], line["path"], line["field"], line["value"], line["previous"]) for line in lines] == [
        (1, "0.mp4", "label", "b", "a"),
        (2, "1.mp4", "bad", True, False),
    ]
    assert lines[0]["by"] == "me"
    assert lines[0]["time"].endswith("+00:00")
    assert manifest.read_bytes() == before
    assert Journal(manifest).value("0.mp4", "label") == "b"
    assert [change.number for change in Journal(manifest).changes(after=1)] == [2]


def test_two_windows_do_not_overwrite_each_other(manifest):
    one, other = Journal(manifest), Journal(manifest)
    one.append(Change("0.mp4", "label", "b", "a"))
    with pytest.raises(ConflictError, match=r"0\.mp4: label is 'b' now, not 'a'") as error:
        other.append(Change("0.mp4", "label", "c", "a"))
    assert error.value.current == "b"
    assert other.append(Change("0.mp4", "label", "c", "b")) == 2
    assert other.append(Change("0.mp4", "label", "c", "a")) == 2, "a value that it has already is no change"
    assert len(one.changes()) == 2


def test_a_manifest_that_was_edited_is_what_a_first_change_is_compared_with(manifest):
    journal = Journal(manifest)
    assert journal.value("0.mp4", "label") == "a"
    manifest.write_text(manifest.read_text().replace("0.mp4,a", "0.mp4,edited"))
    with pytest.raises(ConflictError):
        journal.append(Change("0.mp4", "label", "b", "a"))
    journal.append(Change("0.mp4", "label", "b", "edited"))


def test_a_split_or_group_that_training_assigns_is_no_conflict(manifest):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "group", "p", "0.mp4"))
    with pytest.raises(ConflictError):
        journal.append(Change("0.mp4", "group", "q", "0.mp4"))
    with pytest.raises(ConflictError):
        journal.append(Change("1.mp4", "group", "q", "1.mp4"))
    journal.append(Change("1.mp4", "split", "val", "train"))


def test_undo_takes_back_one_change_after_another_and_is_itself_a_change(manifest):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "label", "b", "a"))
    journal.append(Change("0.mp4", "label", "c", "b"))
    journal.append(Change("1.mp4", "bad", True, False))
    assert [journal.undo(), journal.undo()] == [4, 5]
    assert (journal.value("1.mp4", "bad"), journal.value("0.mp4", "label")) == (False, "b")
    journal.undo(5)  # an undo can be undone
    assert journal.value("0.mp4", "label") == "c"
    with pytest.raises(ConflictError):
        journal.undo(1)  # its cell was changed again
    journal.undo()
    journal.undo()
    assert journal.value("0.mp4", "label") == "a"
    with pytest.raises(DataError, match="no change is left to undo"):
        journal.undo()
    assert [change.undoes for change in journal.changes()] == [None, None, None, 3, 2, 5, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change("9.mp4", "label", "a", ""), r"has no row 9\.mp4, and there is no such file"),
        (Change("0.mp4", "labl", "b", "a"), r"no field 'labl' \(nearest: label"),
        (Change("0.mp4", "path", "1.mp4", "0.mp4"), "no field 'path'"),
        (Change("0.mp4", "split", "tset", "train"), "no split 'tset'"),
        (Change("0.mp4", "label", "a\nb", "a"), r"label 'a\\\\nb' has control characters"),
        (Change("0.mp4", "label", " b", "a"), "blanks at an end"),
        (Change("0.mp4", "label", "b" * 1001, "a"), "more than 1,000 characters"),
        (Change("0.mp4", "label", True, "a"), "label cannot be True"),
        (Change("0.mp4", "bad", "yes", False), "bad cannot be 'yes'"),
    ],
)
def test_what_cannot_be_is_refused(manifest, change, message):
    journal = Journal(manifest)
    with pytest.raises(DataError, match=message):
        journal.append(change)
    assert journal.changes() == []


def test_a_list_of_classes_is_the_same_in_any_order(tmp_path):
    (tmp_path / "clips.csv").write_text("path,label\n0.mp4,b; a\n")
    assert Journal(tmp_path / "clips.csv").append(Change("0.mp4", "label", "a;c", "a;b")) == 1


def test_rows_that_are_intervals_are_told_apart(tmp_path):
    (tmp_path / "clips.csv").write_text("path,start,end,Label\nr.mp4,0,2.5,a\nr.mp4,2.5,,b\n")
    journal = Journal(tmp_path / "clips.csv")
    journal.append(Change("r.mp4", "label", "c", "b", start=2.5))
    assert journal.value("r.mp4", "label", 0, 2.5) == "a"
    assert Journal(tmp_path / "clips.csv").value("r.mp4", "label", 2.5, math.inf) == "c"


def test_a_folder_has_its_journal_beside_it_and_takes_labels_of_new_clips(tmp_path):
    clips = tmp_path / "clips"
    for name in ("wave/0.mp4", "jump/1.mp4", "new/2.mp4"):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).touch()
    journal = Journal(clips)
    journal.append(Change("wave/0.mp4", "label", "jump", "wave"))
    (clips / "wave/3.mp4").touch()
    journal.append(Change("wave/3.mp4", "label", "jump", "wave"))
    (tmp_path / "outside.mp4").touch()
    journal.append(Change(str(tmp_path / "outside.mp4"), "label", "jump", ""))
    lines = (tmp_path / "clips.changes.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == [
        "wave/0.mp4",
        "wave/3.mp4",
        (tmp_path / "outside.mp4").as_posix(),
    ]


def test_links_to_the_folder_lead_to_the_same_rows_and_journal(manifest, tmp_path_factory):
    link = tmp_path_factory.mktemp("other") / "link"
    link.symlink_to(manifest.parent)
    (manifest.parent / "sub").mkdir()
    (manifest.parent / "videos").symlink_to(manifest.parent / "sub")
    (manifest.parent / "sub/9.mp4").touch()
    manifest.write_text(manifest.read_text() + "videos/9.mp4,a,train,r\n")
    linked, direct = Journal(link / "clips.csv"), Journal(manifest)
    linked.append(Change(str(link / "0.mp4"), "label", "b", "a"))
    direct.append(Change(str(link / "1.mp4"), "label", "a", "b"))
    linked.append(Change(str(link / "videos/9.mp4"), "label", "b", "a"))
    assert [change.path for change in direct.changes()] == ["0.mp4", "1.mp4", "videos/9.mp4"]


def test_a_last_line_that_was_cut_anywhere_is_ignored_and_written_over(manifest):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "label", "b", "a"))
    file = journal.file.path
    first = file.read_bytes()
    journal.append(Change("0.mp4", "label", "ü", "b"))
    whole = file.read_bytes()
    for size in range(len(first), len(whole)):
        file.write_bytes(whole[:size])
        again = Journal(manifest)
        assert again.value("0.mp4", "label") == "b"
        assert again.append(Change("0.mp4", "label", "c", "b")) == 2
        assert [change.value for change in Journal(manifest).changes()] == ["b", "c"]


def test_a_damaged_line_in_the_middle_is_named(manifest):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "label", "b", "a"))
    file = journal.file.path
    file.write_bytes(b'{"path": 3}\n' + file.read_bytes())
    with pytest.raises(DataError, match=r"changes\.jsonl: line 1 is no change \(path: .*; correct or remove"):
        Journal(manifest).changes()


def test_on_a_full_disk_nothing_changes(manifest, monkeypatch):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "label", "b", "a"))
    before, write = journal.file.path.read_bytes(), os.write

    def write_some(file, data):
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:20])

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(DataError, match="No space left on device; nothing was changed"):
        journal.append(Change("0.mp4", "label", "c", "b"))
    monkeypatch.undo()
    assert journal.file.path.read_bytes() == before
    assert journal.append(Change("0.mp4", "label", "c", "b")) == 2


def test_a_journal_that_was_put_away_starts_anew(manifest):
    journal = Journal(manifest)
    journal.append(Change("0.mp4", "label", "b", "a"))
    journal.file.path.rename(manifest.parent / "old.jsonl")
    assert journal.changes() == []
    assert journal.append(Change("0.mp4", "label", "c", "a")) == 1


def test_threads_share_one_journal(manifest):
    journal = Journal(manifest)

    def change(name):
        for count in range(20):
            journal.append(Change(f"{name}.mp4", "label", f"v{count}", journal.value(f"{name}.mp4", "label")))

    threads = [threading.Thread(target=change, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [change.number for change in journal.changes()] == list(range(1, 61))


@pytest.mark.slow
def test_processes_that_are_killed_while_they_append_lose_nothing_and_overwrite_nothing(manifest, tmp_path):
    acknowledged = run_and_kill(manifest, tmp_path, processes=3, kills=6)
    journal = Journal(manifest)
    changes = journal.changes()
    assert [change.number for change in changes] == list(range(1, len(changes) + 1))
    by_number = {change.number: change.value for change in changes}
    assert acknowledged.items() <= by_number.items(), "a change that counted is lost"
    values = {("0.mp4", "label"): "a", ("1.mp4", "label"): "b", ("2.mp4", "label"): "a"}
    values |= {("0.mp4", "group"): "", ("1.mp4", "group"): "p", ("2.mp4", "group"): "q"}
    for change in changes:
        assert change.previous == values[change.path, change.field], "a change was overwritten unseen"
        values[change.path, change.field] = change.value
    assert len({change.by for change in changes}) == 9
    assert journal.append(Change("0.mp4", "bad", True, False)) == len(changes) + 1


def test_two_objects_of_one_interval_have_changes_of_their_own(tmp_path):
    (tmp_path / "a.mp4").touch()
    csv = tmp_path / "clips.csv"
    csv.write_text('path,label,boxes\na.mp4,x,"1,2,3,4"\na.mp4,y,"5,2,3,4"\n')
    journal = Journal(csv)
    journal.append(Change("a.mp4", "label", "z", "x", boxes="1,2,3,4"))
    values = {clip.boxes: value for (clip, _), value in Journal(csv).values().items()}
    assert values == {"1,2,3,4": "z"}
    with pytest.raises(DataError, match="label is 'y' now, not 'x'"):
        journal.append(Change("a.mp4", "label", "z", "x", boxes="5,2,3,4"))
