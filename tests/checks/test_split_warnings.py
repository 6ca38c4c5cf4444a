"""Warnings of an evaluation by the files alone: duplicates across splits, shortcuts, no groups."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.checks.split_warnings import warnings_of_folds, warnings_of_test
from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.video.file_facts import FileFacts

SPLITS = ["train"] * 20 + ["val"] * 10 + ["test"] * 30


@pytest.fixture
def manifest(tmp_path):
    """60 different files, alternating between two classes, in 15 groups."""
    paths = []
    for number in range(60):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(f"clip {number:02}".encode())
        paths.append(str(path).encode())
    groups = np.array([f"group {number // 4}" for number in range(60)])
    return Manifest(tmp_path, ("a", "b"), np.array(paths), np.arange(60) % 2, np.array(SPLITS), groups)


def facts_of(tested, **columns):
    rows = len(tested)
    same = {"heights": np.full(rows, 240), "widths": np.full(rows, 320), "num_frames": np.full(rows, 50)}
    same |= {"rates": np.full(rows, 25.0), "seconds": np.full(rows, 2.0)}
    return FileFacts(bad={}, **same | columns)


def said(manifest, split="test", **columns):
    tested = manifest.for_split(split)
    return [each["what"] for each in warnings_of_test(manifest, tested, facts_of(tested, **columns), split)]


def copy(manifest, source, target):
    manifest.path(target).write_bytes(manifest.path(source).read_bytes())


def test_good_data_is_warned_of_nowhere(manifest):
    assert [said(manifest, split) for split in ("train", "val", "test")] == [[], [], []]


def test_a_tested_file_that_was_learned_from_is_a_leak_and_each_is_counted(manifest):
    copy(manifest, 0, 31)
    (leak,) = said(manifest)
    assert leak.startswith("Leak: 1 evaluated file is an exact duplicate of files that the model was trained")
    copy(manifest, 0, 32)
    copy(manifest, 25, 33)  # used for selection
    (leak,) = said(manifest)
    assert leak.startswith("Leak: 3 evaluated files are exact duplicates of ")


def test_a_name_that_no_training_row_has_is_said_of_further_tasks(manifest):
    values = np.array([0, 1] * 30)
    values[45:48] = 2
    tasks = {
        "it": Labels("classify", ("a", "b"), manifest.labels, np.ones(60, dtype=bool)),
        "place": Labels("classify", ("in", "out", "roof", "none"), values, np.ones(60, dtype=bool)),
        "speed": Labels("regress", ("speed",), np.zeros((60, 1)), np.ones(60, dtype=bool)),
    }
    (warning,) = said(replace(manifest, tasks=tasks))
    assert warning == "tasks.place: no training clip has roof, so 3 evaluated clips cannot be predicted right."
    assert said(replace(manifest, tasks=tasks), "val") == []


def test_copies_within_a_split_or_of_val_in_test_are_no_leak_of_it(manifest):
    copy(manifest, 40, 41)
    copy(manifest, 20, 50)
    assert said(manifest, "val") == []
    assert said(manifest, "train") == []
    (leak,) = said(manifest)
    assert leak.startswith("Leak: 1 evaluated file is an exact duplicate of files that the model was trained or sel")
    copy(manifest, 3, 21)
    (leak,) = said(manifest, "val")
    assert leak == "Leak: 1 evaluated file is an exact duplicate of files that the model was trained on."


def test_files_that_have_gone_are_no_copies(manifest):
    copy(manifest, 0, 31)
    manifest.path(0).unlink()
    assert said(manifest) == []


def test_a_fact_that_tells_the_class_is_a_shortcut(manifest):
    told = said(manifest, rates=np.where(np.arange(30) % 2, 12.0, 30.0))
    assert (
        len(told) == 1
        and "the frame rate of a clip alone predicts the class with a balanced accuracy of 100" in told[0]
    )
    assert said(manifest, widths=np.where(np.arange(30) % 2, 100, 320))[0].startswith("Shortcut: the s")
    several = replace(manifest, targets=np.eye(2, dtype=bool)[manifest.labels])
    assert said(several, rates=np.where(np.arange(30) % 2, 12.0, 30.0)) == []


def test_a_pack_knows_no_rates_and_bad_files_no_facts(manifest):
    tested = manifest.for_split("test")
    facts = replace(facts_of(tested), rates=None, seconds=None)
    assert warnings_of_test(manifest, tested, facts, "test") == []
    only_bad = replace(facts_of(tested, rates=np.zeros(30)), bad=dict.fromkeys(range(30), "cut off"))
    assert warnings_of_test(manifest, tested, only_bad, "test") == []


def test_without_groups_their_lack_is_told_of_what_was_not_learned_from(manifest):
    alone = replace(manifest, groups=None)
    (told,) = said(alone)
    assert told.startswith("There are no groups, so clips of one person")
    assert said(alone, "train") == []
    assert len(said(alone, "val")) == 1


def test_a_copy_that_several_folds_test_is_counted_once_for_each_file(manifest):
    copy(manifest, 0, 31)
    copy(manifest, 5, 40)
    halves = [np.where(np.arange(60) % 2 == half, "test", "train") for half in (0, 1)]
    folds = [replace(manifest, splits=splits) for splits in halves]
    tested = replace(manifest, splits=np.full(60, "test"))
    (leak,) = (each["what"] for each in warnings_of_folds(folds, tested, facts_of(tested), "test"))
    assert leak.startswith("Leak: 4 evaluated files are")
