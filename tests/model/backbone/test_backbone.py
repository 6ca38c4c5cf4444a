"""Image backbones of both libraries, family by family: each keeps the contract, and gives its library's features."""

import pytest
import timm
import torch
from contract import clips_of, features, keeps_the_contract, slowly, torchvisions_own
from families import TIMM, TIMM_SLOW, TORCHVISION, TORCHVISION_SLOW


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
