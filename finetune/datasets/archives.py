"""Unpack an untrusted archive: completely or not at all, and only into its folder."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Protocol

from finetune.datasets.disk import require_space, temporary_folder
from finetune.datasets.download import Progress
from finetune.datasets.members import Kind, Member, require_safe_members
from finetune.datasets.rar import unpack_rar
from finetune.errors import FinetuneError

DAMAGED_ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


class _Unpacker(Protocol):
    def __call__(self, archive: Path, folder: Path, *, progress: Progress | None) -> None: ...


def unpack(
    archive: str | Path, folder: str | Path, *, inner: str | None = None, progress: Progress | None = None
) -> Path:
    """Unpack a zip, tar or rar archive, recognized by content, to `folder`, which must be missing or empty.

    Everything is unpacked into a hidden folder beside it first, which is renamed when it is complete: after an
    interruption `folder` does not exist. A single top folder with the name of `folder` is not repeated. Archives inside
    whose names match the glob `inner` are replaced by folders with their contents. Before anything is written,
    FinetuneError names a member that would be outside, or is a link or a device. Owners and permissions are not
    restored. `progress` is called with numbers of members. Rar archives need bsdtar, unrar or 7z.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FinetuneError(f"{archive}: there is no such file")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FinetuneError(f"{folder}: is not empty; move it away, then unpack {archive.name} again")
    try:
        unpacker = _unpacker(archive)
        with temporary_folder(folder.with_name(f".{folder.name}.unpacking")) as staging:
            unpacker(archive, staging, progress=progress)
            if inner is not None:
                _unpack_inner(staging, inner, archive=archive, progress=progress)
            _move_into_place(staging, folder, archive=archive)
    except DAMAGED_ARCHIVE_ERRORS as error:
        raise FinetuneError(
            f"{archive}: is damaged or incomplete ({error}); delete it and download it again"
        ) from error
    except OSError as error:
        raise FinetuneError(f"{archive}: cannot be unpacked to {folder}: {error}") from error
    return folder


def _unpacker(archive: Path) -> _Unpacker:
    with archive.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"Rar!\x1a\x07"):
        return unpack_rar
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _unpack_zip
    if tarfile.is_tarfile(archive):
        return _unpack_tar
    page = "; it looks like a web page" if start.lstrip()[:1] == b"<" else ""
    raise FinetuneError(
        f"{archive}: is not a zip, tar or rar archive (it begins with {start!r}{page}); download it again"
    )


def _unpack_inner(folder: Path, pattern: str, *, archive: Path, progress: Progress | None) -> None:
    for item in sorted(folder.rglob(pattern)):
        if item.is_file() and not item.name.startswith("."):
            try:
                unpack(item, item.with_suffix(""), progress=progress)
            except FinetuneError as error:
                raise FinetuneError(f"{archive}: an archive inside it: {error}") from error
            item.unlink()


def _move_into_place(staging: Path, folder: Path, *, archive: Path) -> None:
    top = list(staging.iterdir())
    if not top:
        raise FinetuneError(f"{archive}: is empty")
    source = top[0] if [item.name for item in top] == [folder.name] and top[0].is_dir() else staging
    if folder.exists():
        folder.rmdir()
    source.rename(folder)


def _unpack_zip(archive: Path, folder: Path, *, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        require_safe_members(archive, [Member(info.filename, _zip_kind(info)) for info in infos])
        require_space(folder, sum(info.file_size for info in infos))
        for done, info in enumerate(infos, start=1):
            if info.is_dir():
                (folder / info.filename).mkdir(parents=True, exist_ok=True)
                continue
            try:
                stream = file.open(info)
            except (
                RuntimeError,
                NotImplementedError,
            ) as error:  # encrypted, or a compression method that zipfile lacks
                raise FinetuneError(f"{archive}: member {info.filename!r} cannot be read: {error}") from error
            _copy(stream, folder / info.filename)
            _report_progress(progress, archive, done=done, total=len(infos))


def _zip_kind(info: zipfile.ZipInfo) -> Kind:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir():
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "link"


def _unpack_tar(archive: Path, folder: Path, *, progress: Progress | None) -> None:
    with tarfile.open(archive) as file:
        infos = file.getmembers()
        _require_end(file)
        require_safe_members(archive, [Member(info.name, _tar_kind(info)) for info in infos])
        require_space(folder, sum(info.size for info in infos))
        for done, info in enumerate(infos, start=1):
            if info.isdir():
                (folder / info.name).mkdir(parents=True, exist_ok=True)
                continue
            stream = file.extractfile(info)
            assert stream is not None  # a regular file, as require_safe_members made sure
            _copy(stream, folder / info.name)
            _report_progress(progress, archive, done=done, total=len(infos))


def _require_end(file: tarfile.TarFile) -> None:
    """Raise ReadError for a tar that was cut between two members: it lacks only the empty block at its end."""
    assert file.fileobj is not None  # it is open
    file.fileobj.seek(file.offset)
    if len(file.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end marker")


def _tar_kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "folder"
    return "file" if info.isreg() else "link"


def _copy(stream: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)


def _report_progress(progress: Progress | None, archive: Path, *, done: int, total: int) -> None:
    if progress is not None:
        progress(f"unpack {archive.name}", done, total)
