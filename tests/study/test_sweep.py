"""Sweeps and searches: every setting a run, scored on val, gone on with where they were interrupted."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
from finetune.cli.sweep import _evidence
from finetune.errors import DivergedError, RecipeError, RunError
from finetune.study.search import parse_search_space, search
from finetune.study.sweep import SweepPoint, folder_name, rank_points, sweep
from finetune.study.swept_settings import grid
from finetune.train import loop
from finetune.train.loss import objective

KEYS = ("phases.0.lr=1e-3,1e-2", "train.precision=fp32,bf16", "train.batch_size=4")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, clip_folder):
    path = tmp_path_factory.mktemp("sweep") / "grey.yaml"
    path.write_text(
        f"data: {{folder: {clip_folder}, workers: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: [{{unfreeze: head, epochs: 2}}]\n"
    )
    return path


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


@pytest.fixture(scope="module")
def swept(recipe, manifest):
    """A finished sweep of four settings, where the command has it by default; do not write into it."""
    out = recipe.parent / "runs/grey-sweep"
    return out, sweep(str(recipe), grid(KEYS), manifest, out=out)


def times(out):
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/metrics.jsonl")}


def test_a_grid_is_every_combination_and_brackets_hold_a_value_together():
    assert grid(["a=1,2", "b=x", "c=[1, 2],{k: 1, l: 2}"]) == [
        (f"a={one}", "b=x", f"c={three}") for one in (1, 2) for three in ("[1, 2]", "{k: 1, l: 2}")
    ]
    phases = "[{unfreeze: head, lr: 1e-3},{unfreeze: all}],[{unfreeze: [layer4, head]}]"
    assert grid([f"phases={phases}"]) == [
        ("phases=[{unfreeze: head, lr: 1e-3},{unfreeze: all}]",),
        ("phases=[{unfreeze: [layer4, head]}]",),
    ]
    with pytest.raises(RecipeError, match="a is set twice; list its values once: a=a,b"):
        grid(["a=1", "a=2"])
    assert folder_name(("phases.0.lr=1e-3", "model.dropout=0.5")) == "phases.0.lr=1e-3,model.dropout=0.5"
    names = [
        folder_name(settings)
        for settings in (("model.weights=a/b.pt",), ("model.weights=a-b.pt",), ("a=" + 300 * "x",), ("a=" + 301 * "x",))
    ]
    assert len(set(names)) == 4
    assert all(len(name) < 200 and "/" not in name for name in names)


@pytest.mark.slow
def test_every_setting_is_a_run_of_its_own_and_the_best_comes_first(swept):
    out, points = swept
    assert {point.settings for point in points} == {
        (f"phases.0.lr={lr}", f"train.precision={precision}")
        for lr in ("1e-3", "1e-2")
        for precision in ("fp32", "bf16")
    }
    assert [point.figure for point in points] == sorted((point.figure for point in points), reverse=True)
    assert (points[0].behind, points[0].behind_interval) == (0, (0, 0))
    for point in points:
        run = ft.load_recipe(str(out / point.run / "recipe.yaml"))
        assert f"phases.0.lr={run.phases[0].lr:.0e}".replace("-0", "-") in point.settings
        assert run.train.batch_size == 4
        results = json.loads((out / point.run / "evaluation/val/results.json").read_text())
        assert f"train.precision={results['protocol']['precision']}" in point.settings
        assert results["tasks"]["label"]["top1"] == point.figure
        assert point.behind == pytest.approx(point.figure - points[0].figure)
    assert len(json.loads((out / "sweep.json").read_text())) == 4


def test_an_end_of_an_interval_that_is_not_known_is_null(manifest, tmp_path, monkeypatch):
    compared = []

    def ahead(run, other, manifest, *, comparisons):
        compared.append((run.name, other.name, comparisons))
        return -0.1, (-np.inf, np.inf)

    monkeypatch.setattr("finetune.study.sweep.score_difference", ahead)
    rank_points(
        [SweepPoint((f"a={n}",), f"a={n}", -0.1 * n, (-np.inf, 1.0), 0.5) for n in (1, 2, 3)], manifest, tmp_path
    )
    best, second, _ = json.loads((tmp_path / "sweep.json").read_text())
    assert (best["figure"], best["interval"], best["behind_interval"]) == (-0.1, [None, 1.0], [0, 0])
    assert second["behind_interval"] == [None, None]
    assert compared == [("a=2", "a=1", 2), ("a=3", "a=1", 2)]  # the best is not compared with itself


@pytest.mark.parametrize(
    ("others", "units", "words"),
    [
        ([(-0.3, -0.1), (-0.2, 0.1)], 20, "no evidence that the first setting is better than 1 of 2 others"),
        ([(-0.3, -0.1)], 20, "better than all others: no interval includes 0"),
        ([(-0.3, -0.1)], 5, "no evidence that the first setting is better than others: 5 groups are too few"),
        ([], 20, "no other setting finished"),
    ],
)
def test_the_best_setting_is_called_better_only_where_intervals_show_it(others, units, words):
    points = [
        SweepPoint((f"a={n}",), f"a={n}", 0.5, (0, 1), 0.5, behind_interval=ends) for n, ends in enumerate(others, 1)
    ]
    first = SweepPoint(("a=0",), "a=0", 0.6, (0, 1), 0.5)
    assert re.search(words, _evidence([first, *points], units, "group"), re.IGNORECASE)


@pytest.mark.slow
def test_interrupted_it_goes_on_and_it_may_be_widened(recipe, manifest, swept, tmp_path, signal_at):
    finished, points = swept
    out = tmp_path / "sweep"
    shutil.copytree(finished, out)
    shutil.rmtree(out / points[1].run)
    done = times(out)
    signal_at(3)
    with pytest.raises(KeyboardInterrupt):
        sweep(str(recipe), grid(KEYS), manifest, out=out)
    assert sweep(str(recipe), grid(KEYS), manifest, out=out) == points
    wider = sweep(str(recipe), grid(("phases.0.lr=1e-3,1e-2,1e-1", *KEYS[1:])), manifest, out=out)
    assert len(wider) == 6
    assert done.items() < times(out).items()
    assert {point.run: point.figure for point in points}.items() <= {point.run: point.figure for point in wider}.items()
    with pytest.raises(RunError, match="was started with another recipe"):
        sweep(str(recipe), grid((*KEYS[:2], "train.batch_size=2")), manifest, out=out)


@pytest.mark.slow
def test_a_setting_that_diverges_is_listed_and_the_others_go_on(recipe, manifest, tmp_path, monkeypatch):
    build = objective.build_loss
    monkeypatch.setattr(
        objective, "build_loss", lambda name, **how: (lambda *a: build(name, **how)(*a) * torch.nan) if name == "focal"
        else build(name, **how),
    )  # fmt: skip
    points = sweep(str(recipe), grid(["train.loss=focal,cross_entropy"]), manifest, out=tmp_path / "sweep")
    assert [(point.settings, point.has_diverged) for point in points] == [
        (("train.loss=cross_entropy",), False),
        (("train.loss=focal",), True),
    ]
    with pytest.raises(DivergedError, match="all settings diverged"):
        sweep(str(recipe), grid(["train.loss=focal"]), manifest, out=tmp_path / "nothing")


def test_what_cannot_be_is_said_before_anything_trains(recipe, manifest, tmp_path):
    wrong = grid(["phases.0.lr=fast,1e-3", "model.head=linear,cubic"])
    with pytest.raises(RecipeError) as error:
        sweep(str(recipe), wrong, manifest, out=tmp_path / "sweep")
    assert len(str(error.value).splitlines()) == 2
    with pytest.raises(RecipeError, match="data.val cannot be swept"):
        sweep(str(recipe), grid(["data.val=0.1,0.2"]), manifest, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    for name in ("a", "b"):
        make_clip(tmp_path / "data/train" / name / "0.mp4")
    with pytest.raises(RunError, match="no rows in the split val"):
        sweep(str(recipe), grid(KEYS), ft.Manifest.from_folder(tmp_path / "data"), out=tmp_path / "sweep")


@pytest.mark.slow
def test_a_search_stays_in_its_ranges_and_goes_on_for_more(recipe, manifest, tmp_path, signal_at):
    pytest.importorskip("optuna")
    out, space = tmp_path / "search", ("phases.0.lr=1e-4..1e-1", "model.dropout=0.0,0.5", "train.batch_size=4")
    signal_at(5)
    with pytest.raises(KeyboardInterrupt):
        search(str(recipe), space, manifest, trials=2, out=out)
    points, ended = search(str(recipe), space, manifest, trials=2, out=out)
    assert (len(points), ended) == (2, 0)
    assert len(times(out)) == 2
    kept = times(out)
    more, ended = search(str(recipe), space, manifest, trials=4, out=out)
    assert len(more) + ended == 4
    assert kept.items() < times(out).items()
    for point in more:
        run = ft.load_recipe(str(out / point.run / "recipe.yaml"))
        assert 1e-4 <= run.phases[0].lr <= 1e-1
        assert run.model.dropout in (0.0, 0.5)
    with pytest.raises(RunError, match="was started with searched"):
        search(str(recipe), ("phases.0.lr=1e-4..1e-2", *space[1:]), manifest, trials=2, out=out)


@pytest.mark.slow
def test_a_hopeless_trial_is_ended_early(recipe, manifest, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    validate, seen = loop.validate, []

    def staged(*arguments):
        seen.append(1)
        value = 0.9 if len(seen) <= 4 else 0.1  # the first two trials have two epochs each
        return validate(*arguments) | {"val_top1": value}

    monkeypatch.setattr(loop, "validate", staged)
    monkeypatch.setattr("finetune.study.search.STARTUP_TRIALS", 2)
    points, ended = search(str(recipe), ["phases.0.lr=1e-4..1e-1"], manifest, trials=3, out=tmp_path / "search")
    assert (len(points), ended) == (2, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.folder=../videos", "nothing to search: give a range"),
        ("a=2..1", "write the lower end first"),
        ("a=1", "nothing to search: give a range"),
    ],
)
def test_a_space_that_is_none_is_said(override, message, recipe):
    pytest.importorskip("optuna")
    with pytest.raises(RecipeError, match=message):
        parse_search_space(str(recipe), [override])


def test_without_optuna_it_is_said(recipe, finetune, monkeypatch):
    monkeypatch.setattr("finetune.study.search.find_spec", lambda name: None)
    status, _, err = finetune("sweep", recipe, "phases.0.lr=1e-4..1e-2", "--trials", 2)
    assert (status, "needs the package optuna: pip install" in err) == (2, True)


def test_ranges_are_of_whole_numbers_where_the_recipe_takes_no_others_and_wide_ones_logarithmic(recipe):
    pytest.importorskip("optuna")
    whole, wide, narrow = "train.batch_size=1..8", "phases.0.lr=1e-5..1e-2", "train.weight_decay=0..1"
    space, fixed = parse_search_space(
        str(recipe), [whole, wide, narrow, "model.head=linear,mlp", "data.folder=../here"]
    )
    assert [getattr(each, "log", None) for each in space.values()] == [False, True, False, None]
    assert [type(getattr(each, "low", None)) for each in space.values()] == [int, float, float, type(None)]
    assert fixed == ("data.folder=../here",)


@pytest.mark.slow
def test_the_command_lists_settings_and_ends_with_the_folder(recipe, swept, finetune, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    status, out, err = finetune("sweep", recipe, *KEYS)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split()[0] == "setting"
    assert len(lines) == 7
    assert lines[-1] == "runs/grey-sweep"
    assert "finetune evaluate runs/grey-sweep/phases.0.lr=" in lines[-2]
    status, _, err = finetune("sweep", recipe, "phases.0.lr=1e-3")
    assert (status, "nothing to sweep" in err) == (2, True)
