"""`evaluate(retrieval=True)`: vectors of the same forward passes, figures of the split, and pictures of hits."""

import json
import shutil

import numpy as np
import pytest
from grey import TINY, make_clip

import finetune as ft
from finetune.errors import RecipeError, RunError
from finetune.inference.clip_vectors import ClipVectors
from finetune.labelling.clip_features import clip_features
from finetune.metrics.retrieval import LabelledVectors, rank_queries
from finetune.report.run.page import write_report
from finetune.run.read import open_run


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """26 clips, dark or bright, in groups of two; those of the last nine groups are tested."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,label,split,group"]
    for number in range(26):
        label, part = ("bright", "dark")[number % 2], "train" if number < 8 else "test"
        make_clip(folder / f"{number}.mp4", 6, start=150 if number % 2 == 0 else 20 + number, step=2, size=32)
        lines.append(f"{number}.mp4,{label},{part},g{number // 2}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return ft.Manifest.from_csv(folder / "clips.csv")


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(batch_size=4, cache="off"), "data": ft.Data(workers=0)}
    phases = [ft.Phase(unfreeze="head", epochs=1, lr=1e-3)]
    return ft.fit(model, manifest, phases, **settings, out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, folder)
    return folder, ft.evaluate(folder, retrieval=True)


@pytest.mark.slow
def test_figures_are_those_of_the_vectors_before_the_head(manifest, evaluated):
    folder, results = evaluated
    retrieval, tested = results["retrieval"], manifest.for_split("test")
    features = clip_features(open_run(folder), tested).features_ND
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    classes_NK = np.eye(2, dtype=bool)[tested.labels]
    ranks = rank_queries(LabelledVectors([features], classes_NK, tested.groups))
    for name, values in ranks.shares.items():
        assert retrieval[name] == pytest.approx(values.mean(), abs=1e-5), name
    assert (retrieval["num_queries"], retrieval["gallery_size"], retrieval["left_out"]) == (18, 16, "group")
    assert retrieval["map"] > retrieval["map_chance"]


@pytest.mark.slow
def test_predictions_are_the_same_with_retrieval(run, evaluated, tmp_path):
    ft.evaluate(run, out=tmp_path / "without", pictures=False)
    with_retrieval = np.load(evaluated[0] / "evaluation" / "probabilities.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "without" / "probabilities.npy"), with_retrieval)
    assert "retrieval" not in json.loads((tmp_path / "without" / "results.json").read_text())
    shutil.copytree(evaluated[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluation" / "pictures")
    html = write_report(tmp_path / "run", figures_too=False).read_text()
    assert 'class="found right"' in html and "data:image/jpeg" not in html[html.index('id="retrieval"') :]


@pytest.mark.slow
def test_the_report_shows_figures_and_queries_with_what_they_find(evaluated):
    folder, results = evaluated
    examples = results["retrieval"]["examples"]
    assert [query["kind"] for query in examples] == ["typical"] * 2 + ["hardest"] * 4
    assert all(
        len(query["hits"]) == 5 and query["path"] not in {hit["path"] for hit in query["hits"]} for query in examples
    )
    html = write_report(folder, figures_too=False).read_text()
    section = html[html.index('<section id="retrieval">') : html.index('<section id="clips">')]
    assert "Search by example" in section and "a random order would get" in section
    assert section.count("data:image/jpeg") == 6 * len(examples)
    hits = [hit for query in examples for hit in query["hits"]]
    assert section.count("✓ right") == sum(hit["right"] for hit in hits)
    assert section.count("✗ wrong") == sum(not hit["right"] for hit in hits)


@pytest.mark.slow
def test_a_split_of_one_group_has_no_figures_and_says_so(manifest, run, tmp_path):
    groups = np.where(manifest.splits == "test", "all", manifest.groups)
    rows = manifest.without(manifest.rows("train"))
    lines = [f"{rows.path(row)},{rows.label(row)},{group}" for row, group in enumerate(groups[manifest.rows("test")])]
    (tmp_path / "one.csv").write_text("path,label,group\n" + "\n".join(lines) + "\n")
    shutil.copytree(run, tmp_path / "run")
    results = ft.evaluate(
        tmp_path / "run", f"data.manifest={tmp_path / 'one.csv'}", retrieval=True, out=tmp_path / "out", pictures=False
    )
    assert (results["retrieval"]["num_queries"], results["retrieval"]["num_without_match"]) == (0, 18)
    html = write_report(tmp_path / "run", evaluation=tmp_path / "out", figures_too=False).read_text()
    assert "None of 18 clips can find another of its class" in html


@pytest.mark.slow
def test_a_run_without_classes_is_refused(manifest, tmp_path):
    numbers = tmp_path / "numbers.csv"
    rows = [f"{manifest.path(row)},{row},{manifest.splits[row]}" for row in range(len(manifest))]
    numbers.write_text("path,level,split\n" + "\n".join(rows) + "\n")
    tasks = {"level": ft.Task(kind="regress", columns=["level"])}
    of_numbers = ft.Manifest.from_csv(numbers, tasks=tasks)
    spec = of_numbers.multitask_spec(tasks)
    model = ft.build_model(TINY, [], multitask_spec=spec, weights="none", num_frames=2, size=32)
    settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(batch_size=4, cache="off"), "data": ft.Data(workers=0)}
    phases = [ft.Phase(unfreeze="head", epochs=1, lr=1e-3)]
    with pytest.raises(RecipeError, match=r"evaluate\.retrieval needs a task with classes"):
        ft.fit(
            model, of_numbers, phases, **settings, evaluate=ft.Evaluate(retrieval=True), out=tmp_path / "a", quiet=True
        )
    run = ft.fit(model, of_numbers, phases, **settings, out=tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match=r"retrieval needs a task with classes; this run has level \(regress\)"):
        ft.evaluate(run, retrieval=True)


def test_vectors_are_kept_in_order_with_length_1():
    vectors = ClipVectors()
    vectors.add([3, 1], np.array([[3.0, 4.0], [0.0, 0.0]]))
    vectors.add([2], np.array([[0.0, 2.0]]))
    rows, vectors_ND = vectors.read()
    assert rows.tolist() == [3, 1, 2]
    np.testing.assert_allclose(vectors_ND, [[0.6, 0.8], [0, 0], [0, 1]])
