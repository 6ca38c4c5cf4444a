"""Embeddings that are trained to be searched: losses compared by mAP on classes that training has not seen.

    FINETUNE_WEIGHTS=<folder> [FINETUNE_REAL=<folder>] python benchmarks/contrastive.py [--only shapes] [--splits 3]

Each split divides the classes at random into two halves. The last stages of a network are trained on all clips of one
half; each clip of the other half then searches the others of its half, those of its group left out. Differences are
paired by query, averaged over splits, with intervals over groups. Frozen stages are computed once per set, and kept;
training is the steps of `finetune train` on what they make of the clips, without validation.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.data.unknown_classes import leave_out_classes
from finetune.datasets import quickstart
from finetune.metrics.intervals import mean_interval
from finetune.model.classifier import EMBEDDING, VideoClassifier
from finetune.model.frozen_prefix import forward_before_cut
from finetune.model.linear_fit import fit_linear
from finetune.model.standardized_head import can_be_standardized, first_linear, standardize_head
from finetune.recipe.schema import Augment, Recipe
from finetune.runtime.device import keep_freed_memory
from finetune.train.from_recipe import new_model
from finetune.train.head_start import _statistics
from finetune.train.optim.lr_schedule import phase_lr_factor
from finetune.train.phase import build_setup, start_phase
from finetune.train.step import StepNumbers, TrainState, train_step
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.encode import write_video

VIEWS = 2  # augmented views of each clip
SHAPES = ("arrow", "heart", "star", "cross")
CLASSES = tuple(f"{shape}_{motion}" for shape, motion in product(SHAPES, quickstart.MOTIONS))
SETS = {"shapes": "crop", "ut_interaction": "squash", "yoga_poses": "crop"}  # and how clips are fitted to a square
METHODS = {
    "frozen": {},
    "cross entropy": {},
    "cross entropy, cosine head": {"model": {"head": "cosine"}},
    "supervised contrastive": {"train": {"loss": "supervised_contrastive"}},
}


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of a set, and what the frozen stages make of them (N, 1 + VIEWS, *): as evaluated, and augmented."""

    manifest: Manifest
    activations: torch.Tensor


def main() -> None:
    """Print a line for each method and split, and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SETS, nargs="+", default=list(SETS))
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--splits", type=int, default=3, help="divisions of the classes, each with its own seed")
    parser.add_argument("--scenes", type=int, default=20, help="of the generated set; each has a clip of each class")
    parser.add_argument("--unfreeze", default="blocks.6")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the head")
    parser.add_argument("--backbone-lr-scale", type=float, default=0.3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--temporal", default="mean")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-contrastive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = [line for name in options.only for line in table_rows(name, options)]
    print("\n| set | method | mAP | recall@1 | mAP, compared with cross entropy |\n|---|---|---|---|---|")
    print("\n".join(lines))


def table_rows(name: str, options: argparse.Namespace) -> list[str]:
    """The lines of the table for one set."""
    manifest = manifest_of(name, options)
    clips = Clips(manifest, frozen_activations(name, manifest, options))
    names = np.array(manifest.classes)[manifest.labels]
    found: dict[str, list[np.ndarray]] = {method: [] for method in options.methods}
    for split in range(options.splits):
        order = np.random.default_rng([split, 1]).permutation(len(manifest.classes))
        seen_N = np.isin(manifest.labels, order[: len(order) // 2])
        for method in options.methods:
            started = time.process_time()
            recipe = recipe_of(name, method, manifest, split, options)
            embeddings_ND = embed(recipe, clips, seen_N, trained=method != "frozen")
            found[method].append(search(embeddings_ND, names, manifest.groups, ~seen_N))
            precision, hits = np.nanmean(found[method][-1], axis=1)
            seconds = time.process_time() - started
            print(f"{name}, split {split}, {method}: {precision:.3f}, {hits:.3f} ({seconds:.0f} s)", flush=True)
    return [table_row(name, method, found, manifest.groups) for method in options.methods]


def manifest_of(name: str, options: argparse.Namespace) -> Manifest:
    """All clips of a set, in the split train."""
    if name == "shapes":
        source = draw_shapes(options.cache / f"shapes-{options.scenes}", options.scenes)
    else:
        source = Path(os.environ["FINETUNE_REAL"]) / "data" / name / "clips.csv"
    manifest = Manifest.from_csv(source)
    return replace(manifest, splits=np.full(len(manifest), "train"))


def draw_shapes(folder: Path, scenes: int) -> Path:
    """Generate the set unless it is there: as the quickstart's clips, with more shapes."""
    manifest, rows = folder / "clips.csv", []
    for number in range(0 if manifest.exists() else scenes):
        rng = np.random.default_rng(number)
        scene = quickstart.draw_scene(rng)
        for label in CLASSES:
            path = Path(label, f"{number:03d}.mp4")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            clip = quickstart.plan_clip(rng, scene, label=label)
            write_video(folder / path, quickstart.draw_clip(rng, scene, clip=clip), fps=quickstart.FPS)
            rows.append({"path": path.as_posix(), "label": label, "group": f"scene-{number:03d}"})
    if rows:
        quickstart.write_manifest(manifest, rows, ("path", "label", "group"))
    return manifest


def recipe_of(name: str, method: str, manifest: Manifest, split: int, options: argparse.Namespace) -> Recipe:
    weights = Path(os.environ["FINETUNE_WEIGHTS"]) / "mobilenetv2_100.safetensors"
    model = {"backbone": "mobilenetv2_100", "weights": str(weights), "temporal": options.temporal}
    special = METHODS[method]
    phase = {
        "unfreeze": options.unfreeze,
        "epochs": options.epochs,
        "lr": options.lr,
        "backbone_lr_scale": options.backbone_lr_scale,
    }
    return Recipe(
        seed=split,
        data={"manifest": manifest.source, "workers": 0},
        clip={"num_frames": options.frames, "size": options.size, "fit": SETS[name]},
        model=model | special.get("model", {}),
        phases=[phase],
        train={"batch_size": options.batch_size, "precision": "fp32"} | special.get("train", {}),
    )


def frozen_activations(name: str, manifest: Manifest, options: argparse.Namespace) -> torch.Tensor:
    """What the stages before the trained ones make of all clips (N, 1 + VIEWS, *), from the cache if they are there."""
    file = options.cache / f"{name}-{len(manifest)}-{options.unfreeze}-{options.frames}-{options.size}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    recipe = recipe_of(name, "frozen", manifest, 0, options)
    model = new_model(recipe, manifest)
    cut = start(recipe, model, manifest).cut
    assert cut is not None
    model.eval()
    plain = ClipDataset(manifest, "train", clip=recipe.clip, views=1)
    light = Augment(preset="light")
    augmented = ClipDataset(
        manifest, "train", clip=recipe.clip, augment=light, views=1, drawn_views=VIEWS, facts=plain.facts
    )
    rows = []
    for row in range(len(manifest)):
        clips = [plain[row], *(augmented[draw, row] for draw in range(VIEWS))]
        rows.append(forward_before_cut(model, torch.cat([clip["clips"] for clip in clips]), cut).half())
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack(rows), file)
    return torch.stack(rows)


def start(recipe: Recipe, model: VideoClassifier, manifest: Manifest) -> TrainState:
    return start_phase(build_setup(model, manifest, recipe, precision="fp32"), 0)


def embed(recipe: Recipe, clips: Clips, seen_N: np.ndarray, *, trained: bool) -> torch.Tensor:
    """Embeddings (N, D) of all clips, of length 1, by a model that is trained on clips of the seen classes."""
    manifest = clips.manifest
    unseen = np.unique(manifest.labels[~seen_N])
    seen = leave_out_classes(manifest, [manifest.classes[label] for label in unseen])
    torch.manual_seed(recipe.seed)
    model = new_model(recipe, seen)
    state = start(recipe, model, seen)
    if trained:
        start_head(state, clips.activations[seen_N, 0], seen)
        run_phase(state, clips.activations[seen_N, 1:], seen.labels)
    return F.normalize(head_inputs(model, clips.activations[:, 0], state), dim=1)


def start_head(state: TrainState, activations: torch.Tensor, seen: Manifest) -> None:
    """Start a linear head from the linear probe, as training does."""
    model = state.setup.model
    if not can_be_standardized(model):
        return
    vectors_ND = head_inputs(model, activations, state).double()
    mean_D, std_D = _statistics(vectors_ND)
    standardize_head(model, mean_D, std_D)
    targets_NK = F.one_hot(torch.tensor(seen.labels), len(seen.classes)).double()
    ones_N = torch.ones(len(seen), dtype=torch.float64)
    vectors_ND = (vectors_ND - mean_D) / std_D
    fit = fit_linear(vectors_ND, targets_NK, units=seen.units, weights_N=ones_N, independent=False, frames=1)
    with torch.no_grad():
        first_linear(model).weight.copy_(fit.weight_KD)
        first_linear(model).bias.copy_(fit.bias_K)


def run_phase(state: TrainState, activations: torch.Tensor, labels: np.ndarray) -> None:
    """The steps of all epochs, each epoch on one of the augmented views."""
    recipe, phase = state.setup.recipe, state.phase
    batches = EpochBatchSampler(len(labels), recipe.train.batch_size, seed=recipe.seed)
    if recipe.train.loss == "supervised_contrastive":
        batches.pair(labels)
    steps, step = phase.num_steps(len(batches)), 0
    state.wrapped.train()
    for epoch in range(1, phase.epochs + 1):
        batches.begin(epoch)
        for number, keys in enumerate(batches, 1):
            rows = [position for _, position in keys]
            batch = {"clips": activations[rows, epoch % VIEWS, None].float(), "label": torch.tensor(labels[rows])}
            factor = phase_lr_factor(phase, recipe.train, in_phase=(step, steps), in_run=(step, steps))
            step += 1
            train_step(state, batch, StepNumbers(epoch, number, step), lr_factor=factor)


@torch.no_grad()
def head_inputs(model: VideoClassifier, activations: torch.Tensor, state: TrainState) -> torch.Tensor:
    """The vectors (N, D) that the head is given."""
    model.eval()
    return torch.cat([model(part.float(), state.cut, True)[EMBEDDING] for part in activations.split(16)])


def search(embeddings_ND: torch.Tensor, names: np.ndarray, groups: np.ndarray, unseen_N: np.ndarray) -> np.ndarray:
    """Average precision and recall@1 of each clip (2, N), searched in unseen classes; NaN for clips of seen ones."""
    cosines_NN = (embeddings_ND @ embeddings_ND.T).numpy()
    scores_2N = np.full((2, len(names)), np.nan)
    for query in np.flatnonzero(unseen_N):
        gallery = np.flatnonzero(unseen_N & (groups != groups[query]))
        right = (names[gallery] == names[query])[np.argsort(-cosines_NN[query, gallery], kind="stable")]
        if right.any():
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            scores_2N[:, query] = precision[right].mean(), right[0]
    return scores_2N


def table_row(name: str, method: str, found: dict[str, list[np.ndarray]], groups: np.ndarray) -> str:
    known = ~np.isnan(found[method]).all((0, 1))
    by_query_2N, base_2N = (np.nanmean(np.array(found[each])[..., known], axis=0) for each in (method, "cross entropy"))
    groups = groups[known]
    (precision, _), (hits, _) = (mean_interval(scores_N, groups) for scores_N in by_query_2N)
    difference, (low, high) = mean_interval((by_query_2N - base_2N)[0], groups)
    compared = "" if method == "cross entropy" else f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"| {name} | {method} | {precision:.3f} | {hits:.3f} | {compared} |"


if __name__ == "__main__":
    main()
