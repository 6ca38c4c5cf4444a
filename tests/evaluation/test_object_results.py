from dataclasses import replace

import numpy as np
import pytest
from framed import draw_labelled_videos, tasks_of

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.evaluation.object_results import object_metrics, shown_detections, write_object_predictions
from finetune.run.detections_csv import read_detections
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import read_clip_names, read_task_predictions
from finetune.video.file_facts import FileFacts


@pytest.fixture
def tested(tmp_path):
    """The labelled frames of two videos, in the order of no file."""
    manifest = Manifest.from_csv(draw_labelled_videos(tmp_path, train=2), tasks=tasks_of("tracks"))
    return manifest.for_split("train")


def facts_of(manifest):
    """Row n of a file is its frame 3n, as drawn."""
    rates, size = 25.0, np.full(len(manifest), 64)
    first = np.rint(manifest.intervals[:, 0] * rates + 0.5).astype(int)
    ones = np.ones(len(manifest), dtype=int)
    return FileFacts(ones, size, size, {}, first_frames=np.where(manifest.intervals[:, 0] > 0, first, 0))


def perfect(manifest, task="tracks"):
    """The objects themselves as detections (N, 5, 8), with a score of 0.9, and one of nothing with 0.2."""
    values = manifest.tasks[task].values
    detections = np.zeros((len(values), 5, 8))
    for row, objects in enumerate(values):
        there = objects[objects[:, 0] >= 0]
        detections[row, : len(there), :4], detections[row, : len(there), 5] = there[:, 1:5], there[:, 0]
        detections[row, : len(there), 4], detections[row, : len(there), 6:] = 0.9, there[:, 5:7]
        detections[row, 4] = (60, 50, 5, 5, 0.2, 1, np.nan, np.nan)
    return detections


def test_perfect_detections_are_tracked_through_each_file_whatever_the_order_of_rows(tested):
    rows = np.random.default_rng(0).permutation(len(tested))
    found, facts = perfect(tested)[rows], facts_of(tested)
    shown = shown_detections(tested, "tracks", rows, found, fitted=0.5, facts=facts)
    results = object_metrics(tested, "tracks", rows, found, shown=shown, facts=facts)
    assert (results["ap"], results["f1"], results["hota"], results["mota"], results["switches"]) == (1, 1, 1, 1, 0)
    assert (results["num_sequences"], results["num_identities"]) == (4, 4)  # of each class in each file
    assert (results["score_threshold"], results["score_threshold_from"]) == (0.5, "val")
    assert shown.tracks.shape == (len(rows), 5) and (shown.tracks[:, 4] == -1).all()
    last = np.flatnonzero(tested.tasks["tracks"].presence()[rows].any(1))
    some = shown.at(last)
    assert (some.tracks == shown.tracks[last]).all()


def test_without_a_fitted_threshold_it_is_the_best_one_of_these_frames(tested):
    rows, found = np.arange(len(tested)), perfect(tested)
    shown = shown_detections(tested, "tracks", rows, found, fitted=None, facts=facts_of(tested))
    assert (shown.score_threshold, shown.is_fitted) == (pytest.approx(0.55), False)
    results = object_metrics(tested, "tracks", rows, found, shown=shown, facts=facts_of(tested))
    assert results["score_threshold_from"] == "these frames"


def test_labels_without_identities_have_no_metrics_of_tracks(tested):
    labels = tested.tasks["tracks"]
    values = labels.values.copy()
    values[..., 7] = -1
    anonymous = replace(tested, tasks={"tracks": replace(labels, values=values)})
    rows, found = np.arange(len(tested)), perfect(tested)
    shown = shown_detections(anonymous, "tracks", rows, found, fitted=0.5, facts=facts_of(tested))
    assert shown.tracks is None
    results = object_metrics(anonymous, "tracks", rows, found, shown=shown, facts=facts_of(tested))
    assert "hota" not in results and results["ap"] == 1


def test_detections_and_counts_of_frames_are_written_and_read_again(tested, tmp_path):
    labels = tested.tasks["tracks"]
    labels.known[0] = False
    rows, found, facts = np.arange(len(tested)), perfect(tested), facts_of(tested)
    found[1, 0, :4] += 500
    shown = shown_detections(tested, "tracks", rows, found, fitted=0.5, facts=facts)
    write_object_predictions(tmp_path, tested, "tracks", rows, found, shown=shown)
    evaluation = EvaluationFolder(tmp_path)
    read = read_detections(evaluation, "tracks")
    assert set(read) == {tested.clip_name(row) for row in rows if (found[row, :4, 4] > 0).any()}
    for row in rows:
        for place, detection in enumerate(read.get(tested.clip_name(row), [])):
            assert (detection.name, detection.score) == (labels.names[int(found[row, place, 5])], 0.9)
            assert detection.box == pytest.approx(found[row, place, :4], rel=1e-5)
            assert detection.track == (None if shown.tracks[row, place] < 0 else shown.tracks[row, place])
            assert detection.motion == pytest.approx(tuple(found[row, place, 6:]), rel=1e-5)
    assert read_clip_names(evaluation.predictions("tracks")) == [tested.clip_name(row) for row in rows]
    lines = evaluation.predictions("tracks").read_text().splitlines()
    assert lines[0].endswith("group,objects,found,missed,invented")
    assert lines[1].endswith(",,,,")
    objects = (labels.values[1][:, 0] >= 0).sum()
    assert lines[2].endswith(f",{objects},{objects - 1},1,1")
    _, values = read_task_predictions(evaluation, "tracks", {"tracks": {"kind": "track"}})
    assert values == pytest.approx(found, rel=1e-6, nan_ok=True)


def test_a_damaged_file_of_detections_is_named_with_its_row(tmp_path):
    evaluation = EvaluationFolder(tmp_path)
    header = "path,class,x,y,w,h,score,dx,dy\n"
    evaluation.detections("it").write_text(f"{header}a.mp4,car,1,2,3,4,0.5,,\na.mp4,car,1,2,3,much,0.5,,\n")
    with pytest.raises(RunError, match=r"detections-it\.csv, row 3: is no detection .*evaluate the run again"):
        read_detections(evaluation, "it")
