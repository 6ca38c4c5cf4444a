"""Where a model looked: of networks whose answer is known, of real ones, and in the report."""

import json
import shutil

import numpy as np
import pytest
import torch
from grey import TINY
from report.run.test_page import Page
from torch import nn
from torch.nn import functional as F

import finetune as ft
from finetune.errors import ModelError, RunError
from finetune.evaluation.gradcam import _sheet_weights, explain, grad_cam
from finetune.model.backbone.backbone import Backbone
from finetune.model.backbone.network import InputSpec, Network
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.model.freezing.freeze import set_trainable
from finetune.recipe.schema import Model
from finetune.report.run.page import write_report
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run
from finetune.video.row_loader import evaluation_loader

SIDE = 64


class Brightness(nn.Module):
    """One channel is how bright a place is, the other how dark."""

    def __init__(self):
        super().__init__()
        self.places = nn.Conv2d(3, 2, 8, stride=8)
        with torch.no_grad():
            self.places.weight[0], self.places.weight[1] = 1 / 192, -1 / 192
            self.places.bias[:] = torch.tensor([0.0, 1.0])

    def forward(self, pictures):
        return self.places(pictures).mean((2, 3))


class BrightnessOverTime(nn.Module):
    """The same of so many frames together."""

    def __init__(self, stride):
        super().__init__()
        self.places = nn.Conv3d(3, 2, (stride, 8, 8), stride=(stride, 8, 8))
        with torch.no_grad():
            self.places.weight[0], self.places.weight[1] = 1 / (192 * stride), -1 / (192 * stride)
            self.places.bias[:] = torch.tensor([0.0, 1.0])

    def forward(self, clips):
        return self.places(clips).mean((3, 4)).flatten(1)


def brightness_model(likes="bright", stride=None):
    net = Brightness() if stride is None else BrightnessOverTime(stride)
    spec = InputSpec(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    stages = {name: "stem" for name, _ in net.named_parameters()}
    network = Network(
        net,
        2,
        spec,
        stages,
        lambda net, x: net.places(x),
        lambda: ("", {}),
        {"source": "own"},
        (),
        takes_clips=stride is not None,
        time_stride=stride or 1,
    )
    backbone = Backbone(network, num_frames=4, fusion="late", size=SIDE)
    model = VideoClassifier(backbone, classes=("bright", "dark"), settings=Model(temporal="mean"), num_frames=4)
    layer = model.heads["label"][-1]
    with torch.no_grad():
        layer.weight[:] = torch.eye(2)
        layer.bias[:] = torch.tensor([10.0, 0.0] if likes == "bright" else [0.0, 10.0])
    return model.eval()


def bright_corners(low=40, high=220):
    """(clip, its corners): in frame t one quarter of the picture is bright, another in each."""
    clip = torch.full((4, 3, SIDE, SIDE), low, dtype=torch.uint8)
    corners = [(0, 0), (0, 1), (1, 1), (1, 0)]
    for number, (down, right) in enumerate(corners):
        clip[number, :, 32 * down : 32 * down + 32, 32 * right : 32 * right + 32] = high
    return clip, corners


def quarters(heatmap_THW):
    return F.avg_pool2d(heatmap_THW[:, None], heatmap_THW.shape[1] // 2)[:, 0]


def test_the_heat_is_where_the_named_class_has_its_reasons():
    clip, corners = bright_corners()
    heat = grad_cam(brightness_model(), clip).heatmap_THW
    assert heat.shape == (4, 8, 8)
    brightness = F.avg_pool2d(clip[:, 0].float()[:, None], 8)[:, 0]
    torch.testing.assert_close(heat, brightness / brightness.max())
    for number, (down, right) in enumerate(corners):
        assert quarters(heat)[number].argmax() == 2 * down + right


def test_for_another_class_it_is_elsewhere():
    clip, corners = bright_corners()
    heat = grad_cam(brightness_model(likes="dark"), clip).heatmap_THW
    for number, (down, right) in enumerate(corners):
        assert quarters(heat)[number].argmin() == 2 * down + right


def test_a_clip_in_which_nothing_raises_the_score_has_no_heat():
    model = brightness_model()
    with torch.no_grad():
        model.heads["label"][-1].weight.zero_()
    heat = grad_cam(model, bright_corners()[0]).heatmap_THW
    assert heat.shape == (4, 8, 8)
    assert not heat.any()


def test_a_frame_that_says_nothing_stays_cold():
    clip, _ = bright_corners(low=0)
    clip[2] = 0
    heat = grad_cam(brightness_model(), clip).heatmap_THW
    assert heat[2].max() == 0
    assert heat[[0, 1, 3]].amax((1, 2)).tolist() == pytest.approx([1, 1, 1])


def drawn(frames=4, side=SIDE):
    return torch.randint(0, 255, (frames, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tiny(name=TINY, temporal="mean", frames=4, **kwargs):
    torch.manual_seed(0)
    return ft.build_model(
        name, ["a", "b", "c"], weights="none", temporal=temporal, num_frames=frames, size=SIDE, **kwargs
    )


@pytest.mark.parametrize(
    ("name", "temporal", "places"),
    [(TINY, "mean", 2), ("test_vit", "mean", 4), ("test_vit", "transformer", 4), ("test_efficientnet", "gru", 2)],
)
def test_of_real_networks_each_frame_has_heat_between_0_and_1(name, temporal, places):
    heat = grad_cam(tiny(name, temporal), drawn()).heatmap_THW
    assert heat.shape == (4, places, places)
    assert heat.min() >= 0 and heat.max() == 1
    assert torch.equal(grad_cam(tiny(name, temporal), drawn()).heatmap_THW, heat)


def test_of_a_network_that_takes_clips_the_heat_has_its_steps():
    clip, _ = bright_corners()
    heat = grad_cam(brightness_model(stride=2), clip).heatmap_THW
    brightness = F.avg_pool3d(clip[:, 0].float()[None], (2, 8, 8))[0]
    assert heat.shape == (2, 8, 8)
    torch.testing.assert_close(heat, brightness / brightness.max())


@pytest.mark.parametrize("fusion", ["grey_stack", "two_stream"])
def test_of_grey_stacks_each_picture_has_heat(fusion):
    settings = Model(backbone=TINY, weights="none", temporal="attention", fusion=fusion)
    found = grad_cam(build_from_settings(settings, ["a", "b"], num_frames=7, size=SIDE), drawn(7))
    assert found.heatmap_THW.shape == (3, 2, 2)
    assert len(_sheet_weights(found.weights_T, 7)) == 7


@pytest.mark.parametrize("learning", ["all", "layer4", "head"])
@pytest.mark.parametrize("training", [True, False])
def test_looking_leaves_the_model_as_it_was(learning, training):
    model = tiny(temporal="attention")
    set_trainable(model, learning, batch_norm="train")
    model.train(training)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learns = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    grad_cam(model, drawn())
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert [module.training for module in model.modules()] == modes
    assert [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules()] == hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for number, parameter in enumerate(model.parameters()):
        assert parameter.grad is None if number % 2 == 0 else (parameter.grad == number).all()


def test_a_frozen_backbone_is_looked_into_as_one_that_learns():
    clip, model = drawn(), tiny()
    heat = grad_cam(model, clip).heatmap_THW
    set_trainable(model, "head")
    assert torch.equal(grad_cam(model, clip).heatmap_THW, heat)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(grad_cam(model, clip).heatmap_THW, heat)


def test_the_weights_are_those_of_attention_pooling_and_together_1():
    model = tiny(temporal="attention").eval()
    found = grad_cam(model, drawn())
    with torch.no_grad():
        wanted = model.temporal.weights(model.backbone(drawn()[None])).mean(2)[0]
    torch.testing.assert_close(found.weights_T, wanted)
    assert found.weights_T.sum() == pytest.approx(1, abs=1e-6)
    assert grad_cam(tiny(temporal="transformer"), drawn()).weights_T is None


def test_networks_without_a_map_are_refused():
    torch.manual_seed(0)
    model = ft.build_model("crossvit_9_240", ["a", "b"], weights="none", num_frames=1, size=240)
    with pytest.raises(ModelError, match="CrossVit has no one feature map"):
        grad_cam(model, drawn(1, 240))


def test_the_tokens_of_a_clip_are_not_taken_for_those_of_a_picture(monkeypatch):
    """Of 4 moments with 7 by 7 places and one more there are as many as of 14 by 14."""
    model = tiny("test_vit")
    monkeypatch.setattr(model.backbone, "feature_map", lambda clips: torch.zeros(1, 1, 197, 96))
    monkeypatch.setattr(model.backbone, "takes_clips", True)
    learns = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ModelError, match="test_vit: has no layer with a spatial feature map that --explain can use"):
        grad_cam(model, drawn())
    assert [parameter.requires_grad for parameter in model.parameters()] == learns


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A run with an evaluation of two views, and where the model looked."""
    run = shutil.copytree(trained_run, tmp_path_factory.mktemp("explained") / "run")
    ft.evaluate(run, views=2)
    return run


def test_a_report_shows_two_strips_once_the_model_was_looked_into(run):
    pictures = run / "evaluation/pictures"
    before = json.loads((pictures / "index.json").read_text())
    assert len(before) == 4 and not any("cam" in each for each in before.values())
    assert "finetune report RUN <span>--explain</span>" in write_report(run, figures_too=False).read_text()
    plain = Page((run / "evaluation/report.html").read_text()).tags["img"]
    assert explain(run) == 4
    index = json.loads((pictures / "index.json").read_text())
    for path, each in index.items():
        assert each == before[path] | {"cam": each["sheet"].replace(".jpg", "-cam.jpg"), "weights": []}
        assert (pictures / each["cam"]).read_bytes().startswith(b"\xff\xd8\xff")
    page = write_report(run, figures_too=False).read_text()
    assert Page(page).tags["img"] == 2 * plain > 0
    assert "The second strip is Grad-CAM" in page


def test_the_frames_looked_at_are_those_of_the_sheet_whatever_the_views(run, monkeypatch):
    """Of two views the first is of other frames than of one."""
    seen = []
    monkeypatch.setattr(
        "finetune.evaluation.gradcam.grad_cam", lambda model, clip: seen.append(clip) or grad_cam(model, clip)
    )
    explain(run)
    recipe_views = ft.load_recipe(str(run / "recipe.yaml")).evaluate.views
    assert recipe_views == 1
    opened = open_run(run)
    recipe, tested = opened.recipe, saved_manifest(opened).for_split("test")
    loader, _ = evaluation_loader(tested, "test", recipe, size=32, views=2)
    with loader:
        wanted = {loader.dataset[position]["clips"][0].numpy().tobytes() for position in range(4)}
    assert {clip.numpy().tobytes() for clip in seen} == wanted


def test_without_frames_there_is_nothing_to_explain(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with pytest.raises(RunError, match="has no frames; write them with `finetune evaluate"):
        explain(run)


@pytest.mark.slow
def test_commands_explain(trained_run, tmp_path, finetune):
    run = shutil.copytree(trained_run, tmp_path / "run")
    status, _, err = finetune("evaluate", run, "--explain", "--no-pictures")
    assert (status, "omit --no-pictures" in err) == (2, True)
    status, out, err = finetune("evaluate", run, "--split", "val", "--explain")
    assert status == 0, err
    index = json.loads((run / "evaluation/val/pictures/index.json").read_text())
    assert len(index) == 4 and all("cam" in each for each in index.values())
    status, _, err = finetune("report", run)
    assert (status, "results.json; make it with `finetune evaluate" in err) == (2, True)
    for each in index.values():
        (run / "evaluation/val/pictures" / each["cam"]).unlink()
    status, out, _ = finetune("report", run, "--split", "val", "--explain")
    assert (status, out.strip()) == (0, str(run / "evaluation/val/report.html"))
    assert len(list((run / "evaluation/val/pictures").glob("*-cam.jpg"))) == 4


def test_weights_are_told_of_the_frames_that_are_on_the_sheet():
    weights = torch.arange(16) / 120
    assert _sheet_weights(weights, 16) == pytest.approx([n / 120 for n in (0, 2, 4, 6, 9, 11, 13, 15)], abs=1e-4)
    assert _sheet_weights(torch.tensor([0.25, 0.75]), 4) == [0.25, 0.25, 0.75, 0.75]
    assert _sheet_weights(None, 4) == []
    assert np.isclose(sum(_sheet_weights(torch.full((5,), 0.2), 5)), 1)
