"""Clips that show several classes, or none: from the CSV to thresholds, mean average precision and the page."""

import csv
import json

import numpy as np
import pytest
import torch
from grey import TINY, make_clip
from sklearn.metrics import average_precision_score, f1_score

import finetune as ft
from finetune.errors import DataError, RecipeError
from finetune.metrics.calibration import apply_temperature, calibration_metrics
from finetune.metrics.headline import epoch_sort_key, format_headline, headline_metric, validation_metrics
from finetune.metrics.multilabel import _Ranked, best_thresholds, mean_average_precision, score_multilabel
from finetune.model.view_consensus import combine_views
from finetune.study.kfold import kfold
from finetune.train.loss.losses import build_loss
from finetune.train.mixup import mix_clips
from finetune.train.position import Tally

LISTS = ("bright;moving", "bright", "moving", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """40 clips of 10 people: bright or dark, moving or still; dark and still has no class."""
    folder = tmp_path_factory.mktemp("several")
    lines = ["path,label,group"]
    for number in range(40):
        label = LISTS[number % 4]
        make_clip(folder / f"{number}.mp4", start=180 if "bright" in label else 16, step=9 if "moving" in label else 0)
        lines.append(f"{number}.mp4,{label},person {number // 4}")
    path = folder / "clips.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def manifest(table):
    return ft.Manifest.from_csv(table, multilabel=True)


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", temporal="diff", num_frames=4, size=32)
    phases = [ft.Phase(unfreeze="all", epochs=3, lr=3e-3, batch_norm="train")]
    return ft.fit(
        model, manifest, phases, clip=ft.Clip(num_frames=4), train=ft.Train(batch_size=4), out=out, quiet=True
    )


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def predictions(run):
    with (run / "evaluation/predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_label_lists_classes_in_any_order_and_may_be_empty(manifest, tmp_path):
    assert manifest.classes == ("bright", "moving")
    assert manifest.targets[:4].tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert [manifest.label(row) for row in range(4)] == list(LISTS)
    assert sum(manifest.counts(split)["bright"] for split in ("train", "val", "test")) == 20
    manifest.to_csv(tmp_path / "again.csv")
    again = ft.Manifest.from_csv(tmp_path / "again.csv", multilabel=True)
    assert (again.targets == manifest.targets).all()
    wider = manifest.with_classes(("blue", "bright", "moving"))
    assert not wider.targets[:, 0].any()
    assert [wider.label(row) for row in range(4)] == list(LISTS)
    for split in ("train", "val", "test"):
        part = manifest.for_split(split)
        assert (part.targets == manifest.targets[manifest.rows(split)]).all()
        assert {tuple(row) for row in part.targets.tolist()} == {(a, b) for a in (True, False) for b in (True, False)}


def test_without_multilabel_an_empty_label_is_a_mistake(table):
    with pytest.raises(DataError, match="no label in line 5"):
        ft.Manifest.from_csv(table)


def test_average_precision_and_f1_are_those_of_scikit_learn_and_ties_are_its_ties():
    chance = np.random.default_rng(0)
    targets = chance.random((60, 4)) < [0.5, 0.2, 0.1, 0]
    probs = np.round(chance.random((60, 4)) * 0.7 + 0.3 * targets, 1)
    named = probs >= 0.5
    task = score_multilabel(targets, probs, named, classes=list("abcd"), thresholds=np.full(4, 0.5))
    wanted = [average_precision_score(targets[:, code], probs[:, code]) for code in range(3)]
    assert [row["ap"] for row in task["per_class"]] == pytest.approx([*wanted, None])
    assert task["map"] == pytest.approx(np.mean(wanted)) == mean_average_precision(targets, probs)
    assert task["micro_f1"] == pytest.approx(f1_score(targets, named, average="micro"))
    assert task["macro_f1"] == pytest.approx(f1_score(targets[:, :3], named[:, :3], average="macro"))
    assert task["exact"] == (targets == named).all(1).mean()
    assert task["chance_map"] == pytest.approx(targets[:, :3].mean())
    for name in ("map", "micro_f1", "macro_f1", "exact"):
        low, high = task[f"{name}_ci"]
        assert low < task[name] < high < low + 0.4
    weights = chance.integers(0, 3, 60)
    for code in range(3):
        own = _Ranked(targets[:, code], probs[:, code]).average_precision(weights)
        assert own == pytest.approx(average_precision_score(targets[:, code], probs[:, code], sample_weight=weights))


@pytest.mark.slow
def test_a_threshold_is_the_one_with_the_highest_f1():
    targets = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]], dtype=bool)
    probs = np.array([[0.9, 0.1], [0.7, 0.2], [0.4, 0.9], [0.3, 0.3], [0.1, 0.4]])
    assert best_thresholds(targets, probs) == pytest.approx([0.2, 0.5])  # 3 of 4 named are right: F1 6/7
    chance = np.random.default_rng(1)
    targets, probs = chance.random((50, 3)) < 0.3, chance.random((50, 3))
    for code, threshold in enumerate(best_thresholds(targets, probs)):
        best = max(f1_score(targets[:, code], probs[:, code] >= mark) for mark in np.linspace(0, 1, 400))
        assert f1_score(targets[:, code], probs[:, code] >= threshold) >= best - 1e-9


def test_a_rare_class_keeps_its_small_threshold_and_a_split_without_any_class_has_no_interval():
    targets, probs = np.array([[1, 0], [0, 0], [0, 1]], dtype=bool), np.array([[4e-5, 0], [1e-5, 0], [1e-5, 1]])
    assert validation_metrics(targets, probs)["thresholds"][0] == pytest.approx(2.5e-5)
    nothing = np.zeros((3, 2), dtype=bool)
    task = score_multilabel(nothing, probs, probs > 0.5, classes=["a", "b"], thresholds=None)
    assert headline_metric(task) == ("mAP", 0.0, (0.0, 1.0))
    assert "mAP 0.000" in format_headline(task)


def test_epochs_are_ranked_by_mean_average_precision():
    targets = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    good, bad = np.where(targets, 0.9, 0.1), np.where(targets, 0.4, 0.6)
    better, worse = (validation_metrics(targets, probs) for probs in (good, bad))
    assert (better["val_map"], better["val_top1"]) == (1, 1)
    assert better["val_loss"] == pytest.approx(-np.log(0.9))
    assert epoch_sort_key(better) > epoch_sort_key(worse)


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal", "class_balanced"])
def test_each_class_is_by_itself(name):
    """What one class's logit gets does not depend on the other's; targets are reached where they are."""
    loss_fn = build_loss(name, class_counts=[30, 3], label_smoothing=0.0, multilabel=True)
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    gradients = []
    for other in (0.0, 5.0):
        logits = torch.tensor([[0.3, other], [0.1, other]], requires_grad=True)
        loss_fn(logits, targets).backward()
        gradients.append(logits.grad[:, 0])
    assert torch.equal(*gradients)
    assert (gradients[0] < 0).all()
    assert loss_fn(20 * (2 * targets - 1), targets) < 1e-6
    plain = torch.nn.functional.binary_cross_entropy_with_logits(torch.ones(2, 2), targets)
    if name in {"cross_entropy", "bce"}:
        assert loss_fn(torch.ones(2, 2), targets) == plain


def test_mixing_blends_the_lists():
    clips, targets = torch.zeros(4, 2, 3, 8, 8, dtype=torch.uint8), torch.tensor([[1.0, 1.0], [0.0, 0.0]] * 2)
    _, mixed = mix_clips(clips, targets, augment=ft.Augment(mixup=1.0), seed=0)
    assert mixed[0, 0] == mixed[0, 1] != 0
    assert mixed[0] + mixed[1] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("consensus", "wanted"), [("probs", 0.55), ("logits", 0.6225), ("max", 0.9)]
)  # fmt: skip
def test_views_agree_class_by_class(consensus, wanted):
    logits = torch.tensor([0.9, 0.2]).logit().reshape(2, 1, 1).expand(2, 1, 2)
    probs = combine_views(logits, consensus, multilabel=True)
    assert probs.shape == (1, 2)
    if consensus == "logits":
        wanted = float(logits[:, 0, 0].mean().sigmoid())
    assert probs.flatten().tolist() == pytest.approx([wanted] * 2)


def test_training_counts_a_clip_as_right_whose_likeliest_class_it_has():
    tally = Tally()
    logits, targets = torch.tensor([[3.0, 1], [1, 2], [5, 4]]), torch.tensor([[1.0, 1], [1, 0], [0, 0]])
    tally.add(0.5, 3, (logits, targets), 1.0)
    assert (tally.right, tally.clips) == (1, 3)


def test_the_head_starts_at_how_often_each_class_is_there(manifest):
    torch.manual_seed(0)
    from finetune.train.from_recipe import new_model

    recipe = ft.Recipe(clip=ft.Clip(num_frames=2, size=32), model=ft.Model(backbone=TINY, weights="none"))
    model = new_model(recipe, manifest)
    clips = len(manifest.rows("train"))
    shares = (np.array(list(manifest.counts("train").values())) + 1) / (clips + 2)
    assert model.heads["label"][-1].bias.sigmoid().tolist() == pytest.approx(shares.tolist())


def test_a_run_chooses_thresholds_on_val_and_names_lists(run, manifest):
    recipe = ft.load_recipe(str(run / "recipe.yaml"))
    assert recipe.data.multilabel
    best = json.loads((run / "checkpoints/best/meta.json").read_text())
    assert best["val_map"] == max(record["val_map"] for record in records(run))
    results = ft.evaluate(run)
    task = results["tasks"]["label"]
    assert task["kind"] == "multilabel"
    assert [row["threshold"] for row in task["per_class"]] == best["thresholds"]
    assert task["map"] > 0.8  # brightness is easy, and half of the classes have it
    probs = np.load(run / "evaluation/probabilities.npy")
    for line, probs_K in zip(predictions(run), probs, strict=True):
        named = [name for name, p, mark in zip(manifest.classes, probs_K, best["thresholds"], strict=True) if p >= mark]
        assert line["predicted"] == ";".join(named)
        assert line["label"] in LISTS
    page = ft.write_report(run).read_text()
    assert "Mean average precision" in page
    assert "Threshold" in page
    assert results["class_counts"]["train"] == manifest.counts("train")


def test_predict_gives_what_evaluation_gives(run, manifest):
    rows = manifest.rows("test")
    found = ft.predict(run, [manifest.path(row) for row in rows], top_k=2)
    probs = np.load(run / "evaluation/probabilities.npy")
    for each, probs_K in zip(found, probs, strict=True):
        assert dict(each.top_k)["bright"] == pytest.approx(float(probs_K[0]), abs=1e-6)
        assert each.predicted == ";".join(each.named)


def test_a_temperature_moves_each_class_by_itself_and_names_the_same_classes(run, manifest, tmp_path):
    task = ft.evaluate(run, out=tmp_path, pictures=False)["tasks"]["label"]
    temperature = json.loads((run / "checkpoints/best/meta.json").read_text())["temperature"]
    assert task["calibrated"]["temperature"] == temperature != 1
    calibrated_NK = apply_temperature(np.load(tmp_path / "probabilities.npy"), temperature, multilabel=True)
    rows = manifest.rows("test")
    wanted = calibration_metrics(manifest.targets[rows], calibrated_NK, manifest.groups[rows])
    for key in ("ece", "brier", "log_loss", "gap"):
        assert task["calibrated"][key] == pytest.approx(wanted[key], abs=1e-6), key
    paths = [manifest.path(row) for row in rows]
    plain, calibrated = (ft.predict(run, paths, calibrated=each) for each in (False, True))
    assert [each.named for each in calibrated] == [each.named for each in plain]
    for each, probs_K in zip(calibrated, calibrated_NK, strict=True):
        assert dict(each.top_k) == pytest.approx(dict(zip(manifest.classes, probs_K, strict=True)), abs=2e-6)


def test_several_views_agree_in_the_model_as_in_evaluation(run):
    model = ft.load(run)
    assert model.multilabel
    clips = torch.randint(0, 255, (2, 3, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        views = torch.stack([model(clips[:, view])["label"] for view in range(3)])
        together = model(clips)["label"].sigmoid()
    assert torch.allclose(together, combine_views(views, "probs", multilabel=True), atol=1e-5)


@pytest.mark.slow
def test_resumed_it_is_the_same_run(run, manifest, tmp_path, signal_at):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", temporal="diff", num_frames=4, size=32)
    phases = [ft.Phase(unfreeze="all", epochs=3, lr=3e-3, batch_norm="train")]
    signal_at(9)
    with pytest.raises(KeyboardInterrupt):
        ft.fit(
            model, manifest, phases, clip=ft.Clip(num_frames=4), train=ft.Train(batch_size=4), out=tmp_path / "run",
            quiet=True,
        )  # fmt: skip
    ft.resume(tmp_path / "run", quiet=True)
    one, two = records(run), records(tmp_path / "run")
    for here, there in zip(one, two, strict=True):
        assert {key: here[key] for key in ("train_loss", "val_loss", "val_map", "thresholds")} == {
            key: there[key] for key in ("train_loss", "val_loss", "val_map", "thresholds")
        }


@pytest.mark.slow
def test_folds_are_pooled_each_with_its_own_thresholds(table, tmp_path):
    whole = ft.Manifest.from_csv(table, val=0, test=0, multilabel=True)
    recipe = ft.Recipe(
        clip=ft.Clip(num_frames=2, size=32),
        model=ft.Model(backbone=TINY, weights="none"),
        train=ft.Train(batch_size=4, sampler="balanced"),
        data=ft.Data(workers=0, val=0.2, multilabel=True),
        phases=(ft.Phase(unfreeze="head", epochs=1, lr=1e-2),),
    )
    out = tmp_path / "run"
    results = kfold(recipe, whole, folds=2, out=out)
    assert results["num_rows"] == 40
    assert results["class_counts"]["test"] == {"bright": 20, "moving": 20}
    pooled = {line["path"]: line for line in predictions(out)}
    for number in (1, 2):
        for line in predictions(out / f"fold-{number}"):
            assert pooled.pop(line["path"]) == line
    assert not pooled
    assert "Mean average precision over folds: mean" in (out / "evaluation/report.html").read_text()


@pytest.mark.slow
def test_commands_say_map_and_refuse_folders(table, tmp_path, finetune, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey.yaml").write_text(
        f"data: {{manifest: {table}, multilabel: true, workers: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: [{{unfreeze: head, epochs: 1}}]\n"
    )
    status, out, err = finetune("train", "grey.yaml", "--out", "run")
    assert status == 0, err
    assert "test mAP 1." in out
    assert "val mAP" in err
    assert finetune("evaluate", "run")[1].startswith("map ")
    status, out, _ = finetune("predict", "run", table.parent / "0.mp4")
    assert "    is " in out
    status, _, err = finetune("train", "grey.yaml", "data.manifest=null", f"data.folder={table.parent}")
    assert (status, "needs data.manifest" in err) == (2, True)
    assert finetune("sweep", "grey.yaml", "phases.0.lr=1e-3,1e-2")[0] == 0
    assert finetune("average", "run")[0] == 2  # the backbone never learnt


def test_a_figure_that_the_data_has_not_is_refused(clip_folder):
    manifest = ft.Manifest.from_folder(clip_folder)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    train = ft.Train(early_stopping={"metric": "val_map"})
    with pytest.raises(RecipeError, match="val_map, which needs data.multilabel"):
        ft.fit(model, manifest, [ft.Phase(unfreeze="head")], clip=ft.Clip(num_frames=2), train=train, quiet=True)


def test_check_counts_classes_not_lists_and_divides_as_training_does(table, manifest, tmp_path, finetune, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey.yaml").write_text(f"data: {{manifest: {table}, multilabel: true}}\n")
    _, out, err = finetune("check", "grey.yaml", "--json")
    result = json.loads(out)
    counts = {each["class"]: {split: each[split] for split in ("train", "val", "test")} for each in result["classes"]}
    assert counts == {
        name: {split: manifest.counts(split)[name] for split in ("train", "val", "test")} for name in manifest.classes
    }
    assert "no_label" not in {finding["kind"] for finding in result["findings"]}, err
