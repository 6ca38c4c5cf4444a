"""The quickstart's actors: two shapes with different motions in a clip; boxes alone tell which one a row is about."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest

from finetune.datasets.quickstart import SIZE, draw_scene
from finetune.datasets.quickstart_actors import ACTIONS, PAIRS, draw_actors, keyframes, plan_actors
from finetune.datasets.shapes import mask_box

FEW = {"train": 1, "test": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_actors(tmp_path_factory.mktemp("actors"), seed=3, scenes=FEW, processes=1)


def rows_of(manifest):
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def boxes_of(cell):
    frames = (text.split(":") for text in cell.split(";"))
    return {int(frame): np.array(box.split(","), dtype=float) for frame, box in frames}


def test_the_same_seed_gives_the_same_bytes(drawn, tmp_path):
    again = draw_actors(tmp_path, seed=3, scenes=FEW, processes=1)
    for path in [drawn.name, *(row["path"] for row in rows_of(drawn))]:
        assert (again.parent / path).read_bytes() == (drawn.parent / path).read_bytes()


def test_a_clip_has_two_rows_with_different_actions_and_a_scene_has_all_pairs(drawn):
    actions = defaultdict(list)
    for row in rows_of(drawn):
        actions[row["group"], row["split"], row["path"]].append(row["label"])
    pairs = defaultdict(list)
    for (group, split, _), pair in actions.items():
        pairs[group, split].append(tuple(pair))
    assert list(map(sorted, pairs.values())) == [sorted(PAIRS)] * sum(FEW.values())
    assert set(Counter(action for pair in PAIRS for action in pair).values()) == {3} and len(PAIRS[0]) == 2


def test_boxes_hold_the_shapes_which_stay_apart():
    for number in range(20):
        rng = np.random.default_rng(number)
        scene = draw_scene(rng)
        actors = plan_actors(rng, scene, PAIRS[number % len(PAIRS)], num_frames=40)
        for frame in (0, 18, 39):
            masks = [actor.mask_at(frame - 19.5) for actor in actors]
            assert not np.any((masks[0] > 0) & (masks[1] > 0))
            for actor, mask in zip(actors, masks, strict=True):
                x, y, w, h = boxes_of(keyframes(actor, 40))[frame]
                assert (x, y, w, h) == pytest.approx(mask_box(mask), abs=2)
                assert min(x, y) > 0 and max(x + w, y + h) < SIZE


def test_a_shape_does_what_its_label_says(drawn):
    for number, pair in enumerate(PAIRS):
        rng = np.random.default_rng(number)
        for action, actor in zip(pair, plan_actors(rng, draw_scene(rng), pair, num_frames=40), strict=True):
            moments = np.arange(40) - 19.5
            centres_T2 = np.array([[x + w / 2, y + h / 2] for x, y, w, h in map(actor.box_at, moments)])
            sizes_T = np.array([(w * h) ** 0.5 for _, _, w, h in map(actor.box_at, moments)])
            assert 15 < abs(centres_T2[-1, 1] - centres_T2[0, 1]) < 80
            assert (np.ptp(sizes_T) > 0.3 * sizes_T.mean()) == (action == "pulses")
            assert (np.abs(np.diff(centres_T2[:, 0], n=2)).max() > 1.5) == (action == "shakes")
            assert (actor.spin != 0) == (action == "spins")
    assert {row["label"] for row in rows_of(drawn)} == set(ACTIONS)
