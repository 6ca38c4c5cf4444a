"""Vectors of pictures and words equal those of open_clip, here of tiny models with random weights."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import open_clip
import pytest
import torch
from grey import make_clip
from huggingface_hub import constants
from open_clip.pretrained import _PRETRAINED
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import finetune as ft
from finetune.errors import IndexFolderError, ModelError, RunError
from finetune.model.backbone.fetch_weights import download_from_hub
from finetune.recipe.load import load_recipe
from finetune.retrieval import tower_names, two_towers
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.open_embedder import open_embedder
from finetune.retrieval.text_embedder import TextEmbedder
from finetune.retrieval.tower_names import parse_tower_name
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video

VISION = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
CLIP_LIKE = {"embed_dim": 6, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP_LIKE = {
    "embed_dim": 6,
    "custom_text": True,
    "init_logit_bias": -10,
    "vision_cfg": VISION,
    "text_cfg": TEXT | {"vocab_size": 20, "hf_tokenizer_name": "nobody/tiny", "no_causal_mask": True},
}
CLIP_TAG = {**_PRETRAINED["ViT-B-32"]["openai"], "hf_hub": "nobody/tiny/"}
SIGLIP_TAG = {**_PRETRAINED["ViT-B-16-SigLIP2"]["webli"], "hf_hub": "nobody/tiny-siglip/weights.bin"}
MODELS = {  # the network's settings, and its weights by name
    "tiny-clip": (CLIP_LIKE, {"one": CLIP_TAG, "two": {**CLIP_TAG, "quick_gelu": False}}),
    "tiny-siglip": (SIGLIP_LIKE, {"webli": SIGLIP_TAG}),
}


@pytest.fixture(autouse=True)
def tiny_models(tmp_path_factory, monkeypatch):
    """Makes open_clip know the tiny models; the folder of their weights is $FINETUNE_WEIGHTS."""
    folder = tmp_path_factory.mktemp("weights")
    for name, (config, tags) in MODELS.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        monkeypatch.setitem(_PRETRAINED, name, tags)
    monkeypatch.setenv("FINETUNE_WEIGHTS", str(folder))
    monkeypatch.setattr(two_towers, "download_from_hub", without_network)
    return folder


def without_network(repository, file):
    raise ConnectionError("no network")


def save_weights(path, name, *, seed=1):
    """Random weights of a tiny model."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    net = open_clip.create_model(name, force_quick_gelu=True)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    return path


def embedder(backbone, weights="imagenet", **clip):
    recipe = load_recipe(
        "folder", [f"model.backbone={backbone}", f"model.weights={weights}", "train.device=cpu", "train.precision=fp32"]
    )
    return TextEmbedder(recipe.model_copy(update={"clip": recipe.clip.model_copy(update={"num_frames": 4, **clip})}))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of noise, wide and high, as a manifest with the whole files and a part of one."""
    folder = tmp_path_factory.mktemp("clips")
    for name, shape in (("wide", (50, 90)), ("high", (70, 40))):
        frames = np.random.default_rng(0).integers(0, 256, (20, *shape, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", frames, fps=10)
    (folder / "clips.csv").write_text(
        "path,label,split,start,end\nwide.mp4,a,train,,\nhigh.mp4,b,train,,\nwide.mp4,a,train,0.5,1.3\n"
    )
    return ft.Manifest.from_csv(folder / "clips.csv")


def by_open_clip(net, transform, path, indices):
    """The mean vector of some frames of a video, all by open_clip."""
    frames, _ = read_frames(path, indices)
    inputs = torch.stack([transform(Image.fromarray(frame.transpose(1, 2, 0))) for frame in frames])
    mean = net.eval().encode_image(inputs, normalize=True).mean(0)
    return torch.nn.functional.normalize(mean, dim=0).detach().numpy()


@pytest.mark.parametrize(
    ("name", "options"),
    [("tiny-clip/one", {"force_quick_gelu": True}), ("tiny-clip/two", {}), ("tiny-siglip/webli", {})],
)
def test_clips_get_the_vectors_that_open_clip_gives(tiny_models, clips, name, options):
    model, tag = name.split("/")
    file = save_weights(tiny_models / "open_clip" / f"{name}.safetensors", model)
    tags = MODELS[model][1][tag]
    preprocessing = {f"image_{key}": tags[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    net, _, transform = open_clip.create_model_and_transforms(model, str(file), **preprocessing, **options)
    ours = embedder(f"open_clip/{name}")
    vectors = {row: vector for row, vector, _ in ours.embed(clips)}
    frames = {0: [2, 7, 12, 17], 1: [2, 7, 12, 17], 2: [6, 8, 10, 12]}
    for row, indices in frames.items():
        expected = by_open_clip(net, transform, clips.path(row), indices)
        assert vectors[row] == pytest.approx(expected, abs=1e-5)
    assert ours.source.kind == "text" and ours.source.dim == 6


def test_words_get_the_vectors_that_open_clip_gives(tiny_models):
    file = save_weights(tiny_models / "open_clip/tiny-clip/one.safetensors", "tiny-clip")
    net = open_clip.create_model("tiny-clip", str(file), force_quick_gelu=True).eval()
    texts = ["a person kicks", "Two people SHAKE hands"] * 40
    expected = net.encode_text(open_clip.get_tokenizer("tiny-clip")(texts), normalize=True).detach().numpy()
    vectors = embedder("open_clip/tiny-clip/one").embed_text(texts)
    assert vectors == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


def test_windows_get_the_vectors_of_rows_with_their_start_and_end(clips):
    ours = embedder("open_clip/tiny-clip/one", "none")
    windows = list(ours.embed_windows(clips.path(0), WindowLengths(0.8, 0.4)))
    assert [(start, end) for start, end, _ in windows] == [(0, 0.8), (0.4, 1.2), (0.8, 1.6), (1.2, 2)]
    folder = clips.path(0).parent
    lines = [f"wide.mp4,{label},train,{start},{end}\n" for label, (start, end, _) in zip("abab", windows, strict=True)]
    (folder / "windows.csv").write_text("path,label,split,start,end\n" + "".join(lines))
    rows = {row: vector for row, vector, _ in ours.embed(ft.Manifest.from_csv(folder / "windows.csv"))}
    for number, window in enumerate(windows):
        assert window.vector_D == pytest.approx(rows[number], abs=1e-6)


def test_a_file_that_cannot_be_read_gets_a_reason(tmp_path):
    make_clip(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "clips.csv").write_text("path,label,split\nbad.mp4,a,train\ngood.mp4,b,train\n")
    done = []
    found = sorted(
        embedder("open_clip/tiny-clip/one", "none").embed(
            ft.Manifest.from_csv(tmp_path / "clips.csv"), progress=lambda *count: done.append(count)
        )
    )
    assert found[0].vector_D is None and "bad.mp4" in found[0].reason
    assert found[1].vector_D.shape == (6,) and done[-1] == (2, 2)


def test_the_embedder_of_an_index_is_opened_again_and_other_weights_are_refused(tiny_models):
    file = tiny_models / "open_clip/tiny-clip/one.safetensors"
    save_weights(file, "tiny-clip")
    ours = embedder("open_clip/tiny-clip/one")
    again = open_embedder(ours.source)
    assert again.source == ours.source
    assert (again.embed_text(["a person"]) == ours.embed_text(["a person"])).all()
    save_weights(file, "tiny-clip", seed=2)
    with pytest.raises(IndexFolderError, match="its weights have changed since the index was made"):
        open_embedder(ours.source)


class Hub(BaseHTTPRequestHandler):
    """A hub with the files of the class attribute `files`."""

    files = {}  # noqa: RUF012

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", '"tag"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(two_towers, "download_from_hub", download_from_hub)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(Hub, "files", {})
    Thread(target=server.serve_forever, daemon=True).start()
    yield Hub.files
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tiny-clip/one", "/nobody/tiny/resolve/main/open_clip_model.safetensors"),
        ("tiny-siglip", "/nobody/tiny-siglip/resolve/main/weights.safetensors"),
    ],
)
def test_weights_are_downloaded_as_safetensors(hub, tmp_path, name, address):
    file = save_weights(tmp_path / "w.safetensors", name.split("/")[0])
    hub[address] = file.read_bytes()
    downloaded = embedder(f"open_clip/{name}")
    assert downloaded.source.weights == embedder(f"open_clip/{name}", file).source.weights
    hub.clear()
    assert embedder(f"open_clip/{name}").source.weights == downloaded.source.weights, "the second time by the cache"


def test_without_a_network_the_message_says_which_file_to_put_where():
    expected = (
        r"the weights of open_clip/tiny-clip/one are neither on this machine nor could they be downloaded \(\w+\)\.\n"
        r"Fetch open_clip_model.safetensors of nobody/tiny on the Hugging Face hub, and set model.weights=FILE to it, "
        r"or put it as open_clip/tiny-clip/one.safetensors into a folder and set FINETUNE_WEIGHTS to that folder"
    )
    with pytest.raises(ModelError, match=expected):
        embedder("open_clip/tiny-clip/one")


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("open_clip/", "none", "has not the form open_clip/MODEL or open_clip/MODEL/WEIGHTS"),
        ("open_clip/a/b/c", "none", "has not the form open_clip/MODEL"),
        ("open_clip/ViT-B-33/openai", "none", r"open_clip has no model 'ViT-B-33' \(nearest: ViT-B-32"),
        ("open_clip/tiny-clip/ones", "none", r"tiny-clip has no weights 'ones' \(nearest: one"),
        (
            "open_clip/tiny-clip",
            "none",
            "has several weights; add the name of one, for example open_clip/tiny-clip/one",
        ),
        ("open_clip/tiny-clip/one", "nowhere.safetensors", "model.weights=nowhere.safetensors: there is no such file"),
        ("open_clip/tiny-clip/one", "bundled", "there is no such file; open_clip/ models take a safetensors file"),
        ("open_clip/tiny-clip/one", __file__, "is no safetensors file; pickles are not read"),
    ],
)
def test_wrong_names_and_weights_are_refused(backbone, weights, message):
    with pytest.raises(ModelError, match=message):
        embedder(backbone, weights)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    file = save_weights(tmp_path / "other.safetensors", "tiny-siglip")
    with pytest.raises(ModelError, match=r"other.safetensors: does not fit the model: "):
        embedder("open_clip/tiny-clip/one", file)
    file.write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"other.safetensors: does not fit the model: "):
        embedder("open_clip/tiny-clip/one", file)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(tower_names, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r'needs open_clip; install it with: pip install "finetune-video\[text\]"'):
        parse_tower_name("open_clip/ViT-B-32/openai")


@pytest.mark.parametrize(
    ("text", "message"),
    [("  ", "the text is empty"), ("person " * 11, "has 11 tokens, open_clip/tiny-clip/one reads 10: 'person person")],
)
def test_empty_and_long_texts_are_refused(text, message):
    with pytest.raises(ModelError, match=message):
        embedder("open_clip/tiny-clip/one", "none").embed_text([text])


def test_the_tokenizer_of_siglip_is_read_from_the_folder_of_the_weights(tiny_models):
    ours = embedder("open_clip/tiny-siglip", "none")
    expected = (
        r"the tokenizer of open_clip/tiny-siglip is neither on this machine nor could it be downloaded \(.*\)\.\nFetch "
        r"tokenizer.json, tokenizer_config.json and special_tokens_map.json of nobody/tiny on the Hugging Face hub "
        r"into a folder open_clip/tiny-siglip-tokenizer in the folder \$FINETUNE_WEIGHTS"
    )
    with pytest.raises(ModelError, match=expected):
        ours.embed_text(["a person"])
    words = Tokenizer(models.WordLevel({"a": 3, "person": 5, "kicks": 7, "[UNK]": 1, "[PAD]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tiny_models / "open_clip/tiny-siglip-tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    expected = ours.towers.net.encode_text(torch.tensor([[3, 5, 7] + [0] * 9]), normalize=True).detach().numpy()
    assert ours.embed_text(["a person kicks"]) == pytest.approx(expected, abs=1e-5)
