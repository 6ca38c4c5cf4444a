"""Clips to label come in an order that teaches: typical ones first, then those of which the model is unsure."""

import csv
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from grey import make_clip

from finetune.errors import DataError
from finetune.labelling.journal import Change, Journal
from finetune.labelling.next_to_label import TYPICAL, UNSURE, margins, next_to_label, typical_first
from finetune.labelling.unlabelled import data_place, find_unlabelled, manifest_of
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run


def blobs(centers, sizes, *, seed=0):
    random = np.random.default_rng(seed)
    parts = [center + 0.1 * random.standard_normal((size, 2)) for center, size in zip(centers, sizes, strict=True)]
    return np.concatenate(parts), np.repeat(np.arange(len(sizes)), sizes)


def test_each_cluster_without_a_label_gives_one_clip_the_largest_first():
    pool, cluster = blobs([(0, 0), (5, 0), (0, 5), (5, 5)], [10, 30, 20, 5])
    order = typical_first(pool, np.empty((0, 2)), count=4)
    assert cluster[order].tolist() == [1, 2, 0, 3]
    labelled = np.array([[5.0, 0.0]])
    assert cluster[typical_first(pool, labelled, count=3)].tolist() == [2, 0, 3]


def test_the_clip_in_the_middle_of_its_cluster_is_taken():
    pool = np.array([[0.0, 0], [0.2, 0], [0.4, 0], [9, 0], [9.5, 0], [10, 0]])
    assert sorted(typical_first(pool, np.empty((0, 2)), count=2).tolist()) == [1, 4]


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_all_clips_come_once_also_equal_ones(count):
    pool = np.zeros((7, 3))
    pool[3:] += 1
    order = typical_first(pool, np.zeros((2, 3)), count=count)
    assert len(set(order.tolist())) == len(order) == min(count, 7)


def test_the_order_is_that_of_the_seed():
    pool = np.random.default_rng(0).standard_normal((60, 4))
    one, other = (typical_first(pool, pool[:5], count=9, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_unsure_is_a_small_lead_of_the_likeliest_class():
    np.testing.assert_allclose(margins(np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])), [0.2, 0.0], atol=1e-12)
    probs_NK = np.array([[0.9, 0.45], [0.1, 0.2]])
    np.testing.assert_allclose(margins(probs_NK, np.array([0.5, 0.5])), [0.05, 0.3])
    np.testing.assert_allclose(margins(probs_NK, np.array([0.3, 0.7])), [0.25, 0.2])


@pytest.fixture
def run(trained_run, tmp_path):
    return open_run(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def new_clips(tmp_path):
    folder = tmp_path / "new"
    for number in range(6):
        make_clip(folder / f"{number}.mp4", 6 + number, start=16 + 36 * number, step=2)
    return folder


def test_the_least_sure_clips_come_first_with_the_guess_of_the_run(run, new_clips):
    paths, rows = find_unlabelled(run, new_clips), saved_manifest(run)
    chosen = next_to_label(run, paths, rows, count=6)
    assert {clip.reason for clip in chosen} == {UNSURE}
    probabilities = [clip.probability for clip in chosen]
    assert probabilities == sorted(probabilities)
    assert {clip.path for clip in chosen} == set(paths)
    guesses = {clip.path.name: clip.guess for clip in chosen}
    assert (guesses["0.mp4"], guesses["5.mp4"]) == ("dark ones", "it's bright")
    assert {clip.reason for clip in next_to_label(run, paths, rows.for_split("val"), count=2)} == {TYPICAL}


def test_clips_that_are_labelled_already_are_left_out(run, new_clips, clip_folder, tmp_path):
    shutil.copytree(clip_folder / "val", tmp_path / "mixed/val")
    Journal(new_clips).append(Change("0.mp4", "label", "dark ones", ""))
    Journal(new_clips).append(Change("1.mp4", "bad", True, False))
    Journal(new_clips).append(Change("2.mp4", "group", "x", ""))
    assert [path.name for path in find_unlabelled(run, new_clips)] == ["2.mp4", "3.mp4", "4.mp4", "5.mp4"]
    assert len(find_unlabelled(run, tmp_path / "mixed")) == 4, "copies are other files"
    with pytest.raises(DataError, match="all of its 16 clips are labelled"):
        find_unlabelled(run, clip_folder)


def test_corrections_beside_the_runs_own_copy_count_where_its_data_are_gone(run, new_clips, clip_folder):
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(clip_folder), "/nowhere"))
    moved = open_run(run.folder)
    assert data_place(moved) is None and manifest_of(moved) == run.folder / "manifest.csv"
    Journal(run.folder / "manifest.csv").append(Change(str(new_clips / "0.mp4"), "label", "dark ones", ""))
    assert new_clips / "0.mp4" not in find_unlabelled(moved, new_clips)


def test_a_run_whose_own_clips_are_elsewhere_starts_without_them(run, new_clips):
    rows = saved_manifest(run).for_split("val")
    missing = replace(rows, paths=np.array([b"/nowhere/%d.mp4" % row for row in range(len(rows))]))
    chosen = next_to_label(run, find_unlabelled(run, new_clips), missing, count=2)
    assert len(chosen) == 2 and {clip.reason for clip in chosen} == {TYPICAL}


def test_a_missing_folder_and_unreadable_clips_are_told(run, tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        find_unlabelled(run, tmp_path / "nowhere")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="no clip to label can be read, of 1"):
        next_to_label(run, find_unlabelled(run, tmp_path / "broken"), saved_manifest(run), count=2)


@pytest.fixture
def project(run, clip_folder, tmp_path):
    """A project folder with the run, and the CSV that it was trained on under a relative path."""
    rows = saved_manifest(run)
    (tmp_path / "data").mkdir()
    lines = [f"{rows.path(row)},{rows.classes[rows.labels[row]]}" for row in range(len(rows))]
    (tmp_path / "data/clips.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^  manifest: .*$", "  manifest: data/clips.csv", recipe.read_text(), count=1))
    return tmp_path


def test_a_relative_manifest_is_found_from_another_folder(run, project, tmp_path_factory, monkeypatch):
    opened = open_run(run.folder)
    assert str(opened.recipe.data.manifest) == "data/clips.csv"
    monkeypatch.chdir(project)
    assert data_place(opened).resolve() == project / "data/clips.csv"
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    assert data_place(opened) == project / "data/clips.csv"
    (other / "data").mkdir()
    (other / "data/clips.csv").write_text("path,label\nof another project.mp4,wave\n")
    assert data_place(opened) == project / "data/clips.csv", "a CSV of the same name with other clips"
    (project / "data/clips.csv").unlink()
    assert data_place(opened) is None


def test_the_command_lists_clips_and_writes_a_csv(run, new_clips, tmp_path, capsys):
    from finetune.cli.main import app

    out = tmp_path / "new folder" / "next.csv"
    app(["next-to-label", str(run.folder), str(new_clips), "-n", "3", "--csv", str(out)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["guess", "probability", "clip"]
    assert lines[4:] == ["3 of 6 unlabelled clips; chosen as the model is unsure", str(out)]
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
