"""Every pooling, fusion, sharing, head and family of backbones is exported for any batch size, or refused by name.

Networks have random weights, with batch statistics and outputs that differ between clips as much as in a trained model.
FINETUNE_ALL=1 exports all families of the contract tests to all three formats.
"""

import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from contract import slowly
from grey import TINY
from multitask_models import tasked
from torch import nn

from finetune.errors import ModelError
from finetune.export.graph import ExportGraph
from finetune.export.write_model import WRITERS, export_program, takes_any_batch
from finetune.inference.exported_session import open_session
from finetune.model.classifier import build_from_settings, build_model
from finetune.model.lora import add_lora, merge_lora
from finetune.model.standardized_head import fold_standardization, standardize_head
from finetune.model.temporal_pooling import POOLINGS
from finetune.recipe.fields import Head
from finetune.recipe.schema import Model
from finetune.recipe.tasks import Task

TOLERANCE = 1e-4
ALL_FORMATS = tuple(WRITERS)
FUSIONS = {  # and the formats; early and grey_stack change the input alone
    "early": ("onnx",),
    "slow": ALL_FORMATS,
    "tsm": ALL_FORMATS,
    "grey_stack": ("onnx",),
    "two_stream": ("onnx",),
}
# Backbone, size, frames. TINY, with which poolings and fusions are tested, is a ResNet.
FAMILIES = [
    ("test_vit", 64, 2),
    ("test_convnext", 64, 2),
    ("test_efficientnet", 64, 2),
    ("torchvision/shufflenet_v2_x0_5", 64, 2),
    ("torchvision/r3d_18", 32, 9),
]
MORE_FAMILIES = [
    *((name, 64, 2) for name in ("test_vit3", "test_vit_relpos", "test_byobnet", "test_coatnet", "test_mambaout")),
    *((name, 64, 2) for name in ("test_efficientnet_evos", "test_maxvit", "test_nfnet", "mobilenetv3_small_050")),
    *((name, 64, 2) for name in ("mobilenetv4_conv_small_035", "regnetx_002", "dla46_c", "ghostnet_050")),
    *((name, 32, 2) for name in ("hardcorenas_a", "rexnet_100", "hgnetv2_b0", "inception_next_atto", "convit_tiny")),
    *((name, 64, 2) for name in ("fasternet_t0", "starnet_s050", "efficientvit_b0", "edgenext_xx_small")),
    *((name, 64, 2) for name in ("mobilevit_xxs", "levit_128s", "cspnext_tiny", "repghostnet_050", "cpubone_nano")),
    *((name, 32, 2) for name in ("deit_tiny_distilled_patch16_224", "legacy_seresnet18", "densenet121", "dpn48b")),
    *((name, 64, 2) for name in ("vit_tiny_r_s16_p8_224", "efficientvit_m0", "pit_ti_224", "xcit_nano_12_p16_224")),
    *((name, 64, 2) for name in ("lcnetv2_small", "pvt_v2_b0", "fastvit_t8", "coat_lite_tiny", "poolformer_s12")),
    *((name, 128, 2) for name in ("shvit_s1", "efficientvim_m1")),
    *((name, 64, 2) for name in ("hrnet_w18_small", "efficientformerv2_s0", "swin_tiny_patch4_window7_224")),
    *((name, 64, 2) for name in ("swinv2_cr_tiny_224", "gcvit_xxtiny", "csatv2", "rdnet_tiny", "tiny_vit_5m_224")),
    *((name, 64, 2) for name in ("mvitv2_tiny", "iformer_t", "swiftformer_xs", "visformer_tiny")),
    *((name, 32, 2) for name in ("cait_xxs24_224", "skresnet18", "resnest14d", "resnetv2_18")),
    ("eva02_tiny_patch14_224", 56, 2),
    ("crossvit_9_240", 240, 2),
    *((f"torchvision/{name}", 64, 2) for name in ("regnet_x_400mf", "mnasnet0_5", "mobilenet_v3_small")),
    *((f"torchvision/{name}", 64, 2) for name in ("squeezenet1_1", "efficientnet_b0", "googlenet", "alexnet")),
    *((f"torchvision/{name}", 32, 2) for name in ("resnet18", "mobilenet_v2", "densenet121", "convnext_tiny")),
    *((f"torchvision/{name}", 32, 2) for name in ("vit_b_16", "swin_t", "swin_v2_t")),
    ("torchvision/inception_v3", 75, 2),
    ("torchvision/maxvit_t", 224, 2),
    *((f"torchvision/{name}", 32, 4) for name in ("mc3_18", "r2plus1d_18", "swin3d_t")),
    *((f"torchvision/{name}", 64, 4) for name in ("mvit_v1_b", "mvit_v2_s")),
    ("torchvision/s3d", 224, 16),
]
EVERY_TASK = {
    **{pooling: Task(kind="classify", temporal=pooling) for pooling in POOLINGS},
    **{head: Task(kind="classify", head=head) for head in Head.__args__},
    "tags": "multilabel",
    "level": "ordinal",
    "number": "regress",
    "box": "box",
    "motion": "motion",
    "deep": Task(kind="box", feature_stage="layer2"),
}
FEW_TASKS = {"action": "classify", "box": Task(kind="box", feature_stage="layer2"), "number": "regress"}


def build(name=TINY, size=32, num_frames=4, **settings):
    torch.manual_seed(0)
    model = Model(backbone=name, weights="none", **settings)
    return build_from_settings(model, ["a", "b", "c"], num_frames=num_frames, size=size)


def pictures(model, batch):
    """uint8 clips (B, T, C, H, W) whose frames are smooth and differ much."""
    generator = torch.Generator().manual_seed(batch)
    coarse = torch.rand((batch * model.num_frames, 3, 4, 4), generator=generator)
    frames = nn.functional.interpolate(coarse, model.size, mode="bilinear") * 255
    return frames.to(torch.uint8).unflatten(0, (batch, model.num_frames))


@torch.no_grad()
def lively(model):
    """The model with batch norm's statistics of some clips, and outputs around 0 that differ by about 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    clips = pictures(model, 4)
    if model.eval().backbone(clips).std(0).max() < 1e-4:  # the network's first weights let nothing through
        for module in model.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    model.train()(clips)
    for task, outputs in model.eval()(clips).items():
        *_, last = model.heads[task].children()
        spread, mean_K = outputs.std(0).mean(), outputs.mean(0)
        last.bias.copy_((last.bias - mean_K) / spread)
        if hasattr(last, "log_scale"):
            last.log_scale.sub_(spread.log())
        else:
            last.weight.div_(spread)
    return model


def graph_of(model, *, views=1):
    return ExportGraph(model.eval(), views=views, temperatures=dict.fromkeys(model.outputs)).eval()


def largest_difference(graph, session):
    """Between the graph and its exported file, at three batch sizes, of all outputs; shares of values above 1."""
    largest = 0.0
    for batch in (1, 2, 5):
        clips = pictures(graph.model, batch)
        with torch.no_grad():
            expected = {name: values.numpy() for name, values in graph(clips).items()}
        outputs = session(clips.numpy())
        for name, values in expected.items():
            assert outputs[name].shape == values.shape, (name, batch)
            assert batch == 1 or values.std(0).max() > 0.01, f"{name} is the same for all clips"
            largest = max(largest, np.abs(outputs[name] - values).max() / max(1, np.abs(values).max()))
    return largest


@torch.no_grad()
def rounding_error(graph):
    """The largest difference between the graph in fp32 and in fp64: large in some networks that were not trained."""
    exact = deepcopy(graph).double()
    return largest_difference(graph, lambda clips: {name: v.numpy() for name, v in exact(torch.tensor(clips)).items()})


def check_export(model, folder, formats=ALL_FORMATS):
    graph = graph_of(lively(model))
    program = export_program(graph)
    assert takes_any_batch(program)
    tolerance = max(TOLERANCE, 10 * rounding_error(graph))
    for to in formats:
        WRITERS[to](program, graph, folder, "fp32")
        difference = largest_difference(graph, open_session(folder, to, graph.output_names, threads=1))
        assert difference < tolerance, to


@pytest.mark.slow
def test_every_pooling_head_and_kind_of_task(tmp_path):
    check_export(tasked(EVERY_TASK, size=32), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "formats"), FUSIONS.items())
def test_every_fusion(fusion, formats, tmp_path):
    check_export(build(size=64, fusion=fusion), tmp_path, ALL_FORMATS if "FINETUNE_ALL" in os.environ else formats)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["towers", "cross_stitch"])
def test_every_sharing(sharing, tmp_path):
    model = tasked(FEW_TASKS, sharing=sharing)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".towers.1." in name:
                parameter.mul_(1.1)
    check_export(model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "num_frames"), [*FAMILIES, *slowly(MORE_FAMILIES)])
def test_every_family(name, size, num_frames, tmp_path):
    check_export(build(name, size, num_frames), tmp_path)


@pytest.mark.slow
def test_layers_that_lora_adapted_and_a_standardised_head_are_exported_as_they_are_saved(tmp_path):
    pytest.importorskip("peft")
    model = build()
    add_lora(model, "lora(r=2)", seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.01)
    merge_lora(model)
    standardize_head(model, torch.full((96,), 0.5), torch.full((96,), 2.0))
    fold_standardization(model)
    check_export(model, tmp_path, ["torch"])


class CountsClips(nn.Module):
    """A pooling for the batch size that it was traced with."""

    def forward(self, features):
        return features.reshape(len(features), -1, features.shape[2]).mean(1)


class ReadsValues(nn.Module):
    """A pooling whose path depends on values."""

    def forward(self, features):
        return features.mean(1) if features.sum() > 0 else features.amax(1)


class TwoRows(nn.Module):
    """A head that returns two rows, however many clips there are."""

    def forward(self, vectors):
        return vectors.new_ones(2, 3) + vectors.mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (CountsClips(), "CountsClips.* cannot be exported: its forward pass works for one batch size only"),
        (ReadsValues(), "ReadsValues.* cannot be exported: Could not guard on data-dependent expression"),
    ],
)
def test_an_own_pooling_that_cannot_be_exported_is_refused_by_name(part, reason):
    model = build_model(TINY, ["a", "b"], weights="none", temporal=part, num_frames=2, size=32)
    with pytest.raises(ModelError, match=reason):
        export_program(graph_of(model))


def traced(module, size):
    return torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=({0: size},))


def test_a_graph_for_one_batch_size_is_told_from_one_for_any():
    automatic = torch.export.Dim.AUTO
    assert takes_any_batch(traced(nn.Linear(3, 3), automatic))
    assert not takes_any_batch(traced(nn.Linear(3, 3), None))
    assert not takes_any_batch(traced(TwoRows(), automatic))
    counts = nn.Sequential(nn.Unflatten(1, (1, 3)), CountsClips())
    assert not takes_any_batch(traced(counts, automatic))


def test_an_output_that_is_the_same_for_any_batch_is_refused():
    model = build_model(TINY, ["a", "b", "c"], weights="none", head=TwoRows(), num_frames=2, size=32)
    with pytest.raises(ModelError, match="TwoRows.* cannot be exported: its forward pass works for one batch size"):
        export_program(graph_of(model))
