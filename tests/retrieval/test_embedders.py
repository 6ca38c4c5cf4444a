"""Vectors have length 1, are the same by every way, and those of a run are what its head is given."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from grey import TINY, make_clip

from finetune.data.rows_without_labels import rows_without_labels
from finetune.errors import IndexFolderError, RecipeError, VideoError
from finetune.labelling.clip_features import clip_features
from finetune.recipe.load import load_recipe
from finetune.retrieval.backbone_embedder import BackboneEmbedder
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.open_embedder import open_embedder
from finetune.retrieval.run_embedder import RunEmbedder
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run
from finetune.vector_index.entry import EmbeddingSource

SETTINGS = [f"model.backbone={TINY}", "model.weights=none", "clip.num_frames=4", "clip.size=32", "train.precision=fp32"]


def backbone(*overrides):
    return BackboneEmbedder(load_recipe("folder", [*SETTINGS, "model.temporal=mean", *overrides]))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("recording") / "recording.mp4", 60, step=3)


def vectors_of(embedder, clips, rows=None):
    embedded = sorted(embedder.embed(clips, rows))
    assert all(reason is None for _, _, reason in embedded), embedded
    return np.stack([vector_D for _, vector_D, _ in embedded])


@pytest.mark.parametrize("kind", ["run", "mean", "concat"])
def test_a_window_has_the_vector_of_the_row_with_its_times(kind, trained_run, recording, tmp_path):
    of_backbone = ["train.cache=off", "train.cache_dtype=fp32", f"model.temporal={kind}"]
    embedder = RunEmbedder(open_run(trained_run)) if kind == "run" else backbone(*of_backbone)
    windows = list(embedder.embed_windows(recording, WindowLengths(0.64, 0.16)))
    assert len(windows) > 8
    assert windows[-1].end == pytest.approx(2.4)
    clips = rows_without_labels(tmp_path / "rows", [recording] * len(windows), [window[:2] for window in windows])
    expected_ND = vectors_of(embedder, clips)
    np.testing.assert_allclose(np.stack([window.vector_D for window in windows]), expected_ND, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected_ND, axis=1), 1, atol=1e-6)
    assert expected_ND.shape[1] == embedder.source.dim
    rest = list(embedder.embed_windows(recording, WindowLengths(0.64, 0.16), first_window=5))
    assert [window[:2] for window in rest] == [window[:2] for window in windows[5:]]
    assert not list(embedder.embed_windows(recording, WindowLengths(0.64, 0.16), first_window=99))


def test_the_vectors_of_a_run_are_its_features_before_the_head(trained_run, tmp_path):
    run = open_run(shutil.copytree(trained_run, tmp_path / "run"))  # features are kept in it
    rows = replace(saved_manifest(run), source=tmp_path / "rows.csv")
    features_ND = clip_features(run, rows).features_ND
    embedder = RunEmbedder(run)
    expected_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors_of(embedder, rows), expected_ND, atol=1e-6)
    some = np.array([3, 11])
    np.testing.assert_allclose(vectors_of(embedder, rows, some), expected_ND[some], atol=1e-6)


def test_frames_in_order_tell_a_clip_from_its_reverse_and_their_mean_does_not(tmp_path):
    levels = {"up.mp4": {"start": 10, "step": 70}, "down.mp4": {"start": 220, "step": -70}}
    clips = [make_clip(tmp_path / name, 4, **level) for name, level in levels.items()]
    rows = rows_without_labels(tmp_path / "rows", clips)
    mean, ordered = (vectors_of(backbone(f"model.temporal={kind}"), rows) for kind in ("mean", "concat"))
    of_mean, of_ordered = (1 - float(first @ second) for first, second in (mean, ordered))
    assert of_ordered > 5 * max(of_mean, 1e-6), "only compression differs in the mean"


def test_features_in_the_cache_are_read_again_also_by_another_pooling(tmp_path, monkeypatch):
    rows = rows_without_labels(tmp_path / "rows", [make_clip(tmp_path / f"{n}.mp4", 8, start=20 * n) for n in range(3)])
    cache = f"train.cache_dir={tmp_path / 'cache'}"
    vectors_of(backbone(cache), rows)

    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr("finetune.feature_cache.fill.cut_activations", fail)
    assert vectors_of(backbone(cache, "model.temporal=concat"), rows).shape[1] == 4 * 96


def test_files_that_cannot_be_read_have_a_reason(trained_run, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    rows = rows_without_labels(tmp_path / "rows", [tmp_path / "bad.mp4", make_clip(tmp_path / "good.mp4", 6)])
    for embedder in (RunEmbedder(open_run(trained_run)), backbone()):
        (bad, good) = sorted(embedder.embed(rows), key=lambda embedded: embedded.row)
        assert bad.vector_D is None
        assert bad.reason.startswith(f"{tmp_path / 'bad.mp4'}: ")
        assert good.reason is None
        with pytest.raises(VideoError, match=r"bad\.mp4: "):
            list(embedder.embed_windows(tmp_path / "bad.mp4", WindowLengths(1)))


def test_an_embedder_is_opened_again_by_its_source_unless_weights_have_changed(trained_run):
    for embedder in (RunEmbedder(open_run(trained_run)), backbone("model.temporal=concat", "seed=3")):
        assert open_embedder(embedder.source).source == embedder.source
        with pytest.raises(IndexFolderError, match="its weights have changed since the index was made"):
            open_embedder(replace(embedder.source, weights="0" * 64))
    with pytest.raises(IndexFolderError, match="a run that cannot be opened: nowhere: there is no such folder"):
        open_embedder(replace(RunEmbedder(open_run(trained_run)).source, name="nowhere"))


@pytest.mark.parametrize("kind", ["backbone", "text"])
@pytest.mark.parametrize("settings", [{}, {"clip": {"num_frames": "x"}, "model": {}}, {"clip": {}, "model": []}])
def test_damaged_settings_of_an_index_are_a_plain_error(kind, settings):
    with pytest.raises(IndexFolderError, match="the settings of the model that made the index are damaged"):
        open_embedder(EmbeddingSource(kind, "resnet18", "0" * 64, 8, settings))


def test_poolings_that_must_be_trained_are_refused():
    with pytest.raises(RecipeError, match="model.temporal=gru has weights that must be trained; for frozen features"):
        backbone("model.temporal=gru")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["mean", "concat"])
def test_windows_of_a_real_video_have_the_vectors_of_rows(temporal, real, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_WEIGHTS", str(real / "weights"))
    settings = ["model.backbone=mobilenetv2_100", f"model.temporal={temporal}", "clip.num_frames=4"]
    video = min((real / "data" / "yoga_poses").rglob("*.mp4"))
    for dtype, tolerance in (("fp32", 1e-5), ("auto", 2e-3)):
        cache = ["train.cache=off", f"train.cache_dtype={dtype}", "train.precision=fp32"]
        embedder = BackboneEmbedder(load_recipe("folder", [*settings, *cache]))
        windows = list(embedder.embed_windows(video, WindowLengths(3, 3)))
        clips = rows_without_labels(tmp_path / dtype, [video] * len(windows), [window[:2] for window in windows])
        np.testing.assert_allclose(
            np.stack([window.vector_D for window in windows]), vectors_of(embedder, clips), atol=tolerance
        )
