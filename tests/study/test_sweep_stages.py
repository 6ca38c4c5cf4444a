"""Which stage pays: the same probe under each, scored on val, gains against the head alone."""

import re

import numpy as np
import pytest
import torch
from grey import TINY, make_clip
from safetensors.torch import load_file

import finetune as ft
from finetune.cli.study import _verdict
from finetune.errors import RunError
from finetune.metrics.intervals import paired_difference
from finetune.study.sweep_stages import StageResult, sweep_stages

RECIPE = ft.Recipe(
    clip=ft.Clip(num_frames=2, size=32),
    model=ft.Model(backbone=TINY, weights="none"),
    train=ft.Train(batch_size=4),
    data=ft.Data(workers=0),
)


@pytest.fixture(scope="module")
def swept(clip_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    manifest = ft.Manifest.from_folder(clip_folder)
    return manifest, out, sweep_stages(RECIPE, manifest, probe_epochs=1, epochs=1, lr=1e-3, out=out)


@pytest.mark.slow
def test_each_stage_is_tried_alone_from_the_same_probe(swept):
    _, out, outcomes = swept
    assert {outcome.stage for outcome in outcomes} == {"head", "stem", "layer1", "layer2", "layer3", "layer4", "all"}
    probe, tried = (load_file(out / name / "checkpoints/last/model.safetensors") for name in ("probe", "layer2"))
    changed = {name for name in probe if not torch.equal(probe[name], tried[name])}
    assert changed
    assert all(".layer2." in name or name.startswith("heads.") for name in changed)
    by_name = {outcome.stage: outcome for outcome in outcomes}
    assert by_name["head"].gain == 0
    assert by_name["head"].parameters < by_name["layer2"].parameters < by_name["all"].parameters
    assert [outcome.gain for outcome in outcomes] == sorted((outcome.gain for outcome in outcomes), reverse=True)


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_what_is_half_done_is(swept):
    manifest, out, before = swept
    kept = (out / "layer1/metrics.jsonl").stat().st_mtime_ns
    (out / "layer4/evaluation/val/results.json").unlink()
    again = sweep_stages(RECIPE, manifest, probe_epochs=1, epochs=1, lr=1e-3, out=out)
    assert (out / "layer1/metrics.jsonl").stat().st_mtime_ns == kept
    assert (out / "layer4/evaluation/val/results.json").is_file()
    assert again == before


def test_without_val_rows_it_is_refused(tmp_path):
    for name in ("a", "b"):
        make_clip(tmp_path / "data/train" / name / "0.mp4")
    with pytest.raises(RunError, match="no rows in the split val"):
        sweep_stages(
            RECIPE, ft.Manifest.from_folder(tmp_path / "data"), probe_epochs=1, epochs=1, lr=1e-3, out=tmp_path / "out"
        )


def test_a_difference_is_paired_and_its_units_are_groups():
    right, other = np.array([1, 1, 1, 0, 1, 1], bool), np.array([1, 0, 1, 0, 0, 1], bool)
    gain, (low, high) = paired_difference(right, other, groups=None)
    assert gain == pytest.approx(2 / 6)
    assert low <= gain <= high
    assert paired_difference(right, right, groups=None) == (
        0,
        (pytest.approx(-0.5, abs=0.01), pytest.approx(0.5, abs=0.01)),
    )
    often = [np.repeat(each, 10) for each in (right, other)]
    by_row, by_group = (paired_difference(*often, groups=each)[1] for each in (None, np.repeat(np.arange(6), 10)))
    assert by_row[1] - by_row[0] < by_group[1] - by_group[0] <= high - low


def outcome(what, gain, low):
    return StageResult(what, 1, 0.5, (0.4, 0.6), gain, (low, 0.5))


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (
            [outcome("layer3", 0.2, 0.1), outcome("head", 0, 0)],
            r"Best: layer3, \+0.200 against .* \(interval \+0.100 to \+0.500\), with one seed.*phases=surgical:layer3",
        ),
        ([outcome("all", 0.2, 0.1), outcome("head", 0, 0)], "phases=full"),
        (
            [outcome("all", 0.2, -0.1), outcome("head", 0, 0)],
            r"Best: all, \+0.200, but the interval includes 0: no evidence that it helps.",
        ),
        ([outcome("head", 0, 0), outcome("all", -0.1, -0.2)], "No stage scores above the head alone"),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(outcomes, words):
    verdict = _verdict(outcomes, 20, "group")
    assert re.search(words, verdict)
    assert ("In a recipe" in verdict) == (outcomes[0].gain_interval[0] > 0)
    few = _verdict(outcomes, 5, "group")
    assert "In a recipe" not in few
    assert outcomes[0].stage == "head" or "no evidence that it helps: 5 groups are too few" in few
