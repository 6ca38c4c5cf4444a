"""Features are what the head is given, the same whoever asks, and computed once."""

import shutil

import numpy as np
import pytest
import torch
from grey import make_clip

import finetune as ft
from finetune.labelling import clip_features as module
from finetune.labelling.clip_features import ClipFeatures, clip_features, unlabelled_clips
from finetune.run.folder import RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run
from finetune.video.row_loader import evaluation_loader


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy that may be written into."""
    return open_run(shutil.copytree(trained_run, tmp_path / "run"))


def test_the_head_gives_the_probabilities_of_the_run_on_them(run):
    rows = saved_manifest(run)
    found = clip_features(run, rows)
    assert found.names == tuple(rows.clip_name(row) for row in range(len(rows)))
    model = ft.load(run)
    with torch.inference_mode():
        probs = model.heads[model.primary](torch.from_numpy(found.features_ND)).softmax(1).numpy()
    np.testing.assert_allclose(probs, found.probs_NK, atol=1e-4)
    predictions = ft.predict(run, [rows.path(3)])
    assert predictions[0].top_k[0][1] == pytest.approx(found.probs_NK[3].max(), abs=1e-4)


def test_only_new_clips_are_computed(run, tmp_path, monkeypatch):
    rows = saved_manifest(run)
    first = clip_features(run, rows.for_split("val"))
    assert len(list(RunFolder(run.folder).features.iterdir())) == 1
    computed = []

    def counting(manifest, *args, **options):
        computed.extend(manifest.paths.tolist())
        return evaluation_loader(manifest, *args, **options)

    monkeypatch.setattr(module, "evaluation_loader", counting)
    both = clip_features(run, rows)
    assert len(computed) == len(rows) - len(first.names)
    place = both.names.index(first.names[0])
    np.testing.assert_array_equal(both.features_ND[place], first.features_ND[0])
    clip_features(run, rows)
    assert len(computed) == len(rows) - len(first.names)
    new = tmp_path / "new.mp4"
    make_clip(new, 7, start=20, step=2)
    clip_features(run, unlabelled_clips(run, [new]))
    make_clip(new, 9, start=200, step=2)
    clip_features(run, unlabelled_clips(run, [new]))
    assert len(computed) == len(rows) - len(first.names) + 2, "a file that changed is computed again"


def test_a_pass_that_is_stopped_goes_on_where_it_was(run, monkeypatch):
    rows, calls = saved_manifest(run), []
    monkeypatch.setattr(module, "SAVED_AT_ONCE", 6)

    def stop(done, total):
        calls.append((done, total))
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clip_features(run, rows, progress=stop)
    clip_features(run, rows, progress=lambda done, total: calls.append((done, total)))
    assert calls[7:9] == [(8, 16), (1, 10)]


def test_files_that_cannot_be_read_are_told_and_a_damaged_cache_is_written_again(run, tmp_path):
    make_clip(tmp_path / "good.mp4", 7, start=20, step=2)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    clips = unlabelled_clips(run, [tmp_path / "bad.mp4", tmp_path / "good.mp4"])
    found = clip_features(run, clips)
    assert found.names == (str(tmp_path / "good.mp4"),)
    assert list(found.failed) == [str(tmp_path / "bad.mp4")]
    (file,) = RunFolder(run.folder).features.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(clip_features(run, clips).features_ND, found.features_ND)


def test_the_nearest_clips_come_first_without_the_clip_itself():
    features = np.array([[1.0, 0], [0, 1], [2, 0.1], [0, 0]], dtype=np.float32)
    clips = ClipFeatures(("a", "b", "c", "d"), features, np.zeros((4, 2)), {})
    assert [row for row, _ in clips.nearest(0, 2)] == [2, 1]
    assert clips.nearest(0, 1)[0][1] == pytest.approx(0.99875, abs=1e-4)
    assert len(clips.nearest(0, 10)) == 3
