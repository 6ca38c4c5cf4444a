"""Commands on runs of several tasks: trained, scored, cross-validated, swept, compared; or refused in words."""

import json

import pytest
from tasked import TASKS, draw_clips, manifest_of, recipe_of

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError
from finetune.evaluation.evaluate import evaluate
from finetune.recipe.load import save_recipe
from finetune.study.probe import of_one_task
from finetune.train.from_recipe import train_from_recipe

QUICK = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}]
THREE = ("box", "way", "shade")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture
def written(data, tmp_path, monkeypatch):
    """The file of a recipe with these tasks, in a folder where commands are run."""
    monkeypatch.chdir(tmp_path)

    def write(tasks=THREE, **sections):
        path = tmp_path / "recipe.yaml"
        save_recipe(recipe_of(data, tasks, phases=QUICK, **sections), path)
        return path

    return write


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run of three tasks; do not write into it."""
    recipe = recipe_of(data, THREE, phases=[*QUICK, {"unfreeze": "layer4", "epochs": 1, "lr": 1e-3}])
    return train_from_recipe(recipe, manifest_of(recipe), out=tmp_path_factory.mktemp("run") / "run")


@pytest.mark.slow
def test_a_run_is_trained_scored_and_reported(finetune, written, tmp_path):
    status, out, err = finetune("train", written(), "--out", "run")
    assert status == 0, err
    assert [line.split(" 95")[0].rpartition(" ")[0] for line in out.splitlines()[:3]] and "test box mean IoU" in out
    results = json.loads((tmp_path / "run/evaluation/results.json").read_text())
    assert [(name, each["kind"]) for name, each in results["tasks"].items()] == [
        (name, TASKS[name]["kind"]) for name in THREE
    ]
    header = (tmp_path / "run/evaluation/predictions-box.csv").read_text().splitlines()[0]
    assert header == "path,group,x,x_said,y,y_said,w,w_said,h,h_said,iou"
    assert evaluate("run", split="val", views=2, pictures=False)["protocol"]["views"] == 2


def test_what_a_run_would_take_and_which_rate_it_bears_is_said(finetune, written):
    status, out, err = finetune("train", written(multitask={"weighting": "famo"}), "--dry-run")
    assert status == 0 and " s of training; nothing was trained or written" in out, err
    status, out, err = finetune("lr-find", written(), "--steps", "10")
    assert status == 0, err


@pytest.mark.slow
def test_several_seeds_are_compared_where_no_task_has_classes(finetune, written, tmp_path):
    status, out, err = finetune("train", written(("box",)), "--seeds", "2", "--out", "seeds")
    assert status == 0 and "mean IoU" in out and "standard deviation between seeds" in out, err
    assert not (tmp_path / "seeds/compare.html").exists()
    assert "was trained with 2 seeds" in (tmp_path / "seeds/seed-0/evaluation/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_clip_is_tested_once_in_a_cross_validation(finetune, written, tmp_path):
    status, _, err = finetune("kfold", written(), "data.val=0", "--folds", "2", "--out", "folds")
    assert status == 0, err
    results = json.loads((tmp_path / "folds/evaluation/results.json").read_text())
    assert results["num_rows"] == 16 and list(results["tasks"]) == list(THREE)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [THREE, ("shade",)])
def test_settings_are_swept(finetune, written, tasks):
    status, _, err = finetune("sweep", written(tasks), "multitask.normalize_losses=none,initial", "--out", "sweep")
    assert status == 0, err


@pytest.mark.slow
def test_each_task_alone_stands_beside_all_together(finetune, written, tmp_path):
    status, out, err = finetune("tasks-ablation", written(("box", "way")), "--seeds", "1", "--out", "both")
    assert status == 0, err
    told = json.loads((tmp_path / "both/ablation.json").read_text())
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["task", "box", "way", "ΔM", "One", "report", "both"]
    assert lines[4].startswith("One seed is not enough to compare")
    alone, together = (sum(told["tasks"]["box"][key]) for key in ("alone", "together"))
    assert f" {alone:.3f}  {together:8.3f}  {told['tasks']['box']['gain']:+.1f} %" in lines[1]
    status, _, err = finetune("tasks-ablation", written(("box",)), "--out", "one")
    assert status == 2 and "has 1 task; an ablation needs at least two" in err


@pytest.mark.slow
def test_a_task_that_no_tested_row_has_the_label_of_is_left_out(finetune, written, data, tmp_path):
    rows = [line.split(",") for line in data.read_text().splitlines()]
    bare = data.with_name("bare.csv")
    bare.write_text("\n".join(",".join([row[0], "" if row[2] == "test" else row[1], *row[2:]]) for row in rows))
    status, out, err = finetune("train", written(), f"data.manifest={bare}", "--out", "bare")
    assert status == 0 and "way" not in out, err
    assert list(json.loads((tmp_path / "bare/evaluation/results.json").read_text())["tasks"]) == ["box", "shade"]
    status, _, err = finetune("tasks-ablation", written(), f"data.manifest={bare}", "--out", "ablation")
    assert status == 2 and "no row of the split 'test' has a label of way to compare by" in err


def test_a_run_predicts(finetune, run, data):
    status, _, err = finetune("predict", run, data.parent / "test0.mp4", "--json")
    assert status == 0, err


def test_data_with_empty_cells_are_checked(finetune, written, data, tmp_path):
    status, out, err = finetune("check", written(), "--fix", "mended.csv")
    assert status == 0 and "no label" not in out, out + err
    mended = Manifest.from_csv(tmp_path / "mended.csv", tasks=recipe_of(data, THREE).tasks)
    assert not mended.tasks["box"].known.all() and not mended.tasks["way"].known.all() and len(mended) == 16
    wrong = data.with_name("wrong.csv")
    wrong.write_text(data.read_text().replace(",10,10,", ",10,wide,"))
    status, out, err = finetune("check", written(), f"data.manifest={wrong}")
    assert status == 1 and "tasks.box needs numbers" in out, out + err
    assert finetune("check", data)[0] == 1


@pytest.mark.slow
def test_probes_are_for_classes_and_averages_know_tasks(finetune, written, run, data):
    status, out, err = finetune("probe", written())
    assert status == 0 and "Majority-class baseline" in out, err
    with pytest.raises(RecipeError, match="a probe classifies, but no task has classes"):
        of_one_task(manifest_of(recipe_of(data, ("box",))))
    status, out, err = finetune("average", run, "--out", "average")
    assert status == 0 and "alpha 1.0" in out and "test shade R²" in out, err


def test_features_are_kept_ahead(finetune, written):
    recipe = written({"way": TASKS["way"], "box": TASKS["box"] | {"feature_stage": "layer2"}})
    status, out, err = finetune("features", recipe, "train.cache_dir=kept")
    assert status == 0 and "backbone features of" in out, err
