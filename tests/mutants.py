"""Videos with something broken in them, each a function of its seed, and what reading one of them comes to."""

import resource
from dataclasses import dataclass
from pathlib import Path
from random import Random

from finetune.errors import VideoError
from finetune.video.decode import probe, read_frames

MOST_GROWTH_MEGABYTES = 700  # a header may claim frames of 8192 × 8192 pixels, and a decoder holds several
MOST_MEMORY_BYTES = 6 * 2**30


def cut(data, other, rng):
    del data[rng.randrange(len(data)) :]


def flip(data, other, rng):
    reach = rng.choice([64, 1024, len(data)])
    for _ in range(rng.choice([1, 8, 64])):
        data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)


def flip_end(data, other, rng):
    for _ in range(rng.choice([1, 8, 64])):
        data[-rng.randint(1, min(2048, len(data)))] ^= 1 << rng.randrange(8)


def swap_headers(data, other, rng):
    length = rng.choice([4, 16, 64, 512, 4096])
    data[:length] = other[:length]


def zero(data, other, rng):
    start, end = part(data, rng)
    data[start:end] = bytes(end - start)


def double(data, other, rng):
    start, end = part(data, rng)
    data[start:start] = data[start:end]


def take_out(data, other, rng):
    start, end = part(data, rng)
    del data[start:end]


def large_number(data, other, rng):
    start = rng.randrange(len(data))
    data[start : start + 4] = rng.choice(
        [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\xff\xff", b"\x3f\xff" * 2]
    )


def append_garbage(data, other, rng):
    data += rng.randbytes(rng.choice([1, 100, 10_000]))


def insert_other(data, other, rng):
    start, end = part(other, rng)
    position = rng.randrange(len(data))
    data[position:position] = other[start:end]


MUTATIONS = (cut, flip, flip_end, swap_headers, zero, double, take_out, large_number, append_garbage, insert_other)


def part(data, rng):
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 16, 256, 4096]))


@dataclass(frozen=True)
class Mutants:
    """Mutants of the `bases`; called with a seed, one is made in `folder` and read, and stays if that goes wrong."""

    bases: tuple[Path, ...]
    folder: Path

    def make(self, seed):
        """Its path, and how it was made."""
        rng = Random(seed)
        base, other = rng.choice(self.bases), rng.choice(self.bases)
        data, how = bytearray(base.read_bytes()), []
        for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
            if data:
                mutation(data, other.read_bytes(), rng)
                how.append(mutation.__name__)
        path = self.folder / f"{seed}{base.suffix}"
        path.write_bytes(data)
        return path, f"{base.name}: {', '.join(how)}, with {other.name}"

    def __call__(self, seed):
        path, _ = self.make(seed)
        wrong = what_is_wrong(path)
        if wrong is None:
            path.unlink()
        return wrong


def what_is_wrong(path):
    """None where the file is read or refused in plain words, within bounds."""
    before = most_memory_megabytes()
    try:
        count = probe(path).num_frames
        frames, _ = read_frames(path, [0, count // 2, count - 1], size=(16, 16))
        if frames.shape != (3, 3, 16, 16):
            return f"frames of shape {frames.shape}"
        try:
            read_frames(path, [count], size=(16, 16))
        except VideoError:
            pass
        else:
            return f"frame {count} of {count} could be read"
    except VideoError as error:
        if not str(error).startswith(f"{path}: "):
            return f"a message that does not begin with the path: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    growth = most_memory_megabytes() - before
    return f"took {growth} MB of memory" if growth > MOST_GROWTH_MEGABYTES else None


def most_memory_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def limit_memory():
    """So that a test cannot bring the machine down."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
