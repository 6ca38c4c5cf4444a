"""Publishing a run and predicting with it from the hub: the same numbers, and nothing about clips or this machine."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

import finetune as ft
from finetune.errors import FinetuneError, RunError
from finetune.publish.card import model_card
from finetune.publish.push import public_files, push
from finetune.run.hub import PUBLIC_FILES, HubModel, parse_hub_model
from finetune.run.read import open_run

# The library's own call of its HTTP client, where a file is uploaded.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILES = {
    *("README.md", "recipe.yaml", "classes.json", "environment.json"),
    *("checkpoints/best/meta.json", "checkpoints/best/model.safetensors"),
}


def publish(run, repo="me/clips", **how):
    return push(public_files(run, model_card(run, repo=repo)), repo, **how)


def downloads(hub):
    """Names of the files that were asked for since the start."""
    return {path.split("/", 5)[5] for method, path in hub.requests if method == "HEAD" and "/resolve/" in path}


def test_a_published_model_predicts_the_same_numbers(hub, trained_run, clip_folder):
    address = publish(trained_run)
    assert address.startswith(f"{hub.url}/me/clips/commit/")
    videos = sorted((clip_folder / "test").rglob("*.mp4"))
    here, there = ft.predict(trained_run, videos), ft.predict("hf://me/clips", videos)
    assert [(one.path, one.top_k) for one in here] == [(one.path, one.top_k) for one in there]
    assert len(here) == 4
    published = ft.load("hf://me/clips@main")
    for name, weights in ft.load(trained_run).state_dict().items():
        assert weights.equal(published.state_dict()[name]), name
    assert published.backbone.weights_source == {"source": "none"}


def test_only_what_predicting_needs_is_published(hub, trained_run, clip_folder):
    publish(trained_run)
    files = hub.files("me/clips")
    assert set(files) == FILES
    private = [str(clip_folder), str(trained_run.parent), "manifest.csv", "0.mp4", str(Path.home())]
    for name, data in files.items():
        assert not [text for text in private if text.encode() in data], name
    assert (trained_run / "checkpoints/best/model.safetensors").read_bytes() == files[
        "checkpoints/best/model.safetensors"
    ]
    assert set(json.loads(files["environment.json"])) <= {"format", "versions", "weights"}


def test_the_recipe_is_published_without_places_and_patterns(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    text = (run / "recipe.yaml").read_text()
    for old, new in (
        ("group_pattern: null", "group_pattern: (person-\\d+)"),
        ("packed: null", "packed: /secret/pack"),
        ("cache_dir: null", "cache_dir: /secret/cache"),
        ("weights: none", "weights: /secret/net.safetensors"),
        ("trackers: []", "trackers: [wandb]"),
    ):
        assert old in text
        text = text.replace(old, new)
    (run / "recipe.yaml").write_text(text)
    recipe = public_files(run, "card")["recipe.yaml"].decode()
    assert "secret" not in recipe and "person" not in recipe and "wandb" not in recipe
    assert "weights: net.safetensors" in recipe


def test_only_known_names_are_downloaded(hub, trained_run):
    publish(trained_run)
    commits = hub.repos["me/clips"]["main"]
    hub.commit(
        commits, {"setup.py": b"evil", "checkpoints/best/state.pt": b"evil", "../escape.json": b"{}", "model.pt2": b""}
    )
    run = open_run("hf://me/clips")
    assert downloads(hub) == FILES
    found = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert found == FILES


def test_a_version_is_downloaded_once_and_a_newer_one_when_there_is_one(hub, trained_run):
    publish(trained_run)
    first = open_run("hf://me/clips").folder
    before = len(downloads(hub))
    hub.requests.clear()
    assert open_run("hf://me/clips").folder == first
    assert before and not downloads(hub)
    publish(trained_run, message="again")  # nothing changed: no new commit
    assert open_run("hf://me/clips").folder == first
    hub.commit(hub.repos["me/clips"]["main"], {"README.md": b"# edited"})
    assert open_run("hf://me/clips").folder != first
    hub.requests.clear()
    assert open_run(f"hf://me/clips@{first.name}").folder == first
    assert not hub.requests, "a commit that was downloaded needs no network"


def test_without_a_network_the_last_version_is_used(hub, trained_run, monkeypatch):
    publish(trained_run)
    folder = open_run("hf://me/clips").folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_run("hf://me/clips").folder == folder
    with pytest.raises(RunError, match="hf://me/other: is not on this machine, and HF_HUB_OFFLINE"):
        open_run("hf://me/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert open_run("hf://me/clips").folder == folder
    with pytest.raises(RunError, match="http://127.0.0.1:9 cannot be reached"):
        open_run("hf://me/other")


def test_an_interrupted_download_leaves_nothing(hub, trained_run, monkeypatch):
    publish(trained_run)
    import huggingface_hub

    download, count = huggingface_hub.hf_hub_download, [0]

    def interrupted(*arguments, **how):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return download(*arguments, **how)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_run("hf://me/clips")
    assert open_run("hf://me/clips").folder.is_dir(), "the next call downloads it"
    assert not list(open_run("hf://me/clips").folder.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me", "names no model; write hf://OWNER/NAME"),
        ("hf://me/a/b", "names no model"),
        ("hf://me/../x", "names no model"),
        ("hf://me/a b", "names no model"),
        ("hf://me/-a-", "no name of a model"),
        ("hf://me/a@", "names no model"),
    ],
)
def test_malformed_names_are_refused(name, message):
    with pytest.raises(RunError, match=message):
        parse_hub_model(name)


def test_names_of_models():
    assert parse_hub_model("hf://me/a@v1/x") == HubModel("me/a", "v1/x")
    assert parse_hub_model(str(Path("hf://me/a"))) == HubModel("me/a")
    assert parse_hub_model("runs/mine") is None


def test_what_the_hub_refuses_is_told_in_words(hub, trained_run, monkeypatch):
    def message(name):
        with pytest.raises(RunError) as error:
            open_run(name)
        return str(error.value)

    publish(trained_run, "me/secret", private=True)
    assert "no such branch, tag or commit" in message("hf://me/secret@v9")
    hub.create("me/gated", {"recipe.yaml": b""})
    hub.gated.add("me/gated")
    hub.create("me/other", {"model.bin": b"\0"})
    assert "is no model that `finetune push` published" in message("hf://me/other")
    assert "the hub has no such model, or it is private" in message("hf://me/nothing")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    assert "for a private model log in with `hf auth login`" in message("hf://me/secret")
    assert "its owner lets in only who asks" in message("hf://me/gated")
    with pytest.raises(RunError, match="the hub wants to know who you are"):
        publish(trained_run)


def test_a_token_that_may_not_write_there(hub, trained_run, monkeypatch):
    with pytest.raises(RunError, match="your token does not allow it"):
        publish(trained_run, "others/clips")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match="does not accept who you are|no such model, or it is private"):
        publish(trained_run)


def test_files_that_are_too_large_are_not_downloaded(hub, trained_run, monkeypatch):
    publish(trained_run)
    monkeypatch.setattr("finetune.run.hub.MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(RunError, match=r"model.safetensors has [\d,]+ bytes, and at most 1,000 are read"):
        open_run("hf://me/clips")
    assert not downloads(hub)


def test_a_branch_is_made_and_files_of_an_earlier_model_are_removed(hub, trained_run):
    hub.create("me/clips", {"model.json": b"{}", "model.onnx": b"0", "photo.png": b"1"})
    publish(trained_run, revision="v2")
    assert set(hub.files("me/clips", "v2")) == FILES | {"photo.png"}
    assert set(hub.files("me/clips")) == {"model.json", "model.onnx", "photo.png"}
    assert open_run("hf://me/clips@v2").classes == open_run(trained_run).classes


def test_the_commands_list_what_is_published_and_predict_from_the_hub(
    hub, trained_run, clip_folder, finetune, tmp_path
):
    status, out, err = finetune("push", trained_run, "me/clips", "--dry-run")
    assert status == 0 and not hub.repos and out == ""
    assert all(name in err for name in FILES) and "To me/clips, 6 files" in err
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    status, out, err = finetune("push", trained_run, "me/clips", "--private", "--card", card)
    assert status == 0 and out.startswith(f"{hub.url}/me/clips/commit/"), err
    assert hub.files("me/clips")["README.md"] == card.read_bytes() and "me/clips" in hub.private
    video = clip_folder / "test" / "dark ones" / "0.mp4"
    status, out, err = finetune("predict", "hf://me/clips", video, "--json")
    assert status == 0, err
    assert json.loads(out) == json.loads(finetune("predict", trained_run, video, "--json")[1])
    assert "non-commercial" not in err
    run = shutil.copytree(trained_run, tmp_path / "run")
    weights = {"source": "timm", "name": "net", "licence": "cc-by-nc-4.0"}
    environment = json.loads((run / "environment.json").read_text()) | {"weights": weights}
    (run / "environment.json").write_text(json.dumps(environment))
    status, _, err = finetune("push", run, "me/clips", "--dry-run")
    assert status == 0 and "allows non-commercial use or research only: cc-by-nc-4.0" in err
    status, _, err = finetune("push", trained_run, "clips")
    assert status == 2 and "write OWNER/NAME" in err


def test_a_published_model_is_evaluated_on_another_set(hub, trained_run, clip_folder, finetune):
    publish(trained_run)
    status, _, err = finetune("evaluate", "hf://me/clips", f"data.folder={clip_folder}", "--no-pictures")
    assert status == 0, err
    status, _, err = finetune("evaluate", "hf://me/clips")
    assert status == 2 and "data.manifest=FILE.csv or data.folder=DIR" in err


def test_published_names_are_those_that_can_be_downloaded():
    assert not [name for name in PUBLIC_FILES if Path(name).suffix in {".py", ".pt", ".pt2", ".pkl", ".bin.py"}]
    with pytest.raises(FinetuneError, match="has no"):
        public_files(Path(__file__).parent, "card")
