"""Train the weights that come with the package, on still pictures of drawn shapes.

    python scripts/pretrain_bundled.py --steps 3000

Every picture shows one shape (any of `finetune.datasets.shapes` but the two of the quickstart) on a textured
background. Linear heads on the pooled features have to tell which shape it is, where, how it is turned, how large
and of which colour. The heads are then dropped, and the backbone is saved in half precision in finetune/model/bundled.
The pictures depend on the seed alone; on one machine, with one number of threads, so do the weights.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from finetune.datasets.quickstart import SHAPES, SIZE, Scene, draw_scene
from finetune.datasets.shapes import OUTLINES, paint, shape_mask

BUNDLED = Path(__file__).parents[1] / "finetune" / "model" / "bundled"
NAMES = tuple(name for name in OUTLINES if name not in SHAPES)
# Turned by less than a full circle these look the same, so that their angle cannot be asked for.
ALIKE_WHEN_TURNED = {"disc", "square", "triangle", "hexagon", "star", "ring", "cross", "bolt"}
PICTURES_OF_A_SCENE = 8
HEADS = {"shape": len(NAMES), "position": 2, "heading": 2 * len(NAMES), "radius": 1, "color": 3}
WEIGHTS = {"shape": 1.0, "position": 4.0, "heading": 2.0, "radius": 1.0, "color": 1.0}


def draw_pictures(scenes: int, *, size: int, seed: int, processes: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """All pictures B,C,H,W uint8, and their targets; the same for any number of processes."""
    tasks = [(seed, number, size) for number in range(scenes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(draw_scene_pictures, tasks, chunksize=16))
    pictures_BHWC = torch.from_numpy(np.concatenate([pictures for pictures, _ in parts]))
    targets = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    return pictures_BHWC.permute(0, 3, 1, 2), {name: torch.from_numpy(value) for name, value in targets.items()}


def draw_scene_pictures(task: tuple[int, int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pictures of one scene, scaled down to `size`."""
    cv2.setNumThreads(1)
    seed, number, size = task
    rng = np.random.default_rng([seed, number])
    scene = draw_scene(rng)
    grain = rng.normal(0, scene.noise, (2 * SIZE, 2 * SIZE, 3)).astype(np.float32)
    pictures, targets = zip(*(draw_picture(rng, scene, grain=grain) for _ in range(PICTURES_OF_A_SCENE)), strict=True)
    scaled = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.stack(scaled), {name: np.stack([target[name] for target in targets]) for name in targets[0]}


def draw_picture(
    rng: np.random.Generator, scene: Scene, *, grain: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture (128, 128, 3) uint8 and its targets, each about -1 to 1; `has_heading`: the angle can be seen."""
    picture_HWC = scene.background_HWC.copy()
    for _ in range(rng.integers(4)):
        small = ("disc", "square", "triangle")[rng.integers(3)]
        _draw_shape(rng, picture_HWC, name=small, radius=rng.uniform(3, 7), color=scene.colors[rng.integers(4)])
    shape = int(rng.integers(len(NAMES)))
    radius, color = rng.uniform(15, 30), scene.colors[rng.integers(4)]
    center, angle = _draw_shape(rng, picture_HWC, name=NAMES[shape], radius=radius, color=color)
    y, x = rng.integers(0, SIZE, 2)
    noisy = picture_HWC + grain[y : y + SIZE, x : x + SIZE]
    targets = {
        "shape": np.array(shape),
        "position": (center / SIZE * 2 - 1).astype(np.float32),
        "heading": np.array([np.sin(angle), np.cos(angle)], np.float32),
        "has_heading": np.array(NAMES[shape] not in ALIKE_WHEN_TURNED, np.float32),
        "radius": np.array([(radius - 22.5) / 7.5], np.float32),
        "color": (color / 127.5 - 1).astype(np.float32),
    }
    return np.clip(noisy, 0, 255).astype(np.uint8), targets


def _draw_shape(
    rng: np.random.Generator, picture_HWC: np.ndarray, *, name: str, radius: float, color: np.ndarray
) -> tuple[np.ndarray, float]:
    """Draw it anywhere inside the picture, turned anyhow; returns its centre and angle."""
    center = rng.uniform(radius, SIZE - 1 - radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    paint(picture_HWC, shape_mask(name, size=SIZE, center=center, radius=radius, angle=angle), color=color)
    return center, angle


def losses(answers: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One mean loss for each head; squared errors but for the shape.

    The heading is asked for knowing the shape, as what points where differs from shape to shape.
    """
    rows = torch.arange(len(targets["shape"]))
    heading = answers["heading"].view(len(rows), -1, 2)[rows, targets["shape"]]
    heading = (heading - targets["heading"]).square().sum(1) * targets["has_heading"]
    return {
        "shape": F.cross_entropy(answers["shape"], targets["shape"]),
        "position": F.mse_loss(answers["position"], targets["position"]),
        "heading": heading.sum() / targets["has_heading"].sum().clamp(min=1),
        "radius": F.mse_loss(answers["radius"], targets["radius"]),
        "color": F.mse_loss(answers["color"], targets["color"]),
    }


def train(args: argparse.Namespace) -> tuple[nn.Module, dict[str, float]]:
    """The backbone, and the losses of each head over the last tenth of the steps."""
    torch.manual_seed(args.seed)
    backbone = timm.create_model(args.architecture, pretrained=False, num_classes=0)
    config = timm.data.resolve_model_data_config(backbone)
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) * 255 for name in ("mean", "std"))
    width = backbone(torch.zeros(2, 3, args.size, args.size)).shape[1]
    backbone = backbone.to(memory_format=torch.channels_last)  # a third faster on a CPU
    heads = nn.ModuleDict({name: nn.Linear(width, outputs) for name, outputs in HEADS.items()})
    parameters = [*backbone.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    pictures, targets = draw_pictures(args.scenes, size=args.size, seed=args.seed, processes=2)
    recent: dict[str, list[float]] = {name: [] for name in HEADS}
    print(f"{len(pictures)} pictures drawn", flush=True)
    started = time.monotonic()
    for step, rows in enumerate(_batches(len(pictures), batch=args.batch, steps=args.steps), start=1):
        batch = (pictures[rows].float() - mean) / std
        features = backbone(batch.contiguous(memory_format=torch.channels_last))
        parts = losses({name: head(features) for name, head in heads.items()}, _take(targets, rows))
        optimizer.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in parts.items()]).sum().backward()
        optimizer.step()
        schedule.step()
        for name, loss in parts.items():
            recent[name] = [*recent[name], loss.item()][-max(1, args.steps // 10) :]
        if step % 100 == 0:
            shown = "  ".join(f"{name} {np.mean(values[-100:]):.3f}" for name, values in recent.items())
            print(f"step {step}/{args.steps}  {time.monotonic() - started:.0f} s  {shown}", flush=True)
    return backbone, {name: round(float(np.mean(values)), 4) for name, values in recent.items()}


def _batches(count: int, *, batch: int, steps: int) -> Iterator[torch.Tensor]:
    """Rows of each step: pass after pass through all pictures, each in a new order."""
    passes = -(-steps * batch // count)
    order = torch.cat([torch.randperm(count) for _ in range(passes)])
    yield from order[: steps * batch].split(batch)


def _take(targets: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: values[rows] for name, values in targets.items()}


def save(backbone: nn.Module, facts: dict[str, object], *, path: Path) -> None:
    """Write the weights and, beside them, how they came about."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in backbone.state_dict().items()
    }
    save_file(half, path)
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenetv3_small_050")
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    backbone, last_losses = train(args)
    facts: dict[str, object] = {
        **{name: value for name, value in vars(args).items() if name != "out"},
        "name": args.architecture,
        "pictures": args.scenes * PICTURES_OF_A_SCENE,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "machine": f"{platform.machine()} CPU, {args.threads} thread(s)",
        "shapes": NAMES,
        "losses": last_losses,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    save(backbone, facts, path=args.out / f"{args.architecture}.safetensors")


if __name__ == "__main__":
    main()
