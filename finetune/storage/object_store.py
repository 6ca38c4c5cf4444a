"""Places in an object store (`s3://…`, `gs://…` and all else that fsspec knows), and local copies of what is there."""

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune.errors import DataError
from finetune.storage.atomic import atomic_file, user_cache_dir

FSSPEC_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}

# By which stores tell that an object is another.
VERSION_KEYS = ("size", "ETag", "etag", "LastModified", "Last-Modified", "mtime", "md5Hash")


class UntrustedUrl(str):
    """A place that a run folder names, and not the user: nothing is fetched from there."""

    __slots__ = ()


def is_url(place: object) -> bool:
    """Whether it is a place in an object store, and no path here."""
    return "://" in str(place)


def local_copy(url: str) -> Path:
    """A local copy of an object, or of all objects of a folder; only what has changed since is fetched again.

    It lies in `finetune/objects` of the user's cache (`XDG_CACHE_HOME`). Several processes may ask at once. Of an
    UntrustedUrl only a copy that was fetched before is taken, as it is, and nobody is asked over the network. Raises
    DataError where the object is not there or cannot be read, or the package of its store is missing.
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
        found = {
            each.removeprefix(path.rstrip("/")).lstrip("/"): info
            for each, info in store.find(path, detail=True).items()
        }
        if outside := [name for name in found if ".." in Path(name).parts]:
            raise ValueError(f"the object {outside[0]!r} would be written outside its folder")
        for name, info in found.items():
            _download_if_changed(store, info["name"], info, target / name)
        _remove_stale_copies(target, set(found))
    except Exception as error:  # each store has its own
        raise DataError(f"{url}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not found:
        raise DataError(f"there is no {url}")
    return target


def _cache_folder(url: str) -> Path:
    return user_cache_dir("objects") / hashlib.sha256(url.encode()).hexdigest()[:16]


def _existing_local_copy(url: str) -> Path:
    folder = _cache_folder(url)
    found = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")] if folder.is_dir() else []
    if len(found) != 1:
        raise DataError(
            f"{url}: only the run folder names this place, and nothing is fetched from there unless you ask for it: "
            "name it yourself once, by `finetune train --resume RUN data.packed=…`, or have the data on this machine"
        )
    return found[0]


def _download_if_changed(store: Any, path: str, info: dict[str, Any], target: Path) -> None:
    """One object, where the copy that is there is not of it."""
    stamp = {name: str(info[name]) for name in VERSION_KEYS if name in info}
    note = target.with_name(f".{target.name}.json")
    if target.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == stamp:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target, concurrent_writers=True) as partial:
        store.get_file(path, str(partial))
    with atomic_file(note, concurrent_writers=True) as partial:
        partial.write_text(json.dumps(stamp), encoding="utf-8")


def _remove_stale_copies(target: Path, names: set[str]) -> None:
    """Remove copies of objects that the store has no more."""
    for path in target.rglob("*"):
        name = path.relative_to(target).as_posix()
        if path.is_file() and name not in names and not path.name.startswith(".") and path.suffix != ".partial":
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.json").unlink(missing_ok=True)
