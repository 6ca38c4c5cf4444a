"""The user's own modules and functions: trained, frozen, saved, loaded, evaluated and predicted with, or refused."""

import shutil

import numpy as np
import pytest
import torch
from contract import moved, snapshot
from grey import TINY
from torch import nn
from torchvision.transforms import v2

import finetune as ft
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import own_parts

SIZE, FRAMES = 32, 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, pictures):
        return self.deep(self.stem(pictures)).mean((2, 3))


class Pool(nn.Module):
    def __init__(self, width, num_frames):
        super().__init__()
        self.mix = nn.Linear(num_frames * width, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, features):
        return self.norm(self.mix(features.flatten(1)))


def head(width, classes):
    return nn.Sequential(nn.Linear(width, 7), nn.Tanh(), nn.Linear(7, classes))


def squared_error(logits, targets):
    return nn.functional.mse_loss(logits.softmax(1), targets)


def brier(labels, probabilities):
    return np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(1).mean()


def only_bright(manifest):
    return manifest.labels == manifest.classes.index("it's bright")


TRANSFORM = v2.Compose([v2.RandomCrop(SIZE), v2.RandomGrayscale(0.5)])
PARTS = {
    "model.backbone": Net(),
    "model.temporal": Pool,
    "model.head": head,
    "train.loss": squared_error,
    "train.sampler": only_bright,
    "augment.transform": TRANSFORM,
    "evaluate.metric": brier,
}
CHANGED = {"model.backbone": "stem", "model.temporal": "temporal", "model.head": "head"}


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def build(manifest, backbone=TINY, **parts):
    torch.manual_seed(0)
    return ft.build_model(backbone, manifest.classes, weights="none", num_frames=FRAMES, size=SIZE, **parts)


def of_section(parts, name):
    return {key.partition(".")[2]: part for key, part in parts.items() if key.startswith(f"{name}.")}


def train(manifest, parts, phases, **kwargs):
    model = build(manifest, **of_section(parts, "model"))
    run = ft.fit(
        model,
        manifest,
        phases,
        clip=ft.Clip(num_frames=FRAMES),
        train=ft.Train(batch_size=4, precision="fp32", **of_section(parts, "train")),
        augment=ft.Augment(**of_section(parts, "augment")),
        evaluate=ft.Evaluate(**of_section(parts, "evaluate")),
        quiet=True,
        **kwargs,
    )
    return model, run


@pytest.mark.slow
def test_an_interrupted_run_with_own_parts_resumes_bit_for_bit(manifest, tmp_path):
    phases = [ft.Phase(unfreeze="head", epochs=1), ft.Phase(unfreeze="all", epochs=2)]
    whole, _ = train(manifest, PARTS, phases, out=tmp_path / "whole")

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(manifest, PARTS, phases, out=tmp_path / "stopped", after_epoch=stop)
    with pytest.raises(ft.RecipeError, match="model.backbone is .*, model.temporal is .*: code that was not"):
        ft.resume(tmp_path / "stopped", quiet=True)
    resumed = ft.load(ft.open_run(ft.resume(ft.open_run(tmp_path / "stopped", parts=PARTS), quiet=True), parts=PARTS))
    weights = whole.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.state_dict().items())


@pytest.mark.parametrize("key", CHANGED)
def test_an_own_module_is_learnt_and_where_frozen_stays_bit_identical(manifest, key):
    model = build(manifest, **of_section({key: PARTS[key]}, "model"))
    stage = CHANGED[key]
    clips = torch.randint(0, 256, (4, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    for unfrozen in ([stage], [name for name in model.stages if name != stage]):
        ft.set_trainable(model, unfrozen, batch_norm="train")
        optimizer, before = torch.optim.SGD(ft.param_groups(model, lr=0.1), lr=0.1), snapshot(model)
        model.train()
        for _ in range(2):
            nn.functional.cross_entropy(model(clips)["label"], torch.tensor([0, 1, 1, 0])).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert moved(model, before) == unfrozen


def test_a_module_is_copied_so_that_a_second_model_starts_as_the_first(manifest):
    pooling = Pool(96, FRAMES)
    first, second = (build(manifest, temporal=pooling) for _ in range(2))
    with torch.no_grad():
        first.temporal.mix.weight.zero_()
    assert torch.equal(second.temporal.mix.weight, pooling.mix.weight) and pooling.mix.weight.any()


class Tied(Pool):
    def __init__(self, width, num_frames):
        super().__init__(width, num_frames)
        self.other = self.mix


WRONG_MODULES = {
    "another shape": (
        {"temporal": lambda width, frames: nn.Identity()},
        r"Identity gives \(2, 2, 96\) for an input of shape \(2, 2, 96\), not \(2, D\)",
    ),
    "no module": ({"temporal": lambda width, frames: 3}, "makes no nn.Module, but int"),
    "an error": ({"temporal": nn.Linear(3, 3)}, r"Linear fails for an input of shape \(2, 2, 96\): RuntimeError"),
    "too many classes": ({"head": lambda width, classes: nn.Linear(width, 5)}, "gives 5 numbers for a clip, not 2"),
    "tied parameters": ({"temporal": Tied}, "has the parameter other.bias under two names, so it cannot be saved"),
    "no parameters": ({"backbone": nn.Flatten()}, "Flatten has no parameters"),
}


@pytest.mark.parametrize("wrong", WRONG_MODULES)
def test_a_module_that_does_not_fit_is_refused_when_the_model_is_built(manifest, wrong):
    parts, message = WRONG_MODULES[wrong]
    with pytest.raises(ft.ModelError, match=message):
        build(manifest, **parts)


def test_parts_of_a_built_model_are_not_replaced(manifest):
    model = build(manifest)
    with pytest.raises(ft.ModelError, match="temporal cannot be replaced .* build_model, as .*temporal=…"):
        model.temporal = Pool(96, FRAMES)
    model.heads["label"] = head(96, 2)
    for use in (lambda: ft.set_trainable(model, "head"), lambda: ft.param_groups(model, lr=0.1)):
        with pytest.raises(ft.ModelError, match=r"was changed after it was built: heads.label.0.bias, .*build_model"):
            use()


class LossWithParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


WRONG_FUNCTIONS = {
    "a loss for each clip": (
        {"train.loss": lambda logits, targets: logits.mean(1)},
        r"gives \(4,\), not the mean loss",
    ),
    "a loss to be learnt": ({"train.loss": LossWithParameters()}, "LossWithParameters is your own: .*no parameters"),
    "too few weights": ({"train.sampler": lambda rows: [1.0]}, r"weight of 0 or more for each of 8 rows; .* \(1,\)"),
    "negative weights": ({"train.sampler": lambda rows: -np.ones(8)}, "gives float64 .* from -1 to 0"),
    "frames of another size": ({"augment.transform": v2.CenterCrop(8)}, r"CenterCrop gives torch.uint8 \(2, 3, 8, 8\)"),
    "a metric without a name": ({"evaluate.metric": lambda labels, probs: 1.0}, "<lambda> is no name for a metric"),
}


@pytest.mark.parametrize("wrong", WRONG_FUNCTIONS)
def test_a_function_that_does_not_fit_is_refused_in_words(manifest, tmp_path, wrong):
    parts, message = WRONG_FUNCTIONS[wrong]
    with pytest.raises(ft.RecipeError, match=message):
        train(manifest, parts, ft.Phase(unfreeze="head", epochs=1), out=tmp_path / "run")


def test_a_sampler_draws_by_its_weights_and_a_metric_is_in_every_result(manifest, tmp_path):
    parts = {key: PARTS[key] for key in ("train.sampler", "evaluate.metric")}
    records = []
    _, run = train(
        manifest, parts, ft.Phase(unfreeze="head", epochs=1), out=tmp_path / "run", after_epoch=records.append
    )
    assert 0 <= records[0]["val_brier"] <= 2
    results = ft.evaluate(ft.open_run(run, parts=parts))["tasks"]["label"]
    low, high = results["brier_ci"]
    assert low <= results["brier"] <= high
    assert any("brier is not computed" in warning["what"] for warning in ft.evaluate(run)["warnings"])


CODE = "import pathlib\npathlib.Path('imported').touch()\ndef pool(width, frames): pass\nnumber = 3\n"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module in the current folder that leaves a file when it is imported, and a recipe that names its parts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code.py").write_text(CODE)
    (tmp_path / "mine.yaml").write_text("model: {temporal: 'own_code:pool'}\nphases: [{unfreeze: head}]\n")
    return tmp_path


def test_a_recipe_imports_what_it_names_with_allow_code_alone(code):
    with pytest.raises(
        ft.RecipeError, match=r"model.temporal \(own_code:pool\) would import and run code; .*--allow-code"
    ):
        load_recipe("mine.yaml")
    assert not (code / "imported").exists()
    recipe = load_recipe("mine.yaml", allow_code=True)
    assert (code / "imported").exists() and recipe.model.temporal.__name__ == "pool"
    for name, problem in (
        ("own_code:pol", "has no attribute 'pol'"),
        ("own_code:number", "but int"),
        ("no.such:x", "No"),
    ):
        with pytest.raises(ft.RecipeError, match=f"train.loss: {name} .*{problem}"):
            load_recipe("mine.yaml", [f"train.loss={name}"], allow_code=True)


def test_a_run_folder_never_imports_what_it_names(code, trained_run):
    run = shutil.copytree(trained_run, code / "run")
    text = (run / "recipe.yaml").read_text().replace("temporal: concat", "temporal: own_code:pool")
    (run / "recipe.yaml").write_text(text.replace("loss: cross_entropy", "loss: own_code:pool"))
    recipe = load_recipe(str(run / "recipe.yaml"), allow_code=True)
    assert own_parts(recipe) == {"model.temporal": "own_code:pool", "train.loss": "own_code:pool"}
    for use in (ft.load, ft.evaluate, ft.resume, lambda folder: ft.predict(folder, "a.mp4")):
        with pytest.raises(ft.FinetuneError):
            use(run)
    assert not (code / "imported").exists()
    with pytest.raises(ft.RecipeError, match=r"no own part 'model.tempral' \(nearest: model.temporal\)"):
        ft.open_run(run, parts={"model.tempral": Pool})
    with pytest.raises(ft.RecipeError, match="model.temporal is own_code:pool, not .*:Pool"):
        ft.open_run(run, parts={"model.temporal": Pool})


def test_a_part_of_a_script_may_be_given_from_a_module(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    text = (run / "recipe.yaml").read_text().replace("temporal: concat", "temporal: __main__:Pool")
    (run / "recipe.yaml").write_text(text)
    assert ft.open_run(run, parts={"model.temporal": Pool}).recipe.model.temporal is Pool
    with pytest.raises(ft.RecipeError, match="--part model.temporal=MODULE:Pool"):
        ft.load(run)
