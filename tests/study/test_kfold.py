"""Cross-validation: every clip tested once, by a model that learnt from no clip of its group."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from grey import TINY, make_clip

import finetune as ft
from finetune.errors import DataError, RunError
from finetune.study.kfold import fold_rows, kfold

RECIPE = ft.Recipe(
    clip=ft.Clip(num_frames=2, size=32),
    model=ft.Model(backbone=TINY, weights="none"),
    train=ft.Train(batch_size=4),
    data=ft.Data(workers=0, val=0.2),
    phases=(ft.Phase(train="head", epochs=1, lr=1e-2),),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """36 clips of 9 people; classes and people mixed in the table's order."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,label,group"]
    for number in range(36):
        label = "bright" if number % 2 else "dark"
        make_clip(folder / f"{number}.mp4", start=(180 if number % 2 else 16) + number, step=1)
        lines.append(f"{number}.mp4,{label},person {number // 4}")
    path = folder / "clips.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(table):
    return ft.Manifest.from_csv(table, val=0, test=0)


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    return kfold(RECIPE, whole, folds=3, out=tmp_path_factory.mktemp("kfold") / "run")


def lines_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_clip_is_tested_once_by_a_model_that_did_not_see_its_group(folder, whole):
    results = json.loads((folder / "evaluation/results.json").read_text())
    assert np.array(results["tasks"]["label"]["confusion"]).sum() == results["num_rows"] == 36
    assert (results["num_groups"], [fold["run"] for fold in results["folds"]]) == (9, ["fold-1", "fold-2", "fold-3"])
    pooled = {line["path"]: line for line in lines_of(folder / "evaluation/predictions.csv")}
    assert len(pooled) == 36
    for number in (1, 2, 3):
        rows = lines_of(folder / f"fold-{number}/manifest.csv")
        groups = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
        assert groups["test"] and groups["val"] and groups["train"]
        assert sum(len(each) for each in groups.values()) == 9
        for line in lines_of(folder / f"fold-{number}/evaluation/predictions.csv"):
            assert pooled.pop(line["path"]) == line
    assert not pooled


@pytest.mark.slow
def test_the_pooled_figures_are_those_of_the_predictions(folder):
    lines = lines_of(folder / "evaluation/predictions.csv")
    results = json.loads((folder / "evaluation/results.json").read_text())
    right = np.mean([line["label"] == line["predicted"] for line in lines])
    assert results["tasks"]["label"]["top1"] == pytest.approx(right)
    shares = [fold["num_rows"] for fold in results["folds"]]
    assert np.average([fold["top1"] for fold in results["folds"]], weights=shares) == pytest.approx(right)
    probs_NK = np.load(folder / "evaluation/probabilities.npy")
    assert [results["tasks"]["label"]["classes"][code] for code in probs_NK.argmax(1)] == [
        line["predicted"] for line in lines
    ]


@pytest.mark.slow
def test_the_page_shows_the_folds(folder):
    page = (folder / "evaluation/report.html").read_text()
    assert "Fold by fold" in page
    assert page.count("../fold-2/evaluation/report.html") == 1
    assert (folder / "fold-2/evaluation/report.html").is_file()
    assert "metrics.jsonl</b> for this run" not in page


@pytest.mark.slow
def test_interrupted_it_goes_on_with_the_fold_under_way(whole, folder, tmp_path, signal_at):
    signal_at(6)
    with pytest.raises(KeyboardInterrupt):
        kfold(RECIPE, whole, folds=3, out=tmp_path / "run")
    assert (tmp_path / "run/fold-1/evaluation/results.json").is_file()
    assert not (tmp_path / "run/fold-2/evaluation").exists()
    kfold(RECIPE, whole, folds=3, out=tmp_path / "run")
    for name in ("predictions.csv", "probabilities.npy"):
        assert (tmp_path / "run/evaluation" / name).read_bytes() == (folder / "evaluation" / name).read_bytes()
    with pytest.raises(RunError, match="was begun with another recipe"):
        kfold(RECIPE.model_copy(update={"seed": 1}), whole, folds=3, out=tmp_path / "run")
    with pytest.raises(RunError, match="was begun with folds 3, not 4"):
        kfold(RECIPE, whole, folds=4, out=tmp_path / "run")
    with pytest.raises(RunError, match="was begun with other clips, groups or splits"):
        kfold(RECIPE, replace(whole, groups=whole.groups[::-1].copy()), folds=3, out=tmp_path / "run")


def test_splits_that_the_table_has_are_set_aside_leaks_and_all(table, tmp_path):
    lines = table.read_text().splitlines()
    given = ["train", "test"]
    path = table.with_name("divided.csv")
    path.write_text("\n".join([f"{lines[0]},split", *(f"{line},{given[n % 2]}" for n, line in enumerate(lines[1:]))]))
    with pytest.raises(DataError, match="a leak"):
        ft.Manifest.from_csv(path)
    assert set(ft.Manifest.from_csv(path, whole=True).splits) == {"train"}


def test_one_group_at_a_time(whole):
    rows = fold_rows(whole, None, seed=0)
    assert [set(whole.groups[each].tolist()) for each in rows] == [{f"person {number}"} for number in range(9)]


def test_what_cannot_be_divided_is_said(whole, tmp_path):
    with pytest.raises(DataError, match="9 groups cannot make 10 folds"):
        fold_rows(whole, 10, seed=0)
    lines = ["path,label"]
    for number in range(6):
        make_clip(tmp_path / f"{number}.mp4")
        lines.append(f"{number}.mp4,{'rare' if number == 5 else 'common'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    few = ft.Manifest.from_csv(tmp_path / "clips.csv", val=0, test=0)
    with pytest.raises(DataError, match="has no groups to leave out; add a column group"):
        fold_rows(few, None, seed=0)
    with pytest.raises(DataError, match=r"fold \d: test has rare, which is not in train.*\ntake fewer folds"):
        kfold(RECIPE.model_copy(update={"data": ft.Data(val=0)}), few, folds=3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_ends_with_the_folder(table, tmp_path, monkeypatch, finetune):
    recipe = tmp_path / "grey.yaml"
    recipe.write_text(
        f"data: {{manifest: {table}, workers: 0, val: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: [{{train: head, epochs: 1}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    status, out, _ = finetune("kfold", "grey.yaml", "--folds", 2)
    assert status == 0
    out = out.splitlines()
    assert out[0] == "fold  clips  top-1"
    assert out[-1] == "runs/grey-2-fold"
    assert "on 36 clips" in out[-3]


@pytest.mark.slow
def test_folds_share_what_is_kept(whole, tmp_path):
    kept = RECIPE.train.model_copy(update={"cache": "features", "cache_dir": tmp_path / "kept"})
    out = kfold(RECIPE.model_copy(update={"train": kept}), whole, folds=3, out=tmp_path / "run")
    told = [json.loads((out / f"fold-{n}/metrics.jsonl").read_text())["cache"] for n in (1, 2, 3)]
    computed = [each["rows"] for each in told]
    assert computed[0] > computed[1] > 0 and computed[2] < computed[0] / 2
    (training,) = [path.parent for path in (tmp_path / "kept").glob("*/set.json") if '"drawn": {' in path.read_text()]
    items = [json.loads(shard.read_bytes()[:64])["items"] for shard in training.glob("*.shard")]
    assert sum(items) <= 36, "no clip is computed twice"
