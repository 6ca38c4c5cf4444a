"""The quickstart data are as their manifest says, and opposite motions differ in the order of frames only."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from finetune.datasets import quickstart
from finetune.datasets.quickstart import CLASSES, SIZE, draw_clip, draw_quickstart, draw_scene, plan_clip
from finetune.datasets.shapes import mask_box, shape_mask

GROUPS = {"train": 3, "val": 1}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_quickstart(tmp_path_factory.mktemp("quickstart"), seed=7, groups=GROUPS, processes=1)


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def plans(label: str, *, count: int) -> list[quickstart.ClipPlan]:
    """Clips of one class, each from its own scene, which is also the nth scene of every other class."""
    drawn = []
    for number in range(count):
        rng = np.random.default_rng(number)
        drawn.append(plan_clip(rng, draw_scene(rng), label=label))
    return drawn


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(manifest: Path, tmp_path: Path) -> None:
    again = draw_quickstart(tmp_path, seed=7, groups=GROUPS, processes=2)
    assert again.read_bytes() == manifest.read_bytes()
    for row in rows_of(manifest):
        assert (again.parent / row["path"]).read_bytes() == (manifest.parent / row["path"]).read_bytes()


def test_another_seed_gives_other_clips(manifest: Path, tmp_path: Path) -> None:
    other = draw_quickstart(tmp_path, seed=8, groups={"val": 1}, processes=1)
    assert {row["dy"] for row in rows_of(other)}.isdisjoint(row["dy"] for row in rows_of(manifest))


def test_a_split_does_not_change_when_another_one_grows(manifest: Path, tmp_path: Path) -> None:
    alone = draw_quickstart(tmp_path, seed=7, groups={"val": 1}, processes=1)
    assert rows_of(alone) == [row for row in rows_of(manifest) if row["split"] == "val"]


def test_every_group_holds_each_class_once_and_lies_in_one_split(manifest: Path) -> None:
    rows = rows_of(manifest)
    assert Counter((row["group"], row["label"]) for row in rows) == {
        (group, label): 1 for group in {row["group"] for row in rows} for label in CLASSES
    }
    assert Counter(split for split, _ in {(row["split"], row["group"]) for row in rows}) == GROUPS
    assert len({row["group"] for row in rows}) == sum(GROUPS.values())


def test_the_default_groups_give_520_clips() -> None:
    assert sum(quickstart.DEFAULT_GROUPS.values()) * len(CLASSES) == 520


def test_every_file_decodes_to_24_to_48_frames_of_128_pixels(manifest: Path) -> None:
    for row in rows_of(manifest):
        frames = frames_of(manifest.parent / row["path"])
        assert 24 <= len(frames) <= 48 and frames.shape[1:] == (SIZE, SIZE, 3)


def test_progress_counts_the_clips_up_to_all(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    draw_quickstart(tmp_path, groups={"val": 2}, processes=1, progress=lambda done, of: told.append((done, of)))
    assert told == [(8, 16), (16, 16)]


def test_an_interrupted_drawing_leaves_no_manifest_not_even_an_older_one(tmp_path: Path) -> None:
    draw_quickstart(tmp_path, groups={"val": 1}, processes=1)

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_quickstart(tmp_path, groups={"val": 2}, processes=1, progress=interrupt)
    assert not list(tmp_path.glob("manifest*"))


def test_the_box_of_the_manifest_holds_the_only_pixels_that_move(tmp_path: Path, monkeypatch) -> None:
    """Without distractors and noise, what differs from the background at the middle frame is the shape."""
    scenes = []

    def bare_scene(rng: np.random.Generator) -> quickstart.Scene:
        scenes.append(replace(draw_scene(rng), noise=0.0))
        return scenes[-1]

    def bare_plan(rng: np.random.Generator, scene: quickstart.Scene, *, label: str) -> quickstart.ClipPlan:
        return replace(plan_clip(rng, scene, label=label), distractors=())

    monkeypatch.setattr(quickstart, "draw_scene", bare_scene)
    monkeypatch.setattr(quickstart, "plan_clip", bare_plan)
    manifest = draw_quickstart(tmp_path, groups={"val": 2}, processes=1)
    for row in rows_of(manifest):
        frames = frames_of(tmp_path / row["path"])
        background = scenes[int(row["group"][-3:])].background_HWC
        change = np.abs(frames[len(frames) // 2].astype(int) - background).max(2)
        x, y, w, h = mask_box((change > 60).astype(np.uint8) * 255)
        assert np.abs(np.subtract((x, y, w, h), [int(row[name]) for name in "xywh"])).max() <= 3


def test_shapes_stay_inside_the_picture() -> None:
    for label in CLASSES:
        for clip in plans(label, count=40):
            for offset in (-(clip.num_frames - 1) / 2, (clip.num_frames - 1) / 2):
                x, y, w, h = mask_box(clip.mover.mask_at(offset))
                assert x > 0 and y > 0 and x + w < SIZE and y + h < SIZE


def test_dx_and_dy_of_the_manifest_are_the_motion_of_the_centre(manifest: Path) -> None:
    for row in rows_of(manifest):
        dx, dy = float(row["dx"]), float(row["dy"])
        if "spins" in row["label"]:
            assert max(abs(dx), abs(dy)) <= 7 / 23
        else:
            assert 36 / 47 <= abs(dy) <= 66 / 23 and (dy > 0) == row["label"].endswith("falls")


@pytest.mark.parametrize(("motion", "sign"), [("rises", -1), ("falls", 1)])
def test_the_drawn_shape_goes_up_or_down_by_the_pixels_that_were_planned(motion: str, sign: int) -> None:
    for clip in plans(f"arrow_{motion}", count=20):
        first, last = -(clip.num_frames - 1) / 2, (clip.num_frames - 1) / 2
        moved = np.subtract(mask_box(clip.mover.mask_at(last)), mask_box(clip.mover.mask_at(first)))
        assert 34 <= sign * moved[1] <= 68
        assert np.abs(moved[2:]).max() <= 1, "a shape that travels keeps its angle"


@pytest.mark.parametrize("shape", quickstart.SHAPES)
@pytest.mark.parametrize(("motion", "opposite"), [("rises", "falls"), ("spins_left", "spins_right")])
def test_a_clip_played_backwards_is_a_clip_of_the_opposite_motion(shape: str, motion: str, opposite: str) -> None:
    """With the same random numbers, opposite motions differ in the sign of one speed only."""
    for clip, other in zip(plans(f"{shape}_{motion}", count=30), plans(f"{shape}_{opposite}", count=30), strict=True):
        one, two = clip.mover, other.mover
        assert clip.num_frames == other.num_frames and len(clip.distractors) == len(other.distractors)
        assert (one.angle, one.radius) == (two.angle, two.radius)
        assert np.array_equal(one.center, two.center) and np.array_equal(one.color, two.color)
        if motion == "rises":
            assert one.velocity[1] == -two.velocity[1] < 0 and one.spin == two.spin == 0
        else:
            assert one.spin == -two.spin < 0 and np.array_equal(one.velocity, two.velocity)


def test_the_frames_of_opposite_motions_are_alike_when_their_order_is_forgotten() -> None:
    """The height of the shape: the same distribution over all frames, in opposite order."""
    heights = {}
    for motion in ("rises", "falls"):
        clips = plans(f"heart_{motion}", count=60)
        steps = [np.linspace(-0.5, 0.5, 8) * (clip.num_frames - 1) for clip in clips]
        heights[motion] = np.array(
            [[mask_box(clip.mover.mask_at(step))[1] for step in at] for clip, at in zip(clips, steps, strict=True)]
        )
    bags = [np.sort(heights[motion], axis=1) for motion in ("rises", "falls")]
    assert np.abs(bags[0] - bags[1]).max() <= 1
    assert (np.diff(heights["rises"], axis=1) < 0).all() and (np.diff(heights["falls"], axis=1) > 0).all()


def test_a_spin_turns_by_20_to_50_degrees_between_eight_frames_spread_over_the_clip() -> None:
    for motion, sign in (("spins_left", -1), ("spins_right", 1)):
        for clip in plans(f"heart_{motion}", count=40):
            turn = np.degrees(clip.mover.spin * (clip.num_frames - 1)) / 7
            assert 20 <= sign * turn <= 50


def test_right_is_clockwise_on_the_screen() -> None:
    """A quarter turn brings the arrow's tip from above to the right of the centre of gravity."""
    for angle, side in ((0.0, (0, -1)), (np.pi / 2, (1, 0))):
        mask = shape_mask("arrow", size=SIZE, center=(64, 64), radius=30, angle=angle)
        tip = np.multiply(side, 27) + 64
        assert mask[tip[1], tip[0]] == 255 and mask[128 - tip[1], 128 - tip[0]] in (0, 255)
        farthest = np.argwhere(mask)[np.linalg.norm(np.argwhere(mask) - 64, axis=1).argmax()]
        assert np.linalg.norm(farthest - 64) <= 31.5


def test_the_shape_stands_out_from_its_background() -> None:
    for number in range(50):
        scene = draw_scene(np.random.default_rng(number))
        far = [np.linalg.norm(scene.background_HWC.astype(float) - color, axis=2) for color in scene.colors]
        assert min(np.median(each) for each in far) > 90


def test_noise_alone_differs_between_frames_where_nothing_moves() -> None:
    rng = np.random.default_rng(3)
    scene = draw_scene(rng)
    clip = replace(plan_clip(rng, scene, label="arrow_spins_left"), distractors=())
    frames = draw_clip(rng, scene, clip=clip)
    corner = frames[:, :4, :4].astype(float)
    assert 0 < corner.std(axis=0).mean() < 3 * scene.noise
