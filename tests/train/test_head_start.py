"""A new head starts as a linear probe of the frozen features, and a run that has one keeps all that runs promise."""

import numpy as np
import pytest
import torch
from grey import TINY
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

import finetune as ft
from finetune.model import linear_fit
from finetune.train import head_start
from finetune.video.dataset import ClipDataset

STILL = (ft.Phase(unfreeze="head", epochs=1, lr=1e-12),)


def fit(manifest, out, *, phases=STILL, temporal="mean", head="linear", model=None, data=None, **train):
    torch.manual_seed(0)
    if model is None:
        model = ft.build_model(
            TINY, manifest.classes, weights="none", num_frames=2, size=32, temporal=temporal, head=head
        )
    settings = {"batch_size": 3, "precision": "fp32", **train}
    return ft.fit(
        model,
        manifest,
        phases,
        clip=ft.Clip(num_frames=2),
        train=ft.Train(**settings),
        data=data or ft.Data(workers=0),
        out=out,
        quiet=True,
    )


def weights(run, which="last"):
    return load_file(run / f"checkpoints/{which}/model.safetensors")


def same(one, other):
    return all(torch.equal(weights(one)[name], value) for name, value in weights(other).items())


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


@pytest.fixture(scope="module")
def started(manifest, tmp_path_factory):
    """A run whose head is the probe: its learning rate changes nothing."""
    return fit(manifest, tmp_path_factory.mktemp("started") / "run")


def train_clips(manifest):
    """The training clips as evaluation sees them, uint8 (N, T, C, H, W), and their labels (N,)."""
    dataset = ClipDataset(manifest, "train", clip=ft.Clip(num_frames=2, size=32))
    items = [dataset[position] for position in range(len(dataset))]
    return torch.stack([item["clips"] for item in items]).reshape(-1, 2, 3, 32, 32), np.array(
        [item["label"] for item in items]
    )


def test_the_head_is_a_logistic_regression_on_standardised_features(manifest, monkeypatch, tmp_path):
    monkeypatch.setattr(linear_fit, "STRENGTHS", (0.5,))
    model = ft.load(fit(manifest, tmp_path / "run", cache_dtype="fp32"))
    clips, labels = train_clips(manifest)
    with torch.no_grad():
        features, outputs = model.backbone(clips).mean(1), model(clips)["label"]
    scaled = StandardScaler().fit_transform(features.double().numpy())
    expected = LogisticRegression(C=0.5, tol=1e-8, max_iter=5000).fit(scaled, labels)
    np.testing.assert_allclose(outputs.softmax(1), expected.predict_proba(scaled), atol=0.01)


@pytest.mark.parametrize("change", [{"cache": "off"}, {"cache": "features"}, {"data": ft.Data(workers=2)}], ids=str)
def test_caching_and_loading_processes_change_nothing(manifest, started, tmp_path, change):
    cache = {} if "data" in change else {"cache_dir": tmp_path / "cache"}
    assert same(fit(manifest, tmp_path / "run", **cache, **change), started)


def test_the_saved_head_is_one_linear_layer(started, trained_run):
    names = [name for name in weights(started) if name.startswith("heads.")]
    assert names == ["heads.label.1.bias", "heads.label.1.weight"]
    assert {name for name in weights(trained_run) if name.startswith("heads.")} == set(names)


def test_a_trained_head_is_trained_further(manifest, started, tmp_path):
    model = ft.load(started)
    with torch.no_grad():
        model.heads["label"][1].weight.zero_()
    run = fit(manifest, tmp_path / "run", model=model)
    assert weights(run)["heads.label.1.weight"].abs().max() < 1e-6


@pytest.mark.parametrize("change", [{"head_start": "random"}, {"temporal": "gru"}, {"head": "cosine"}], ids=str)
def test_other_heads_start_at_random(manifest, tmp_path, change):
    torch.manual_seed(0)  # the same draws as in `fit`
    settings = {name: value for name, value in change.items() if name != "head_start"}
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, **settings)
    run = fit(manifest, tmp_path / "run", **change)
    for name, value in model.state_dict().items():
        if name.startswith(("heads.", "temporal.")):
            torch.testing.assert_close(weights(run)[name], value, atol=1e-6, rtol=0)


def test_a_hidden_layer_gets_standardised_inputs_only(manifest, monkeypatch, tmp_path):
    started = []
    words = head_start.HeadStart.words.fget
    monkeypatch.setattr(head_start.HeadStart, "words", property(lambda start: started.append(start) or words(start)))
    run = fit(manifest, tmp_path / "run", head="mlp")
    assert [(start.rows, start.fit) for start in started] == [(8, None)]
    assert {"heads.label.1.weight", "heads.label.3.weight"} <= set(weights(run))


def test_rare_classes_count_as_much_where_the_recipe_balances_them():
    targets = F.one_hot(torch.tensor([0, 0, 0, 1]), 2).double()
    recipe = ft.Recipe(train=ft.Train(sampler="balanced"))
    torch.testing.assert_close(
        head_start._row_weights(targets, recipe), torch.tensor([2, 2, 2, 6], dtype=torch.float64) / 3
    )
    assert head_start._row_weights(targets, ft.Recipe()).tolist() == [1, 1, 1, 1]


def test_with_many_clips_some_are_taken_at_random(manifest, started, monkeypatch, tmp_path):
    monkeypatch.setattr(head_start, "MAX_ROWS", 5)
    lines = []
    monkeypatch.setattr(head_start.HeadStart, "words", property(lambda start: lines.append(start) or "started"))
    assert not same(fit(manifest, tmp_path / "run"), started)
    assert lines[0].rows == 5


def test_a_run_that_ends_before_the_probe_is_fitted_goes_on(manifest, started, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(head_start, "fit_linear", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(manifest, tmp_path / "run")
    ft.resume(tmp_path / "run", quiet=True)
    assert same(tmp_path / "run", started)


def test_where_the_cache_cannot_be_used_features_are_computed(manifest, started, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert same(fit(manifest, tmp_path / "run", cache_dir=tmp_path / "file" / "cache"), started)


def test_features_that_are_no_numbers_leave_the_head_as_it_is(manifest, tmp_path):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    first = next(model.backbone.net.parameters())
    with torch.no_grad():
        first.fill_(torch.nan)
    with pytest.raises(ft.DivergedError):
        fit(manifest, tmp_path / "run", model=model)
