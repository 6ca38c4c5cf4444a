"""Local copies of objects in an object store (`s3://…`, `gs://…` and others that fsspec supports)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune.errors import DataError
from finetune.storage.atomic import atomic_file, user_cache_dir

FSSPEC_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}

# Metadata that changes when an object changes; the names differ between stores.
VERSION_KEYS = ("size", "ETag", "etag", "LastModified", "Last-Modified", "mtime", "md5Hash")


class UntrustedUrl(str):
    """A URL that comes from a run folder, not from the user: nothing is downloaded from it."""

    __slots__ = ()


def is_url(place: object) -> bool:
    """Whether a place is a URL in an object store, not a local path."""
    return "://" in str(place)


def local_copy(url: str) -> Path:
    """The path of a local copy of an object, or of all objects in a folder; only changed objects are downloaded again.

    Copies are in `finetune/objects` in the user's cache folder. Several processes may call this at the same time. For
    an UntrustedUrl, an earlier copy is returned without any network access. Raises DataError if the object does not
    exist or cannot be read, or if the package for its store is not installed.
    """
    if isinstance(url, UntrustedUrl):
        return _existing_local_copy(url)
    import fsspec

    try:
        store, path = fsspec.url_to_fs(url)
    except ImportError:
        scheme = url.partition("://")[0]
        raise DataError(f"{url}: needs the package {FSSPEC_PACKAGES.get(scheme, scheme)}: pip install it") from None
    except ValueError as error:
        raise DataError(f"{url}: {error}") from None
    target = _cache_folder(url) / (path.rstrip("/").rpartition("/")[2] or "objects")
    try:
        if store.isfile(path):
            _download_if_changed(store, path, store.info(path), target)
            return target
        objects = {
            key.removeprefix(path.rstrip("/")).lstrip("/"): info for key, info in store.find(path, detail=True).items()
        }
        if outside := [name for name in objects if ".." in Path(name).parts]:
            raise ValueError(f"the object {outside[0]!r} would be written outside its folder")
        for name, info in objects.items():
            _download_if_changed(store, info["name"], info, target / name)
        _remove_stale_copies(target, set(objects))
    except Exception as error:  # exception types differ between stores
        raise DataError(f"{url}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not objects:
        raise DataError(f"there is no {url}")
    return target


def _cache_folder(url: str) -> Path:
    return user_cache_dir("objects") / hashlib.sha256(url.encode()).hexdigest()[:16]


def _existing_local_copy(url: str) -> Path:
    folder = _cache_folder(url)
    copies = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")] if folder.is_dir() else []
    if len(copies) != 1:
        raise DataError(
            f"{url}: this URL comes from the run folder, and nothing is downloaded from it unless you "
            "give it yourself: pass it once, as in `finetune train --resume RUN data.packed=…`, or copy the data to "
            "this machine"
        )
    return copies[0]


def _download_if_changed(store: Any, path: str, info: dict[str, Any], target: Path) -> None:
    """Download one object to `target`, unless the copy there is of its current version."""
    version = {name: str(info[name]) for name in VERSION_KEYS if name in info}
    version_file = target.with_name(f".{target.name}.json")
    is_copied = target.is_file() and version_file.is_file()
    if is_copied and json.loads(version_file.read_text(encoding="utf-8")) == version:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target, concurrent_writers=True) as partial:
        store.get_file(path, str(partial))
    with atomic_file(version_file, concurrent_writers=True) as partial:
        partial.write_text(json.dumps(version), encoding="utf-8")


def _remove_stale_copies(target: Path, names: set[str]) -> None:
    """Remove copies of objects that are no longer in the store."""
    for path in target.rglob("*"):
        name = path.relative_to(target).as_posix()
        if path.is_file() and name not in names and not path.name.startswith(".") and path.suffix != ".partial":
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.json").unlink(missing_ok=True)
