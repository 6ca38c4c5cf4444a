"""Files of a run folder changed as damage or malice may change them, by a seeded generator."""

import io
import json
import os
import random
import re
import struct
from copy import deepcopy
from pathlib import Path

import numpy as np

TEXT = "\x1b[31m\u202e<img src=x onerror=alert(1)>"
ODD = [
    *(None, True, -1, 0, 3, 10**30, -(10**30), 1e308, float("nan"), float("inf"), 0.5, ""),
    *(
        "x" * 50_000,
        TEXT,
        [],
        {},
        [None],
        [1, "a", {}],
        {"a": None},
        [[[]]],
        "=cmd|' /C calc'!A0",
        "javascript:alert(1)",
    ),
    *("../../outside", "/etc/passwd", "http://127.0.0.1:9/x", "s3://there/x", "${oc.env:HOME}", "\ud800", "1e5", "nan"),
]
KINDS = ("flip", "cut", "empty", "random", "insert", "encode", "repeat", "structure", "structure", "structure")


def mutate(path: Path, draw: random.Random) -> str:
    """Change a file in place; what was done to it."""
    data = path.read_bytes()
    kind = draw.choice(KINDS)
    new = STRUCTURED.get(path.suffix, _flip)(data, draw) if kind == "structure" else BYTES[kind](data, draw)
    path.unlink()  # it may be a hard link to the file of another run
    path.write_bytes(new)
    return kind


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice((1, 1, 2, 8))):
        # The first bytes of a file say what it is.
        place = draw.randrange(min(len(changed), 400) if draw.random() < 0.5 else len(changed))
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _insert(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    return (
        data[:place]
        + draw.choice((b"\0", b"\n", b'"', b"{", b"]", b"\xff\xfe", b"[" * 5000, b"9" * 5000))
        + data[place:]
    )


def _encode(data: bytes, draw: random.Random) -> bytes:
    encoding = draw.choice(("utf-16", "utf-32", "cp500", "utf-8-sig"))
    return data.decode("latin-1").encode(encoding, errors="replace")


BYTES = {
    "flip": _flip,
    "cut": lambda data, draw: data[: draw.randrange(len(data) + 1)],
    "empty": lambda data, draw: b"",
    "random": lambda data, draw: draw.randbytes(draw.choice((1, 100, 5000))),
    "insert": _insert,
    "encode": _encode,
    "repeat": lambda data, draw: data * draw.choice((2, 3)),
}


def _json(data: bytes, draw: random.Random) -> bytes:
    return _dumped(_changed(json.loads(data), draw))


def _lines(data: bytes, draw: random.Random) -> bytes:
    records = [json.loads(line) for line in data.splitlines()]
    return b"".join(_dumped(record) + b"\n" for record in _changed(records, draw))


def _yaml(data: bytes, draw: random.Random) -> bytes:
    """JSON is YAML."""
    import yaml

    return _dumped(_changed(yaml.safe_load(data), draw))


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _changed(tree, draw: random.Random):
    """One or two places in it are replaced, removed, added to, or exchanged."""
    for _ in range(draw.choice((1, 1, 2))):
        parent, key = _place(tree, draw)
        if parent is None:
            return deepcopy(draw.choice(ODD))
        how = draw.random()
        if how < 0.2:
            del parent[key]
        elif how < 0.3 and isinstance(parent, dict):
            parent[draw.choice(("new", "../x", TEXT, ""))] = parent[key]
        elif how < 0.4:
            parent[key] = [parent[key]] if draw.random() < 0.5 else {"inside": parent[key]}
        elif how < 0.5:
            parent[key] = str(parent[key])
        else:
            parent[key] = deepcopy(draw.choice(ODD))  # one that is put in twice might come to hold itself
    return tree


def _place(tree, draw: random.Random):
    places = []

    def walk(node):
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(tree)
    return draw.choice(places) if places else (None, None)


def _csv(data: bytes, draw: random.Random) -> bytes:
    rows = [line.split(",") for line in data.decode().splitlines()]
    row = draw.choice(rows)
    how = draw.random()
    if how < 0.2:
        rows.remove(row)
    elif how < 0.3:
        place = draw.randrange(len(rows[0]))
        rows = [cells[:place] + cells[place + 1 :] for cells in rows]
    elif how < 0.4:
        rows.append(row)
    else:
        row[draw.randrange(len(row))] = str(draw.choice(ODD)).encode(errors="replace").decode()
    return "\n".join(",".join(cells) for cells in rows).encode()


def _npy(data: bytes, draw: random.Random) -> bytes:
    values, file = np.load(io.BytesIO(data)), io.BytesIO()
    changed = draw.choice(
        (
            lambda: values[:-1],
            lambda: values.T,
            lambda: values.reshape(-1),
            lambda: values[None],
            lambda: np.full(values.shape, np.nan),
            lambda: values.astype("U9"),
            lambda: np.zeros((0, 0)),
            lambda: np.array([{"a": 1}, print], dtype=object),
            lambda: np.full(values.shape, np.inf),
            lambda: values + 5,
        )
    )()
    np.save(file, changed, allow_pickle=True)
    return file.getvalue() if draw.random() < 0.8 else data[:8] + struct.pack("<H", 65535) + data[10:]


def _safetensors(data: bytes, draw: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = _dumped(_changed(json.loads(data[8 : 8 + length]), draw))
    return struct.pack("<Q", draw.choice((len(header), len(header), 2**62))) + header + data[8 + length :]


class _Calls:
    def __reduce__(self):
        return os.system, ("touch executed",)


def _torch(data: bytes, draw: random.Random) -> bytes:
    import torch

    if draw.random() < 0.1:
        changed = _Calls()
    else:
        changed = _changed(torch.load(io.BytesIO(data), weights_only=True), draw)
        if draw.random() < 0.3 and isinstance(changed, dict):  # all tensors of another shape
            changed = _other_shapes(changed)
    file = io.BytesIO()
    torch.save(changed, file)
    return file.getvalue()


def _other_shapes(value):
    import torch

    if isinstance(value, torch.Tensor):
        return torch.zeros(3, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: _other_shapes(each) for key, each in value.items()}
    return [_other_shapes(each) for each in value] if isinstance(value, list) else value


STRUCTURED = {
    ".json": _json,
    ".jsonl": _lines,
    ".yaml": _yaml,
    ".csv": _csv,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".pt": _torch,
}


TEXTS = [str(value) for value in ODD if not isinstance(value, str) or len(value) < 1000] + [
    *("NaN", "-1", "1e999", "99:99:99", "-0:00:01", "1,5", "0x10", "١٢", "1_000", "9" * 400, "\ud800"),
]


def mutate_text(text, draw):
    """Replace a number or a word of a text, or one of its lines."""
    if draw.random() < 0.2:
        lines = text.split("\n")
        line = draw.randrange(len(lines))
        lines[line : line + 1] = draw.choice(([], [lines[line]] * 2, [draw.choice(TEXTS)]))
        return "\n".join(lines)
    places = list(re.finditer(r"[\w.:]+", text))
    place = draw.choice(places)
    return text[: place.start()] + draw.choice(TEXTS) + text[place.end() :]


def replace_nth(tree, place, value):
    """Replace the n-th value of a JSON tree, in depth first order; False if it has fewer."""
    left = [place]

    def walk(node):
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            if left[0] == 0:
                node[key] = value
                left[0] = -1
            if left[0] < 0:
                return
            left[0] -= 1
            walk(node[key])

    walk(tree)
    return left[0] < 0
