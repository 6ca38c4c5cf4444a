"""The quickstart recordings: events where the manifest says, pauses and decoys between them, the same for a seed."""

import csv
import itertools

import av
import numpy as np
import pytest

from finetune.data.manifest import Manifest
from finetune.datasets.quickstart import draw_scene
from finetune.datasets.quickstart_recordings import EVENTS, FPS, draw_recordings, plan_recording

FEW = {"train": 1, "val": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_recordings(tmp_path_factory.mktemp("one"), recordings=FEW, processes=1)


def test_recordings_last_one_to_two_minutes_and_each_event_is_a_row(drawn):
    with drawn.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == set(EVENTS)
    for split in FEW:
        with av.open(str(drawn.parent / split / "000.mp4")) as container:
            seconds = container.streams.video[0].frames / float(FPS)
        assert 50 < seconds <= 120
        times = [float(row[name]) for row in rows if row["split"] == split for name in ("start", "end")]
        assert times == sorted(times) and times[0] > 0 and times[-1] < seconds
        assert 6 < len(times) / 2 < 40
    assert len(Manifest.from_csv(drawn)) == len(rows)


def test_the_same_seed_gives_the_same_files(drawn, tmp_path):
    again = draw_recordings(tmp_path, recordings={"val": 1}, processes=1)
    assert (again.parent / "val" / "000.mp4").read_bytes() == (drawn.parent / "val" / "000.mp4").read_bytes()


def test_events_alternate_with_pauses_in_which_decoys_show():
    rng = np.random.default_rng(0)
    parts = [part for _ in range(5) for part in plan_recording(rng, draw_scene(rng))]
    assert not any(one.label and other.label for one, other in itertools.pairwise(parts))
    decoys = [part for part in parts if not part.label and any(mover.radius > 10 for mover in part.movers)]
    events = [part for part in parts if part.label]
    assert 0.2 < len(decoys) / len(events) < 0.7
    still = [part for part in decoys if not part.movers[-1].velocity.any() and not part.movers[-1].spin]
    assert still and all(part.movers[-1].shape in {"arrow", "heart"} for part in still)
    counts = [sum(part.label == label for part in events) for label in EVENTS]
    assert max(counts) - min(counts) <= 10
