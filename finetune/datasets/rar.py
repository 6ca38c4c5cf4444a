"""Unpack a rar archive with bsdtar, unrar or 7z, and verify the result.

Python's standard library cannot read rar. Where one tool cannot list or unpack an archive, the next is tried:
libarchive's bsdtar lacks some of the format's compression filters, Debian's 7zip has rar support in a separate package,
and `unrar` may be the limited unrar-free.
"""

import os
import re
import shutil
import stat
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.disk import temporary_folder
from finetune.datasets.download import Progress
from finetune.datasets.members import Kind, Member, require_safe_members
from finetune.errors import FinetuneError

INSTALL_HINT = "on Debian and Ubuntu: apt install libarchive-tools (bsdtar), unrar, or 7zip with its rar module"


class _ToolError(Exception):
    """This tool cannot unpack this archive; another may."""


@dataclass(frozen=True)
class _Tool:
    """A program with one of these names: how it lists an archive, and the arguments that unpack one."""

    names: tuple[str, ...]
    members: Callable[[str, Path], list[Member]]
    unpack_command: Callable[[Path, Path], list[str]]


def unpack_rar(archive: Path, folder: Path, *, progress: Progress | None) -> None:
    """Unpack to an empty `folder`. `progress` is called with numbers of members.

    Members are listed and checked before any is written. Afterwards the folder must contain as many files as were
    listed, and no links or devices, whatever the tool's exit status.
    """
    failures = []
    for tool, program in _installed():
        try:
            members = tool.members(program, archive)
            if not members:
                raise _ToolError("lists no members")
            require_safe_members(archive, members)
            with temporary_folder(folder / ".rar") as place:
                command = [program, *tool.unpack_command(archive, place)]
                _extract(command, archive, num_members=len(members), progress=progress)
                _require_complete(place, members, archive=archive)
                for item in place.iterdir():
                    item.rename(folder / item.name)
            return
        except _ToolError as error:
            failures.append(f"{Path(program).name}: {error}")
    if failures:
        raise FinetuneError(
            f"{archive}: cannot be unpacked: {'; '.join(failures)}. Either it is damaged: download it again; "
            f"or these programs lack part of the rar format: install another ({INSTALL_HINT})"
        )
    raise FinetuneError(f"{archive}: no program that unpacks rar archives was found; {INSTALL_HINT}")


def _installed() -> Iterator[tuple[_Tool, str]]:
    for tool in TOOLS:
        found = [program for name in tool.names if (program := shutil.which(name))]
        if found:
            yield tool, found[0]


def _extract(command: list[str], archive: Path, *, num_members: int, progress: Progress | None) -> None:
    """Run a tool that prints about one line for each member."""
    tail: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # so that the tool asks for nothing, such as a password
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=_english_env(),
    ) as process:
        assert process.stdout is not None
        try:
            for done, line in enumerate(process.stdout, start=1):
                tail.append(line.strip())
                if progress is not None:
                    progress(f"unpack {archive.name}", min(done, num_members), num_members)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _ToolError(_failure_text(process.returncode, list(tail)))


def _require_complete(folder: Path, members: list[Member], *, archive: Path) -> None:
    """Check what was unpacked, trusting neither the listing nor the exit status."""
    num_listed = len({member.name for member in members if member.kind == "file"})
    num_found = 0
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            status = Path(parent, name).lstat()
            if not stat.S_ISDIR(status.st_mode) and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
                raise FinetuneError(f"{archive}: unpacked {name!r}, a link or a device that it did not list")
        num_found += len(files)
    if num_found != num_listed:
        raise _ToolError(f"unpacked {num_found} of {num_listed} files")


def _bsdtar_members(program: str, archive: Path) -> list[Member]:
    """From two listings: only the long one has the kind of a member, only the short one has its bare name."""
    names = _lines([program, "-tf", str(archive)])
    kinds = _lines([program, "-tvf", str(archive)])
    if len(names) != len(kinds):
        raise _ToolError(f"lists {len(names)} members, then {len(kinds)}")
    known: dict[str, Kind] = {"-": "file", "d": "folder"}
    return [Member(name, known.get(kind[:1], "link")) for name, kind in zip(names, kinds, strict=True)]


def _unrar_members(program: str, archive: Path) -> list[Member]:
    """From records of `Name: …` and `Type: File | Directory | Unix symbolic link | …`, as unrar 5 and later print."""
    known: dict[str, Kind] = {"File": "file", "Directory": "folder"}
    return [
        Member(record["Name"], known.get(record.get("Type", ""), "link"))
        for record in _records([program, "lt", "-p-", "--", str(archive)], r" *(Name|Type): (.*)")
        if "Name" in record
    ]


def _sevenzip_members(program: str, archive: Path) -> list[Member]:
    """From records of `Path = …`, `Folder = +`, `Attributes = D drwxr-xr-x`, `Symbolic Link = …`."""
    keys = r"(Path|Folder|Attributes|Symbolic Link|Hard Link) = (.*)"
    command = [program, "l", "-slt", "-ba", "-sccUTF-8", "--", str(archive)]
    return [Member(record["Path"], _sevenzip_kind(record)) for record in _records(command, keys) if "Path" in record]


def _sevenzip_kind(record: dict[str, str]) -> Kind:
    attributes = record.get("Attributes", "")
    if record.get("Symbolic Link") or record.get("Hard Link") or re.search(r"(^| )[lbcps][-rwxsStT]{9}", attributes):
        return "link"
    return "folder" if record.get("Folder") == "+" or attributes.startswith("D") else "file"


def _records(command: list[str], pattern: str) -> list[dict[str, str]]:
    """Lines that match `pattern` (key, value), as records; a new one begins at each Name or Path."""
    records: list[dict[str, str]] = []
    for line in _lines(command):
        match = re.fullmatch(pattern, line)
        if match and (not records or match[1] in ("Name", "Path")):
            records.append({})
        if match:
            records[-1][match[1]] = match[2]
    return records


def _lines(command: list[str]) -> list[str]:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=_english_env(),
    )
    lines = [line for line in result.stdout.splitlines() if line]
    if result.returncode != 0:
        raise _ToolError(_failure_text(result.returncode, result.stderr.splitlines() or lines[-5:]))
    return lines


def _english_env() -> dict[str, str]:
    """An environment in which tools print English, with names in UTF-8."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _failure_text(status: int, lines: list[str]) -> str:
    output = " | ".join(line.strip() for line in lines if line.strip())
    return f"exit status {status}" + (f", {output!r}" if output else "")


TOOLS = (
    _Tool(
        ("bsdtar",),
        _bsdtar_members,
        lambda archive, folder: [
            *("-xvf", str(archive), "-C", str(folder)),
            *("--no-same-owner", "--no-same-permissions"),  # which root would otherwise restore
        ],
    ),
    _Tool(
        ("unrar",),
        _unrar_members,
        lambda archive, folder: ["x", "-y", "-p-", "--", str(archive), f"{folder}/"],
    ),
    _Tool(
        ("7z", "7zz"),
        _sevenzip_members,
        lambda archive, folder: ["x", "-y", "-bb1", "-bd", f"-o{folder}", "--", str(archive)],
    ),
)
