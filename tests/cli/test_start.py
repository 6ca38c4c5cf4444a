"""How a command starts: what it does not import, and recipes, folders and CSV files as its first argument."""

import subprocess
import sys

import pytest

ERRORS = (
    "predict nowhere clip.mp4",
    "watch nowhere 0",
    "summarize nowhere.mp4",
    "summarize . --share 0.1 --frames 3",
    "summarize . --run nowhere",
    "summarize . model.backbonne=x",
    "summarize model.backbone=x",
    "evaluate nowhere",
    "average nowhere",
    "report nowhere",
    "index nowhere --out index",
    "index folder --out index model.temporal=gru",
    "index --out nowhere --remove x",
    "train nowhere",
    "train folder epochs=3",
    "train --resume nowhere",
    "kfold folder",
    "sweep folder phases.0.lr=1,2 phases.0.lrr=3",
    "sweep folder phases.0.lr=1",
    "sweep-stages folder data.folder=nowhere",
    "tasks-ablation folder data.folder=nowhere",
    "lr-find folder data.folder=nowhere",
    "probe folder data.folder=nowhere",
    "features folder data.folder=nowhere",
    "search nowhere row:1",
    "search nowhere",
)


def run_python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mistakes_are_found_before_torch_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys; from finetune.cli.main import main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv = ['finetune', *command.split()]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 2, (command, end.code)\n"
        "    heavy = {'torch', 'sklearn', 'scipy.stats', 'cv2', 'av', 'rich.progress'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    run_python(code, *ERRORS)


def test_builds_of_torch_and_torchvision_that_do_not_fit_are_named(finetune, clip_folder, monkeypatch):
    def fail(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("finetune.cli.heavy_imports.import_module", fail)
    status, _, err = finetune("train", clip_folder)
    assert (status, "are of different builds; install both from one source" in err) == (2, True), err


@pytest.mark.slow
def test_training_and_prediction_start_without_what_only_evaluation_needs():
    code = (
        "import sys; from finetune.cli.heavy_imports import import_quickly\n"
        "import_quickly('finetune.prediction.predict', 'finetune.train.from_recipe')\n"
        "slow = 'sklearn scipy.stats scipy.optimize matplotlib cv2 tensorboard'.split()\n"
        "print([name for name in slow if name in sys.modules])"
    )
    assert run_python(code) == "[]\n"


def test_videos_may_stand_where_a_recipe_is_taken(finetune, clip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = finetune("recipes", "validate", clip_folder, "phases.0.epochs=3")
    assert (status, "folder.yaml: valid, 2 phases: 3 epochs, 6 epochs" in printed) == (0, True)
    table = tmp_path / "clips.csv"
    table.write_text("path,label\n" + "".join(f"{clip},x\n" for clip in sorted(clip_folder.rglob("*.mp4"))))
    status, _, err = finetune("train", table, "--dry-run")
    assert (status, "x is the only class" in err) == (2, True), err
    (tmp_path / "folder").mkdir()  # the name of a recipe is that of the recipe
    assert "needs one of data.manifest and data.folder" in finetune("train", "folder")[2]
    assert "there is no recipe, folder or CSV file 'foldr' (nearest: folder)" in finetune("train", "foldr")[2]


def test_a_run_of_a_folder_of_videos_is_named_after_it(finetune, clip_folder, monkeypatch):
    started = []

    def train(settings, manifest, *, out):
        started.append((settings.data.folder, out.name))
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.train.from_recipe.train_from_recipe", train)
    _, _, err = finetune("train", clip_folder, "data.workers=0")
    assert err.splitlines()[0] == f"{clip_folder}: 16 clips of 2 classes (8 train, 4 val, 4 test)"
    assert started[0][0] == clip_folder
    assert started[0][1].startswith(f"{clip_folder.name}-")


def test_cross_validation_offers_to_train_on_all_clips_before_it_computes(finetune, clip_folder, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.cli.study.import_quickly", stop)
    _, _, err = finetune("kfold", clip_folder, "--folds", "4", "data.val=0.25")
    assert "4 folds; the first trains on 9 clips and tests 4 clips\n" in err
    assert "In each fold about 3 clips only select the best epoch. With data.val=0 they are trained on too" in err
    assert "data.val=0" not in finetune("kfold", clip_folder, "--folds", "4", "data.val=0")[2]
