"""Damaged files are read or refused in plain words: no traceback, no hang, bounded memory, whatever is wrong.

A few hundred mutants run with all tests; FINETUNE_FUZZ=2000 sets another number. One that brings its process down is
kept beside the test's other files, and named.
"""

import os
import random
import resource
from pathlib import Path

import pytest
from moving import KINDS, write

from finetune.errors import VideoError
from finetune.video.decode.probe import scan
from finetune.video.decode.read import read_frames
from finetune.video.worker_pool import WorkerFailure, process_map

MUTANTS = int(os.environ.get("FINETUNE_FUZZ", "200"))
MOST_BYTES = 1_500_000_000
LARGEST_SEED_FILE = 300_000


def mutate(content, other, rng):
    """A copy of a file with one to three kinds of damage."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(DAMAGES)(bytearray(content), other, rng)
    return bytes(content)


def truncate(content, other, rng):
    return content[: rng.randrange(len(content) + 1)]


def flip_bytes(content, other, rng):
    for _ in range(rng.choice([1, 10, 200]) if content else 0):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return content


def flip_header(content, other, rng):
    for _ in range(rng.choice([1, 4, 20]) if content else 0):
        content[rng.randrange(min(len(content), 600))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return content


def flip_tail(content, other, rng):
    for _ in range(rng.choice([1, 4, 20]) if content else 0):
        content[-rng.randrange(1, min(len(content), 2000) + 1)] = rng.choice([0, 255, rng.randrange(256)])
    return content


def swap_header(content, other, rng):
    length = rng.choice([16, 64, 300, 1000])
    return other[:length] + content[length:]


def blank(content, other, rng):
    start = rng.randrange(len(content) + 1)
    length = rng.randrange(1, 5000)
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def repeat(content, other, rng):
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.randrange(1, 5000)]
    return content[:start] + piece + content[start:]


def append(content, other, rng):
    return content + rng.randbytes(rng.randrange(1, 5000))


DAMAGES = [truncate, flip_bytes, flip_header, flip_tail, swap_header, blank, repeat, append]


def read_mutant(task):
    """The outcome for a mutant, and the peak memory of the process so far in bytes."""
    source, other, seed, folder = task
    rng = random.Random(seed)
    path = Path(folder) / f"{seed}{source.suffix}"
    path.write_bytes(mutate(source.read_bytes(), other.read_bytes(), rng))
    said = []
    try:
        info, layout = scan(path)
        wanted = [0, info.num_frames // 2, info.num_frames - 1]
        for known in (None, layout):
            frames, _ = read_frames(path, wanted, layout=known, size=(32, 32))
            assert frames.shape == (3, 3, 32, 32)
        said.append("read")
        read_frames(path, [info.num_frames], size=(32, 32))
    except VideoError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        said.append(str(error))
    path.unlink()
    return said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(scope="module")
def seed_files(tmp_path_factory):
    files = [write(tmp_path_factory.mktemp(kind), kind, 21) for kind in KINDS]
    real = os.environ.get("FINETUNE_REAL")
    odd = sorted(Path(real, "data/odd").iterdir()) if real else []
    return files + [path for path in odd if 0 < path.stat().st_size < LARGEST_SEED_FILE and path.suffix != ".csv"]


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_plain_words(seed_files, tmp_path):
    rng = random.Random(0)
    tasks = [(*rng.sample(seed_files, 2), seed, tmp_path) for seed in range(MUTANTS)]
    results = list(process_map(read_mutant, tasks, count=2, time_limit=8))
    lost = [
        (str(tmp_path / f"{task[2]}{task[0].suffix}"), task[0].name, result.reason)
        for task, result in zip(tasks, results, strict=True)
        if isinstance(result, WorkerFailure)
    ]
    assert not lost, "\n".join(map(str, lost))
    outcomes = [said for said, _ in results]
    assert max(memory for _, memory in results) < MOST_BYTES
    refused = sum(said[0] != "read" for said in outcomes)
    print(
        f"{len(tasks)} mutants: {len(tasks) - refused} read, {refused} refused, "
        f"at most {max(memory for _, memory in results) / 1e6:.0f} MB"
    )
    assert MUTANTS * 0.1 < refused < MUTANTS * 0.95
