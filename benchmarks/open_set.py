"""How well clips of classes left out of training are told from the others, by each score: frozen features, linear head.

    FINETUNE_REAL=<folder> FINETUNE_WEIGHTS=<folder> python benchmarks/open_set.py --quickstart <folder>

Each class is left out in turn; of the quickstart data also each shape and each motion. All clips are tested in five
folds of whole groups: a head is fitted to the known classes of the other folds, and the clips of the left-out class in
the tested fold are the unknown ones. Scores of the folds are pooled. The last lines are means over what was left out,
and differences to the largest probability, with jackknife intervals over groups.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.metrics.intervals import half_width_from_jackknife, jackknife_units
from finetune.metrics.open_set import SCORES, ScoreName, accepted_unknown, auroc, known_scores, score_open_set
from finetune.model.linear_fit import fit_linear
from finetune.recipe.load import load_recipe
from finetune.study.folds import fold_rows
from finetune.study.probe import _compute_features
from finetune.train.log.console import Display

FOLDS = 5
REAL_SETS = ("ut_interaction", "yoga_poses")
HEADER = "| set | left out | score | AUROC | accepted at 95 % |"


class Scored(NamedTuple):
    """The scores (N,) of known clips and (M,) of unknown ones, with their groups."""

    known: dict[ScoreName, np.ndarray]
    unknown: dict[ScoreName, np.ndarray]
    groups: tuple[np.ndarray, np.ndarray]

    def without(self, group: str) -> "Scored":
        keep, keep_unknown = (groups != group for groups in self.groups)
        known = {name: values[keep] for name, values in self.known.items()}
        unknown = {name: values[keep_unknown] for name, values in self.unknown.items()}
        return Scored(known, unknown, (self.groups[0][keep], self.groups[1][keep_unknown]))


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--quickstart", type=Path, help="the folder that `finetune data quickstart` wrote")
    parser.add_argument("--only", choices=["quickstart", *REAL_SETS], nargs="+", help="sets")
    parser.add_argument("--pooling", choices=["mean", "concat"], default="concat", help="of the features of frames")
    parser.add_argument("--cache", type=Path, default=temporary / "finetune-benchmark-open-set", help="features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only or [*(["quickstart"] if options.quickstart else []), *REAL_SETS]
    print("\n".join([HEADER, "|---" * 5 + "|"]))
    for name in names:
        print_set(name, options)


def print_set(name: str, options: argparse.Namespace) -> None:
    if name == "quickstart":
        source, recipe_name = options.quickstart / "manifest.csv", "quickstart"
    else:
        source, recipe_name = Path(os.environ["FINETUNE_REAL"]) / "data" / name / "clips.csv", "few_clips"
    manifest = Manifest.from_csv(source)
    manifest = replace(manifest, splits=np.full(len(manifest), "train"))
    recipe = load_recipe(recipe_name, [f"data.manifest={source}", f"train.cache_dir={options.cache}"])
    clips = _compute_features(recipe, manifest, recipe.model.backbone, Display(quiet=True))
    assert len(clips.labels) == len(manifest), "a clip cannot be read"
    features_NTD = torch.from_numpy(clips.features_NTD)
    vectors_ND = features_NTD.flatten(1) if options.pooling == "concat" else features_NTD.mean(1)
    by_kind: dict[str, list[Scored]] = {}
    for kind, left_out in sets_to_leave_out(name, manifest.classes):
        scored = score_left_out(vectors_ND, manifest, left_out)
        by_kind.setdefault(kind, []).append(scored)
        what = left_out[0] if len(left_out) == 1 else kind + ": " + ", ".join(left_out)
        for score, of_score in score_open_set(scored.known, scored.unknown, scored.groups).items():
            shown = [f"{of_score[key]:.3f} ({low_high(of_score[f'{key}_ci'])})" for key in ("auroc", "accepted")]
            print(f"| {name} | {what} | {score} | {' | '.join(shown)} |", flush=True)
    for kind, of_kind in by_kind.items():
        for line in mean_lines(of_kind):
            print(f"| {name} | mean over {kind} | {line} |", flush=True)


def sets_to_leave_out(name: str, classes: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from (("classes", (label,)) for label in classes)
    if name == "quickstart":
        shapes, motions = zip(*(label.split("_", 1) for label in classes), strict=True)
        for kind, parts in (("shapes", shapes), ("motions", motions)):
            for part in dict.fromkeys(parts):
                yield kind, tuple(label for label in classes if part in (label.split("_", 1)))


def score_left_out(vectors_ND: torch.Tensor, manifest: Manifest, left_out: tuple[str, ...]) -> Scored:
    """The scores of all clips, each by a head that saw neither its group nor the classes `left_out`."""
    assert manifest.groups is not None
    is_unknown = np.isin(manifest.labels, [manifest.classes.index(name) for name in left_out])
    known_codes = np.unique(manifest.labels[~is_unknown])
    scores: dict[ScoreName, np.ndarray] = {name: np.full(len(manifest), np.nan) for name in SCORES}
    for test in fold_rows(manifest, FOLDS, seed=0):
        train = np.setdiff1d(np.flatnonzero(~is_unknown), test)
        targets_NK = F.one_hot(torch.from_numpy(np.searchsorted(known_codes, manifest.labels[train]))).float()
        mean, deviation = vectors_ND[train].mean(0), vectors_ND[train].std(0) + 1e-6
        fit = fit_linear(
            (vectors_ND[train] - mean) / deviation,
            targets_NK,
            units=manifest.groups[train],
            independent=False,
            weights_N=torch.ones(len(train)),
        )
        logits_NK = F.linear((vectors_ND[test] - mean) / deviation, fit.weight_KD, fit.bias_K)
        for name, values in known_scores(logits_NK.numpy()).items():
            scores[name][test] = values
    parts = [{name: values[rows] for name, values in scores.items()} for rows in (~is_unknown, is_unknown)]
    return Scored(*parts, (manifest.groups[~is_unknown], manifest.groups[is_unknown]))


def mean_lines(of_kind: list[Scored]) -> Iterator[str]:
    """For each score, the means over what was left out; for all but the first also their differences to its means."""
    groups = np.unique(np.concatenate([scored.groups[0] for scored in of_kind]))
    units = jackknife_units(groups, len(groups))
    values = np.array([means(of_kind), *(means([scored.without(group) for scored in of_kind]) for group in groups)])
    for place, name in enumerate(SCORES):
        cells = []
        for metric in range(2):
            column = values[:, place, metric]
            half = half_width_from_jackknife(column[0], column[1:], units)
            cells.append(f"{column[0]:.3f} ± {half:.3f}")
            if place:
                column = column - values[:, 0, metric]
                half = half_width_from_jackknife(column[0], column[1:], units)
                cells[-1] += f" (difference {column[0]:+.3f} ± {half:.3f})"
        yield f"{name} | {' | '.join(cells)}"


def means(of_kind: list[Scored]) -> np.ndarray:
    """AUROC and the accepted share of unknown clips, (scores, 2), means over what was left out."""
    return np.array(
        [
            [
                np.mean([metric(scored.known[name], scored.unknown[name]) for scored in of_kind])
                for metric in (auroc, accepted_unknown)
            ]
            for name in SCORES
        ]
    )


def low_high(ends: list[float] | None) -> str:
    return "unknown" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


if __name__ == "__main__":
    main()
