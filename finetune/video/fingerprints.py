"""Which videos are the same: to the byte, or to the eye (re-encoded, scaled, mirrored).

Each video is known here by three small grey pictures, of its first, middle and last frame. Arithmetic on arrays
only: no decoder, no tensors.
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

THUMBNAIL_SIDE = 32  # pixels a side of a small grey picture
MAX_PAIRS = 20_000  # of near duplicates; beyond them no more are looked for
# Measured on re-encoded, halved and mirrored copies of real clips, and on clips of one unmoved camera: copies differ in
# at most 8 bits and in a hundredth of their pixels by at most 0.65 of a picture's spread, others from 12 bits and 1.18.
_MAX_HASH_DISTANCE, _MAX_PIXEL_DIFFERENCE, _MAX_DIFFERENT_SHARE = 24, 0.8, 0.01
_MIN_STD = 3.0  # grey levels of spread; a picture with less shows nothing to compare
_BLOCK, _CHUNK = 512, 2048
END_BYTES = 65_536  # of a file, looked at before all of it is


def thumbnail(frame_3HW: np.ndarray) -> np.ndarray:
    """A picture averaged down to uint8 (SIDE, SIDE) grey, whatever its shape was."""
    grey_HW = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), frame_3HW.astype(np.float32), 1)
    height, width = grey_HW.shape
    return np.rint(_averaging_matrix(height) @ grey_HW @ _averaging_matrix(width).T).astype(np.uint8)


@cache
def _averaging_matrix(length: int) -> np.ndarray:
    """float32 (SIDE, length): row i averages what lies in the i-th of SIDE equal parts of `length` pixels."""
    edges = np.linspace(0, length, THUMBNAIL_SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = overlap.clip(0)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def exact_duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Positions of files, or folders of images, with equal contents, in sets of two and more.

    Only those of equal size are read, and only those whose ends are the same are read whole.
    """
    sets = _split_by_key([list(range(len(paths)))], [stamp(path)[0] for path in paths])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for digest in (_digest_of_ends, _digest):
            positions = [position for each in sets for position in each]
            digests = pool.map(digest, [paths[position] for position in positions])
            sets = _split_by_key(sets, dict(zip(positions, digests, strict=True)))
    return sets


def _split_by_key(sets: Sequence[Sequence[int]], keys: Sequence[Any] | Mapping[int, Any]) -> list[list[int]]:
    """Each set by the key of its members; what stands alone is left out."""
    by_key: dict[tuple[int, Any], list[int]] = defaultdict(list)
    for number, each in enumerate(sets):
        for position in each:
            by_key[number, keys[position]].append(position)
    return [positions for positions in by_key.values() if len(positions) > 1]


def _digest_of_ends(path: Path) -> bytes:
    """Of the first bytes of its first file and the last bytes of its last one."""
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


def near_duplicates(pictures_N3SS: np.ndarray) -> list[tuple[int, int, bool]]:
    """Pairs (one, other, mirrored) whose three pictures agree, of uint8 (N, 3, SIDE, SIDE).

    A sieve of 64-bit hashes first, all pairs in blocks of matrix products; then the pictures themselves. Videos of
    one grey throughout agree with none. Gives about MOST_PAIRS pairs at most.
    """
    chunks = range(0, len(pictures_N3SS), _CHUNK)
    shows = [_has_contrast(pictures_N3SS[start : start + _CHUNK]).any(1) for start in chunks]
    showing = np.flatnonzero(np.concatenate([*shows, np.empty(0, bool)]))
    pictures = pictures_N3SS[showing]
    pairs: dict[tuple[int, int], bool] = {}
    for one, other, mirrored in _candidate_pairs(pictures) if len(pictures) else ():
        agree = _pictures_match(pictures[one], pictures[other][..., ::-1] if mirrored else pictures[other])
        for pair in zip(showing[one[agree]].tolist(), showing[other[agree]].tolist(), strict=True):
            pairs.setdefault(pair, mirrored)
        if len(pairs) >= MAX_PAIRS:
            break
    return [(one, other, mirrored) for (one, other), mirrored in sorted(pairs.items())]


def _candidate_pairs(pictures_N3SS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Chunks of pairs, one < other, whose hashes are close; as they are, then mirrored."""
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
    """Hashes as float32 (N, 192) of +1 and -1, so that a product counts bits.

    Of each picture 64 low frequencies, over their median or not.
    """
    cosines_8S = np.cos(np.pi / THUMBNAIL_SIDE * np.outer(np.arange(8), np.arange(THUMBNAIL_SIDE) + 0.5)).astype(
        np.float32
    )
    signs = np.empty((len(pictures_N3SS), 3, 64), np.float32)
    for start in range(0, len(signs), _CHUNK):
        pictures = pictures_N3SS[start : start + _CHUNK]
        spectrum = (cosines_8S @ pictures.astype(np.float32) @ cosines_8S.T).reshape(-1, 3, 64)
        above = spectrum > np.median(spectrum, axis=2, keepdims=True)
        above &= _has_contrast(pictures)[..., None]  # of a flat picture the frequencies are noise
        signs[start : start + _CHUNK] = np.where(above, 1, -1)
    return signs.reshape(len(signs), -1)


def _has_contrast(pictures_N3SS: np.ndarray) -> np.ndarray:
    """Whether a picture is of more than one grey: bool (N, 3)."""
    return pictures_N3SS.std(axis=(2, 3), dtype=np.float32) > _MIN_STD


def _pictures_match(one_P3SS: np.ndarray, other_P3SS: np.ndarray) -> np.ndarray:
    """Which pairs agree in all three pictures, whatever their brightness and contrast: bool (P,)."""
    apart = np.abs(standardize(one_P3SS) - standardize(other_P3SS)) > _MAX_PIXEL_DIFFERENCE
    return (apart.mean(axis=(2, 3)) <= _MAX_DIFFERENT_SHARE).all(1)


def standardize(pictures_P3SS: np.ndarray) -> np.ndarray:
    """Pictures of one brightness and contrast, float32."""
    pictures = pictures_P3SS - pictures_P3SS.mean(axis=(2, 3), keepdims=True, dtype=np.float32)
    return pictures / np.maximum(pictures.std(axis=(2, 3), keepdims=True), _MIN_STD)
