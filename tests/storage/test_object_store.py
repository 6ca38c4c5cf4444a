"""Manifests and packs in an object store, on a server of this machine."""

import json
import logging
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from grey import TINY

import finetune as ft
from finetune.errors import DataError
from finetune.storage.object_store import is_url, local_copy
from finetune.video.pack.read import Pack

moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An S3 with an empty bucket `lab`."""
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    found = s3fs.S3FileSystem(use_listings_cache=False)
    found.mkdir("lab")
    yield found
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_place_in_a_store_is_no_path():
    assert is_url("s3://lab/clips.csv")
    assert not is_url("lab/clips.csv")
    data = ft.Data(manifest="s3://lab/clips.csv", packed="here/pack")
    assert (data.manifest, data.packed.name) == ("s3://lab/clips.csv", "pack")
    assert ft.Data.model_validate(data.model_dump(mode="json")) == data


def test_an_object_is_copied_once_and_anew_when_it_has_changed(store):
    store.pipe("lab/deep/clips.csv", b"one")
    local = local_copy("s3://lab/deep/clips.csv")
    assert local.read_bytes() == b"one"
    made = local.stat().st_mtime_ns
    assert local_copy("s3://lab/deep/clips.csv").stat().st_mtime_ns == made
    store.pipe("lab/deep/clips.csv", b"two")
    assert local_copy("s3://lab/deep/clips.csv").read_bytes() == b"two"
    assert {path.name for path in local.parent.iterdir()} == {"clips.csv", ".clips.csv.json"}


@pytest.mark.slow
def test_a_folder_is_copied_by_several_processes_at_once_and_what_is_gone_goes(store, tmp_path):
    for number in range(40):
        store.pipe(f"lab/many/{number}.bin", bytes([number]))
    code = "from finetune.storage.object_store import local_copy; print(len(list(local_copy('s3://lab/many').glob('*.bin'))))"
    programs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [program.communicate(timeout=120)[0].strip() for program in programs] == ["40"] * 3
    store.rm("lab/many/7.bin")
    left = {path.name for path in local_copy("s3://lab/many").glob("*.bin")}
    assert left == {f"{number}.bin" for number in range(40)} - {"7.bin"}
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_no_object_is_written_outside_its_folder(store, tmp_path):
    store.pipe({"lab/bad/one.bin": b"1", "lab/bad/../../../out.bin": b"2"})
    with pytest.raises(DataError, match="'../../../out.bin' would be written outside its folder"):
        local_copy("s3://lab/bad")
    assert not list(tmp_path.rglob("out.bin"))


def test_what_is_not_there_is_said(store):
    with pytest.raises(DataError, match="there is no s3://lab/nothing.csv"):
        local_copy("s3://lab/nothing.csv")
    with pytest.raises(DataError, match="s3://nobody/nothing.csv"):
        local_copy("s3://nobody/nothing.csv")
    with pytest.raises(DataError, match="nowhere://a/b: "):
        local_copy("nowhere://a/b")


@pytest.mark.slow
def test_a_run_reads_manifest_and_pack_from_a_store_where_the_videos_are_not(
    store, clip_folder, tmp_path, finetune, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    copied = tmp_path / "videos"
    copied.mkdir()
    for path in clip_folder.rglob("*.mp4"):
        target = copied / path.parent.name / f"{path.parent.parent.name} {path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert finetune("data", "pack", copied, "--out", "pack", "--short-side", 32)[0] == 0
    store.put("pack", "lab/pack", recursive=True)
    copied.rename(tmp_path / "gone")
    (tmp_path / "pack").rename(tmp_path / "elsewhere")
    (tmp_path / "grey.yaml").write_text(
        "data: {manifest: 's3://lab/pack/manifest.csv', packed: 's3://lab/pack', workers: 2}\n"
        f"clip: {{num_frames: 2, size: 32}}\nmodel: {{backbone: {TINY}, weights: none}}\n"
        "phases: [{unfreeze: head, epochs: 1}]\n"
    )
    status, _, err = finetune("train", "grey.yaml", "--out", "run")
    assert status == 0, err
    assert finetune("evaluate", "run")[0] == 0
    results = json.loads((tmp_path / "run/evaluation/results.json").read_text())
    assert results["protocol"]["decoder"] == "the pack s3://lab/pack"
    assert ft.load_recipe("run/recipe.yaml").data.packed == "s3://lab/pack"
    assert len(Pack("s3://lab/pack").index) == 16
    shard = next((tmp_path / "cache").rglob("*.frames"))
    made = shard.stat().st_mtime_ns
    assert finetune("train", "--resume", "run", "phases.0.epochs=2")[0] == 0
    assert shard.stat().st_mtime_ns == made


def test_without_a_pack_missing_videos_are_an_error(store, tmp_path):
    store.pipe("lab/clips.csv", b"path,label\na.mp4,a\nb.mp4,b\n")
    with pytest.raises(DataError, match="2 of 2 files do not exist"):
        ft.Manifest.from_csv("s3://lab/clips.csv")
