"""Image backbones of both libraries, family by family: each keeps the contract, and gives its library's features."""

import pytest
import timm
import torch
from contract import clips_of, features, keeps_the_contract, slowly, torchvisions_own

TIMM = {
    "test_resnet": 64,
    "test_vit": 64,
    "test_vit3": 64,
    "test_vit_relpos": 64,
    "test_byobnet": 64,
    "test_coatnet": 64,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_efficientnet_evos": 64,
    "test_mambaout": 64,
    "test_maxvit": 64,
    "test_nfnet": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "regnetx_002": 64,
    "dla46_c": 64,
    "ghostnet_050": 64,
    "hardcorenas_a": 32,
    "rexnet_100": 32,
    "fasternet_t0": 64,
    "starnet_s050": 64,
    "efficientvit_b0": 64,
    "edgenext_xx_small": 64,
    "mobilevit_xxs": 64,
    "levit_128s": 64,
    "hgnetv2_b0": 32,
    "inception_next_atto": 32,
    "cspnext_tiny": 64,
    "repghostnet_050": 64,
    "cpubone_nano": 64,
    "convit_tiny": 32,
    "deit_tiny_distilled_patch16_224": 32,
    "vit_tiny_r_s16_p8_224": 64,
    "efficientvit_m0": 64,
    "legacy_seresnet18": 32,
}
TIMM_SLOW = {
    "pit_ti_224": 64,
    "xcit_nano_12_p16_224": 64,
    "lcnetv2_small": 64,
    "pvt_v2_b0": 64,
    "fastvit_t8": 64,
    "shvit_s1": 128,
    "efficientvim_m1": 128,
    "eva02_tiny_patch14_224": 56,
    "coat_lite_tiny": 64,
    "coat_tiny": 64,
    "poolformer_s12": 64,
    "hrnet_w18_small": 64,
    "efficientformerv2_s0": 64,
    "swin_tiny_patch4_window7_224": 64,
    "swinv2_cr_tiny_224": 64,
    "gcvit_xxtiny": 64,
    "crossvit_9_240": 240,
    "csatv2": 64,
    "rdnet_tiny": 64,
    "tiny_vit_5m_224": 64,
    "mvitv2_tiny": 64,
    "cait_xxs24_224": 32,
    "iformer_t": 64,
    "swiftformer_xs": 64,
    "visformer_tiny": 64,
    "twins_pcpvt_small": 64,
    "resnet18": 32,
    "skresnet18": 32,
    "resnest14d": 32,
    "densenet121": 32,
    "dpn48b": 32,
    "resnetv2_18": 32,
}
TORCHVISION = {
    "resnet18": 32,
    "regnet_x_400mf": 64,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 64,
    "squeezenet1_1": 64,
    "efficientnet_b0": 64,
    "densenet121": 32,
    "googlenet": 64,
}
TORCHVISION_SLOW = {
    "vgg11": 32,
    "convnext_tiny": 32,
    "inception_v3": 75,
    "alexnet": 64,
    "vit_b_16": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "maxvit_t": 224,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*TIMM.items(), *slowly(TIMM_SLOW.items())])
def test_timm(name, size):
    model = keeps_the_contract(name, size=size).eval()
    backbone = model.backbone
    options = {"img_size": size} if backbone.net.pretrained_cfg["fixed_input_size"] else {}
    net = timm.create_model(name, num_classes=0, **options).eval()
    net.load_state_dict(backbone.net.state_dict())
    spec = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(spec[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        theirs = net((clips_of(model).flatten(0, 1) / 255 - mean) / std)
    assert features(model).shape == (2, 2, backbone.width)
    scale = theirs.abs().max()
    torch.testing.assert_close(features(model).flatten(0, 1) / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*TORCHVISION.items(), *slowly(TORCHVISION_SLOW.items())])
def test_torchvision(name, size):
    model = keeps_the_contract(f"torchvision/{name}", size=size).eval()
    theirs = torchvisions_own(model, name)
    assert features(model).shape == (2, 2, model.backbone.width)
    scale = theirs.abs().max()
    torch.testing.assert_close(features(model).flatten(0, 1) / scale, theirs / scale, rtol=0, atol=1e-5)
