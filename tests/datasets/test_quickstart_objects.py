"""The quickstart's objects: boxes, identities and masks agree with what is drawn, and are the same for a seed."""

import csv
from collections import Counter, defaultdict
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from finetune.data.object_labels import parse_objects
from finetune.datasets.quickstart import SIZE, draw_scene
from finetune.datasets.quickstart_objects import (
    CLASSES,
    DEFAULT_SCENES,
    LABEL_EVERY,
    MIN_VISIBLE,
    SPEEDS,
    draw_objects,
    label_frame,
    plan_objects,
)
from finetune.datasets.shapes import mask_box

FEW = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_objects(tmp_path_factory.mktemp("objects"), seed=3, scenes=FEW, processes=1)


def rows_of(manifest):
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plans(count):
    for number in range(count):
        rng = np.random.default_rng(number)
        scene = draw_scene(rng)
        yield from ((speed, plan_objects(rng, scene, speed=speed)) for speed in SPEEDS)


def is_inside(item):
    return 0 < item.x < SIZE - item.w and 0 < item.y < SIZE - item.h


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(drawn, tmp_path):
    again = draw_objects(tmp_path / "again", seed=3, scenes=FEW, processes=1)
    files = [path.relative_to(drawn.parent) for path in drawn.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".csv", ".mp4", ".png"}
    for path in files:
        assert (again.parent / path).read_bytes() == (drawn.parent / path).read_bytes()
    other = draw_objects(tmp_path / "other", seed=4, scenes={"val": 1}, processes=1)
    assert {row["objects"] for row in rows_of(other)} - {""} != {row["objects"] for row in rows_of(drawn)} - {""}


def test_a_split_does_not_change_when_another_one_grows(drawn, tmp_path):
    alone = draw_objects(tmp_path, seed=3, scenes={"test": 1}, processes=1)
    assert rows_of(alone) == [row for row in rows_of(drawn) if row["split"] == "test"]


def test_every_scene_has_a_slow_and_a_fast_clip_and_lies_in_one_split(drawn):
    clips = {(row["split"], row["group"], row["path"]) for row in rows_of(drawn)}
    assert Counter(group for _, group, _ in clips) == {group: 2 for _, group, _ in clips}
    assert Counter(split for split, _ in {clip[:2] for clip in clips}) == FEW
    assert len({group for _, group, _ in clips}) == sum(FEW.values())
    assert 2 * sum(DEFAULT_SCENES.values()) == 380


def test_a_row_is_the_interval_of_one_frame_few_of_train_and_all_of_test(drawn):
    labelled = defaultdict(list)
    for row in rows_of(drawn):
        labelled[row["split"], row["path"]].append((float(row["start"]), float(row["end"] or "inf"), row["mask"]))
    for (split, path), intervals in labelled.items():
        with av.open(str(drawn.parent / path)) as container:
            times = np.array([float(frame.time) for frame in container.decode(video=0)])
        frames = []
        for start, end, mask in intervals:
            frames += np.flatnonzero((times - times[0] >= start) & (times - times[0] < end)).tolist()
            assert mask.endswith(f"_{frames[-1]:02d}.png")
        every = LABEL_EVERY[split]
        assert frames == list(range(every // 2, len(times), every))


def test_masks_are_indexed_and_hold_the_classes_of_the_boxes(drawn):
    seen = Counter()
    for row in rows_of(drawn):
        encoded = (drawn.parent / row["mask"]).read_bytes()
        assert encoded[25] == 3, "the colour type of an indexed PNG"
        with av.open(str(drawn.parent / row["mask"])) as container:
            mask, _ = next(container.decode(video=0)).to_ndarray()
        assert mask.shape == (SIZE, SIZE)
        names = {item.name for item in parse_objects(row["objects"]) if not item.ignore}
        present = {CLASSES[value - 1] for value in np.unique(mask) if value}
        assert names <= present
        seen.update(present)
    assert set(seen) == set(CLASSES)
    assert cv2.imread(str(drawn.parent / row["mask"])) is not None


def test_boxes_hold_the_masks_of_whole_objects_within_a_pixel():
    for _, plan in plans(15):
        for frame in range(0, plan.num_frames, 5):
            offset = frame - (plan.num_frames - 1) / 2
            for item in label_frame(plan, frame)[0]:
                x, y, w, h = mask_box(plan.objects[item.track].mask_at(offset))
                if is_inside(item):
                    assert (item.x, item.y, item.w, item.h) == pytest.approx((x, y, w, h), abs=2)
                assert min(item.x, item.y) >= 0 and max(item.x + item.w, item.y + item.h) <= SIZE


def test_an_object_keeps_its_identity_and_moves_as_fast_as_planned():
    checked = 0
    for speed, plan in plans(15):
        tracks = defaultdict(dict)
        for frame in range(plan.num_frames):
            for item in label_frame(plan, frame)[0]:
                tracks[item.track][frame] = item
        for track, items in tracks.items():
            mover = plan.objects[track]
            assert {item.name for item in items.values()} == {mover.shape}
            slowest, fastest = SPEEDS[speed]
            assert slowest <= np.linalg.norm(mover.velocity) <= fastest
            for before, after in pairwise(sorted(items)):
                one, two = items[before], items[after]
                if mover.spin == 0 and all(
                    0 < item.x < SIZE - item.w and 0 < item.y < SIZE - item.h for item in (one, two)
                ):
                    assert (two.x - one.x, two.y - one.y) == pytest.approx(mover.velocity * (after - before), abs=0.02)
                    checked += 1
    assert checked > 300


def test_an_object_that_is_nearly_hidden_or_outside_is_to_be_ignored():
    ignored = 0
    for _, plan in plans(30):
        for frame in range(0, plan.num_frames, 6):
            offset = frame - (plan.num_frames - 1) / 2
            items, classes = label_frame(plan, frame)
            masks = [mover.mask_at(offset) >= 128 for mover in plan.objects]
            for item in items:
                hidden = np.any(masks[item.track + 1 :], axis=0) if item.track + 1 < len(masks) else False
                shows = np.count_nonzero(masks[item.track] & ~np.asarray(hidden))
                whole = plan.objects[item.track].radius ** 2
                assert item.ignore or shows > 0.5 * MIN_VISIBLE * whole
                ignored += item.ignore
            assert (classes > 0).sum() == (np.any(masks, axis=0).sum() if masks else 0)
    assert ignored


def test_there_are_frames_without_objects_crossings_entrances_and_exits():
    empty = crossings = entrances = exits = 0
    for _, plan in plans(40):
        frames = [label_frame(plan, frame)[0] for frame in range(0, plan.num_frames, 4)]
        empty += sum(not items for items in frames)
        in_sight = [{item.track for item in items} for items in frames]
        entrances += sum(len(after - before) for before, after in pairwise(in_sight))
        exits += sum(len(before - after) for before, after in pairwise(in_sight))
        crossings += sum(any(item.ignore for item in items) for items in frames)
        assert len(plan.objects) <= 4 and all(mover.radius < 10 for mover in plan.distractors)
    assert min(empty, entrances, exits, crossings) >= 10
