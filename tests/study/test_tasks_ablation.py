"""Each task alone against all together: the runs that are made, what is compared, and gains by hand."""

import csv
import json

import numpy as np
import pytest
from tasked import draw_clips, manifest_of, recipe_of

from finetune.errors import RecipeError
from finetune.study.relative_gains import _LabelledPredictions, relative_gains
from finetune.study.tasks_ablation import tasks_ablation

QUICK = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    recipe = recipe_of(draw_clips(folder), ("way", "box"), phases=QUICK)
    manifest, out = manifest_of(recipe), folder / "out"
    tasks_ablation(recipe, manifest, name="tiny", seeds=1, out=out)
    return recipe, manifest, out


def spoil(run, share):
    """Make a share of a run's test predictions wrong and the others correct."""
    path = run / "evaluation/predictions.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    right = np.array([row["label"] == "right" for row in rows])
    wrong = np.arange(len(rows)) < round(share * len(rows))
    np.save(run / "evaluation/probabilities.npy", np.eye(2)[(right ^ wrong).astype(int)])


@pytest.mark.slow
def test_all_together_and_each_alone_are_trained_on_the_same_rows(study):
    _, _, out = study
    assert sorted(path.name for path in (out / "seed-0").iterdir()) == ["box", "together", "way"]
    rows = [json.loads((out / f"seed-0/{each}/evaluation/results.json").read_text()) for each in ("together", "way")]
    assert rows[0]["num_rows"] == rows[1]["num_rows"] == 4
    assert (list(rows[0]["tasks"]), list(rows[1]["tasks"])) == (["way", "box"], ["way"])


@pytest.mark.slow
def test_the_ablation_holds_what_the_runs_scored(study):
    _, _, out = study
    ablation = json.loads((out / "ablation.json").read_text())
    together, alone = (
        json.loads((out / f"seed-0/{each}/evaluation/results.json").read_text())["tasks"]["box"]["mean_iou"]
        for each in ("together", "box")
    )
    assert ablation["tasks"]["box"]["together"] == [together]
    assert ablation["tasks"]["box"]["alone"] == [alone]
    assert ablation["tasks"]["box"]["gain"] == pytest.approx(100 * (together - alone) / max(alone, 1e-9), rel=1e-6)
    gains = [each["gain"] for each in ablation["tasks"].values()]
    assert ablation["delta_m"] == pytest.approx(np.mean(gains))
    assert "ΔM" in (out / "ablation.html").read_text(encoding="utf-8")
    assert {each["href"] for each in ablation["runs"]} == {
        f"seed-0/{each}/evaluation/report.html" for each in ("together", "way", "box")
    }


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(study):
    recipe, manifest, out = study
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    again = tasks_ablation(recipe, manifest, name="tiny", seeds=1, out=out)
    assert json.loads((out / "ablation.json").read_text()) == json.loads(json.dumps(again))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before


@pytest.mark.slow
def test_a_gain_is_the_share_by_which_the_mean_figure_is_higher(study):
    _, _, out = study
    together, alone = out / "seed-0/together", out / "seed-0/way"
    spoil(together, 0.25)
    spoil(alone, 0.5)
    by_task, mean = relative_gains({("way", 0): (together, alone)}, split="test")
    assert by_task["way"].percent == mean.percent == pytest.approx(50)  # 3 of 4 instead of 2 of 4
    same, _ = relative_gains({("way", 0): (alone, alone)}, split="test")
    assert same["way"].percent == 0
    assert mean.interval is same["way"].interval is None  # of one seed, and of 4 clips


def random_predictions(rng, *, rate, groups):
    """Predictions of a run for 120 clips of so many groups, correct with that rate."""
    truth = rng.integers(2, size=120)
    predicted = np.where(rng.random(120) < rate, truth, 1 - truth)
    return _LabelledPredictions("classify", truth, np.eye(2)[predicted], (np.arange(120) % groups).astype(str))


def test_gains_join_the_chance_of_clips_and_of_training(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = {("way", seed): (f"better {seed}", f"base {seed}") for seed in range(3)}
    names = [name for pair in pairs.values() for name in pair]
    known = {name: random_predictions(rng, rate=0.9 if name.startswith("better") else 0.5, groups=20) for name in names}
    monkeypatch.setattr("finetune.study.relative_gains._read_predictions", lambda run, task, split: known[run])
    gain, mean = relative_gains(pairs, split="test")
    low, high = gain["way"].interval
    assert 0 < low < gain["way"].percent < high
    assert mean.percent == gain["way"].percent and mean.interval == pytest.approx(gain["way"].interval)
    assert relative_gains({("way", 0): pairs["way", 0]}, split="test")[1].interval is None
    same = relative_gains({key: (base, base) for key, (_, base) in pairs.items()}, split="test")[1]
    assert same.percent == 0 and same.interval[0] < -1 and same.interval[1] > 1  # others may differ


def test_gains_of_equally_good_runs_are_called_better_5_times_of_100_at_most(monkeypatch):
    rng, called, simulations = np.random.default_rng(1), 0, 40
    pairs = {(task, seed): (f"one {task} {seed}", f"two {task} {seed}") for task in "ab" for seed in range(3)}
    for _ in range(simulations):
        names = [name for pair in pairs.values() for name in pair]
        luck = {name: random_predictions(rng, rate=np.clip(rng.normal(0.8, 0.04), 0, 1), groups=12) for name in names}
        monkeypatch.setattr(
            "finetune.study.relative_gains._read_predictions", lambda run, task, split, luck=luck: luck[run]
        )
        low, high = relative_gains(pairs, split="test")[1].interval
        called += not low <= 0 <= high
    assert called <= 0.1 * simulations


@pytest.mark.slow
def test_one_task_has_nothing_to_be_compared_with(study, tmp_path):
    recipe, manifest, _ = study
    part = recipe.model_copy(update={"tasks": {"way": recipe.tasks["way"]}})
    with pytest.raises(RecipeError, match="tiny: has 1 task; an ablation needs at least two"):
        tasks_ablation(part, manifest, name="tiny", seeds=1, out=tmp_path / "out")
