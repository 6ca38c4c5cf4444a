"""What an index says of its vectors: where each came from (Entry), and which model computed them (EmbeddingSource)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

NO_UNIT = -1


@dataclass(frozen=True)
class Entry:
    """The video, or the part of one, that a vector was computed from."""

    path: str  # absolute path of the file, or of the folder of images
    start: float | None = None  # seconds; None where the vector is of the whole file
    end: float | None = None
    labels: Mapping[str, list[str]] | None = None  # class names by task; None where it is unlabelled
    group: str | None = None
    split: str | None = None
    key: str = ""  # changes with the file: its size and the time of its last change
    row: int | None = None  # number in the manifest that it came from
    boxes: str | None = None  # of a row that follows an object, as in a manifest


@dataclass(frozen=True)
class EmbeddingSource:
    """The model that computed the vectors of an index. Two sources that are equal give equal vectors."""

    kind: Literal["run", "backbone", "text"]
    name: str  # run folder, name of the backbone, or open_clip name
    weights: str  # sha256 of the weights
    dim: int  # length of a vector
    settings: Mapping[str, Any]  # what is needed to build the model again, as plain JSON values

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings, sort_keys=True)))

    def differences(self, other: "EmbeddingSource") -> list[str]:
        """What differs in another source, such as "name resnet50 instead of resnet18"; empty if they are equal."""
        mine, theirs = _flat(asdict(self)), _flat(asdict(other))
        return [
            f"{name} {_shown(theirs.get(name))} instead of {_shown(mine.get(name))}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]


def unit_ids(entries: Iterable[Entry]) -> np.ndarray:
    """Ids (N, 2) of each entry's file and of its group, int64; NO_UNIT where it has no group.

    Equal ids mean the same file or group, in any index: an id is a 63 bit hash of the path or of the group's name.
    """
    ids = [(_hash_id("file", entry.path), _group_id(entry.group)) for entry in entries]
    return np.array(ids, dtype=np.int64).reshape(-1, 2)


def entry_to_json(entry: Entry) -> bytes:
    """One line of JSON, without values that are None."""
    values = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    return json.dumps({name: value for name, value in values.items() if value is not None}).encode()


def entry_from_json(line: bytes) -> Entry:
    """Raises ValueError or TypeError where a line is not an entry."""
    entry = Entry(**json.loads(line))
    numbers = (entry.start, entry.end, entry.row)
    texts = (entry.path, entry.key, entry.group or "", entry.split or "", entry.boxes or "")
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.labels, dict | None):
        raise ValueError(f"not an entry: {line[:80]!r}")
    if not all(value is None or isinstance(value, int | float) for value in numbers):
        raise ValueError(f"not an entry: {line[:80]!r}")
    return entry


def _group_id(group: str | None) -> int:
    return NO_UNIT if group is None else _hash_id("group", group)


def _hash_id(kind: str, name: str) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=kind.encode())
    return int.from_bytes(digest.digest(), "little") >> 1


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)
