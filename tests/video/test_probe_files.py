import numpy as np
import pytest
from grey import grey_frames, make_clip
from scenes import CrashingPath, HangingPath, make_bad_files, make_scene

from finetune.errors import VideoError
from finetune.video import probe_files
from finetune.video.decode.probe import probe
from finetune.video.fingerprints import THUMBNAIL_SIDE
from finetune.video.probe_files import inspect_files, probe_many


def test_a_close_look_holds_the_facts_and_the_first_middle_and_last_frame(tmp_path):
    path = make_clip(tmp_path / "grey.mp4", 31)
    (look,) = inspect_files([path], seconds=60)
    assert look.info == probe(path)
    assert look.file_bytes == path.stat().st_size
    assert look.pictures_5SS[::2].shape == (3, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    levels = grey_frames(31)[[0, 15, 30], 0, 0, 0].astype(int)
    assert np.abs(look.pictures_5SS[::2].mean((1, 2)) - levels).max() <= 3
    assert look.middle_jpeg.startswith(b"\xff\xd8") and len(look.middle_jpeg) < 10_000


def test_every_bad_file_has_its_reason_and_the_good_ones_beside_it_are_read(tmp_path):
    reasons = make_bad_files(tmp_path)
    paths = [*(tmp_path / name for name in reasons), make_scene(tmp_path / "good.mp4", 0), tmp_path / "nowhere.mp4"]
    done = []
    *bad, good, missing = inspect_files(paths, seconds=60, progress=lambda *numbers: done.append(numbers))
    for path, error, words in zip(paths, bad, reasons.values(), strict=False):
        assert isinstance(error, VideoError) and str(error).startswith(f"{path}: ") and words in str(error)
    assert good.info.num_frames == 6
    assert "there is no such file" in str(missing)
    assert done == [(number, len(paths)) for number in range(1, len(paths) + 1)]


@pytest.mark.slow
def test_a_file_that_hangs_or_crashes_its_decoder_costs_that_file_alone(tmp_path):
    good = make_scene(tmp_path / "good.mp4", 0)
    hanging, crashing = HangingPath(tmp_path / "hang.mp4"), CrashingPath(tmp_path / "crash.mp4")
    hung, first, crashed, second = inspect_files([hanging, good, crashing, good], seconds=2)
    assert str(hung) == f"{hanging}: took longer than 2 s to read"
    assert str(crashed) == f"{tmp_path / 'crash.mp4'}: crashed the process that read it (SIGSEGV)"
    assert first.info == second.info == probe(good)
    assert probe_files.TIMEOUT_REASON in str(hung)


def test_what_is_found_is_the_same_in_processes_and_without(tmp_path, monkeypatch):
    paths = [*(tmp_path / name for name in make_bad_files(tmp_path)), make_clip(tmp_path / "good.mp4", 7)]
    alone = probe_many(paths)
    monkeypatch.setattr(probe_files, "MIN_FILES_FOR_PROCESSES", 1)
    assert list(map(str, probe_many(paths))) == list(map(str, alone))
    assert probe_many([]) == inspect_files([], seconds=1) == []


@pytest.mark.slow
@pytest.mark.real
def test_of_the_real_odd_files_those_that_no_decoder_reads_are_bad_and_no_others(real):
    paths = sorted(path for path in (real / "data/odd").iterdir() if path.suffix != ".csv")
    bad = [
        path.name
        for path, look in zip(paths, inspect_files(paths, seconds=120), strict=True)
        if isinstance(look, VideoError)
    ]
    endings = ["XX.flv", "ImgVideo.mp4", "__video2.mp4", "corrupted.mp4", "aac-0.5s.mp4", "wb_1f.3gp", "key1-init.mp4"]
    endings += ["bipbop_audioinit.mp4", "nonfragment_header.mp4", "two_desc.mp4", "8000.wav"]
    assert len(bad) == len(endings)
    assert all(name.endswith(ending) for name, ending in zip(bad, endings, strict=True)), bad
