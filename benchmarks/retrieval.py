"""How well clips find others of their class: frozen frames, averaged or in order, and the vectors of trained runs.

    python benchmarks/retrieval.py CLIPS.csv [--folds STUDY] [--recipe few_clips] [KEY=VALUE ...]

Each clip is a query for the clips of other groups. With the folder of `finetune kfold`, the vectors of its models are
compared with the frozen ones: a clip is embedded by the model that was not trained on its group, and as vectors of
two models cannot be compared, it only finds clips of its own fold; frozen vectors then have the same galleries.
Prints each metric with its 95 % interval and chance level, and paired differences of mAP to the frames in order.
"""

import argparse
from pathlib import Path

import numpy as np

from finetune.data.manifest import Manifest
from finetune.metrics.retrieval import (
    LabelledVectors,
    QueryRanks,
    paired_difference_of_ranks,
    rank_queries,
    retrieval_metrics,
)
from finetune.recipe.load import load_recipe
from finetune.retrieval.backbone_embedder import BackboneEmbedder
from finetune.retrieval.embedder import Embedder
from finetune.retrieval.run_embedder import RunEmbedder
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run

METRICS = {"map": "mAP", "map_at_r": "mAP@R", "recall_1": "R@1", "recall_5": "R@5", "median_rank": "median rank"}


def embed(embedder: Embedder, clips: Manifest) -> np.ndarray:
    """The vectors (N, D) of all clips, which must be readable."""
    by_row = {embedded.row: embedded.vector_D for embedded in embedder.embed(clips)}
    missing = [clips.clip_name(row) for row in range(len(clips)) if by_row.get(row) is None]
    if missing:
        raise SystemExit(f"cannot be embedded: {', '.join(missing)}")
    return np.array([by_row[row] for row in range(len(clips))])


def fold_of_clips(study: Path, clips: Manifest) -> tuple[np.ndarray, list[np.ndarray]]:
    """The fold of each clip (N,), -1 where its fold is not trained yet, and the vectors of each fold's clips."""
    row_of = {clips.clip_name(row): row for row in range(len(clips))}
    folds, vectors = np.full(len(clips), -1), []
    for number, folder in enumerate(sorted(study.glob("fold-*"))):
        if not (folder / "evaluation" / "results.json").is_file():
            continue
        run = open_run(folder)
        tested = saved_manifest(run).for_split("test")
        rows = np.array([row_of[tested.clip_name(row)] for row in range(len(tested))])
        folds[rows] = number
        vectors.append((rows, embed(RunEmbedder(run), tested)))
    trained_ND = np.zeros((len(clips), vectors[0][1].shape[1]), np.float32)
    for rows, vectors_MD in vectors:
        trained_ND[rows] = vectors_MD
    return folds, trained_ND


def show(title: str, ranks: QueryRanks, clips: Manifest, classes_NK: np.ndarray) -> None:
    metrics = retrieval_metrics(ranks, classes_NK, clips.classes)
    cells = []
    for key in METRICS:
        ends = metrics[f"{key}_ci"]
        interval = "" if ends is None else f" ({ends[0]:.3g} to {ends[1]:.3g})"
        cells.append(f"{metrics[key]:.3f}{interval}" if key != "median_rank" else f"{metrics[key]:g}{interval}")
    chance = ", ".join(f"{metrics[f'{key}_chance']:.3g}" for key in METRICS)
    print(f"| {title} | {' | '.join(cells)} |")
    print(f"  chance {chance}; {metrics['num_queries']} queries, {metrics['num_without_match']} without a right clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="CSV with path, label and group")
    parser.add_argument("--folds", type=Path, action="append", default=[], help="folder of `finetune kfold`")
    parser.add_argument("--recipe", default="few_clips")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the recipe, for the frozen vectors")
    options = parser.parse_intermixed_args()
    clips = Manifest.from_csv(options.clips)
    classes_NK = np.eye(len(clips.classes), dtype=bool)[clips.labels]
    frozen = {}
    for name, temporal in (("frozen, frames in order", "concat"), ("frozen, mean of frames", "mean")):
        overrides = [f"data.manifest={options.clips}", *options.overrides, f"model.temporal={temporal}"]
        frozen[name] = embed(BackboneEmbedder(load_recipe(options.recipe, overrides)), clips)
    print(f"| vectors | {' | '.join(METRICS.values())} |\n|---{'|---' * len(METRICS)}|")
    compare(frozen, clips, classes_NK, None)
    for study in options.folds:
        folds, trained_ND = fold_of_clips(study, clips)
        print(f"{study.name}: clips of the same fold, {len(np.unique(folds[folds >= 0]))} folds")
        compare({**frozen, study.name: trained_ND}, clips, classes_NK, folds)


def compare(vectors: dict[str, np.ndarray], clips: Manifest, classes_NK: np.ndarray, folds: np.ndarray | None) -> None:
    """Print the metrics of each kind of vectors, and the differences to the first kind."""
    used = np.ones(len(clips), bool) if folds is None else folds >= 0
    ranks = {}
    for name, vectors_ND in vectors.items():
        of_clips = LabelledVectors([vectors_ND], classes_NK, clips.groups)
        ranks[name] = rank_queries(of_clips, queries=np.flatnonzero(used), gallery=used, parts=folds)
        show(name, ranks[name], clips, classes_NK)
    first, *others = ranks
    for name in others:
        for metric in ("map", "recall_5"):
            difference, (low, high) = paired_difference_of_ranks(ranks[name], ranks[first], metric)
            print(f"  {name} - {first}: {METRICS[metric]} {difference:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
