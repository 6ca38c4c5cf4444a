"""A run resumes only with the labels, splits, groups and files that it began with; an error names what changed."""

import csv
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import finetune as ft
from finetune.errors import DataError
from finetune.train.state.data_digest import FULL_HASH_BYTES, HASHED_BLOCKS, digest_data, refuse_changed_data


@pytest.fixture
def manifest(tmp_path):
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    encoded = np.array([str(path).encode() for path in paths])
    splits, groups = np.array(["train", "train", "val", "test"]), np.array(["a", "b", "c", "d"])
    return ft.Manifest(tmp_path, ("x", "y"), encoded, np.array([0, 1, 0, 1]), splits, groups)


def test_the_same_rows_are_the_same_wherever_their_folder_is(manifest, tmp_path):
    before = digest_data(manifest)
    refuse_changed_data(manifest, before, digest_data(manifest))
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    paths = np.array([str(moved / manifest.path(row).name).encode() for row in range(4)])
    refuse_changed_data(manifest, before, digest_data(replace(manifest, paths=paths)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.array([0, 1, 1, 1])}, "label of .*2.mp4"),
        ({"splits": np.array(["train", "val", "val", "test"])}, "split of .*1.mp4"),
        ({"groups": np.array(["a", "b", "c", "a"])}, "group of .*3.mp4"),
        ({"groups": None}, "group of .*0.mp4, .*3.mp4"),
        ({"classes": ("y", "x")}, "names of the classes, which were x, y"),
    ],
)
def test_what_changed_is_named_with_its_rows(manifest, changes, reason):
    before = digest_data(manifest)
    changed = replace(manifest, **changes)
    with pytest.raises(DataError, match=f"changed since the run began: (the )?{reason}"):
        refuse_changed_data(changed, before, digest_data(changed))


@pytest.mark.parametrize("size", [1000, FULL_HASH_BYTES + 1, 3 * FULL_HASH_BYTES])
def test_a_file_of_the_same_size_with_other_content_is_noticed(manifest, size):
    path = manifest.path(1)
    path.write_bytes(bytes(size))
    before = digest_data(manifest)
    for place in (0, size - 1, size // (HASHED_BLOCKS - 1)):
        content = bytearray(size)
        content[place] = 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"content of {re.escape(str(path))}"):
            refuse_changed_data(manifest, before, digest_data(manifest))


def test_fewer_rows_or_another_order_are_noticed(manifest):
    before, fewer = digest_data(manifest), manifest.without([0])
    with pytest.raises(DataError, match="was started with 4 rows, not 3"):
        refuse_changed_data(fewer, before, digest_data(fewer))


def test_labels_edited_in_a_runs_manifest_are_refused_on_resume(trained_run, tmp_path, finetune):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with (run / "manifest.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:3]:
        row[1] = next(other[1] for other in rows[1:] if other[1] != row[1])
    with (run / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    status, _, err = finetune("train", "--resume", run)
    assert status == 2 and f"changed since the run began: label of {rows[1][0]}, {rows[2][0]}" in err


@pytest.mark.slow
def test_a_run_of_before_there_were_digests_goes_on_with_a_note(trained_run, tmp_path, finetune):
    run = shutil.copytree(trained_run, tmp_path / "run")
    path = run / "checkpoints" / "last" / "state.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("data")["rows"].shape[1] == 5
    torch.save(state, path)
    status, _, err = finetune("train", "--resume", run)
    assert (status, "An older version started this run" in err) == (0, True), err
