"""What is left to the machine is decided by trying, said, and kept in the run's recipe."""

import json
import math

import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.errors import RecipeError
from finetune.train import phase
from finetune.train.setup import autotune

PHASES = (
    ft.Phase(unfreeze="head", epochs=1, lr=1e-2),
    ft.Phase(unfreeze="all", epochs=2, lr=1e-3, stage_lr={"stem": 1e-5}),
)


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def model_for(manifest):
    torch.manual_seed(0)
    return ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)


def recipe(**train):
    return ft.Recipe(phases=PHASES, train=ft.Train(**train))


def out_of_memory_above(limit):
    def step(model, manifest, recipe, index, *, clips, steps):
        if clips > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return 0.1

    return step


def largest_batch(manifest, rows):
    return autotune._largest_batch(model_for(manifest), manifest, recipe(), rows=rows, device=torch.device("cuda"))


@pytest.mark.parametrize(("fits", "rows", "wanted"), [(64, 10_000, 64), (23, 10_000, 16), (64, 100, 8), (1, 9, 1)])
def test_the_largest_power_of_two_that_fits_is_taken(fits, rows, wanted, manifest, monkeypatch):
    monkeypatch.setattr(autotune, "_time_black_clips_step", out_of_memory_above(fits))
    assert largest_batch(manifest, rows) == wanted


def test_memory_that_ends_within_a_phase_of_lora_leaves_none_of_it(manifest, monkeypatch):
    model, build = model_for(manifest), phase.build_optimizer
    names = list(model.state_dict())

    def too_much(*arguments):
        monkeypatch.setattr(phase, "build_optimizer", build)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(phase, "build_optimizer", too_much)
    lora = recipe().model_copy(update={"phases": (ft.Phase(unfreeze="lora(r=2)", epochs=1),)})
    with pytest.raises(torch.OutOfMemoryError):
        autotune._time_black_clips_step(model, manifest, lora, 0, clips=2, steps=1)
    assert autotune._time_black_clips_step(model, manifest, lora, 0, clips=1, steps=1) > 0
    assert list(model.state_dict()) == names
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_where_nothing_fits_it_is_said(manifest, monkeypatch):
    monkeypatch.setattr(autotune, "_time_black_clips_step", out_of_memory_above(0))
    with pytest.raises(RecipeError, match="not even one clip fits"):
        largest_batch(manifest, 100)


@pytest.mark.parametrize(("optimizer", "factor"), [("adamw", math.sqrt(0.5)), ("sgd", 0.5)])
def test_rates_follow_the_batch_and_the_model_is_left_as_it_was(optimizer, factor, manifest, monkeypatch):
    monkeypatch.setattr(autotune, "_largest_batch", lambda *_, **__: 4)
    model = model_for(manifest)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, decided = autotune.resolve_auto_settings(model, manifest, recipe(batch_size="auto", optimizer=optimizer))
    assert found.train.batch_size == 4
    assert [phase.lr for phase in found.phases] == pytest.approx([1e-2 * factor, 1e-3 * factor])
    assert found.phases[1].stage_lr["stem"] == pytest.approx(1e-5 * factor)
    assert autotune.describe_auto_settings(decided) == [
        f"batch_size auto: 4 clips; learning rates of the recipe × {factor:.4g}"
    ]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_steps_that_are_tried_leave_no_trace(manifest, monkeypatch):
    monkeypatch.setattr(autotune, "MIN_SECONDS_TO_COMPILE", 0.0)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    model = model_for(manifest)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora = (ft.Phase(unfreeze="lora(r=2)", epochs=1), *PHASES)
    wanted = recipe(compile="auto").model_copy(update={"phases": lora})
    found, decided = autotune.resolve_auto_settings(model, manifest, wanted)
    assert found.train.compile is decided["compile"]["pays"]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_compiling_is_chosen_where_it_saves_more_than_it_takes(manifest, monkeypatch):
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: setattr(module, "was_compiled", True))
    seconds = {"head": 1.0, "all": 4.0}

    def step(model, manifest, recipe, index, *, clips, steps):
        return seconds[recipe.phases[index].unfreeze] / (2 if hasattr(model.backbone.net, "was_compiled") else 1)

    monkeypatch.setattr(autotune, "_time_black_clips_step", step)
    model = model_for(manifest)
    long = autotune._benchmark_compile(model, manifest, recipe(), 8, rows=8000)  # 2,000 steps of 4 s, or of 2
    assert long == {
        "pays": True,
        "seconds_of_a_step": 4.0,
        "compiled": 2.0,
        "seconds_to_compile": 92.0,
        "seconds_saved": 4000.0,
    }
    clock = iter([0.0, 5000.0])
    assert not autotune._benchmark_compile(model, manifest, recipe(), 8, rows=8000)["pays"]
    short = autotune._benchmark_compile(model, manifest, recipe(), 8, rows=400)  # 400 s: not tried
    assert short == {"pays": False, "seconds_of_all_steps": 400.0}


@pytest.mark.slow
def test_a_run_keeps_what_was_decided_and_goes_on_with_it(manifest, tmp_path, signal_at, capfd):
    signal_at(2)
    train = ft.Train(batch_size="auto", compile="auto")
    with pytest.raises(KeyboardInterrupt):
        ft.fit(model_for(manifest), manifest, PHASES, clip=ft.Clip(num_frames=2), train=train, out=tmp_path / "run")
    assert "batch_size auto: 8 clips; learning rates of the recipe × 1" in capfd.readouterr().err
    kept = ft.load_recipe(str(tmp_path / "run/recipe.yaml"))
    assert (kept.train.batch_size, kept.train.compile) == (8, False)
    ft.resume(tmp_path / "run", quiet=True)
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["decided"]["batch_size"] == {"clips": 8, "rate_factor": 1.0}
    assert environment["decided"]["compile"]["pays"] is False
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
