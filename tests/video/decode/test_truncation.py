import re

import pytest
from scenes import make_scene

from finetune.video.decode.probe import probe
from finetune.video.decode.truncation import missing_bytes
from finetune.video.probe_files import inspect_files


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("part", [0.85, 0.9, 0.97])
def test_a_file_that_was_cut_off_is_refused_though_its_start_decodes(tmp_path, suffix, part):
    whole = make_scene(tmp_path / f"whole{suffix}", 0, 16)
    assert missing_bytes(whole) == 0
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    assert missing_bytes(cut) == whole.stat().st_size - cut.stat().st_size
    sound, error = inspect_files([whole, cut], seconds=60)
    assert sound.info == probe(whole)
    found = re.search(
        r"is cut off after frame (\d+): its header states ([\d,]+) bytes, but it has ([\d,]+)", str(error)
    )
    assert found, error
    frames, promised, there = found.groups()
    assert int(frames) == probe(cut).num_frames
    assert int(promised.replace(",", "")) == whole.stat().st_size
    assert int(there.replace(",", "")) == cut.stat().st_size


def test_a_file_that_is_cut_off_is_called_that_when_its_start_does_not_decode_either(tmp_path):
    data = bytearray(make_scene(tmp_path / "whole.avi", 0, 16).read_bytes())
    second_picture = data.index(b"00dc", data.index(b"00dc") + 1) + 8
    data[second_picture : second_picture + 40] = b"\0\0\0\1\x65" + b"\xff" * 35
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) * 85 // 100])
    (error,) = inspect_files([cut], seconds=60)
    assert f"cut.avi: is cut off: its header states {len(data):,} bytes" in str(error)


@pytest.mark.parametrize(
    ("start", "missing"),
    [
        (b"", 0),
        (b"RIFF", 0),
        (b"RIFF" + bytes(4) + b"AVI LIST", 0),
        (b"RIFF" + b"\xff" * 4 + b"AVI LIST", 0),
        (b"RIFF" + (100).to_bytes(4, "little"), 100),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff", 0),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", 0),
        (b"\x1a\x45\xdf\xa3\x81\x00\x18\x53\x80\x67\x40\x50", 0x50),
        (b"\x1a\x45\xdf\xa3\x80\x12\x34\x56\x78\x90", 0),
    ],
)
def test_what_a_header_does_not_know_it_does_not_promise(tmp_path, start, missing):
    (tmp_path / "file").write_bytes(start)
    assert missing_bytes(tmp_path / "file") == missing


@pytest.mark.real
def test_of_the_real_files_none_is_taken_for_cut_off(real):
    paths = [path for path in (real / "data").rglob("*") if path.suffix.lower() in {".avi", ".mkv", ".webm"}]
    assert len(paths) > 120
    assert all(missing_bytes(path) == 0 for path in paths)
