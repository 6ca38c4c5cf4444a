"""Which clips a report shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.evaluation.choose_clips import CLIPS_PER_PAIR, MISTAKES, PAIRS, RIGHT, UNCERTAIN, choose_clips
from finetune.run.predictions_csv import PredictionRow


def answer(number, label, predicted, probability=0.6, second=0.1):
    return PredictionRow(
        f"{number:03}.mp4", label, predicted, probability, {predicted: probability, "other": second}, ""
    )


def paths(answers):
    return [each.path for each in answers]


def test_the_surest_mistakes_the_surest_right_and_the_least_certain():
    answers = [answer(n, "a", "b" if n % 2 else "a", 0.4 + n / 200, 0.1) for n in range(60)]
    found = choose_clips(answers[::-1], multilabel=False)
    assert paths(found.mistakes) == [f"{n:03}.mp4" for n in range(59, 59 - 2 * MISTAKES, -2)]
    assert paths(found.right) == [f"{n:03}.mp4" for n in range(58, 58 - 2 * RIGHT, -2)]
    assert paths(found.uncertain) == [f"{n:03}.mp4" for n in range(UNCERTAIN)]


def test_the_least_certain_are_those_whose_two_likeliest_classes_are_near():
    near, far = answer(1, "a", "a", 0.5, 0.49), answer(2, "a", "b", 0.4, 0.1)
    assert paths(choose_clips([far, near], multilabel=False).uncertain) == ["001.mp4", "002.mp4"]


def test_pairs_are_counted_and_show_their_surest_clips():
    answers = [answer(n, "a", "b", 0.5 + n / 100) for n in range(6)]
    answers += [answer(10, "b", "a"), answer(11, "c", "a"), answer(12, "c", "c"), answer(13, "b", "b")]
    answers += [answer(14, "b", "b")]
    first, second, third = choose_clips(answers, multilabel=False).pairs
    assert (first.true, first.predicted, first.number, first.of) == ("a", "b", 6, 6)
    assert paths(first.clips) == ["005.mp4", "004.mp4", "003.mp4", "002.mp4"]
    assert [second[:4], third[:4]] == [("c", "a", 1, 2), ("b", "a", 1, 3)]  # a half of c, a third of b


def test_of_several_classes_there_are_mistakes_alone():
    answers = [answer(n, "a;b", "a" if n % 2 else "a;b") for n in range(10)]
    found = choose_clips(answers, multilabel=True)
    assert paths(found.mistakes) == [f"{n:03}.mp4" for n in range(1, 10, 2)]
    assert (found.uncertain, found.right, found.pairs) == ([], [], [])


@pytest.mark.parametrize("answers", [[], [answer(0, "a", "a")]])
def test_none_and_one_are_chosen_from(answers):
    assert choose_clips(answers, multilabel=False).clips() == answers


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14), st.integers(0, 3)), max_size=120), st.randoms())
def test_the_choice_is_small_each_clip_once_and_the_same_in_any_order(rows, random):
    answers = [answer(n, str(true), str(said), 0.3 + sure / 10) for n, (true, said, sure) in enumerate(rows)]
    found = choose_clips(answers, multilabel=False)
    shuffled = random.sample(answers, len(answers))
    assert choose_clips(shuffled, multilabel=False) == found
    every = paths(found.clips())
    assert len(every) == len(set(every)) <= MISTAKES + UNCERTAIN + RIGHT + PAIRS * CLIPS_PER_PAIR
    assert len(found.pairs) <= PAIRS
    confusion = np.zeros((15, 15), dtype=int)
    np.add.at(confusion, tuple(np.array(rows, dtype=int).reshape(-1, 3)[:, :2].T), 1)
    for pair in found.pairs:
        assert pair.number == confusion[int(pair.true), int(pair.predicted)] >= len(pair.clips) > 0
        assert pair.of == confusion[int(pair.true)].sum()
        assert all((each.label, each.predicted) == (pair.true, pair.predicted) for each in pair.clips)
    np.fill_diagonal(confusion, 0)
    assert [pair.number for pair in found.pairs] == sorted(confusion[confusion > 0].tolist(), reverse=True)[:PAIRS]


def test_of_several_classes_the_surest_mistake_is_the_one_about_which_it_was_surest():
    sure_of_the_rest = PredictionRow("a", "dog;owl", "dog", 0.999, {"dog": 0.999, "owl": 0.49}, "")
    sure_of_what_is_not_there = PredictionRow("b", "dog", "dog;owl", 0.9, {"owl": 0.9, "dog": 0.6}, "")
    missed = PredictionRow("c", "dog;owl", "dog", 0.7, {"dog": 0.7, "owl": 0.02}, "")
    chosen = choose_clips([sure_of_the_rest, sure_of_what_is_not_there, missed], multilabel=True)
    assert [each.path for each in chosen.mistakes] == ["c", "b", "a"]
