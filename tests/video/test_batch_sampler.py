import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune.video.batch_sampler import (
    MAX_DRAWS,
    EpochBatchSampler,
    class_balanced_draws,
    systematic_sample,
    task_balanced_draws,
)


@given(rows=st.integers(1, 200), size=st.integers(1, 16), world=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_processes_together_take_the_batches_that_one_takes_whatever_is_left_for_the_last(rows, size, world, seed):
    """Item n of a batch goes to process n modulo their number, so a partial batch is shared evenly too."""
    alone = EpochBatchSampler(rows, size * world, seed=seed)
    ranks = [EpochBatchSampler(rows, size, seed=seed, share=(rank, world)) for rank in range(world)]
    for each in [alone, *ranks]:
        each.begin(3)
    shares = list(zip(*ranks, strict=True))
    assert {len(each) for each in ranks} == {len(alone)} == {len(shares)}
    for batch, shared in zip(alone, shares, strict=True):
        assert [list(share) for share in shared] == [batch[rank::world] for rank in range(world)]
    assert sorted(position for batch in alone for _, position in batch) == list(range(rows))


def test_a_last_batch_with_fewer_rows_than_processes_is_a_step_and_the_shares_of_some_are_empty():
    ranks = [list(EpochBatchSampler(17, 4, seed=0, share=(rank, 2))) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[4, 4, 1], [4, 4, 0]]
    assert len(EpochBatchSampler(17, 8, seed=0)) == 3


def test_a_resumed_epoch_goes_on_at_its_batch_also_where_the_share_is_empty():
    batches = EpochBatchSampler(17, 4, seed=0, share=(1, 2))
    every = list(batches)
    for first in range(4):
        batches.begin(0, first=first)
        assert list(batches) == every[first:]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(any), st.integers(0, 2**31))
def test_balanced_draws_show_classes_equally_often_as_far_as_the_limit_lets_them(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    draws = class_balanced_draws(labels)
    assert draws.sum() == pytest.approx(len(labels))
    assert draws.max() <= MAX_DRAWS
    shown = {code: draws[labels == code].sum() for code in set(labels.tolist())}
    most = max(shown.values())
    for code, sum_of_draws in shown.items():  # equally often, or each of its rows MAX_DRAWS times
        assert sum_of_draws == pytest.approx(min(most, MAX_DRAWS * counts[code]))
    drawn = np.bincount(systematic_sample(draws, np.random.default_rng(seed)), minlength=len(labels))
    assert drawn.sum() == len(labels)
    assert (np.abs(drawn - draws) < 1 + 1e-9).all()


def test_a_class_of_one_clip_is_not_shown_all_the_time():
    draws = class_balanced_draws(np.array([0] * 499 + [1] * 500 + [2]))
    assert draws[-1] == MAX_DRAWS
    assert draws[0] * 499 == pytest.approx(draws[-2] * 500) == pytest.approx(497.5)


def test_balanced_epochs_follow_from_seed_and_epoch_and_keep_their_length():
    labels = np.array([0] * 30 + [1] * 6)
    batches = EpochBatchSampler(36, 8, seed=3, draws=class_balanced_draws(labels))
    epochs = []
    for epoch in (0, 0, 1):
        batches.epoch = epoch
        epochs.append([position for batch in batches for _, position in batch])
    assert epochs[0] == epochs[1] != epochs[2]
    assert np.bincount(labels[epochs[0]]).tolist() == [18, 18]
    assert len(list(batches)) == len(batches) == 5


def test_the_shuffled_order_is_the_one_that_earlier_runs_had():
    batches = EpochBatchSampler(10, 4, seed=7)
    batches.epoch = 2
    expected = np.random.default_rng([7, 2]).permutation(10)
    assert [position for batch in batches for _, position in batch] == expected.tolist()


MASKS = st.integers(1, 4).flatmap(
    lambda tasks: st.lists(st.tuples(*[st.booleans()] * tasks), min_size=1, max_size=60).filter(
        lambda rows: any(map(any, rows))
    )
)


def shown(draws, known_MN):
    """How many labels of each task an epoch has."""
    return known_MN.astype(float) @ draws


@given(MASKS)
def test_draws_by_task_are_as_many_as_rows_and_of_no_row_without_a_label(rows):
    known_MN = np.array(rows).T
    draws = task_balanced_draws(known_MN)
    assert draws.sum() == pytest.approx(len(rows))
    assert ((draws > 0) == known_MN.any(0)).all()
    if known_MN.any(0).sum() * MAX_DRAWS >= len(rows):
        assert draws.max() <= MAX_DRAWS + 1e-9


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_tasks_with_rows_of_their_own_are_shown_equally_often_as_far_as_the_limit_lets_them(counts):
    owner = np.repeat(np.arange(len(counts)), counts)
    known_MN = owner == np.arange(len(counts))[:, None]
    each = shown(task_balanced_draws(known_MN), known_MN)
    for task, count in enumerate(counts):
        assert each[task] == pytest.approx(min(each.max(), MAX_DRAWS * count))


@given(st.integers(1, 4), st.integers(1, 30))
def test_tasks_that_share_all_rows_show_each_once(tasks, rows):
    assert task_balanced_draws(np.ones((tasks, rows), dtype=bool)) == pytest.approx(np.ones(rows))


@given(MASKS)
@example([(False, False, True, True), (False, True, False, False)])
def test_the_task_with_the_fewest_labels_gets_an_equal_share_of_the_draws_or_each_of_its_rows_once(rows):
    known_MN = np.array(rows).T
    known_MN = known_MN[known_MN.any(1)]
    times, counts = shown(task_balanced_draws(known_MN), known_MN), known_MN.sum(1)
    assert times[counts.argmin()] >= min(counts.min(), len(rows) / len(known_MN)) - 1e-9


def test_a_task_without_any_label_takes_no_part():
    known_MN = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=bool)
    assert task_balanced_draws(known_MN) == pytest.approx(np.ones(4))


def test_a_rare_task_is_shown_as_often_as_the_limit_lets_it():
    known_MN = np.zeros((2, 100), dtype=bool)
    known_MN[0, :98], known_MN[1, 98:] = True, True
    draws = task_balanced_draws(known_MN)
    assert draws[98:].tolist() == [MAX_DRAWS, MAX_DRAWS] and draws[:98] == pytest.approx(np.full(98, 90 / 98))
    batches = EpochBatchSampler(100, 8, seed=0, draws=draws)
    drawn = [position for batch in batches for _, position in batch]
    assert len(drawn) == 100 and np.bincount(drawn)[98:].tolist() == [MAX_DRAWS, MAX_DRAWS]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99))
def test_paired_batches_have_each_clip_once_and_classes_in_pairs(labels, seed):
    labels = np.array(labels)
    batches = EpochBatchSampler(len(labels), 4, seed=seed)
    batches.pair(labels)
    order = [position for batch in batches for _, position in batch]
    assert sorted(order) == list(range(len(labels)))
    counts = np.bincount(labels)
    padded = [-1, *labels[order].tolist(), -1]
    for before, label, after in zip(padded, padded[1:], padded[2:], strict=False):
        assert label in (before, after) or counts[label] == 1
