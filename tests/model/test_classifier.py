import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from grey import TINY
from safetensors.torch import save_file

import finetune as ft
from finetune.errors import ModelError
from finetune.model.backbone import timm_networks
from finetune.model.backbone.backbone import build_backbone
from finetune.model.backbone.known_names import check_name, timm_names, torchvision_names


def clips(batch=2, frames=4, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (batch, frames, 3, size, size), dtype=torch.uint8, generator=generator)


def test_features_are_those_of_timm_on_normalised_frames():
    backbone = build_backbone(TINY, weights="none").eval()
    net = timm.create_model(TINY, num_classes=0).eval()
    net.load_state_dict(backbone.net.state_dict())
    frames = clips(2, 3, 64)
    spec = timm.data.resolve_model_data_config(net)
    pictures = (frames.flatten(0, 1).float() / 255 - torch.tensor(spec["mean"]).view(3, 1, 1)) / torch.tensor(
        spec["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(frames).flatten(0, 1), net(pictures), rtol=1e-4, atol=1e-5)
    assert backbone(frames).shape == (2, 3, backbone.width)


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], []])
def test_a_classifier_needs_different_classes(classes):
    with pytest.raises(ModelError, match="two or more different classes"):
        ft.build_model(TINY, classes, weights="none")


def test_the_old_name_several_still_works_and_names_the_new_one(multitask_manifest):
    manifest, tasks = multitask_manifest
    with pytest.warns(DeprecationWarning, match=r"use Manifest\.multitask_spec"):
        spec = manifest.several(tasks)
    assert spec == manifest.multitask_spec(tasks)
    with pytest.warns(DeprecationWarning, match=r"use build_model\(multitask_spec=\.\.\.\)"):
        model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, several=spec)
    assert model.multitask_spec is spec
    with pytest.warns(DeprecationWarning, match=r"use VideoClassifier\.multitask_spec"):
        assert model.several is spec


@pytest.fixture
def multitask_manifest(tmp_path):
    tasks = {"shade": ft.Task(kind="regress"), "way": ft.Task(kind="classify", columns="label")}
    table = "path,label,shade,split\na.mp4,left,0.5,train\nb.mp4,right,0.25,train\nc.mp4,left,0.75,val\n"
    (tmp_path / "clips.csv").write_text(table, encoding="utf-8")
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    return ft.Manifest.from_csv(tmp_path / "clips.csv", tasks=tasks), tasks


def test_names_read_from_the_sources_are_those_that_the_libraries_register():
    from torchvision import models

    assert set(timm_names()) == set(timm.list_models())
    classifiers = {*models.list_models(module=models), *models.list_models(module=models.video)}
    assert set(torchvision_names()) == classifiers


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnt50", "resnet50"), ("torchvision/resnet51", "torchvision/resnet50"), ("convnxt_tiny", "convnext_tiny")],
)
def test_an_unknown_backbone_names_the_nearest(name, near):
    with pytest.raises(ModelError, match=f"has no model .*nearest: .*{near}"):
        check_name(name)


def test_an_unknown_tag_names_those_there_are():
    with pytest.raises(ModelError, match=r"'resnet18.a9_in1k'.*nearest: .*resnet18.a1_in1k"):
        build_backbone("resnet18.a9_in1k", weights="none")


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_WEIGHTS", str(tmp_path))
    return tmp_path


def published(classes=7):
    torch.manual_seed(1)
    return timm.create_model(TINY, num_classes=classes).state_dict()


def test_a_file_in_the_weights_folder_is_taken_whatever_its_classes(weights_folder):
    state = published(7)
    save_file(state, weights_folder / f"{TINY}.safetensors")
    backbone = build_backbone(TINY)
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_weights_may_be_a_checkpoint_wrapped_and_prefixed(tmp_path):
    state = published()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "old.pth")
    backbone = build_backbone(TINY, weights=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.net.state_dict()["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])


def test_missing_surplus_and_misshapen_weights_are_all_listed(tmp_path):
    state = published()
    state["surplus.weight"] = state.pop("layer1.0.conv1.weight")
    state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError) as error:
        build_backbone(TINY, weights=str(tmp_path / "odd.safetensors"))
    message = str(error.value)
    assert "1 missing: layer1.0.conv1.weight" in message
    assert "1 surplus: surplus.weight" in message
    assert "1 of another shape: layer2.0.conv1.weight is (3, 3), the backbone has" in message


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_file_that_would_execute_something_is_refused(tmp_path):
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(ModelError, match="not executed"):
        build_backbone(TINY, weights=str(tmp_path / "harmful.pth"))


@pytest.mark.parametrize("name", ["text.safetensors", "text.pth"])
def test_a_file_that_is_no_weights_is_refused(tmp_path, name):
    (tmp_path / name).write_text("no weights at all")
    with pytest.raises(ModelError, match=name):
        build_backbone(TINY, weights=str(tmp_path / name))


@pytest.fixture
def server(tmp_path):
    """An HTTP server on this machine that hands out the files of a folder."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def test_weights_are_downloaded_from_where_the_library_says(server, tmp_path, monkeypatch):
    folder, address = server
    state = published()
    torch.save(state, folder / "tiny.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FINETUNE_WEIGHTS", raising=False)
    where, found = timm_networks.download(TINY, {"hf_hub_id": "", "url": f"{address}/tiny.pth"})
    assert where == f"{address}/tiny.pth"
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert list((tmp_path / "cache").rglob("tiny.pth"))


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "torchvision/resnet18"])
def test_without_network_the_error_says_what_to_fetch_and_where_to_put_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("FINETUNE_WEIGHTS", raising=False)

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm_networks, "download_from_hub", unreachable)
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(ModelError) as error:
        build_backbone(name)
    message = str(error.value)
    for part in ("neither on this machine", "Fetch ", "https://", f"{name}.safetensors", "FINETUNE_WEIGHTS"):
        assert part in message


def test_weights_that_are_not_bundled_are_refused():
    with pytest.raises(ModelError, match="'resnet18' is not bundled"):
        build_backbone("resnet18", weights="bundled")


@pytest.mark.real
@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_mobilenetv3_large_minimal_100", "torchvision/squeezenet1_1"])
def test_real_weights_load_and_give_features(real, name, monkeypatch):
    monkeypatch.setenv("FINETUNE_WEIGHTS", str(real / "weights"))
    assert (Path(os.environ["FINETUNE_WEIGHTS"]) / f"{name}.safetensors").is_file()
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        features = backbone(clips(1, 2, 224))
    assert features.shape == (1, 2, backbone.width)
    assert features.isfinite().all()
    random = build_backbone(name, weights="none").eval()
    first = next(iter(backbone.net.state_dict()))
    assert not torch.equal(random.net.state_dict()[first], backbone.net.state_dict()[first])
