"""Unpacking zip and tar archives: good, damaged and malicious ones."""

import io
import shutil
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from finetune.datasets.archives import unpack
from finetune.errors import FinetuneError

FILES = {"wave/a.avi": b"a" * 1000, "wave/b.avi": b"b", "run/c d.avi": b"", "lists.txt": b"c"}
ESCAPES = ["../evil", "wave/../../evil", "/tmp/evil", "\\evil", "wave\\..\\..\\evil", "C:\\evil", "c:evil"]


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path, files, *, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_tar_gz(path, files):
    return write_tar(path, files, mode="w:gz")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


every_format = pytest.mark.parametrize("write", [write_zip, write_tar, write_tar_gz])


@every_format
def test_all_members_arrive_and_nothing_lies_beside_them(tmp_path, write):
    archive = write(tmp_path / "clips", FILES)
    assert unpack(archive, tmp_path / "new" / "clips") == tmp_path / "new" / "clips"
    assert contents(tmp_path / "new" / "clips") == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clips"]


@every_format
def test_the_format_is_told_by_the_content_not_by_the_name(tmp_path, write):
    archive = write(tmp_path / "clips.rar", FILES)
    assert contents(unpack(archive, tmp_path / "clips")) == FILES


@every_format
@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_would_lie_outside_is_named_and_nothing_is_written(tmp_path, write, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = write(tmp_path / "clips", {"good.avi": b"good", name: b"evil"})
    with pytest.raises(FinetuneError) as error:
        unpack(archive, inside / "clips")
    assert f"member {name!r} would be written outside the folder; nothing was unpacked" in str(error.value)
    assert list(inside.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_link_in_a_zip_is_named_and_nothing_is_written(tmp_path):
    link = zipfile.ZipInfo("wave")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write_zip(tmp_path / "clips.zip", {"good.avi": b"good", link: b"/etc"})
    with pytest.raises(FinetuneError, match=r"clips\.zip: member 'wave' is a link or a device"):
        unpack(archive, tmp_path / "clips")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_is_named_and_nothing_is_written(tmp_path, kind):
    archive = write_tar(tmp_path / "clips.tar", {"good.avi": b"good"})
    with tarfile.open(archive, "a") as file:
        info = tarfile.TarInfo("wave")
        info.type, info.linkname = kind, "/etc"
        file.addfile(info)
    with pytest.raises(FinetuneError, match=r"clips\.tar: member 'wave' is a link or a device"):
        unpack(archive, tmp_path / "clips")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.tar"]


def test_permissions_and_owners_of_a_tar_are_not_restored(tmp_path):
    with tarfile.open(tmp_path / "clips.tar", "w") as file:
        info = tarfile.TarInfo("run.sh")
        info.mode, info.uid = 0o4777, 12345
        file.addfile(info, io.BytesIO(b""))
    status = (unpack(tmp_path / "clips.tar", tmp_path / "clips") / "run.sh").stat()
    assert not status.st_mode & (stat.S_ISUID | stat.S_IXUSR)
    assert status.st_uid != 12345


def test_a_lone_top_folder_of_the_same_name_is_not_doubled(tmp_path):
    archive = write_zip(tmp_path / "clips.zip", {"UCF-101/wave/a.avi": b"a"})
    assert contents(unpack(archive, tmp_path / "UCF-101")) == {"wave/a.avi": b"a"}
    assert contents(unpack(archive, tmp_path / "other")) == {"UCF-101/wave/a.avi": b"a"}


def test_archives_inside_give_way_to_folders(tmp_path):
    inner = write_zip(tmp_path / "inner", {"wave/a.avi": b"a"})
    flat = write_tar(tmp_path / "flat", {"b.avi": b"b"})
    names = {
        "all/wave.rar": inner.read_bytes(),
        "all/run.rar": flat.read_bytes(),
        "all/._run.rar": b"of a Mac",
    }
    outer = write_zip(tmp_path / "outer.zip", names)
    unpack(outer, tmp_path / "all", inner="*.rar")
    assert contents(tmp_path / "all") == {"wave/a.avi": b"a", "run/b.avi": b"b", "._run.rar": b"of a Mac"}


def test_a_damaged_archive_inside_names_both_and_leaves_no_folder(tmp_path):
    outer = write_zip(tmp_path / "outer.zip", {"wave.rar": b"not a rar", "run.avi": b""})
    with pytest.raises(FinetuneError, match=r"outer\.zip: an archive inside it: .*wave\.rar: is not a zip, tar or rar"):
        unpack(outer, tmp_path / "all", inner="*.rar")
    assert [path.name for path in tmp_path.iterdir()] == ["outer.zip"]


@every_format
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_cut_archive_is_damaged_and_leaves_no_folder(tmp_path, write, share):
    archive = write(tmp_path / "clips", {**FILES, "noise": bytes(i * i % 251 for i in range(20_000))})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(FinetuneError, match=r"clips: is (damaged or incomplete|not a zip, tar or rar)"):
        unpack(archive, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_a_wrong_byte_in_a_zip_is_damage(tmp_path):
    archive = tmp_path / "clips.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.avi", b"right")
    archive.write_bytes(archive.read_bytes().replace(b"right", b"wrong"))
    with pytest.raises(FinetuneError, match=r"damaged or incomplete \(Bad CRC-32 .*\); delete it and download it"):
        unpack(archive, tmp_path / "clips")


def test_a_zip_that_needs_a_password_is_a_message(tmp_path):
    archive = write_zip(tmp_path / "clips.zip", {"a.avi": b"a"})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(FinetuneError, match=r"member 'a\.avi' cannot be read: .*password"):
        unpack(archive, tmp_path / "clips")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"not a zip, tar or rar archive \(it begins with b''\)"),
        (b"  <!DOCTYPE html>", r"it looks like a web page\); download it again"),
        (b"7z\xbc\xaf\x27\x1c....", r"not a zip, tar or rar archive"),
    ],
)
def test_what_is_no_archive_is_told_by_its_first_bytes(tmp_path, content, problem):
    (tmp_path / "clips.rar").write_bytes(content)
    with pytest.raises(FinetuneError, match=problem):
        unpack(tmp_path / "clips.rar", tmp_path / "clips")


@every_format
def test_an_empty_archive_is_a_message(tmp_path, write):
    with pytest.raises(FinetuneError, match=r"clips: is empty"):
        unpack(write(tmp_path / "clips", {}), tmp_path / "new")


def test_a_missing_archive_is_a_message(tmp_path):
    with pytest.raises(FinetuneError, match=r"clips\.zip: there is no such file"):
        unpack(tmp_path / "clips.zip", tmp_path / "clips")


def test_an_empty_folder_is_filled_and_one_with_files_is_refused(tmp_path):
    archive = write_zip(tmp_path / "clips.zip", FILES)
    (tmp_path / "clips").mkdir()
    unpack(archive, tmp_path / "clips")
    with pytest.raises(FinetuneError, match=r"clips: is not empty; move it away, then unpack clips\.zip again"):
        unpack(archive, tmp_path / "clips")
    assert contents(tmp_path / "clips") == FILES


def test_a_name_that_is_both_file_and_folder_is_a_message(tmp_path):
    archive = write_zip(tmp_path / "clips.zip", {"wave": b"", "wave/a.avi": b""})
    with pytest.raises(FinetuneError, match=r"clips\.zip: cannot be unpacked to .*clips"):
        unpack(archive, tmp_path / "clips")


def test_an_interruption_leaves_no_folder_and_the_next_run_starts_afresh(tmp_path):
    archive = write_zip(tmp_path / "clips.zip", FILES)

    def interrupt(text, done, total):
        assert (text, total) == ("unpack clips.zip", len(FILES))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "clips", progress=interrupt)
    assert not (tmp_path / "clips").exists()
    leftover = tmp_path / ".clips.unpacking"  # left by a run that was killed
    leftover.mkdir()
    (leftover / "half.avi").write_bytes(b"ha")
    assert contents(unpack(archive, tmp_path / "clips")) == FILES
    assert not leftover.exists()


@every_format
def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, write, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1001))
    with pytest.raises(FinetuneError, match=r"1,002 bytes are needed and 1,001 are free"):
        unpack(write(tmp_path / "clips", FILES), tmp_path / "new")
    assert not (tmp_path / "new").exists()
