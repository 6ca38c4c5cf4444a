"""Whatever is broken in a file, it is read or refused in plain words: soon, in little memory, and without a crash.

FINETUNE_FUZZ is the number of mutants: 60 take seconds, 2000 some minutes.
"""

import os

import pytest
from moving import KINDS, write
from mutants import Mutants, limit_memory

from finetune.video.workers import Failure, Workers

COUNT = int(os.environ.get("FINETUNE_FUZZ", "60"))
SECONDS = 8  # at most, for one file
LARGEST_BYTES = 200_000
SMALL_KINDS = sorted(KINDS.keys() - {"h264", "h264_open", "h264_refresh", "h264_444", "hevc_layers", "mpeg4_mp4"})


@pytest.fixture(scope="module")
def made_clips(tmp_path_factory):
    return [write(tmp_path_factory.mktemp(kind), kind, 20) for kind in SMALL_KINDS]


def outcomes(mutants, seeds):
    """What is wrong with each seed's mutant, by seed; a crash or a hang is told by the process that was lost."""
    with Workers(mutants, count=2, time_limit=SECONDS, begin=limit_memory) as workers:
        futures = {seed: workers.submit(seed) for seed in seeds}
        found = {seed: future.result() for seed, future in futures.items()}
    return {seed: result.reason if isinstance(result, Failure) else result for seed, result in found.items()}


def assert_all_are_read_or_refused(clips, folder):
    mutants = Mutants(tuple(clips), folder)
    wrong = {seed: reason for seed, reason in outcomes(mutants, range(COUNT)).items() if reason}
    # Memory that one file has damaged may bring down the next: each is tried again by itself.
    alone = {seed: outcomes(mutants, [seed])[seed] for seed in wrong}
    lines = [f"{mutants.make(seed)}: {reason}; alone: {alone[seed]}" for seed, reason in wrong.items()]
    assert not wrong, "\n".join([f"{len(wrong)} of {COUNT} mutants", *lines])


def test_mutants_of_many_codecs_and_containers_are_read_or_refused(made_clips, tmp_path):
    assert_all_are_read_or_refused(made_clips, tmp_path)


@pytest.mark.real
def test_mutants_of_real_files_are_read_or_refused(real, tmp_path):
    files = sorted((real / "data/odd").iterdir())
    small = [path for path in files if 0 < path.stat().st_size <= LARGEST_BYTES and path.suffix != ".csv"]
    assert_all_are_read_or_refused(small, tmp_path)


def test_a_mutant_is_a_function_of_its_seed(made_clips, tmp_path):
    mutants = Mutants(tuple(made_clips), tmp_path)
    made = [(mutants.make(seed), mutants.make(seed)[0].read_bytes()) for seed in range(10)]
    assert made == [(mutants.make(seed), mutants.make(seed)[0].read_bytes()) for seed in range(10)]
    assert len({data for _, data in made}) == 10
