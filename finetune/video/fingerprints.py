"""Find duplicate videos: exact ones, byte for byte, and near duplicates (re-encoded, scaled, mirrored).

Near duplicates are compared by three small grey pictures of each video: its first, middle and last frame. Arithmetic on
arrays only: no decoder, no tensors. Axes: N videos, P pairs, S = THUMBNAIL_SIDE.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from finetune.video.decode.clip_files import files_of, stamp

THUMBNAIL_SIDE = 32  # pixels
MAX_PAIRS = 20_000  # the search for near duplicates stops after this many
# Measured on re-encoded, half-size and mirrored copies of real clips, and on different clips of one fixed camera:
# copies differ in at most 8 bits, and 99 % of their pixels by at most 0.65 standard deviations; others in 12 bits or
# more, and by 1.18 or more.
_MAX_HASH_DISTANCE, _MAX_PIXEL_DIFFERENCE, _MAX_DIFFERENT_SHARE = 24, 0.8, 0.01
_MIN_STD = 3.0  # grey levels; a flatter picture has nothing to compare
_BLOCK, _CHUNK = 512, 2048
END_BYTES = 65_536  # of both ends of a file, compared before the whole file


def thumbnail(frame_3HW: np.ndarray) -> np.ndarray:
    """An RGB frame averaged down to grey uint8 (S, S), whatever its aspect ratio."""
    grey_HW = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), frame_3HW.astype(np.float32), 1)
    height, width = grey_HW.shape
    down, across = (averaging_matrix(length, THUMBNAIL_SIDE) for length in (height, width))
    return np.rint(down @ grey_HW @ across.T).astype(np.uint8)


@cache
def averaging_matrix(length: int, parts: int, window: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """float32 (parts, length): row i averages the i-th of equal parts of a window of `length` pixels."""
    edges = np.linspace(window[0] * length, window[1] * length, parts + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = overlap.clip(0)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def exact_duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Sets of two or more positions in `paths` whose files, or folders of images, have equal contents.

    Only files of equal size are read, and only those whose ends are equal are read whole.
    """
    sets = _split_by_key([list(range(len(paths)))], [stamp(path)[0] for path in paths])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for digest in (_digest_of_ends, _digest):
            positions = [position for same in sets for position in same]
            digests = pool.map(digest, [paths[position] for position in positions])
            sets = _split_by_key(sets, dict(zip(positions, digests, strict=True)))
    return sets


def _split_by_key(sets: Sequence[Sequence[int]], keys: Sequence[Any] | Mapping[int, Any]) -> list[list[int]]:
    """Each set divided by the keys of its positions; positions left alone are dropped."""
    by_key: dict[tuple[int, Any], list[int]] = defaultdict(list)
    for number, positions in enumerate(sets):
        for position in positions:
            by_key[number, keys[position]].append(position)
    return [positions for positions in by_key.values() if len(positions) > 1]


def _digest_of_ends(path: Path) -> bytes:
    """A digest of both ends of a clip's first and last file."""
    digest, files = hashlib.sha256(), files_of(path)
    for file in files[:1] + files[-1:]:
        with file.open("rb") as opened:
            digest.update(opened.read(END_BYTES))
            opened.seek(max(0, file.stat().st_size - END_BYTES))
            digest.update(opened.read(END_BYTES))
    return digest.digest()


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.digest()


def near_duplicates(pictures_N3SS: np.ndarray, files: np.ndarray | None = None) -> list[tuple[int, int, bool]]:
    """Pairs (one, other, mirrored) of positions whose three pictures match; `pictures_N3SS` are uint8.

    Positions with the same number in `files` (N,) are not compared.

    First all pairs are compared by 64-bit hashes, as matrix products of blocks, then the remaining ones by their
    pictures. Videos that are uniform grey throughout match none. Stops soon after MAX_PAIRS pairs.
    """
    chunks = range(0, len(pictures_N3SS), _CHUNK)
    shows = [_has_contrast(pictures_N3SS[start : start + _CHUNK]).any(1) for start in chunks]
    showing = np.flatnonzero(np.concatenate([*shows, np.empty(0, bool)]))
    pictures = pictures_N3SS[showing]
    pairs: dict[tuple[int, int], bool] = {}
    for one, other, mirrored in _candidate_pairs(pictures) if len(pictures) else ():
        if files is not None:
            apart = files[showing[one]] != files[showing[other]]
            one, other = one[apart], other[apart]
        agree = _pictures_match(pictures[one], pictures[other][..., ::-1] if mirrored else pictures[other])
        for pair in zip(showing[one[agree]].tolist(), showing[other[agree]].tolist(), strict=True):
            pairs.setdefault(pair, mirrored)
        if len(pairs) >= MAX_PAIRS:
            break
    return [(one, other, mirrored) for (one, other), mirrored in sorted(pairs.items())]


def _candidate_pairs(pictures_N3SS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Chunks (one, other, mirrored) of pairs, one < other, whose hashes are close; one and other are int (P,)."""
    signs, mirrored_signs = _perceptual_hashes(pictures_N3SS), _perceptual_hashes(pictures_N3SS[..., ::-1])
    for start in range(0, len(signs), _BLOCK):
        block = signs[start : start + _BLOCK]
        for mirrored, others in ((False, signs), (True, mirrored_signs)):
            bits_apart = (signs.shape[1] - block @ others[start:].T) / 2
            one, other = np.nonzero(np.triu(bits_apart <= _MAX_HASH_DISTANCE, 1))
            for chunk in range(0, len(one), _CHUNK):
                part = slice(chunk, chunk + _CHUNK)
                yield one[part] + start, other[part] + start, mirrored


def _perceptual_hashes(pictures_N3SS: np.ndarray) -> np.ndarray:
    """Hashes as float32 (N, 192) of +1 and -1, so that a matrix product counts equal bits.

    A bit says whether one of the 64 lowest frequencies of a picture's cosine transform is above their median.
    """
    cosines_8S = np.cos(np.pi / THUMBNAIL_SIDE * np.outer(np.arange(8), np.arange(THUMBNAIL_SIDE) + 0.5)).astype(
        np.float32
    )
    signs = np.empty((len(pictures_N3SS), 3, 64), np.float32)
    for start in range(0, len(signs), _CHUNK):
        pictures = pictures_N3SS[start : start + _CHUNK]
        spectrum = (cosines_8S @ pictures.astype(np.float32) @ cosines_8S.T).reshape(-1, 3, 64)
        above = spectrum > np.median(spectrum, axis=2, keepdims=True)
        above &= _has_contrast(pictures)[..., None]  # in a flat picture the frequencies are noise
        signs[start : start + _CHUNK] = np.where(above, 1, -1)
    return signs.reshape(len(signs), -1)


def _has_contrast(pictures_N3SS: np.ndarray) -> np.ndarray:
    """Whether each picture has any contrast: bool (N, 3)."""
    return pictures_N3SS.std(axis=(2, 3), dtype=np.float32) > _MIN_STD


def _pictures_match(one_P3SS: np.ndarray, other_P3SS: np.ndarray) -> np.ndarray:
    """Which pairs match in all three pictures, whatever their brightness and contrast: bool (P,)."""
    apart = np.abs(standardize(one_P3SS) - standardize(other_P3SS)) > _MAX_PIXEL_DIFFERENCE
    return (apart.mean(axis=(2, 3)) <= _MAX_DIFFERENT_SHARE).all(1)


def standardize(pictures_P3SS: np.ndarray) -> np.ndarray:
    """Pictures with mean 0 and standard deviation 1, float32 of the same shape; less for flat pictures."""
    pictures = pictures_P3SS - pictures_P3SS.mean(axis=(2, 3), keepdims=True, dtype=np.float32)
    return pictures / np.maximum(pictures.std(axis=(2, 3), keepdims=True), _MIN_STD)
