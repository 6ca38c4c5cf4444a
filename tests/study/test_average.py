"""Averages of weights: what is mixed, what is refused, and that the result is a run like any other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from grey import TINY
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import RunError
from finetune.metrics.headline import epoch_sort_key
from finetune.study.average import ALPHAS, soup, wise_ft


def weights(run, which="best"):
    return load_file(run / "checkpoints" / which / "model.safetensors")


@pytest.fixture(scope="module")
def manifest(clip_folder):
    """Rows in order of class, the splits among each other, as in most people's tables."""
    found = ft.Manifest.from_folder(clip_folder)
    order = np.argsort(-found.labels, kind="stable")
    return replace(found, paths=found.paths[order], labels=found.labels[order], splits=found.splits[order])


@pytest.fixture(scope="module")
def runs(manifest, tmp_path_factory):
    """Three runs from the same start at different rates; the last learns next to nothing in its backbone."""
    root = tmp_path_factory.mktemp("runs")
    return [train(manifest, root / str(number), lr=lr) for number, lr in enumerate((1e-3, 3e-3, 1e-5))]


def train(manifest, out, *, lr=1e-3, phases=None, temporal="mean"):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", temporal=temporal, num_frames=2, size=32)
    phases = phases or (ft.Phase(unfreeze="head", epochs=1, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=1, lr=lr))
    return ft.fit(
        model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(batch_size=4), out=out, quiet=True
    )


@pytest.mark.slow
def test_between_the_two_ends_the_best_on_val_is_taken(runs, tmp_path):
    run, tried = wise_ft(runs[0], out=tmp_path / "averaged")
    (taken,) = (candidate for candidate in tried if candidate.taken)
    assert [candidate.name for candidate in tried] == [f"alpha {alpha:.1f}" for alpha in ALPHAS]
    assert epoch_sort_key(taken.figures) == max(epoch_sort_key(candidate.figures) for candidate in tried)
    alpha = ALPHAS[tried.index(taken)]
    start, best, mixed = weights(runs[0], "start"), weights(runs[0]), weights(run)
    name = "backbone.net.layer4.0.conv2.weight"
    torch.testing.assert_close(mixed[name], (1 - alpha) * start[name] + alpha * best[name])
    assert json.loads((run / "average.json").read_text())["method"] == "wise_ft"
    assert json.loads((run / "checkpoints/best/meta.json").read_text())["val_top1"] == taken.figures["val_top1"]


@pytest.mark.slow
def test_the_ends_are_the_ends(runs, tmp_path):
    _, tried = wise_ft(runs[0], out=tmp_path / "averaged")
    meta = json.loads((runs[0] / "checkpoints/best/meta.json").read_text())
    assert tried[-1].figures == pytest.approx({key: meta[key] for key in tried[-1].figures}, abs=2e-3)


@pytest.mark.slow
def test_the_result_is_evaluated_like_any_run(runs, tmp_path):
    run, _ = wise_ft(runs[0], out=tmp_path / "averaged")
    assert 0 <= ft.evaluate(run)["tasks"]["label"]["top1"] <= 1
    assert ft.write_report(run).is_file()


@pytest.mark.slow
def test_a_run_whose_backbone_never_learnt_has_nothing_between(manifest, tmp_path):
    run = train(manifest, tmp_path / "run", phases=(ft.Phase(unfreeze="head", epochs=1),))
    with pytest.raises(RunError, match="its backbone was never trained"):
        wise_ft(run, out=tmp_path / "averaged")


@pytest.mark.slow
def test_a_uniform_soup_is_the_mean(runs, tmp_path):
    run, tried = soup(runs, greedy=False, out=tmp_path / "soup")
    mixed, parts = weights(run), [weights(each) for each in runs]
    for name, value in mixed.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(0))
    assert all(candidate.taken for candidate in tried)
    assert [candidate.name for candidate in tried][-1] == "soup"


@pytest.mark.slow
def test_a_greedy_soup_is_no_worse_on_val_than_its_best_run(runs, tmp_path):
    run, tried = soup(runs, out=tmp_path / "soup")
    *single, mixed = tried
    assert mixed.figures["val_top1"] >= max(candidate.figures["val_top1"] for candidate in single)
    inside = [weights(each) for each, candidate in zip(runs, single, strict=True) if candidate.taken]
    name = "backbone.net.layer4.0.conv2.weight"
    torch.testing.assert_close(weights(run)[name], torch.stack([part[name] for part in inside]).mean(0))


@pytest.mark.slow
def test_runs_that_are_not_alike_are_refused(runs, manifest, tmp_path):
    other = train(manifest, tmp_path / "other", temporal="max")
    with pytest.raises(RunError, match="has another model, clip, classes or tasks than"):
        soup([runs[0], other], out=tmp_path / "soup")


@pytest.mark.slow
def test_runs_on_other_splits_are_refused(runs, manifest, tmp_path):
    other = train(manifest, tmp_path / "other")
    listed = other / "manifest.csv"
    listed.write_text(listed.read_text().replace(",val", ",test"))
    with pytest.raises(
        RunError, match="has other splits than .*training clips of one would be test clips of the other"
    ):
        soup([runs[0], other], out=tmp_path / "soup")
