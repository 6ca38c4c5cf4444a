"""Generate the quickstart's objects: 380 short clips in which arrows, hearts and rings move, with boxes and masks.

Objects cross, hide each other, enter and leave; some frames are empty. Small distractors are of no class. Each scene
has a clip with slow and one with fast objects. Few frames of train and val are labelled, and all of test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from zlib import crc32

import numpy as np

from finetune.data.object_labels import LabelledObject, objects_text
from finetune.datasets.quickstart import (
    FPS,
    SIZE,
    MovingShape,
    Rows,
    Scene,
    Task,
    draw_frames,
    draw_grain,
    draw_scene,
    draw_scenes,
    plan_distractors,
    write_manifest,
)
from finetune.datasets.shapes import shape_mask
from finetune.video.class_colours import CLASS_COLOURS
from finetune.video.encode import encode_mask, write_video

CLASSES = ("arrow", "heart", "ring")
MASK_COLOURS = ((0, 0, 0), *CLASS_COLOURS)
SPEEDS = {"slow": (0.3, 1.0), "fast": (1.5, 3.5)}  # pixels per frame
COLUMNS = ("path", "start", "end", "label", "objects", "mask", "split", "group")
DEFAULT_SCENES = MappingProxyType({"train": 160, "val": 15, "test": 15})
LABEL_EVERY = {"train": 8, "val": 4, "test": 1}  # frames
MIN_VISIBLE = 0.25  # share of an object's area; less is marked to be ignored


@dataclass(frozen=True)
class ObjectsPlan:
    """One clip: its objects, of which a later one hides earlier ones, and distractors behind them."""

    num_frames: int
    objects: tuple[MovingShape, ...]
    distractors: tuple[MovingShape, ...]


def draw_objects(
    out: Path,
    *,
    seed: int = 0,
    scenes: Mapping[str, int] = DEFAULT_SCENES,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out/objects/<split>/<scene>_<speed>.mp4`, masks, and `out/objects.csv`, whose path is returned.

    `scenes` is the number in each split; each gives two clips. A row is a labelled frame: `objects` has boxes and
    identities, `mask` an indexed PNG whose values are 0 and the classes' numbers from 1, `label` slow or fast; it is
    empty where no object is in sight. `progress` is called with (scenes done, scenes). The files depend on the seed
    alone. The manifest is written last. `processes`: see `draw_quickstart`.
    """
    out = Path(out)
    manifest = out / "objects.csv"
    manifest.unlink(missing_ok=True)
    for split in scenes:
        (out / "objects" / split / "masks").mkdir(parents=True, exist_ok=True)
    rows = draw_scenes(_write_scene, out, scenes, seed=seed, processes=processes, progress=progress)
    write_manifest(manifest, rows, COLUMNS)
    return manifest


def _write_scene(task: Task) -> Rows:
    """Generate and write the clips of one scene; returns the rows of their labelled frames."""
    out, seed, split, number = task
    rng = np.random.default_rng([seed, crc32(b"objects " + split.encode()), number])
    scene = draw_scene(rng)
    rows: Rows = []
    for speed in SPEEDS:
        plan = plan_objects(rng, scene, speed=speed)
        path = Path("objects", split, f"{number:03d}_{speed}.mp4")
        movers = (*plan.distractors, *plan.objects)
        frames = draw_frames(rng, scene, movers, num_frames=plan.num_frames, grain=draw_grain(rng, scene))
        write_video(out / path, np.stack(list(frames)), fps=FPS)
        common = {"path": path.as_posix(), "split": split, "group": f"{split}-{number:03d}"}
        every = LABEL_EVERY[split]
        for frame in range(every // 2, plan.num_frames, every):
            mask = path.parent / "masks" / f"{path.stem}_{frame:02d}.png"
            objects, classes_HW = label_frame(plan, frame)
            (out / mask).write_bytes(encode_mask(classes_HW, MASK_COLOURS))
            label = speed if objects else ""
            labels = {"label": label, "objects": objects_text(objects), "mask": mask.as_posix()}
            rows.append(common | frame_interval(frame, plan.num_frames) | labels)
    return rows


def frame_interval(frame: int, num_frames: int) -> dict[str, object]:
    """`start` and `end` in seconds around one frame; the last one's end is empty."""
    start, end = max(frame - 0.5, 0) / FPS, (frame + 0.5) / FPS
    return {"start": f"{start:.2f}", "end": f"{end:.2f}" if frame < num_frames - 1 else ""}


def label_frame(plan: ObjectsPlan, frame: int) -> tuple[list[LabelledObject], np.ndarray]:
    """The objects in sight in a frame, and the classes of its pixels, uint8 (SIZE, SIZE): 0, or the number from 1.

    Boxes hold the whole object as far as it is in the picture, hidden or not. An identity is the object's number.
    """
    offset = frame - (plan.num_frames - 1) / 2
    masks = [mover.mask_at(offset) for mover in plan.objects]
    owners_HW = np.full((SIZE, SIZE), -1)  # the object in front at each pixel
    for identity, mask_HW in enumerate(masks):
        owners_HW[mask_HW >= 128] = identity
    classes_HW, objects = np.zeros((SIZE, SIZE), np.uint8), []
    for identity, (mover, mask_HW) in enumerate(zip(plan.objects, masks, strict=True)):
        classes_HW[owners_HW == identity] = CLASSES.index(mover.shape) + 1
        if mask_HW.max() >= 128:
            x, y, w, h = (round(number, 2) for number in mover.box_at(offset))
            visible = np.count_nonzero(owners_HW == identity) / _area(mover)
            objects.append(LabelledObject(mover.shape, x, y, w, h, identity, bool(visible < MIN_VISIBLE)))
    return objects, classes_HW


def _area(mover: MovingShape) -> int:
    """Pixels of the whole object."""
    center = (SIZE / 2, SIZE / 2)
    mask_HW = shape_mask(mover.shape, size=SIZE, center=center, radius=mover.radius, angle=mover.angle)
    return int(np.count_nonzero(mask_HW >= 128))


def plan_objects(rng: np.random.Generator, scene: Scene, *, speed: str) -> ObjectsPlan:
    """All random choices except the noise: up to four objects, in one clip of ten none.

    Each object passes a point of the picture at some time; in half of the clips the first two pass the same one.
    """
    num_frames = int(rng.integers(24, 49))
    count = int(rng.integers(1, 5)) * int(rng.uniform() >= 0.1)
    times, points = rng.uniform(0, num_frames - 1, count), rng.uniform(8, SIZE - 8, (count, 2))
    if rng.uniform() < 0.5:
        times[:2], points[:2] = times[:1], points[:1] + rng.uniform(-6, 6, 2)
    objects = tuple(
        _plan_object(rng, scene, speed=speed, point=point, frames_from_middle=time - (num_frames - 1) / 2)
        for point, time in zip(points, times, strict=True)
    )
    return ObjectsPlan(num_frames, objects, plan_distractors(rng, scene, steps=num_frames - 1))


def _plan_object(
    rng: np.random.Generator, scene: Scene, *, speed: str, point: np.ndarray, frames_from_middle: float
) -> MovingShape:
    """An object on a straight line that is at `point` at that time; half of them turn, by up to 3 degrees per frame."""
    direction, pixels_per_frame = rng.uniform(0, 2 * np.pi), rng.uniform(*SPEEDS[speed])
    velocity = np.array([np.cos(direction), np.sin(direction)]) * pixels_per_frame
    return MovingShape(
        shape=CLASSES[rng.integers(len(CLASSES))],
        color=scene.colors[rng.integers(4)],
        radius=rng.uniform(10, 20),
        center=point - velocity * frames_from_middle,
        velocity=velocity,
        angle=rng.uniform(0, 2 * np.pi),
        spin=np.radians(rng.uniform(-3, 3)) * rng.integers(2),
    )
