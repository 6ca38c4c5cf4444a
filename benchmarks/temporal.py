"""How well each kind of temporal pooling tells classes apart, and at what cost: all on the same frozen features.

The backbone sees each clip once as evaluation does and several times as training draws it; what it gives is kept. On
that every kind learns by one protocol, three times from other beginnings. Half of the quickstart's classes
are the other half played backwards: "direction" asks only which of such a pair a clip is, and a kind that is blind to
order is right half of the time. FINETUNE_REAL adds UT-Interaction, five folds by sequence.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.datasets.quickstart import draw_quickstart
from finetune.metrics.classification import score_multiclass
from finetune.model.backbone.backbone import Backbone, build_backbone
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.model.freezing.param_groups import param_groups
from finetune.model.temporal_pooling import POOLINGS
from finetune.recipe.schema import Augment, Clip, Model
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.runtime.device import keep_freed_memory
from finetune.train.optim.lr_schedule import lr_factor
from finetune.train.optim.optimizer import build_optimizer
from finetune.video.dataset import ClipDataset
from finetune.video.probe_files import scan_files

SEEDS = (0, 1, 2)
FOLDS = 5
EPOCHS, BATCH_SIZE, LR, WEIGHT_DECAY, DROPOUT = 40, 16, 1e-3, 0.05, 0.5
OPPOSITE = {"rises": "falls", "falls": "rises", "spins_left": "spins_right", "spins_right": "spins_left"}
BEGIN = "<!-- the tables below are written by benchmarks/temporal.py -->\n"
BLANK_END = "<!-- end of the tables -->\n"
Folds = list[tuple[np.ndarray, np.ndarray]]  # rows to learn from, rows to be tested on


@dataclass(frozen=True)
class Data:
    """A data set: what the backbone sees of it, and how it is divided."""

    name: str
    manifest: Manifest
    clip: Clip
    augment: Augment
    backbone: str
    weights: str
    folds: Folds


@dataclass(frozen=True)
class Features:
    """`drawn` (V, N, T, D) as training draws clips, `seen` (N, T, D) as evaluation sees them."""

    drawn: Tensor
    seen: Tensor


def main() -> None:
    """Print a table for each data set, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-features")
    parser.add_argument("--real", type=Path, default=os.environ.get("FINETUNE_REAL"), help="folder with the real clips")
    parser.add_argument("--draws", type=int, default=4, help="times that each clip is drawn for training")
    parser.add_argument("--only", choices=POOLINGS, nargs="+", default=list(POOLINGS), help="kinds of pooling")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    options.cache.mkdir(parents=True, exist_ok=True)
    tables = [table_of(data, options) for data in data_sets(options.cache, options.real)]
    if options.write:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(BLANK_END)[2]
        options.write.write_text(before + BEGIN + "\n" + "\n".join(tables) + BLANK_END + after, encoding="utf-8")


def data_sets(cache: Path, real: Path | None) -> list[Data]:
    manifest = cache / "quickstart" / "manifest.csv"
    drawn = Manifest.from_csv(manifest if manifest.is_file() else draw_quickstart(manifest.parent))
    small = Clip(num_frames=8, size=96)
    still = Augment(preset="none", flip=False)
    split = [(drawn.rows("train"), drawn.rows("test"))]
    found = [Data("quickstart", drawn, small, still, "mobilenetv3_small_050", "bundled", split)]
    if real:
        clips = Manifest.from_csv(real / "data/ut_interaction/clips.csv")
        folds = folds_of(clips, seed=0)
        middle = Clip(num_frames=8, size=224)
        found.append(Data("ut_interaction", clips, middle, Augment(), "mobilenetv2_100", "imagenet", folds))
    return found


def folds_of(manifest: Manifest, *, seed: int) -> Folds:
    """Each row is tested once; no group is on both sides, and classes are spread evenly."""
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(manifest.labels, manifest.labels, manifest.groups))


def table_of(data: Data, options: argparse.Namespace) -> str:
    """The Markdown table of one data set, printed line by line as it grows."""
    backbone = build_backbone(data.backbone, weights=data.weights, size=data.clip.size)
    features = features_of(data, backbone, options.draws, options.cache)
    has_opposites = data.name == "quickstart"
    columns = ["pooling", "top-1", "95 % interval", *(["direction", "95 % interval"] * has_opposites)]
    columns += ["parameters", "seconds"]
    title = f"{data.name}: {sum(len(test) for _, test in data.folds)} test clips, {data.backbone}, {len(SEEDS)} seeds"
    lines = [f"**{title}**\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    print("\n".join(lines))
    for kind in options.only:
        lines.append(row_of(kind, data, features, backbone, has_opposites=has_opposites))
        print(lines[-1], flush=True)
    print()
    return "\n".join(lines) + "\n\n"


def row_of(kind: str, data: Data, features: Features, backbone: Backbone, *, has_opposites: bool) -> str:
    """Predictions of all seeds and folds are scored together: resampling draws all of a group's at once."""
    labels, groups, probs, seconds, parameters = [], [], [], 0.0, 0
    for seed in SEEDS:
        for learnt, tested in data.folds:
            started = time.perf_counter()
            model = trained(kind, data, features, backbone, learnt, seed=seed)
            seconds += time.perf_counter() - started
            parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            with torch.inference_mode():
                probs.append(logits_of(model, features.seen[tested]).softmax(1).numpy())
            labels.append(data.manifest.labels[tested])
            groups.append(data.manifest.groups[tested])
    labels_N, groups_N, probs_NK = np.concatenate(labels), np.concatenate(groups), np.concatenate(probs)
    cells = [kind, *scored(labels_N, probs_NK, data.manifest.classes, groups_N)]
    if has_opposites:
        cells += scored(*as_pairs(labels_N, probs_NK, data.manifest.classes), groups_N)
    cells += [f"{parameters / 1e3:,.0f} k", f"{seconds / len(SEEDS) / len(data.folds):.1f}"]
    return f"| {' | '.join(cells)} |"


def scored(labels_N: np.ndarray, probs_NK: np.ndarray, classes: tuple[str, ...], groups_N: np.ndarray) -> list[str]:
    figures = score_multiclass(labels_N, probs_NK, classes=classes, groups=groups_N)
    low, high = figures["top1_ci"]
    return [f"{figures['top1']:.3f}", f"{low:.2f} to {high:.2f}"]


def as_pairs(
    labels_N: np.ndarray, probs_NK: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Of a clip's class and the one that it is when played backwards: which it is (N,), and what each gets (N, 2)."""
    names = [name.split("_", 1) for name in classes]
    opposite_K = np.array([classes.index(f"{shape}_{OPPOSITE[motion]}") for shape, motion in names])
    pairs_N2 = np.sort(np.stack([labels_N, opposite_K[labels_N]], axis=1), axis=1)
    return (pairs_N2[:, 1] == labels_N).astype(int), np.take_along_axis(probs_NK, pairs_N2, axis=1), ("one", "other")


def trained(
    kind: str, data: Data, features: Features, backbone: Backbone, rows: np.ndarray, *, seed: int
) -> VideoClassifier:
    """A model whose temporal pooling and head have learnt from the drawn features of some rows."""
    torch.manual_seed(seed)
    settings = Model.model_validate({"backbone": data.backbone, "temporal": kind, "dropout": DROPOUT})
    classes, clip = data.manifest.classes, data.clip
    assert clip.size is not None
    model = VideoClassifier(backbone, classes=classes, settings=settings, num_frames=clip.num_frames, size=clip.size)
    set_trainable(model, "head")
    groups = param_groups(model, lr=LR, weight_decay=WEIGHT_DECAY)
    optimizer = build_optimizer("adamw", groups)
    labels = torch.from_numpy(data.manifest.labels)
    batches = math.ceil(len(rows) / BATCH_SIZE)
    model.train()
    for epoch in range(EPOCHS):
        for number, batch in enumerate(torch.from_numpy(rows)[torch.randperm(len(rows))].split(BATCH_SIZE)):
            factor = lr_factor(epoch * batches + number, EPOCHS * batches, schedule="cosine", warmup=0.1)
            for group in optimizer.param_groups:
                group["lr"] = LR * factor
            draw = torch.randint(len(features.drawn), (len(batch),))
            F.cross_entropy(logits_of(model, features.drawn[draw, batch]), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def logits_of(model: VideoClassifier, features_BTD: Tensor) -> Tensor:
    return model.heads(model.temporal(features_BTD))[DEFAULT_TASK]


def features_of(data: Data, backbone: Backbone, draws: int, cache: Path) -> Features:
    """What the frozen backbone gives; computed once for these settings, then read from the cache."""
    settings = f"{data.clip.num_frames}-{data.clip.size}-{data.clip.fit}-{data.augment.preset}-{draws}"
    file = cache / f"{data.name}-{data.backbone}-{settings}.npz"
    if not file.is_file():
        rows = np.full(len(data.manifest), "train")
        manifest, facts = replace(data.manifest, splits=rows), scan_files(data.manifest)
        plain = ClipDataset(manifest, "train", clip=data.clip, views=1, facts=facts)
        drawing: Callable[[], ClipDataset] = lambda: ClipDataset(  # noqa: E731
            manifest, "train", clip=data.clip, views=1, augment=data.augment, facts=facts
        )
        drawn = [_through(backbone, drawing(), epoch) for epoch in range(1, draws + 1)]
        unfinished = file.with_name(f"unfinished_{file.name}")
        np.savez(unfinished, drawn=np.stack(drawn), seen=_through(backbone, plain, 0))
        unfinished.replace(file)
    with np.load(file) as kept:
        return Features(torch.from_numpy(kept["drawn"]), torch.from_numpy(kept["seen"]))


@torch.inference_mode()
def _through(backbone: Backbone, dataset: ClipDataset, epoch: int) -> np.ndarray:
    """Features (N, T, D) of all rows as an epoch draws them."""
    backbone.eval()
    return np.concatenate([backbone(dataset[epoch, row]["clips"]).numpy() for row in range(len(dataset))])


if __name__ == "__main__":
    main()
