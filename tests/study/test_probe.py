"""Probes test each clip by what has seen nothing of its group, and say what they cost."""

import json
from dataclasses import replace

import numpy as np
import pytest
from grey import TINY, make_clip

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError
from finetune.feature_cache.shard_store import ShardStore
from finetune.recipe.schema import Recipe
from finetune.report.pages.probes import draw_probes, probe_table
from finetune.study import probe as probing
from finetune.study import probe_classifiers
from finetune.study.probe import majority_baseline, probe
from finetune.study.probe_classifiers import PROBE_CLASSIFIERS
from finetune.train.log.console import Display

CLASSES = 3


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(probe_classifiers, "HEAD_STEPS", 60)
    monkeypatch.setattr(probing, "FOLDS", 3)
    fewer = {name: replace(method, settings=method.settings[-2:]) for name, method in PROBE_CLASSIFIERS.items()}
    monkeypatch.setattr(probing, "PROBE_CLASSIFIERS", fewer)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """Three classes told apart by grey level, of six groups."""
    root = tmp_path_factory.mktemp("probed")
    lines = ["path,label,group"]
    for number in range(18):
        path = make_clip(root / f"{number}.mp4", 8, start=16 + 80 * (number % CLASSES), step=1)
        lines.append(f"{path.name},class {number % CLASSES},group {number // 3}")
    (root / "clips.csv").write_text("\n".join(lines))
    return root / "clips.csv"


def recipe_of(csv, tmp_path, **data):
    return Recipe.model_validate(
        {
            "data": {"manifest": csv, "workers": 0, "val": 0, "test": 0} | data,
            "clip": {"num_frames": 2, "size": 32},
            "model": {"backbone": TINY, "weights": "none"},
            "train": {"cache_dir": tmp_path / "kept", "precision": "fp32"},
        }
    )


@pytest.mark.slow
def test_every_method_is_tried_on_every_backbone_and_listed_best_first(csv, tmp_path, monkeypatch):
    manifest = Manifest.from_csv(csv, val=0, test=0)
    found = probe(recipe_of(csv, tmp_path), manifest, [TINY, "mobilenetv3_small_050"])
    assert {(each.backbone, each.method) for each in found} == {
        (backbone, method) for backbone in (TINY, "mobilenetv3_small_050") for method in PROBE_CLASSIFIERS
    }
    values = [each.top1 for each in found]
    assert values == sorted(values, reverse=True) and values[0] > 0.9
    assert all(each.interval[0] <= each.top1 <= each.interval[1] and each.seconds > 0 for each in found)
    monkeypatch.setattr("finetune.feature_cache.fill.cut_activations", None)  # nothing is computed again
    again = probe(recipe_of(csv, tmp_path), manifest, [TINY])
    assert again[0].top1 == max(each.top1 for each in found if each.backbone == TINY)


def test_rows_of_the_split_test_are_left_out(csv, tmp_path):
    manifest = Manifest.from_csv(csv, val=0.2, test=0.3)
    probe(recipe_of(csv, tmp_path), manifest, [TINY])
    (stored,) = (tmp_path / "kept").glob("*/set.json")
    told = json.loads(stored.read_text())
    basis = {name: value for name, value in told.items() if name not in {"item", "kept_as", "format"}}
    with ShardStore(tmp_path / "kept", basis, item=tuple(told["item"]), storage_dtype=told["kept_as"]) as store:
        assert len(store.keys) == len(manifest) - len(manifest.rows("test")) < len(manifest)


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "steps"), [("late", 4), ("tsm", 4), ("grey_stack", 2), ("two_stream", 2)])
def test_grey_stacks_are_probed_and_other_fusions_are_left_out(csv, tmp_path, fusion, steps):
    recipe = recipe_of(csv, tmp_path)
    clip, model = ({"num_frames": 4, "size": 32}, {"backbone": TINY, "weights": "none", "fusion": fusion})
    recipe = Recipe.model_validate(recipe.model_dump() | {"clip": clip, "model": model})
    manifest = Manifest.from_csv(csv, val=0, test=0)
    clips = probing._compute_features(recipe, manifest, TINY, Display(quiet=True))
    assert clips.features_NTD.shape[:2] == (18, steps)


def test_rows_of_one_file_are_in_one_fold_where_there_are_no_groups(csv, tmp_path, monkeypatch):
    rows = [line.rsplit(",", 1)[0] for line in csv.read_text().splitlines()[1:]]
    (csv.parent / "link.mp4").symlink_to("0.mp4")
    (csv.parent / "twice.csv").write_text("\n".join(["path,label", *rows, *rows, "link.mp4,class 0"]))
    manifest = Manifest.from_csv(csv.parent / "twice.csv", val=0, test=0)
    divided = []
    monkeypatch.setattr(
        probing, "_predict_folds", lambda _, clips, folds, __: divided.append(folds) or np.eye(3)[clips.labels]
    )
    scored = []
    monkeypatch.setattr(
        probing,
        "score_multiclass",
        lambda *given, **named: scored.append(named["groups"]) or {"top1": 1, "top1_ci": (0, 1)},
    )
    probe(recipe_of(csv.parent / "twice.csv", tmp_path), manifest, [TINY])
    assert len(np.unique(scored[0])) == 18 < len(manifest)  # an interval counts files, not rows
    files = np.array([*range(18), *range(18), 0])
    for train, test in divided[0]:
        assert len(test) and not set(files[train]) & set(files[test])
    assert probing._num_folds(manifest.without(range(2, 36))) == 2  # rows of two files, one of them by a link


def test_no_row_is_predicted_by_what_has_seen_its_group(monkeypatch):
    labels, groups = np.arange(30) % 3, np.arange(30) // 3
    features = np.stack([labels, groups, np.arange(30)], axis=1)[:, None].astype(np.float32)
    calls = []

    def predict(train, train_labels, test, setting):
        calls.append((set(train[:, 0, 1]), set(test[:, 0, 1]), set(test[:, 0, 2])))
        return np.full((len(test), len(np.unique(train_labels))), 1 / 3)

    classifier = probe_classifiers.ProbeClassifier((1.0, 2.0), predict)
    clips = probing._Features(features, labels, groups, 0.0)
    probs_NK = probing._predict_folds(classifier, clips, probing._split_folds(clips, 5, seed=0), 3)
    assert all(trained.isdisjoint(tested) for trained, tested, _ in calls)
    assert np.allclose(probs_NK.sum(1), 1)
    inner = len(calls) // 5
    assert inner == 1 + 2 * probe_classifiers.INNER_FOLDS
    for first in range(0, len(calls), inner):
        *chosen_on, last = calls[first : first + inner]
        assert all(tested.isdisjoint(last[1]) for _, tested, _ in chosen_on), "settings are chosen on other rows"


def test_a_class_without_training_rows_keeps_probability_0():
    probs_NK, features = np.zeros((4, 4)), np.zeros((4, 1, 1), dtype=np.float32)
    classifier = probe_classifiers.ProbeClassifier((1.0,), lambda *_: np.array([[0.25, 0.75]]))
    clips = probing._Features(features, np.array([3, 1, 0, 3]), np.arange(4), 0.0)
    probing._predict_fold(probs_NK, classifier, clips, (np.array([0, 2, 3]), np.array([1])), 1.0)
    assert probs_NK.tolist() == [[0, 0, 0, 0], [0.25, 0, 0, 0.75], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("name", PROBE_CLASSIFIERS)
def test_a_method_learns_what_can_be_told(name):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centres = 3 * rng.standard_normal((3, 4, 16))
    features = (centres[labels] + rng.standard_normal((60, 4, 16))).astype(np.float32)
    method = PROBE_CLASSIFIERS[name]
    probs = method.predict(features[:45], labels[:45], features[45:], method.settings[-1])
    assert (probs.argmax(1) == labels[45:]).mean() > 0.9
    assert np.allclose(probs.sum(1), 1, atol=1e-5)


def test_order_is_seen_by_what_looks_at_it_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pair = rng.standard_normal((2, 32))
    features = np.stack([pair if label else pair[::-1] for label in labels])
    features = (features + 0.3 * rng.standard_normal(features.shape)).astype(np.float32)

    def right(name, setting):
        probs = PROBE_CLASSIFIERS[name].predict(features[:60], labels[:60], features[60:], setting)
        return (probs.argmax(1) == labels[60:]).mean()

    assert right("logistic, frames in order", 0.1) > 0.95 and right("attentive head", 3e-3) > 0.95
    assert right("logistic, mean of frames", 0.1) < 0.8


def test_wide_features_are_brought_to_few(monkeypatch):
    monkeypatch.setattr(probe_classifiers, "PCA_MIN_WIDTH", 8)
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = (labels[:, None, None] * 2 + rng.standard_normal((40, 2, 10))).astype(np.float32)
    method = PROBE_CLASSIFIERS["logistic, frames in order"]
    assert (method.predict(features, labels, features, 1.0).argmax(1) == labels).mean() > 0.9


def test_what_cannot_be_probed_is_refused(csv, tmp_path):
    one_group = tmp_path / "one.csv"
    one_group.write_text(csv.read_text().replace("group 1", "group 0"))
    lines = [line.rsplit(",", 1)[0] + ",one" for line in csv.read_text().splitlines()[1:]]
    lines = [f"{csv.parent}/{line}" for line in lines]
    one_group.write_text("\n".join(["path,label,group", *lines]))
    with pytest.raises(DataError, match="1 groups cannot make 2 folds"):
        probe(recipe_of(one_group, tmp_path), Manifest.from_csv(one_group, val=0, test=0), [TINY])
    by_person = tmp_path / "persons.csv"
    person = [line.rsplit(",", 1)[0] for line in csv.read_text().splitlines()[1:]]
    person = [f"{csv.parent}/{line},person {line[-1]}" for line in person if not line.endswith("2")]
    by_person.write_text("\n".join(["path,label,group", *person]))
    with pytest.raises(DataError, match="a fold has training clips of one class only"):
        probe(recipe_of(by_person, tmp_path), Manifest.from_csv(by_person, val=0, test=0), [TINY])
    manifest = Manifest.from_csv(csv, val=0, test=0, multilabel=True)
    with pytest.raises(RecipeError, match="one class each"):
        probe(recipe_of(csv, tmp_path), manifest, [TINY])


def test_the_baseline_is_the_most_frequent_class(csv):
    manifest = Manifest.from_csv(csv, val=0, test=0)
    assert majority_baseline(manifest) == {"class": "class 0", "top1": pytest.approx(1 / 3)}


def test_the_table_and_the_picture_name_what_was_tried(tmp_path):
    found = [
        {
            "backbone": "resnet18",
            "method": "nearest neighbours",
            "top1": 0.5,
            "interval": (0.25, 0.75),
            "seconds_of_features": 12.2,
            "seconds": 0.31,
        }
    ]
    assert "| resnet18 | nearest neighbours | 0.500 | 0.250 to 0.750 | 12 | 0.3 |\n\nIntervals are for" in probe_table(
        found
    )
    draw_probes(tmp_path / "picture.svg", found, chance=0.2)
    text = (tmp_path / "picture.svg").read_text()
    assert all(word in text for word in ("resnet18", "nearest neighbours", "majority-class baseline", "features"))


@pytest.mark.slow
def test_the_command_writes_a_table_and_a_picture(csv, tmp_path, finetune, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [f"data.manifest={csv}", "data.val=0", "data.test=0", "data.workers=0", "clip.num_frames=2"]
    settings += ["clip.size=32", f"model.backbone={TINY}", "model.weights=none"]
    status, out, _ = finetune("probe", "folder", *settings)
    assert status == 0
    assert out.splitlines()[-1] == "runs/folder-probe"
    assert f"{TINY}" in out and "Majority-class baseline (class 0): 0.333" in out
    widened = "for standard errors 1.3 times as large, as the models of the folds share training clips"
    assert f"Intervals are {widened}." in out.splitlines()
    folder = tmp_path / "runs/folder-probe"
    assert all(widened in (folder / name).read_text() for name in ("probe.json", "probe.md"))
    assert {path.name for path in (tmp_path / "runs/folder-probe").iterdir()} == {
        "probe.json",
        "probe.md",
        "probe.svg",
    }
    status, _, err = finetune("probe", "folder", *settings, "--backbones", "resnet18,resnet19")
    assert status == 2 and "resnet19" in err
