"""Unpacking rar archives with the installed programs, real ones and impostors."""

import json
import shutil
import sys
import time

import pytest

from finetune.datasets.archives import unpack
from finetune.errors import FinetuneError

FILES = {"wave/": b"", "wave/a.avi": b"a" * 1000, "wave/b.avi": b"", "run/c d.avi": b"c"}
needs_bsdtar = pytest.mark.skipif(shutil.which("bsdtar") is None, reason="bsdtar is not installed")

IMPOSTOR = """#!{python}
import json, os, pathlib, sys
plan = json.loads(pathlib.Path({plan!r}).read_text())
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
command = plan[sys.argv[1]]
print(command.get("prints", ""))
for name, content in command.get("writes", {{}}).items():
    path = pathlib.Path(sys.argv[plan["place"]].removeprefix("-o"), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(content[2:]) if content.startswith("->") else path.write_text(content)
sys.exit(command.get("status", 0))
"""


@pytest.fixture
def impostor(tmp_path, monkeypatch):
    """Puts programs on an otherwise empty PATH; returns the function that does, and the calls they got."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    log = tmp_path / "calls"

    def install(name, plan):
        (tmp_path / f"{name}.json").write_text(json.dumps(plan))
        program = folder / name
        program.write_text(IMPOSTOR.format(python=sys.executable, plan=str(tmp_path / f"{name}.json"), log=str(log)))
        program.chmod(0o755)

    install.calls = lambda: [json.loads(line) for line in log.read_text().splitlines()]
    return install


@pytest.fixture
def archive(tmp_path, write_rar):
    return write_rar(tmp_path / "clips.rar", {"a.avi": b"a"})


def bsdtar_plan(*, short="wave/\nwave/a.avi", long="drwx\n-rw-", writes=None, status=0):
    writes = {"wave/a.avi": "a"} if writes is None else writes
    return {
        "place": 4,
        "-tf": {"prints": short},
        "-tvf": {"prints": long},
        "-xvf": {"prints": "x wave/a.avi", "writes": writes, "status": status},
    }


def unrar_plan(listing):
    return {
        "place": -1,
        "lt": {"prints": listing},
        "x": {"prints": "Extracting wave/a.avi OK", "writes": {"wave/a.avi": "a"}},
    }


UNRAR_LISTING = """
UNRAR 6.20 freeware      Copyright (c) 1993-2023 Alexander Roshal

Archive: clips.rar
Details: RAR 4

        Name: wave/a.avi
        Type: File
        Size: 1

        Name: wave
        Type: Directory
"""
SEVENZIP_LISTING = """
Path = wave
Folder = +
Attributes = D drwxr-xr-x

Path = wave/a.avi
Folder = -
Size = 1
Attributes = A -rw-r--r--
"""


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_program_the_message_says_which_to_install(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FinetuneError, match=r"no program that unpacks rar .*libarchive-tools .*unrar.*7zip") as error:
        unpack(archive, tmp_path / "clips")
    assert str(archive) in str(error.value)
    assert not (tmp_path / "clips").exists()


def test_bsdtar_is_asked_for_names_and_kinds_and_then_to_unpack(archive, impostor, tmp_path):
    impostor("bsdtar", bsdtar_plan())
    impostor("unrar", {})
    assert contents(unpack(archive, tmp_path / "clips")) == {"wave/a.avi": b"a"}
    place = str(tmp_path / ".clips.unpacking" / ".rar")
    assert impostor.calls() == [
        ["bsdtar", "-tf", str(archive)],
        ["bsdtar", "-tvf", str(archive)],
        ["bsdtar", "-xvf", str(archive), "-C", place, "--no-same-owner", "--no-same-permissions"],
    ]


def test_unrar_comes_second(archive, impostor, tmp_path):
    impostor("unrar", unrar_plan(UNRAR_LISTING))
    assert contents(unpack(archive, tmp_path / "clips")) == {"wave/a.avi": b"a"}
    place = str(tmp_path / ".clips.unpacking" / ".rar") + "/"
    assert impostor.calls() == [
        ["unrar", "lt", "-p-", "--", str(archive)],
        ["unrar", "x", "-y", "-p-", "--", str(archive), place],
    ]


@pytest.mark.parametrize("name", ["7z", "7zz"])
def test_7z_comes_third_under_either_name(archive, impostor, tmp_path, name):
    plan = {"place": 5, "l": {"prints": SEVENZIP_LISTING}, "x": {"writes": {"wave/a.avi": "a"}}}
    impostor(name, plan)
    assert contents(unpack(archive, tmp_path / "clips")) == {"wave/a.avi": b"a"}
    place = str(tmp_path / ".clips.unpacking" / ".rar")
    assert impostor.calls() == [
        [name, "l", "-slt", "-ba", "-sccUTF-8", "--", str(archive)],
        [name, "x", "-y", "-bb1", "-bd", f"-o{place}", "--", str(archive)],
    ]


@pytest.mark.parametrize(
    "plan",
    [
        bsdtar_plan(status=1),
        bsdtar_plan(writes={}),
        bsdtar_plan(writes={"wave/a.avi": "", "more": ""}),
        bsdtar_plan(short="", long=""),
    ],
    ids=["fails", "leaves out a file", "adds a file", "lists nothing"],
)
def test_a_program_that_cannot_gives_way_to_the_next(archive, impostor, tmp_path, plan):
    impostor("bsdtar", plan)
    impostor("unrar", unrar_plan(UNRAR_LISTING))
    assert contents(unpack(archive, tmp_path / "clips")) == {"wave/a.avi": b"a"}


def test_when_none_can_each_is_quoted_and_no_folder_is_left(archive, impostor, tmp_path):
    impostor("bsdtar", bsdtar_plan(status=1))
    impostor("unrar", unrar_plan("unrar-free knows no such command"))
    with pytest.raises(FinetuneError) as error:
        unpack(archive, tmp_path / "clips")
    assert "bsdtar: exit status 1, 'x wave/a.avi'; unrar: lists no members" in str(error.value)
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("program", "plan"),
    [
        ("bsdtar", bsdtar_plan(short="a.avi\n../evil", long="-rw-\n-rw-")),
        ("unrar", unrar_plan("Name: ../evil\nType: File")),
        ("7z", {"l": {"prints": "Path = ../evil\nFolder = -"}}),
    ],
)
def test_a_listed_member_outside_is_named_before_anything_is_unpacked(archive, impostor, tmp_path, program, plan):
    impostor(program, plan)
    with pytest.raises(FinetuneError, match=r"clips\.rar: member '\.\./evil' would be written outside"):
        unpack(archive, tmp_path / "clips")
    assert not any(call[1] in ("-xvf", "x") for call in impostor.calls())


@pytest.mark.parametrize(
    ("program", "plan"),
    [
        ("bsdtar", bsdtar_plan(short="wave", long="lrwx")),
        ("bsdtar", bsdtar_plan(short="wave", long="hrw-")),
        ("unrar", unrar_plan("Name: wave\nType: Unix symbolic link\nTarget: /etc")),
        ("7z", {"l": {"prints": "Path = wave\nFolder = -\nSymbolic Link = /etc"}}),
        ("7zz", {"l": {"prints": "Path = wave\nFolder = -\nAttributes = A lrwxrwxrwx"}}),
    ],
)
def test_a_listed_link_is_named_before_anything_is_unpacked(archive, impostor, tmp_path, program, plan):
    impostor(program, plan)
    with pytest.raises(FinetuneError, match=r"clips\.rar: member 'wave' is a link or a device"):
        unpack(archive, tmp_path / "clips")
    assert not any(call[1] in ("-xvf", "x") for call in impostor.calls())


@pytest.mark.parametrize("target", ["/etc", "/etc/hostname", "/nowhere", "a.avi"])
def test_a_link_that_was_not_listed_is_found_afterwards(archive, impostor, tmp_path, target):
    impostor("bsdtar", bsdtar_plan(writes={"wave/a.avi": f"->{target}"}))
    with pytest.raises(FinetuneError, match=r"clips\.rar: unpacked 'a\.avi', a link or a device"):
        unpack(archive, tmp_path / "clips")
    assert not (tmp_path / "clips").exists()


def test_an_interruption_ends_the_program_and_leaves_no_folder(archive, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    script = (
        f"#!{sys.executable}\nimport sys, time\n"
        "print('-a.avi' if sys.argv[1] == '-tvf' else 'a.avi', flush=True)\n"
        "sys.argv[1] == '-xvf' and time.sleep(60)\n"
    )
    (folder / "bsdtar").write_text(script)
    (folder / "bsdtar").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def interrupt(text, done, total):
        assert (text, done, total) == ("unpack clips.rar", 1, 1)
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "clips", progress=interrupt)
    assert time.monotonic() - started < 30
    assert not (tmp_path / "clips").exists()


@needs_bsdtar
def test_bsdtar_unpacks_a_rar(write_rar, tmp_path):
    told = []
    archive = write_rar(tmp_path / "clips.rar", FILES)
    unpack(archive, tmp_path / "new", progress=lambda *args: told.append(args))
    assert contents(tmp_path / "new") == {name: data for name, data in FILES.items() if name[-1] != "/"}
    assert told[-1] == ("unpack clips.rar", 4, 4)


@needs_bsdtar
@pytest.mark.parametrize("name", ["../evil", "wave/../../evil", "/tmp/evil"])
def test_bsdtar_shows_a_member_outside_and_it_is_refused(write_rar, tmp_path, name):
    archive = write_rar(tmp_path / "clips.rar", {"good.avi": b"good", name: b"evil"})
    with pytest.raises(FinetuneError, match=rf"member '{name}' would be written outside the folder"):
        unpack(archive, tmp_path / "clips")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.rar"]


@needs_bsdtar
def test_bsdtar_shows_a_link_and_it_is_refused(write_rar, tmp_path):
    archive = write_rar(tmp_path / "clips.rar", {"good.avi": b"good"}, {"wave": "/etc"})
    with pytest.raises(FinetuneError, match=r"member 'wave' is a link or a device"):
        unpack(archive, tmp_path / "clips")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.rar"]


@needs_bsdtar
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_bsdtar_refuses_a_cut_rar_and_no_folder_is_left(write_rar, tmp_path, share, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bsdtar").symlink_to(shutil.which("bsdtar"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    archive = write_rar(tmp_path / "clips.rar", {"a.avi": b"a" * 5000, "b.avi": b"b" * 5000})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(FinetuneError, match=r"clips\.rar: cannot be unpacked: bsdtar: .*Either it is damaged"):
        unpack(archive, tmp_path / "clips")
    assert not (tmp_path / "clips").exists()
