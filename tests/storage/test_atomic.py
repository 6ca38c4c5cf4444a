"""Files and folders that are there whole or not at all."""

import os

import pytest

from finetune.storage.atomic import atomic_file, atomic_folder, current_version, write_json


class Ended(BaseException):
    """The program ends here."""


def test_a_file_is_replaced_at_the_end_or_stays_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError), atomic_file(path) as partial:
        partial.write_text("half\ud800", encoding="utf-8")
    assert path.read_text() == "before"
    with atomic_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flushed"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("renamed"), replace(*paths)))
    write_json(tmp_path / "a.json", {})
    assert events == ["flushed", "renamed"]


def test_a_folder_is_whole_whenever_the_program_ends(tmp_path, monkeypatch):
    """It is ended before each call that changes the disk, in turn; then written again, by the same rules."""
    path = tmp_path / "checkpoint"
    calls = [(os, "fsync"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "mkdir")]
    countdown = [10**9]

    def before(call):
        def counted(*arguments, **named):
            countdown[0] -= 1
            if countdown[0] < 0:
                raise Ended
            return call(*arguments, **named)

        return counted

    for owner, name in calls:
        monkeypatch.setattr(owner, name, before(getattr(owner, name)))

    def write(text):
        with atomic_folder(path) as partial:
            (partial / "one").write_text(text)
            (partial / "two").write_text(text)

    write("0")
    kept, reached_the_end = "0", False
    for number in range(1, 60):
        countdown[0] = number
        try:
            write(str(number))
        except Ended:
            pass
        else:
            reached_the_end = countdown[0] > 0
        countdown[0] = 10**9
        texts = {(current_version(path) / name).read_text() for name in ("one", "two")}
        assert texts in ({kept}, {str(number)})
        (kept,) = texts
    assert reached_the_end


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError), atomic_folder(tmp_path / "checkpoint") as partial:
        (partial / "half").write_text("half\ud800", encoding="utf-8")
    assert not list(tmp_path.iterdir())
