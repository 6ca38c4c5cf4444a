"""The source of a backbone's weights: the licence that is stated, and how freely it lets them be used."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torchvision import models as tv

import finetune as ft
from finetune.model.backbone.backbone import build_backbone
from finetune.model.backbone.timm_networks import published_source
from finetune.model.backbone.torchvision_networks import published_source as torchvision_source
from finetune.model.backbone.weights_source import (
    describe_source,
    file_source,
    find_source,
    licence_kind,
    licence_warning,
    to_metadata,
)

KINDS_OF_TIMM = {
    "open": {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"},
    "non-commercial": {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr", "seer-license"},
    "own terms": {
        *("apple-ascl", "cvnets-license", "dinov3-license", "fastvit-license", "gemma", "mobileone-license"),
        *("nvidia-open-model-license", "qwen-community-1.0", "sapiens2-license"),
    },
    "not stated": {None, "unknown"},
}


def test_every_licence_in_timm_has_the_kind_that_its_text_says():
    names = timm.list_pretrained()
    stated = {get_pretrained_cfg(name).license for name in names}
    assert len(names) > 1000
    assert {kind: {licence for licence in stated if licence_kind(licence) == kind} for kind in KINDS_OF_TIMM} == {
        kind: licences & stated for kind, licences in KINDS_OF_TIMM.items()
    }
    assert "cc-by-nc-4.0" in stated and "apache-2.0" in stated


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("CC BY-NC-SA 4.0", "non-commercial"),
        ("for research only", "non-commercial"),
        ("MIT-like, non commercial", "non-commercial"),
        ("Apache-2.0 as published by its authors", "open"),
        ("mit-modified", "own terms"),
        ("cc-by-sa-4.0", "open"),
        ("the ncsa licence", "own terms"),
        ("other", "not stated"),
    ],
)
def test_licences_in_the_words_of_a_card(licence, kind):
    assert licence_kind(licence) == kind


def test_of_torchvisions_weights_only_those_of_swag_state_a_licence():
    sources = {
        str(weights): torchvision_source(weights)
        for name in tv.list_models(module=tv)
        for weights in tv.get_model_weights(name)
    }
    stated = {name for name, source in sources.items() if "licence" in source}
    assert stated == {name for name in sources if "SWAG" in name}
    assert all(licence_kind(sources[name]["licence"]) == "non-commercial" for name in stated)
    assert all("terms of their own" in source["note"] for name, source in sources.items() if name not in stated)


def test_timms_weights_name_their_tag_repository_licence_and_origin():
    source = published_source("resnet50", get_pretrained_cfg("resnet50.fb_swsl_ig1b_ft_in1k").to_dict())
    assert source["name"] == "resnet50.fb_swsl_ig1b_ft_in1k"
    assert source["hub_id"] == "timm/resnet50.fb_swsl_ig1b_ft_in1k"
    assert source["origin"] == "https://github.com/facebookresearch/semi-supervised-ImageNet1K-models"
    assert describe_source(source) == (
        "Weights of the backbone: resnet50.fb_swsl_ig1b_ft_in1k of timm, "
        "https://huggingface.co/timm/resnet50.fb_swsl_ig1b_ft_in1k; licence cc-by-nc-4.0."
    )
    warning = licence_warning(source)
    assert warning is not None and "allows non-commercial use or research only: cc-by-nc-4.0" in warning[0]


def test_bundled_and_random_weights():
    backbone = build_backbone("mobilenetv3_small_050", weights="bundled", size=32)
    assert describe_source(backbone.weights_source) == (
        "Weights of the backbone: mobilenetv3_small_050, bundled with finetune; licence apache-2.0."
    )
    backbone = build_backbone("mobilenetv3_small_050", weights="none", size=32)
    assert describe_source(backbone.weights_source) == "Weights of the backbone: random, not pretrained."


def test_a_file_states_its_licence_in_its_metadata_or_in_the_json_beside_it(tmp_path):
    file, weights = tmp_path / "net.safetensors", {"w": torch.zeros(1)}
    save_file(weights, file)
    assert file_source(file) == {"source": "file", "name": "net.safetensors"}
    assert describe_source(file_source(file)).endswith("net.safetensors; licence not stated.")
    (tmp_path / "net.json").write_text('{"license": "openrail"}')
    assert describe_source(file_source(file)).endswith("licence openrail, which has terms of its own.")
    save_file(weights, file, metadata={"license": "cc-by-nc-4.0"})
    assert file_source(file)["licence"] == "cc-by-nc-4.0"
    (tmp_path / "net.json").write_text("{")
    save_file(weights, file, metadata={"weights": '{"source": 5}'})
    assert file_source(file) == {"source": "file", "name": "net.safetensors"}
    old = tmp_path / "old.pth"
    torch.save(weights, old)
    assert find_source("resnet18", str(old), {}) == {"source": "file", "name": "old.pth"}


def test_a_checkpoint_of_a_run_states_what_the_run_started_from(tmp_path):
    source = published_source("resnet50", get_pretrained_cfg("resnet50.a1_in1k").to_dict())
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=to_metadata(source))
    assert file_source(tmp_path / "model.safetensors") == {**source, "file": "model.safetensors"}


def test_a_run_keeps_the_source_of_its_weights(clip_folder, tmp_path, capfd):
    manifest = ft.Manifest.from_folder(clip_folder)
    model = ft.build_model(
        "mobilenetv3_small_050", manifest.classes, weights="bundled", temporal="mean", num_frames=2, size=32
    )
    phase, clip = ft.Phase(unfreeze="head", epochs=1), ft.Clip(num_frames=2)
    run = ft.fit(model, manifest, phase, clip=clip, out=tmp_path / "run")
    assert "mobilenetv3_small_050, bundled with finetune; licence apache-2.0." in " ".join(
        capfd.readouterr().err.split()
    )
    weights = json.loads((run / "environment.json").read_text())["weights"]
    assert weights == model.backbone.weights_source
    assert file_source(run / "checkpoints/best/model.safetensors") == {**weights, "file": "model.safetensors"}
    ft.resume(run, "phases[0].epochs=2", quiet=True)
    assert json.loads((run / "environment.json").read_text())["weights"] == weights
    assert file_source(run / "checkpoints/last/model.safetensors")["licence"] == "apache-2.0"
    assert ft.load(run).backbone.weights_source == weights
