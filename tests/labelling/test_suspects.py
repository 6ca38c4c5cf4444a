"""Labels that out-of-fold predictions contradict are found, by the formula of confident learning."""

import csv
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.evaluation.write_evaluation import build_results
from finetune.labelling import confident_learning
from finetune.labelling.journal import Change, Journal
from finetune.labelling.out_of_fold import read_out_of_fold
from finetune.labelling.suspects import rank_suspects, suspect_groups, suspects, without_corrected
from finetune.run.predictions_csv import write_class_predictions
from finetune.run.write import write_results

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cleanlab.count import compute_confident_joint
    from cleanlab.filter import find_label_issues
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.rank import get_label_quality_scores


def draw_predictions(seed, *, rows, classes, right):
    """Labels (N,), each class at least twice, and probabilities (N, K) that favour them in a share `right` of rows."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(classes), 2), random.integers(0, classes, rows)])
    probs = random.dirichlet(np.full(classes, random.uniform(0.2, 2)), len(labels))
    probs[np.arange(len(labels)), labels] += random.uniform(0, 2) * (random.random(len(labels)) < right)
    return labels, probs / probs.sum(1, keepdims=True)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 120), st.integers(2, 7), st.floats(0.3, 1))
def test_it_is_what_cleanlab_computes(seed, rows, classes, right):
    labels, probs = draw_predictions(seed, rows=rows, classes=classes, right=right)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = find_label_issues(labels, probs, filter_by="confident_learning", n_jobs=1)
        joint = compute_confident_joint(labels, probs, calibrate=False)
    np.testing.assert_array_equal(confident_learning.contradicted(probs, labels), expected)
    ours = confident_learning.confident_joint(probs, labels)
    np.fill_diagonal(ours, ours.diagonal().clip(min=1))  # cleanlab has no 0 there
    np.testing.assert_array_equal(ours, joint)
    scores = confident_learning.self_confidence(probs, labels)
    np.testing.assert_allclose(scores, get_label_quality_scores(labels, probs, method="self_confidence"), atol=1e-12)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 80), st.integers(1, 5))
def test_for_several_classes_too(seed, rows, classes):
    random = np.random.default_rng(seed)
    targets = random.random((rows, classes)) < 0.4
    targets[0], targets[1] = True, False
    agrees = random.random(targets.shape) < 0.85
    probs = np.clip(0.6 * np.where(agrees, targets, ~targets) + 0.4 * random.random(targets.shape), 0, 1)
    lists = [np.flatnonzero(row).tolist() for row in targets]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = find_multilabel_issues_per_class(lists, probs, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(confident_learning.contradicted_classes(probs, targets), expected)


def write_predictions(folder, rows, probs, *, split="test", multilabel=False, study=False):
    """An evaluation with these rows of label and group, and their probabilities (N, K)."""
    source = folder.parent / f"{folder.name}-{split}.csv"
    lines = [f"{split}{number}.mp4,{label},{group},1,3.5" for number, (label, group) in enumerate(rows)]
    source.write_text("\n".join(["path,label,group,start,end", *lines]) + "\n")
    manifest = Manifest.from_csv(source, packed=True, val=0, test=0, whole=True, multilabel=multilabel)
    evaluation = folder / ("evaluation" if split == "test" else f"evaluation/{split}")
    evaluation.mkdir(parents=True)
    numbers = np.arange(len(manifest))
    write_class_predictions(evaluation, manifest, numbers, probs, probs > 0.5 if multilabel else None)
    task = {
        "kind": "multilabel" if multilabel else "classify",
        "num_rows": len(rows),
        "classes": list(manifest.classes),
    }
    results = build_results(
        folder,
        manifest,
        numbers,
        split=split,
        skipped=[],
        tasks={"label": task},
        class_counts={},
        training_skipped=[],
        warnings=[],
        protocol={},
        seconds=1.0,
    )
    if study:
        (folder / "study.json").write_text("{}")
        results["folds"] = []
    write_results(evaluation, results)
    return manifest


def of_two_classes(first):
    first = np.array(first)
    return np.stack([first, 1 - first], 1)


def test_the_clip_with_the_wrong_label_comes_first(tmp_path):
    rows = [("a", "p")] * 4 + [("b", "q")] * 4
    write_predictions(tmp_path / "kfold", rows, of_two_classes([0.9, 0.8, 0.9, 0.2, 0.1, 0.2, 0.95, 0.1]), study=True)
    first, second = suspects(tmp_path / "kfold")
    assert (first.clip.path, first.clip.start, first.clip.end) == (str(tmp_path / "test6.mp4"), 1, 3.5)
    assert (first.clip.label, first.suggested, first.clip.group) == ("b", "a", "q")
    assert first.score == pytest.approx(0.05)
    assert (second.clip.label, second.suggested) == ("a", "b")


def test_of_several_classes_those_that_are_doubtful_are_suggested_otherwise(tmp_path):
    rows = [("a;b", "")] * 3 + [("a", "")] * 3 + [("", "")] * 3
    probs = np.array([[0.9, 0.9]] * 3 + [[0.9, 0.1]] * 2 + [[0.9, 0.95]] + [[0.1, 0.1]] * 2 + [[0.9, 0.1]])
    write_predictions(tmp_path / "kfold", rows, probs, multilabel=True, study=True)
    found = suspects(tmp_path / "kfold")
    assert [(suspect.clip.label, suspect.suggested) for suspect in found] == [("a", "a;b"), ("", "a")]
    assert found[0].score == pytest.approx(0.05)


def test_a_run_has_predictions_of_val_and_test_only(tmp_path):
    rows = [("a", "p")] * 4 + [("b", "q")] * 4
    probs = of_two_classes([0.9, 0.8, 0.9, 0.2, 0.1, 0.2, 0.95, 0.1])
    write_predictions(tmp_path / "run", rows, probs)
    assert read_out_of_fold(tmp_path / "run").origin == "of test"
    write_predictions(tmp_path / "run", rows, probs, split="val")
    predictions = read_out_of_fold(tmp_path / "run")
    assert (predictions.origin, len(predictions.clips)) == ("of test and val", 16)
    assert len(rank_suspects(predictions)) == 4


def test_a_group_that_was_swapped_is_named(tmp_path):
    rows = [("a", "p")] * 6 + [("b", "q")] * 6 + [("b", "swapped")] * 4
    probs = of_two_classes([0.9] * 6 + [0.1] * 6 + [0.95] * 3 + [0.2])
    write_predictions(tmp_path / "kfold", rows, probs, study=True)
    predictions = read_out_of_fold(tmp_path / "kfold")
    assert suspect_groups(rank_suspects(predictions), predictions.clips) == {"swapped": (3, 4)}


def test_what_was_corrected_since_is_left_out(tmp_path):
    rows = [("a", "p")] * 4 + [("b", "q")] * 4
    probs = of_two_classes([0.9, 0.8, 0.9, 0.2, 0.1, 0.2, 0.95, 0.1])
    write_predictions(tmp_path / "kfold", rows, probs, study=True)
    first, second = found = suspects(tmp_path / "kfold")
    journal = Journal(tmp_path / "kfold-test.csv")
    journal.append(Change("test6.mp4", "label", "a", "b", start=1, end=3.5))
    assert without_corrected(found, journal, "label") == [second]
    journal.undo()
    assert without_corrected(found, journal, "label") == found
    journal.append(Change("test3.mp4", "bad", True, False, start=1, end=3.5))
    assert without_corrected(found, journal, "label") == [first]


def test_folders_without_such_predictions_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="has no results on test or val; evaluate the run, or use `finetune kfold`"):
        suspects(tmp_path / "run")
    write_predictions(tmp_path / "kfold", [("a", ""), ("b", "")], of_two_classes([0.9, 0.1]), study=True)
    with pytest.raises(RunError, match=r"there is no task 'labl' with classes \(nearest: label\)"):
        suspects(tmp_path / "kfold", "labl")
    np.save(tmp_path / "kfold/evaluation/probabilities.npy", np.zeros((3, 2)))
    with pytest.raises(RunError, match="does not fit probabilities"):
        suspects(tmp_path / "kfold")
    results = tmp_path / "kfold/evaluation/results.json"
    results.write_text(
        json.dumps({key: value for key, value in json.loads(results.read_text()).items() if key != "folds"})
    )
    with pytest.raises(RunError, match="has no results of all folds"):
        suspects(tmp_path / "kfold")


def test_the_command_lists_them_and_writes_a_csv(tmp_path, capsys):
    from finetune.cli.main import app

    rows = [("a", "p")] * 4 + [("b", "q")] * 4
    write_predictions(tmp_path / "kfold", rows, of_two_classes([0.9, 0.8, 0.9, 0.2, 0.1, 0.2, 0.95, 0.1]), study=True)
    out = tmp_path / "suspects.csv"
    app(["suspects", str(tmp_path / "kfold"), "-n", "1", "--csv", str(out)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "label", "suggested", "clip"]
    assert lines[1].split()[:3] == ["0.050", "b", "a"]
    assert lines[2:] == ["2 suspects among 8 clips of all folds", str(out)]
    with out.open(newline="") as file:
        assert [(row["label"], row["suggested"], row["start"]) for row in csv.DictReader(file)] == [
            ("b", "a", "1"),
            ("a", "b", "1"),
        ]
