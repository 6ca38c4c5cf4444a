"""Conditions of --within: which rows meet them, and what there is where none does."""

import pytest
from indexed import write_index

from finetune.errors import IndexFolderError
from finetune.retrieval.allowed_rows import allowed_rows
from finetune.vector_index.entry import Entry


@pytest.fixture
def index(tmp_path):
    return write_index(
        tmp_path / "index",
        [
            Entry("/a/b/1.mp4", labels={"label": ["kick"]}, group="p1", split="train"),
            Entry("/a/b/2.mp4", labels={"label": ["kick", "wave"], "place": ["indoors"]}, group="p1", split="test"),
            Entry("/a/bc/3.mp4", labels={"label": ["a=b; c"], "place": []}, group="p2", split="test"),
            Entry("/a/4.mp4"),
        ],
    )


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        (["label=kick"], [0, 1]),
        (["label=kick", "label=wave"], [0, 1]),
        (["label=kick", "split=test"], [1]),
        (["label=a=b; c"], [2]),
        (["place=indoors"], [1]),
        (["group=p2", "group=p1"], [0, 1, 2]),
        (["path=/a/b"], [0, 1]),
        (["path=/a/b/../bc/"], [2]),
        (["path=/a/4.mp4"], [3]),
        (["path=/"], [0, 1, 2, 3]),
    ],
)
def test_conditions_of_one_key_are_alternatives_and_keys_are_met_together(index, conditions, rows):
    assert allowed_rows(index, conditions).nonzero()[0].tolist() == rows


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["label=kik"], "no row has label=kik (nearest: kick)"),
        (["label=xyz"], "no row has label=xyz; there are a=b; c, kick, wave"),
        (["split=trian", "label=wav"], "no row has label=wav (nearest: wave)"),
        (["plce=indoors"], "there is no key 'plce' (nearest: place); keys are label, split, group, path, place"),
        (["path=/nowhere"], "no row has a file in /nowhere"),
        (["split=train", "group=p2"], "no row meets all of split=train, group=p2"),
        (["kick"], "--within kick: needs a key and a value, such as label=NAME; keys are label, split, group, path"),
        (["label="], "--within label=: needs a key and a value"),
    ],
)
def test_a_condition_that_no_row_meets_is_refused_with_what_there_is(index, conditions, message):
    with pytest.raises(IndexFolderError) as caught:
        allowed_rows(index, conditions)
    assert message in str(caught.value)


def test_labels_of_an_index_without_any_are_told(tmp_path):
    with pytest.raises(IndexFolderError, match="no row has a label, so none has label=kick"):
        allowed_rows(write_index(tmp_path, [Entry("/a.mp4")]), ["label=kick"])


def test_label_stands_for_all_tasks_where_none_has_this_name(tmp_path):
    tasks = [{"action": ["kick"], "place": ["out"]}, {"action": ["wave"], "place": ["in"]}]
    index = write_index(tmp_path, [Entry(f"/{row}.mp4", labels=labels) for row, labels in enumerate(tasks)])
    assert allowed_rows(index, ["label=kick", "label=in"]).tolist() == [True, True]
    assert allowed_rows(index, ["action=kick"]).tolist() == [True, False]


def test_without_conditions_all_rows_are_allowed(index):
    assert allowed_rows(index, []) is None
