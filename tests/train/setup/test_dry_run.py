"""The forecast tries each phase, says what it would take, and leaves nothing behind."""

import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.errors import RecipeError
from finetune.train.setup.dry_run import estimate_phases

PHASES = (
    ft.Phase(unfreeze="head", epochs=3),
    ft.Phase(unfreeze="lora(r=2)", steps=7),
    ft.Phase(unfreeze="all", epochs=2, batch_norm="train"),
)


def recipe(**changes):
    settings = {"batch_size": 2, **changes}
    return ft.Recipe(
        clip=ft.Clip(num_frames=2, size=32),
        model=ft.Model(backbone=TINY, weights="none"),
        phases=PHASES,
        train=ft.Train(**settings),
        data=ft.Data(workers=0),
    )


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def model_for(manifest):
    return ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)


def test_each_phase_is_forecast_and_no_run_is_made(manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = estimate_phases(model_for(manifest), manifest, recipe(accumulate=2))
    assert [phase.steps for phase in found] == [6, 7, 4]  # 8 training clips by 2 × 2
    assert found[0].parameters < found[1].parameters < found[2].parameters
    assert all(phase.seconds_per_step > 0 and phase.seconds > 0 and phase.peak_gb > 0.05 for phase in found)
    assert list(tmp_path.iterdir()) == []


def test_what_training_would_refuse_is_refused(manifest):
    wrong = recipe().model_copy(update={"phases": (ft.Phase(unfreeze="layer9"),)})
    with pytest.raises(RecipeError, match="unknown stage 'layer9'"):
        estimate_phases(model_for(manifest), manifest, wrong)


def test_the_command_says_it_in_a_table(clip_folder, tmp_path, monkeypatch, finetune):
    path = tmp_path / "grey.yaml"
    path.write_text(
        f"data: {{folder: {clip_folder}, workers: 0}}\nclip: {{num_frames: 2, size: 32}}\n"
        f"model: {{backbone: {TINY}, weights: none}}\nphases: [{{unfreeze: head}}, {{unfreeze: all, epochs: 1}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    status, out, _ = finetune("train", "grey.yaml", "--dry-run")
    assert status == 0
    out = out.splitlines()
    assert out[0].split()[:3] == ["phase", "trains", "parameters"]
    assert [line.split()[0] for line in out[1:3]] == ["1", "2"]
    assert out[-1].endswith("nothing was trained or written.")
    assert not (tmp_path / "runs").exists()


def test_the_timed_step_is_a_step(manifest):
    """All that learns has moved, and nothing else."""
    model = model_for(manifest)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimate_phases(model, manifest, recipe().model_copy(update={"phases": (ft.Phase(unfreeze="layer4"),)}))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("layer4" in name or name.startswith("heads.") for name in changed)
