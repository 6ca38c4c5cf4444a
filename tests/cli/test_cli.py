import csv
import json
import shlex
import sys

import pytest
import torch
from grey import TINY, make_clip

from finetune.cli.main import main
from finetune.errors import RunError
from finetune.train import from_recipe as start

RECIPE = f"""# Two shades of grey.
data: {{folder: FOLDER, workers: 0}}
clip: {{num_frames: 2, size: 32}}
model: {{backbone: {TINY}, weights: none}}
phases: [{{unfreeze: head, epochs: 1, lr: 1e-2}}]
train: {{batch_size: 4}}
"""


@pytest.fixture
def recipe(tmp_path, clip_folder):
    path = tmp_path / "grey.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(clip_folder)))
    return path


@pytest.mark.parametrize(
    ("override", "at_prior"),
    [("model.head=mlp", True), ("train.sampler=balanced", False), ("train.loss=class_balanced", False)],
)
def test_the_head_starts_at_the_training_rows_classes_unless_all_are_to_count_alike(
    override, at_prior, finetune, recipe, tmp_path, monkeypatch
):
    for name, count in (("a", 3), ("b", 1)):
        for number in range(count):
            make_clip(tmp_path / "uneven/train" / name / f"{number}.mp4")
    built = []

    def stop(model, *args, **kwargs):
        built.append(model)
        raise RunError("that is enough")

    monkeypatch.setattr(start, "fit_recipe", stop)
    assert "that is enough" in finetune("train", recipe, f"data.folder={tmp_path / 'uneven'}", override)[2]
    bias = built[0].heads["label"][-1].bias.detach()
    assert torch.allclose(bias, torch.tensor([4 / 6, 2 / 6]).log()) == at_prior
    assert built[0].settings.head == ("mlp" if "mlp" in override else "linear")


@pytest.mark.slow
def test_train_evaluate_predict_and_report_from_the_command_line(finetune, recipe, tmp_path, clip_folder):
    out = tmp_path / "run"
    status, printed, _ = finetune("train", recipe, "phases.0.epochs=2", "--out", out)
    assert status == 0
    lines = printed.splitlines()
    assert lines[-1] == str(out)
    assert lines[-2] == f"report {out / 'evaluation' / 'report.html'}"
    results = json.loads((out / "evaluation/results.json").read_text())
    assert f"test top-1 {results['tasks']['label']['top1']:.3f} (95 % interval" in lines[-3]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2

    status, printed, _ = finetune("evaluate", out, "--split", "val", "--views", "2")
    assert status == 0
    assert "macro_f1" in printed
    assert (out / "evaluation/val/report.html").is_file()

    clip = clip_folder / "test" / "it's bright" / "0.mp4"
    with (out / "evaluation/predictions.csv").open() as file:
        evaluated = {row["path"]: row for row in csv.DictReader(file)}[str(clip)]
    status, printed, _ = finetune("predict", out, clip, "--json", "--top-k", "1")
    assert status == 0
    assert json.loads(printed) == [
        {
            "path": str(clip),
            "predicted": evaluated["predicted"],
            "probability": float(evaluated["probability"]),
            "top_k": [{"class": evaluated["predicted"], "probability": float(evaluated["probability"])}],
        }
    ]
    table = tmp_path / "named.csv"
    assert finetune("predict", out, clip_folder / "test", "--csv", table)[0] == 0
    assert len(table.read_text().splitlines()) == 5
    page = out / "evaluation/report.html"
    before = page.read_bytes()
    page.unlink()
    assert finetune("report", out)[0] == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.num_frame=8"], "unknown key 'clip.num_frame' (nearest: clip.num_frames)"),
        (["train.batch_size=lots"], "train.batch_size is 'lots': should be a valid integer"),
        (["model.backbone=resnt50"], "has no model 'resnt50' (nearest: resnet50"),
        (["model.weights=nowhere.pth"], "there is no file 'nowhere.pth'"),
        (["phases.0.unfreeze=layer7"], "unknown stage 'layer7' (nearest: layer"),
        (["data.folder=nowhere"], "there is no folder 'nowhere'"),
        (["data.folder=null"], "needs one of data.manifest and data.folder"),
        (["data.manifest=a.csv"], "needs one of data.manifest and data.folder"),
        (["oops"], "'oops' is not an override"),
        (["--outt", "x"], "No such option"),
    ],
)
def test_a_mistake_is_exit_status_2_and_plain_words(finetune, recipe, arguments, message):
    status, printed, err = finetune("train", recipe, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert printed == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing_like_it"], "there is no recipe, folder or CSV file 'nothing_like_it'; recipes are "),
        (["evaluate", "."], "is not a run folder"),
        (["predict", ".", "x.mp4"], "is not a run folder"),
        (["report", "."], "has no evaluation/results.json; make it with `finetune evaluate .`"),
        (["recipes", "show", "foldr"], "(nearest: folder)"),
        (["recipes", "copy", "folder", "mine.txt"], "a recipe file must end in .yaml"),
        (["nonsense"], "No such command"),
    ],
)
def test_other_commands_refuse_alike(finetune, arguments, message):
    status, _, err = finetune(*arguments)
    assert status == 2
    assert message in err


def test_files_that_are_no_videos_stop_training_with_all_of_them_named(finetune, recipe, tmp_path):
    for name in ("a", "b"):
        make_clip(tmp_path / "data/train" / name / "good.mp4")
        (tmp_path / "data/train" / name / "empty.mp4").write_bytes(b"")
    status, _, err = finetune("train", recipe, f"data.folder={tmp_path / 'data'}", "--out", tmp_path / "run")
    assert status == 2
    assert err.count("empty.mp4: is empty (0 bytes)") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on_and_does(finetune, recipe, tmp_path, signal_at):
    signal_at(3)
    status, _, err = finetune("train", recipe, "phases.0.epochs=3", "--out", tmp_path / "it's run")
    assert status == 130
    assert "stopping after this step" in err
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if "Resume with: " in line)
    assert line.startswith("Stopped and saved (epoch 2, step 1). Resume with: ")
    program, *arguments = shlex.split(line.partition("Resume with: ")[2].strip("`"))
    assert program == "finetune"
    assert finetune(*arguments, "train.batch_size=5")[0] == 2
    status, out, _ = finetune(*arguments)
    assert status == 0
    assert out.splitlines()[-1] == str(tmp_path / "it's run")
    assert len((tmp_path / "it's run/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train",), "no recipe given: finetune train RECIPE"),
        (("train", "--resume", "run", "--out", "other"), "--resume continues in the run's own folder"),
        (("train", "quickstart", "--resume", "run"), "reads the recipe from run; leave out 'quickstart'"),
        (("train", "--resume", "nowhere"), "nowhere: there is no such folder; name a run folder"),
    ],
)
def test_what_resume_does_not_take_is_said(finetune, arguments, said):
    status, _, err = finetune(*arguments)
    assert status == 2
    assert said in err


def test_a_bug_of_ours_keeps_its_traceback(finetune, recipe, monkeypatch):
    monkeypatch.setattr("finetune.cli.train.load_manifest", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["finetune", "train", str(recipe)])
    with pytest.raises(ZeroDivisionError):
        main()


def test_recipes_are_listed_shown_copied_and_validated(finetune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, listed, _ = finetune("recipes", "list")
    assert {"folder", "quickstart", "resnet50_hmdb", "resnet50_ucf"} <= {
        line.split()[0] for line in listed.splitlines()
    }
    assert all(len(line.split()) > 3 for line in listed.splitlines())
    _, shown, _ = finetune("recipes", "show", "folder")
    assert finetune("recipes", "copy", "folder", "mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").read_text() == shown
    assert finetune("recipes", "copy", "folder", "mine.yaml")[0] == 2
    status, printed, _ = finetune("recipes", "validate", "mine.yaml", "phases.0.epochs=3")
    assert (status, "valid, 2 phases: 3 epochs, 6 epochs" in printed) == (0, True)
    assert finetune("recipes", "validate", "mine.yaml", "phases.0.epoch=3")[0] == 2
