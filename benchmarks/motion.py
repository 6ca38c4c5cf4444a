"""What makes motion visible to an image backbone: its input, fusion and pooling, frozen and fine-tuned.

    FINETUNE_WEIGHTS=<folder> python benchmarks/motion.py [--only frozen] [--clips 240] [--quick]

In a clip one shape goes up, down, left or right, turns clockwise or anticlockwise, grows or shrinks, beside others that
stand still or move in any direction. The camera shakes by two pixels. Played backwards, a clip is one of the opposite
class, so that neither a frame nor the mean over frames tells the two apart. Clips of a group share background, colours
and noise; test clips are of other groups.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import cv2
import numpy as np
import torch
from labelled_sets import CAMERA_REACH, CLIPS_IN_GROUP, SHAPES, SIZE, Scene, _distractor, draw_scene
from torch import Tensor
from torch.nn import functional as F

from finetune.datasets.shapes import paint, shape_mask
from finetune.metrics.classification import score_multiclass
from finetune.model.backbone.backbone import build_backbone
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.model.freezing.freeze import set_trainable
from finetune.model.freezing.param_groups import param_groups
from finetune.model.temporal_pooling import build_pooling
from finetune.recipe.schema import Model
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.runtime.device import keep_freed_memory
from finetune.study.probe import _Features, _predict_folds
from finetune.study.probe_classifiers import PROBE_CLASSIFIERS
from finetune.train.optim.lr_schedule import lr_factor

# The direction in which the centre moves, (x, y), the sign of the turn and that of the growth.
MOVES = {
    "up": ((0, -1), 0, 0),
    "down": ((0, 1), 0, 0),
    "left": ((-1, 0), 0, 0),
    "right": ((1, 0), 0, 0),
    "clockwise": ((0, 0), 1, 0),
    "anticlockwise": ((0, 0), -1, 0),
    "grows": ((0, 0), 0, 1),
    "shrinks": ((0, 0), 0, -1),
}
SHAKE, FRAMES, SIDE = 2, 24, 96  # pixels of 160; frames sampled from a clip; side of the pictures in pixels
TEST_CLIPS, BATCH_SIZE, HEAD_EPOCHS, EPOCHS = 240, 8, 60, 12
FROZEN_BACKBONE, TUNED_BACKBONE = "mobilenetv2_100", "mobilenetv3_small_050"
Row = tuple[str, np.ndarray]  # a row's name, and scores (N, K) of the test clips, which argmax turns into classes


@dataclass(frozen=True)
class Clips:
    """Clips, uint8 (N, FRAMES, 3, SIDE, SIDE), their classes (N,) and groups (N,)."""

    frames: Tensor
    labels: Tensor
    groups: np.ndarray


def main() -> None:
    """Print a table of frozen features and one of fine-tuned models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--clips", type=int, default=240, help="training clips")
    parser.add_argument("--quick", action="store_true", help="24 clips and one epoch, to test that all runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    num_train, num_test = (24, 24) if options.quick else (options.clips, TEST_CLIPS)
    train, test = draw_clips(0, num_train), draw_clips(num_train, num_train + num_test)
    for name in options.only:
        print(f"\n{name}\n\n| what | top-1 | 95 % interval |\n|---|---|---|")
        for row, scores_NK in TABLES[name](train, test, 1 if options.quick else EPOCHS):
            probs_NK = np.eye(len(MOVES))[scores_NK.argmax(1)]
            metrics = score_multiclass(test.labels.numpy(), probs_NK, classes=tuple(MOVES), groups=test.groups)
            low, high = metrics["top1_ci"]
            print(f"| {row} | {metrics['top1']:.3f} | {low:.2f} to {high:.2f} |", flush=True)


def draw_clips(first: int, last: int) -> Clips:
    """The clips of these numbers; one seed gives a clip whichever others are drawn."""
    clips, labels = [], []
    for number in range(first, last):
        label = (number * 5 + number // len(MOVES)) % len(MOVES)
        seed = [0, crc32(b"steady"), number // CLIPS_IN_GROUP]
        rng = np.random.default_rng([*seed, number])
        clips.append(draw_clip(rng, draw_scene(np.random.default_rng(seed)), list(MOVES)[label]))
        labels.append(label)
    return Clips(torch.from_numpy(np.stack(clips)), torch.tensor(labels), np.arange(first, last) // CLIPS_IN_GROUP)


def draw_clip(rng: np.random.Generator, scene: Scene, move: str) -> np.ndarray:
    """The middle frames of FRAMES equal segments of a clip of 40 to 55 frames, uint8 (FRAMES, 3, SIDE, SIDE)."""
    direction, turn_sign, growth_sign = MOVES[move]
    num_frames, shape = int(rng.integers(40, 56)), str(rng.choice(SHAPES))
    distractors = [_distractor(rng, scene) for _ in range(rng.integers(1, 4))]
    margin = 2 * CAMERA_REACH + 24
    center = rng.uniform(margin, SIZE + 2 * CAMERA_REACH - margin, 2)
    way = rng.uniform(25, 70) * np.array(direction)
    radius, angle = scene.radius * rng.uniform(0.8, 1.2), rng.uniform(0, 2 * np.pi)
    turn, growth = turn_sign * rng.uniform(1.2, 4.5), rng.uniform(1.4, 2.2) ** growth_sign
    color = scene.colors[rng.integers(2)]
    progress_T = np.linspace(0, 1, num_frames) ** rng.uniform(0.8, 1.25) - 0.5
    phase = rng.uniform(0, 1, 2)
    grain = rng.normal(0, scene.noise, (2 * SIZE, 2 * SIZE, 3)).round().astype(np.int16)
    frames = []
    for index in ((np.arange(FRAMES) + 0.5) * num_frames / FRAMES).astype(int):
        time, progress = index / (num_frames - 1), progress_T[index]
        camera = CAMERA_REACH + SHAKE * np.sin(2 * np.pi * (phase + scene.camera_speed * time))
        x, y = camera.round().astype(int)
        frame_HWC = scene.background_HWC[y : y + SIZE, x : x + SIZE].copy()
        for track in distractors:
            track.paint(frame_HWC, time=time, camera=np.array([x, y]))
        place = center + way * progress - (x, y)
        pose = {"center": place, "radius": radius * growth**progress, "angle": angle + turn * progress}
        mask = shape_mask(shape, size=SIZE, **pose)
        if mask.any():
            paint(frame_HWC, mask, color=color)
        left, top = rng.integers(0, SIZE, 2)
        noisy_HWC = np.clip(frame_HWC + grain[top : top + SIZE, left : left + SIZE], 0, 255).astype(np.uint8)
        frames.append(cv2.resize(noisy_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA).transpose(2, 0, 1))
    return np.stack(frames)


def eight_frames(clips_NTCHW: Tensor) -> Tensor:
    """The middle one of every three frames."""
    return clips_NTCHW[:, 1::3]


def differences(clips_NTCHW: Tensor) -> Tensor:
    """Of every three frames half the difference of the last and the first, around grey."""
    return (128 + (clips_NTCHW[:, 2::3].float() - clips_NTCHW[:, 0::3]) / 2).clamp(0, 255).to(torch.uint8)


def shuffled(clips_NTCHW: Tensor) -> Tensor:
    """Every three frames in a random order."""
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(FRAMES).reshape(-1, 3), (len(clips_NTCHW), 1, 1)), axis=2)
    rows = torch.arange(len(clips_NTCHW))[:, None]
    return clips_NTCHW[rows, torch.from_numpy(orders.reshape(-1, FRAMES))]


INPUTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "8 frames": ("late", eight_frames),
    "24 frames": ("late", lambda clips_NTCHW: clips_NTCHW),
    "8 differences": ("late", differences),
    "8 grey stacks": ("grey_stack", lambda clips_NTCHW: clips_NTCHW),
    "8 grey stacks, shuffled inside": ("grey_stack", shuffled),
}
# Fusion, temporal pooling, learning rate and layer decay of the second phase.
TUNED = (
    ("late", "gru", 1e-3, 0.8),
    ("grey_stack", "gru", 1e-3, 0.8),
    ("tsm", "gru", 1e-3, 0.8),
    ("late", "concat", 1e-3, 0.8),
    ("grey_stack", "concat", 1e-3, 0.8),
    ("tsm", "mean", 1e-3, 0.8),
    ("grey_stack", "mean", 1e-3, 0.8),
    ("late", "gru", 3e-3, 1.0),
    ("grey_stack", "gru", 3e-3, 1.0),
)


def frozen_rows(train: Clips, test: Clips, epochs: int) -> Iterator[Row]:
    """A logistic regression on the features of the frozen network; C is chosen in folds of whole training groups."""
    logistic = PROBE_CLASSIFIERS["logistic, mean of frames"]
    labels, groups = np.concatenate([train.labels, test.labels]), np.concatenate([train.groups, test.groups])
    rows = np.split(np.arange(len(labels)), [len(train.labels)])
    for name, (fusion, prepare) in INPUTS.items():
        backbone = build_backbone(FROZEN_BACKBONE, size=SIDE, num_frames=FRAMES, fusion=fusion).eval()
        features_NTD = torch.cat([features_of(backbone, prepare(clips.frames)) for clips in (train, test)])
        for kind in ("mean", "concat", "diff"):
            pooling = build_pooling(kind, backbone.width, num_frames=features_NTD.shape[1])[0]
            with torch.inference_mode():
                pooled = _Features(pooling(features_NTD)[:, None].numpy(), labels, groups, seconds=0)
            yield f"{name}, {kind}", _predict_folds(logistic, pooled, [(rows[0], rows[1])], len(MOVES))[rows[1]]


@torch.inference_mode()
def features_of(backbone: torch.nn.Module, clips_NTCHW: Tensor) -> Tensor:
    """Features (N, T', D) of clips uint8 (N, T, C, H, W)."""
    return torch.cat([backbone(part) for part in clips_NTCHW.split(BATCH_SIZE)])


def tuned_rows(train: Clips, test: Clips, epochs: int) -> Iterator[Row]:
    """Models whose head learns from the frozen features first, and then the whole network."""
    for fusion, temporal, lr, decay in TUNED:
        model = trained(
            train,
            Model(backbone=TUNED_BACKBONE, weights="bundled", temporal=temporal, fusion=fusion),
            (lr, decay),
            epochs,
        )
        frames = test.frames if fusion == "grey_stack" else eight_frames(test.frames)
        with torch.inference_mode():
            logits = [model.eval()(part)[DEFAULT_TASK] for part in frames.split(BATCH_SIZE)]
        yield f"{fusion}, {temporal}, lr {lr:g}, layer_decay {decay:g}", torch.cat(logits).numpy()


def trained(train: Clips, settings: Model, rates: tuple[float, float], epochs: int) -> VideoClassifier:
    """A model after both phases; `rates` are the learning rate and the layer decay of the second."""
    frames = train.frames if settings.fusion == "grey_stack" else eight_frames(train.frames)
    torch.manual_seed(0)
    model = build_from_settings(settings, list(MOVES), num_frames=frames.shape[1], size=SIDE)
    set_trainable(model, "head")
    features = features_of(model.eval().backbone, frames).clone()
    fit(
        model,
        lambda rows: model.heads(model.temporal(features[rows])),
        train.labels,
        (1e-3, 1.0),
        HEAD_EPOCHS * epochs // EPOCHS,
    )
    set_trainable(model, "all", batch_norm="train")
    fit(model, lambda rows: model(frames[rows]), train.labels, rates, epochs)
    return model


def fit(
    model: VideoClassifier,
    forward: Callable[[Tensor], dict[str, Tensor]],
    labels: Tensor,
    rates: tuple[float, float],
    epochs: int,
) -> None:
    """Train what is trainable with AdamW and a cosine schedule."""
    groups = param_groups(model, lr=rates[0], weight_decay=0.05, layer_decay=rates[1])
    optimizer, peaks = torch.optim.AdamW(groups), [group["lr"] for group in groups]
    steps = epochs * math.ceil(len(labels) / BATCH_SIZE)
    model.train()
    for step, rows in enumerate(rows for _ in range(epochs) for rows in torch.randperm(len(labels)).split(BATCH_SIZE)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * lr_factor(step, steps, schedule="cosine", warmup=0.1)
        F.cross_entropy(forward(rows)[DEFAULT_TASK], labels[rows], label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()


TABLES: dict[str, Callable[[Clips, Clips, int], Iterator[Row]]] = {"frozen": frozen_rows, "fine-tuned": tuned_rows}


if __name__ == "__main__":
    main()
