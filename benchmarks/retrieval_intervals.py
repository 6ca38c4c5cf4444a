"""Simulate the coverage of 95 % intervals of retrieval metrics, where clips of a group are alike.

A clip's vector is the sum of vectors of its class, its group and itself. The true value is the mean of the metric over
many sets of the same design. `queries` are intervals that only leave out groups as queries, and keep galleries as they
are; `both` are those of finetune, which leave groups out of galleries as well. Prints the share of intervals that hold
the true value, and the median width of both.
"""

import argparse

import numpy as np

from finetune.metrics.intervals import interval_of_shares
from finetune.metrics.retrieval import SHARES, LabelledVectors, rank_queries, retrieval_metrics

DESIGNS = (  # groups, clips of each, classes, classes of a group, spread of groups, spread of clips
    (5, 12, 4, 4, 0.5, 0.7),
    (8, 12, 6, 6, 0.5, 1.0),
    (20, 6, 6, 6, 0.5, 0.7),
    (20, 6, 6, 6, 0.8, 1.5),
    (20, 6, 6, 6, 0.2, 0.4),
    (16, 6, 6, 3, 0.5, 0.7),
    (40, 5, 5, 1, 0.5, 0.7),
    (40, 5, 5, 5, 0.8, 1.0),
    (120, 1, 6, 1, 0.0, 1.0),
)
METRICS = ("recall_1", "recall_5", "map", "map_at_r")


def draw(rng: np.random.Generator, design: tuple[float, ...], centers_KD: np.ndarray) -> LabelledVectors:
    groups, each, classes, of_group, group_spread, clip_spread = design
    groups, each, classes, of_group = int(groups), int(each), int(classes), int(of_group)
    chosen = np.array([rng.permutation(classes)[:of_group] for _ in range(groups)])
    labels = chosen[:, np.arange(each) % of_group].ravel()
    group_of = np.repeat(np.arange(groups), each)
    dims = centers_KD.shape[1]
    vectors_ND = centers_KD[labels] + group_spread * rng.normal(size=(groups, dims))[group_of]
    vectors_ND = vectors_ND + clip_spread * rng.normal(size=(len(labels), dims))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return LabelledVectors(
        [vectors_ND.astype(np.float32)], np.eye(classes, dtype=bool)[labels], group_of if each > 1 else None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=300, help="simulated sets of each design")
    parser.add_argument("--dims", type=int, default=12)
    options = parser.parse_args()
    print(f"{'groups × clips, classes (of a group), spreads':48} metric     true  queries       both")
    for design in DESIGNS:
        rng = np.random.default_rng(1)
        centers_KD = rng.normal(size=(int(design[2]), options.dims)) * 0.6
        values, intervals = {name: [] for name in METRICS}, {name: [] for name in METRICS}
        for _ in range(options.sets):
            clips = draw(rng, design, centers_KD)
            ranks = rank_queries(clips)
            metrics = retrieval_metrics(ranks, clips.classes_NK, [str(k) for k in range(clips.classes_NK.shape[1])])
            groups = None if clips.groups is None else clips.groups[ranks.rows]
            for name in METRICS:
                values[name].append(metrics[name])
                intervals[name].append((interval_of_shares(ranks.shares[name], groups), metrics[f"{name}_ci"]))
        title = f"{design[0]} × {design[1]}, {design[2]} ({design[3]}), {design[4]}, {design[5]}"
        for name in METRICS:
            true, ends_N22 = np.mean(values[name]), np.array(intervals[name])
            covered = ((ends_N22[..., 0] <= true) & (true <= ends_N22[..., 1])).mean(0)
            width = np.median(ends_N22[..., 1] - ends_N22[..., 0], axis=0)
            both = "  ".join(f"{share:.3f} {wide:.3f}" for share, wide in zip(covered, width, strict=True))
            print(f"{title:48} {name:9} {true:.3f}  {both}", flush=True)


if __name__ == "__main__":
    assert set(METRICS) <= set(SHARES)
    main()
