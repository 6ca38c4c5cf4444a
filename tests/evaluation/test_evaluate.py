"""What an evaluation tells beside its scores: calibrated, with the backbone frozen, slices, frames, warnings."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
from finetune.errors import DataError, RunError
from finetune.evaluation import evaluate as evaluation
from finetune.metrics.calibration import apply_temperature, calibration_metrics
from finetune.metrics.intervals import paired_difference
from finetune.model.backbone.backbone import build_backbone
from finetune.report.run import page
from finetune.report.run.page import write_report
from finetune.run.checkpoint import load

PARTS = ["train"] * 20 + ["val"] * 10 + ["test"] * 24


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """54 clips without groups, two lengths and two sizes; the first that is tested is one of those to learn from."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    for number, part in enumerate(PARTS):
        label = "bright" if number % 2 else "dark"
        start = int(rng.integers(60, 200) if number % 2 else rng.integers(16, 150))  # not to be told for certain
        make_clip(folder / f"{number}.mp4", 6 + 4 * (number % 3), start=start, step=2, size=32 + 8 * (number % 4 > 1))
        lines.append(f"{number}.mp4,{label},{part}")
    shutil.copy(folder / "0.mp4", folder / "30.mp4")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return ft.Manifest.from_csv(folder / "clips.csv")


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    """A head that learns next to nothing, on weights from a file, then all of it; evaluated."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    torch.save(build_backbone(TINY, weights="none", size=32).net.state_dict(), root / "weights.pth")
    model = ft.build_model(TINY, manifest.classes, weights=str(root / "weights.pth"), num_frames=2, size=32)
    phases = [
        ft.Phase(unfreeze="head", epochs=1, lr=1e-5),
        ft.Phase(unfreeze="all", epochs=2, lr=3e-3, batch_norm="train"),
    ]
    settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(batch_size=5, cache="off"), "data": ft.Data(workers=0)}
    run = ft.fit(model, manifest, phases, **settings, out=root / "run", quiet=True)
    ft.evaluate(run)
    return run


@pytest.fixture
def own_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def results_of(run):
    return json.loads((run / "evaluation/results.json").read_text())


def answers_of(folder):
    """(labels, probabilities) as they were written."""
    classes = ["bright", "dark"]
    with (folder / "predictions.csv").open(newline="") as file:
        labels = np.array([classes.index(row["label"]) for row in csv.DictReader(file)])
    return labels, np.load(folder / "probabilities.npy")


def noted(run, **changes):
    """What stands beside the best weights, changed; None takes away."""
    path = run / "checkpoints/best/meta.json"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return meta


@pytest.mark.slow
def test_calibrated_figures_are_those_of_tempered_probabilities(run):
    task, (labels, probs) = results_of(run)["tasks"]["label"], answers_of(run / "evaluation")
    temperature = json.loads((run / "checkpoints/best/meta.json").read_text())["temperature"]
    wanted = calibration_metrics(labels, apply_temperature(probs, temperature), None)
    found = task["calibrated"]
    assert (found.pop("temperature"), found.pop("rows")) == (temperature, 10)
    for key in ("ece", "brier", "log_loss", "gap"):
        assert found[key] == pytest.approx(wanted[key], abs=1e-6), key
    assert task["calibration"]["log_loss"] == pytest.approx(-np.log(probs[np.arange(24), labels]).mean(), abs=1e-6)
    assert temperature != 1


@pytest.mark.slow
def test_the_frozen_baseline_is_what_the_weights_before_unfreezing_score(run, own_run, tmp_path):
    shutil.rmtree(own_run / "checkpoints/best")
    shutil.copytree(own_run / "checkpoints/start", own_run / "checkpoints/best")
    before = ft.evaluate(own_run, out=tmp_path / "before", pictures=False)["tasks"]["label"]
    task = results_of(run)["tasks"]["label"]
    np.testing.assert_array_equal(
        np.load(run / "evaluation/frozen.npy"), np.load(tmp_path / "before/probabilities.npy")
    )
    assert task["frozen"]["top1"] == before["top1"]
    assert task["frozen"]["difference"] == pytest.approx(task["top1"] - before["top1"])
    labels, probs = answers_of(run / "evaluation")
    right = [each.argmax(1) == labels for each in (probs, np.load(run / "evaluation/frozen.npy"))]
    assert task["frozen"]["difference_ci"] == list(paired_difference(*right, groups=None)[1])
    assert "Frozen backbone" in write_report(run, figures_too=False).read_text()
    trained, start = load(run, checkpoint="last"), load(run, checkpoint="start")
    assert any(not torch.equal(one, other) for one, other in zip(trained.parameters(), start.parameters(), strict=True))


@pytest.mark.slow
def test_a_run_that_began_with_no_weights_or_learned_no_head_first_has_no_such_baseline(trained_run, own_run, tmp_path):
    assert (trained_run / "checkpoints/start").is_dir()
    found = ft.evaluate(trained_run, out=tmp_path / "none", pictures=False)
    assert "frozen" not in found["tasks"]["label"]
    assert not (tmp_path / "none/frozen.npy").exists()
    path = own_run / "checkpoints/start/meta.json"
    path.write_text(json.dumps({"epoch": 0}))
    assert "frozen" not in ft.evaluate(own_run, pictures=False)["tasks"]["label"]
    assert not (own_run / "evaluation/frozen.npy").exists(), "one of before is taken away"


@pytest.mark.slow
def test_a_run_of_before_temperatures_is_evaluated_reported_and_not_calibrated(own_run, manifest, finetune):
    noted(own_run, temperature=None)
    assert "calibrated" not in ft.evaluate(own_run)["tasks"]["label"]
    page = write_report(own_run, figures_too=False).read_text()
    assert "There are no calibrated probabilities" in page
    video = manifest.path(int(manifest.rows("test")[0]))
    with pytest.raises(RunError, match="has no temperature, which training fits on the split val; omit --calibrated"):
        ft.predict(own_run, [video], calibrated=True)
    status, _, err = finetune("predict", own_run, video, "--calibrated")
    assert (status, "has no temperature" in err) == (2, True)


@pytest.mark.slow
def test_calibrated_predictions_are_those_of_the_evaluation_and_name_the_same_class(own_run, manifest, finetune):
    noted(own_run, temperature=3.5)
    videos = [manifest.path(row) for row in manifest.rows("test")][:6]
    _, probs = answers_of(own_run / "evaluation")
    wanted = apply_temperature(probs, 3.5)
    plain, calibrated = (ft.predict(own_run, videos, calibrated=each) for each in (False, True))
    for one, other, probs_K in zip(plain, calibrated, wanted, strict=False):
        assert one.predicted == other.predicted
        assert [name for name, _ in one.top_k] == [name for name, _ in other.top_k]
        assert dict(other.top_k) == pytest.approx({"bright": probs_K[0], "dark": probs_K[1]}, abs=1e-6)
        assert other.probability < one.probability
    _, out, _ = finetune("predict", own_run, videos[0], "--calibrated", "--json")
    assert json.loads(out)[0]["probability"] == calibrated[0].probability
    views = ft.load_recipe(str(own_run / "recipe.yaml")).evaluate.views
    assert ft.predict(own_run, videos[:1], calibrated=True, views=views) == calibrated[:1]
    with pytest.raises(RunError, match="its temperature was fitted with 1 views, not 3; omit --views"):
        ft.predict(own_run, videos[:1], calibrated=True, views=3)


@pytest.mark.slow
def test_other_views_and_other_splits_have_no_temperature(run, tmp_path):
    assert "calibrated" not in ft.evaluate(run, views=2, out=tmp_path / "views", pictures=False)["tasks"]["label"]
    assert "calibrated" not in ft.evaluate(run, split="val", out=tmp_path / "val", pictures=False)["tasks"]["label"]


@pytest.mark.slow
def test_slices_are_by_facts_of_the_files(run, manifest):
    found = {each["fact"]: each["parts"] for each in results_of(run)["tasks"]["label"]["slices"]}
    assert set(found) == {"duration", "short side"}  # they have one rate
    labels, probs = answers_of(run / "evaluation")
    right = probs.argmax(1) == labels
    numbers = [int(manifest.path(row).stem) for row in manifest.rows("test")]
    numbers[0] = 0  # the copy
    sides = np.array([32 + 8 * (number % 4 > 1) for number in numbers])
    seconds = np.array([(6 + 4 * (number % 3)) / 25 for number in numbers])
    for fact, values in (("short side", sides), ("duration", seconds)):
        for part, value in zip(found[fact], np.unique(values), strict=True):
            assert (part["low"], part["high"]) == pytest.approx((value, value))
            assert part["rows"] == (values == value).sum()
            assert part["accuracy"] == pytest.approx(right[values == value].mean())


@pytest.mark.slow
def test_a_copy_among_those_to_learn_from_and_a_lack_of_groups_are_told(run):
    leak, groups = (each["what"] for each in results_of(run)["warnings"])
    assert leak.startswith("Leak: 1 evaluated file is an exact duplicate of files that the model was trained")
    assert groups.startswith("There are no groups, so clips of one person")
    page = write_report(run, figures_too=False).read_text()
    assert "Leak: 1 evaluated file" in page and "There are no groups, so clips of one person" in page


@pytest.mark.slow
def test_frames_are_of_the_clips_that_the_report_shows_and_go_when_there_are_to_be_none(own_run, finetune):
    pictures = own_run / "evaluation/pictures"
    index = json.loads((pictures / "index.json").read_text())
    page = write_report(own_run, figures_too=False).read_text()
    assert index and {path.name for path in pictures.glob("*.jpg")} == {each["sheet"] for each in index.values()}
    shown = page.count("data:image/jpeg;base64,")
    assert shown >= len(index)
    status, out, _ = finetune("evaluate", own_run, "--no-pictures")
    assert status == 0
    assert not pictures.exists()
    page = (own_run / "evaluation/report.html").read_text()
    assert "data:image/jpeg" not in page and "This evaluation stored no frames" in page
    assert out.splitlines()[0].startswith("top1 ")


@pytest.mark.slow
def test_what_is_no_number_is_refused_with_the_clips(own_run, monkeypatch):
    def broken(model, loader, **_):
        said = found(model, loader, **_)
        said.tasks["label"][1] = np.nan
        return said

    found = evaluation.predict_rows
    monkeypatch.setattr(evaluation, "predict_rows", broken)
    with pytest.raises(DataError, match=r"predictions for .*\.mp4 are not finite; train with train.precision=fp32"):
        ft.evaluate(own_run)


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"on_error": "Fail"}, {"unknown_classes": "ignore"}])
def test_settings_with_another_value_are_refused(run, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ft.ArgumentError, match=f"{name} is '{value}'; it takes 'fail' or 'skip'"):
        ft.evaluate(run, **setting)


def test_an_evaluation_that_is_interrupted_does_not_count_as_one(own_run, monkeypatch):
    monkeypatch.setattr("finetune.evaluation.write_evaluation.write_sheets", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ft.evaluate(own_run)
    assert not (own_run / "evaluation/results.json").exists()


def test_other_seeds_stay_noted_while_the_test_is_the_same(own_run):
    path = own_run / "evaluation/results.json"
    results = json.loads(path.read_text()) | {"seeds": [{"seed": 0, "value": 0.5, "href": "x"}]}
    path.write_text(json.dumps(results))
    assert ft.evaluate(own_run)["seeds"] == results["seeds"]
    assert "seeds" not in ft.evaluate(own_run, views=2)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_said_and_the_page_comes_first(own_run, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    (own_run / "evaluation/report.html").unlink(missing_ok=True)
    monkeypatch.setattr(page, "write_figures", refuse)
    with pytest.raises(RunError, match="the report cannot be written: Read-only file system"):
        ft.write_report(own_run)
    assert (own_run / "evaluation/report.html").is_file()
