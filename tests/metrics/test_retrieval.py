"""Retrieval metrics agree with pytorch-metric-learning, with a naive version, and with all orders enumerated."""

from itertools import permutations

import numpy as np
import pytest

import finetune.metrics.retrieval as retrieval
from finetune.metrics.retrieval import (
    RECALL_AT,
    SHARES,
    LabelledVectors,
    QueryRanks,
    chance_level,
    chance_median_rank,
    paired_difference_of_ranks,
    rank_queries,
    retrieval_metrics,
)


def unit_vectors(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    vectors_ND = rng.normal(size=(rows, dims)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=bool)[labels]


def line(*angles: float) -> np.ndarray:
    """Vectors in a plane at these angles in degrees: the cosine falls with the difference of angles."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def naive(right: list[bool]) -> dict[str, float] | None:
    """Metrics of one ranked list, written as in textbooks; None without a right clip."""
    number = sum(right)
    if not number:
        return None
    precisions = [sum(right[: place + 1]) / (place + 1) for place in range(len(right))]
    hits = [place for place in range(len(right)) if right[place]]
    return {f"recall_{k}": float(any(right[:k])) for k in RECALL_AT} | {
        "map": sum(precisions[place] for place in hits) / number,
        "map_at_r": sum(precisions[place] for place in hits if place < number) / number,
        "r_precision": sum(right[:number]) / number,
    }


def naive_ranks(clips: LabelledVectors, same_group: bool = False) -> tuple[dict[str, float], list[int]]:
    """Mean metrics over all queries, and the first ranks."""
    vectors, classes, groups = np.concatenate(list(clips.blocks)), clips.classes_NK, clips.groups
    values, first = [], []
    for query in range(len(vectors)):
        others = [
            row
            for row in range(len(vectors))
            if row != query and (same_group or groups is None or groups[row] != groups[query])
        ]
        right = {row: bool((classes[row] & classes[query]).any()) for row in others}
        ranked = sorted(others, key=lambda row: (-float(vectors[row] @ vectors[query]), right[row], row))
        of_query = naive([right[row] for row in ranked])
        if of_query is not None:
            values.append(of_query)
            first.append([right[row] for row in ranked].index(True) + 1)
    return {name: float(np.mean([value[name] for value in values])) for name in SHARES}, first


def random_clips(rng: np.random.Generator, *, multilabel: bool = False) -> LabelledVectors:
    rows, classes = int(rng.integers(8, 40)), int(rng.integers(2, 5))
    classes_NK = one_hot(rng.integers(0, classes, rows), classes)
    if multilabel:
        classes_NK |= rng.random(classes_NK.shape) < 0.2
    vectors_ND = unit_vectors(rng, rows, int(rng.integers(2, 6)))
    cut = int(rng.integers(1, rows))
    return LabelledVectors([vectors_ND[:cut], vectors_ND[cut:]], classes_NK, rng.integers(0, 5, rows))


def means(ranks: QueryRanks) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in ranks.shares.items()}


@pytest.mark.slow
def test_metrics_agree_with_pytorch_metric_learning_on_200_random_cases():
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    names = {
        "precision_at_1": "recall_1",
        "mean_average_precision": "map",
        "mean_average_precision_at_r": "map_at_r",
        "r_precision": "r_precision",
    }
    rng = np.random.default_rng(3)
    for _ in range(200):
        clips = random_clips(rng)
        vectors = torch.from_numpy(np.concatenate(list(clips.blocks)))
        labels = torch.from_numpy(clips.classes_NK.argmax(1))
        theirs = AccuracyCalculator(
            include=tuple(names), k=len(clips) - 1, knn_func=CustomKNN(CosineSimilarity()), device=torch.device("cpu")
        ).get_accuracy(vectors, labels, vectors, labels, ref_includes_query=True)
        ours = means(rank_queries(clips, same_group=True))
        assert {name: ours[name] for name in names.values()} == pytest.approx(
            {ours_name: theirs[name] for name, ours_name in names.items()}, abs=1e-6
        )


@pytest.mark.parametrize("multilabel", [False, True], ids=["one class", "several classes"])
def test_metrics_agree_with_a_naive_version(multilabel: bool):
    rng = np.random.default_rng(0)
    for _ in range(30):
        clips, same_group = random_clips(rng, multilabel=multilabel), bool(rng.integers(2))
        expected, first = naive_ranks(clips, same_group)
        ranks = rank_queries(clips, same_group=same_group)
        assert means(ranks) == pytest.approx(expected, abs=1e-9)
        assert ranks.first_rank.tolist() == first


def test_left_out_values_are_those_of_the_clips_without_the_group():
    rng = np.random.default_rng(1)
    for _ in range(10):
        clips = random_clips(rng, multilabel=True)
        assert clips.groups is not None
        ranks, vectors = rank_queries(clips), np.concatenate(list(clips.blocks))
        for unit, group in enumerate(np.unique(clips.groups)):
            keep = clips.groups != group
            rest = LabelledVectors([vectors[keep]], clips.classes_NK[keep], clips.groups[keep])
            left_out = {name: ranks.left_out[name][unit] for name in SHARES}
            assert left_out == pytest.approx(naive_ranks(rest)[0], abs=1e-9)


def test_chance_is_the_mean_over_all_orders():
    for size in range(1, 8):
        for number in range(1, size + 1):
            right = [True] * number + [False] * (size - number)
            orders = [naive(list(order)) for order in set(permutations(right))]
            level = chance_level(np.array([size]), np.array([number]))
            for name in SHARES:
                assert level[name][0] == pytest.approx(np.mean([order[name] for order in orders if order]))


def test_the_median_rank_by_chance_is_that_of_random_vectors():
    rng = np.random.default_rng(0)
    for size, number in ((30, 1), (40, 3), (200, 2)):
        first = [int(np.flatnonzero(rng.permutation(size) < number)[0]) + 1 for _ in range(4000)]
        assert abs(chance_median_rank(np.array([size]), np.array([number])) - np.median(first)) <= 0.06 * size
    assert chance_median_rank(np.array([5]), np.array([5])) == 1


def test_random_vectors_are_at_chance():
    rng = np.random.default_rng(0)
    clips = LabelledVectors([unit_vectors(rng, 600, 64)], one_hot(rng.integers(0, 5, 600), 5))
    metrics = retrieval_metrics(rank_queries(clips), clips.classes_NK, list("abcde"))
    for name in SHARES:
        low, high = metrics[f"{name}_ci"]
        assert low <= metrics[f"{name}_chance"] <= high


def test_of_equal_cosines_wrong_clips_come_first():
    same_ND = np.repeat(line(0), 6, axis=0)
    clips = LabelledVectors([same_ND], one_hot(np.array([0, 0, 0, 1, 1, 1]), 2))
    ranks = rank_queries(clips)
    assert ranks.first_rank.tolist() == [4] * 6
    assert (ranks.shares["map"] < ranks.chance["map"]).all()


def test_clips_of_the_same_group_are_left_out_unless_asked_for():
    clips = LabelledVectors([line(0, 1, 40, 60)], one_hot(np.array([0, 0, 1, 0]), 2), np.array(["a", "a", "b", "b"]))
    assert rank_queries(clips, queries=np.array([0])).first_rank.tolist() == [2]
    assert rank_queries(clips, queries=np.array([0]), same_group=True).first_rank.tolist() == [1]


def test_queries_without_a_right_clip_are_counted_by_class_and_not_averaged():
    clips = LabelledVectors([line(0, 1, 50)], one_hot(np.array([0, 0, 1]), 2))
    metrics = retrieval_metrics(rank_queries(clips), clips.classes_NK, ["walk", "run"])
    assert (metrics["num_queries"], metrics["num_without_match"], metrics["without_match"]) == (2, 1, {"run": 1})
    assert metrics["recall_1"] == metrics["map"] == 1
    walk, run = metrics["per_class"]
    assert walk["map"] == 1 and walk["queries"] == 2
    assert run["map"] is None and run["median_rank"] is None and run["queries"] == 0


def test_without_any_right_clip_all_metrics_are_none():
    clips = LabelledVectors([line(0, 1)], one_hot(np.array([0, 1]), 2))
    metrics = retrieval_metrics(rank_queries(clips), clips.classes_NK, ["walk", "run"])
    assert metrics["num_queries"] == 0 and metrics["num_without_match"] == 2
    for name in (*SHARES, "median_rank"):
        assert metrics[name] is metrics[f"{name}_ci"] is metrics[f"{name}_chance"] is None


def test_rows_without_a_class_neither_query_nor_are_found():
    labelled = one_hot(np.array([0, 0, 1, 1]), 2)
    labelled[1] = False
    ranks = rank_queries(LabelledVectors([line(0, 1, 50, 51)], labelled))
    assert ranks.rows.tolist() == [2, 3] and ranks.without_match.tolist() == [0]
    assert set(ranks.gallery_sizes.tolist()) == {2}


def test_queries_find_only_clips_of_their_part_and_of_the_gallery():
    clips = LabelledVectors([line(0, 1, 2, 3)], one_hot(np.array([0, 1, 0, 0]), 2))
    parts = np.array([0, 0, 1, 0])
    assert rank_queries(clips, queries=np.array([0]), parts=parts).gallery_sizes.tolist() == [2]
    only_last = np.array([False, False, False, True])
    assert rank_queries(clips, queries=np.array([0]), gallery=only_last).gallery_sizes.tolist() == [1]


def test_blocks_of_scores_do_not_change_the_metrics(monkeypatch: pytest.MonkeyPatch):
    clips = random_clips(np.random.default_rng(5))
    before = means(rank_queries(clips))
    monkeypatch.setattr(retrieval, "BLOCK_SCORES", 3 * len(clips))
    assert means(rank_queries(clips)) == pytest.approx(before)


def test_of_many_clips_queries_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "MAX_RANKED", 0)
    monkeypatch.setattr(retrieval, "MIN_QUERIES", 20)
    rng = np.random.default_rng(0)
    clips = LabelledVectors([unit_vectors(rng, 60, 4)], one_hot(rng.integers(0, 2, 60), 2))
    ranks = rank_queries(clips)
    assert len(ranks.rows) == 20 and ranks.sampled == 60


def test_a_better_embedding_of_the_same_clips_is_better_by_a_paired_interval():
    rng = np.random.default_rng(0)
    labels, groups = np.tile(np.arange(4), 15), np.repeat(np.arange(15), 4)
    near, far = (
        np.eye(8, dtype=np.float32)[labels] + rng.normal(size=(60, 8)).astype(np.float32) * noise
        for noise in (0.2, 0.8)
    )
    first, second = (
        rank_queries(LabelledVectors([v / np.linalg.norm(v, axis=1, keepdims=True)], one_hot(labels, 4), groups))
        for v in (near, far)
    )
    difference, (low, high) = paired_difference_of_ranks(first, second, "map")
    assert 0 < low < difference < high
    recall, (low, high) = paired_difference_of_ranks(first, second, "recall_1")
    assert recall == pytest.approx(means(first)["recall_1"] - means(second)["recall_1"]) and low < recall < high < 1
    assert paired_difference_of_ranks(first, first, "map") == (0.0, (0.0, 0.0))
