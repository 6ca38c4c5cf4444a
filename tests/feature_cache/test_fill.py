"""Any change that matters misses the cache; filling it alone and together, within limits of space."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from grey import TINY, make_clip

import finetune as ft
import finetune.feature_cache.frozen_part as frozen_part_module
from finetune.errors import RecipeError, RunError, VideoError
from finetune.feature_cache.cache_folder import list_cache_entries, remove_cache_entry
from finetune.feature_cache.cached_clips import CachedClips, open_cached_clips
from finetune.feature_cache.fill import fill_cache
from finetune.feature_cache.frozen_part import cache_key, cut_activations, frozen_part, rounding_error
from finetune.feature_cache.shard_store import MISSING
from finetune.video.dataset import ClipDataset, fixed_draw_of_epoch, fixed_draw_seed
from finetune.video.pack.write import pack
from finetune.video.probe_files import scan_files

CLIP = ft.Clip(num_frames=2, size=32)


@pytest.fixture
def clips(tmp_path):
    for number in range(3):
        make_clip(tmp_path / "clips/train/a" / f"{number}.mp4", 6 + number, start=16 + number)
        make_clip(tmp_path / "clips/train/b" / f"{number}.mp4", 6 + number, start=150 + number)
    return tmp_path / "clips"


def model_of(backbone=TINY, *, seed=0, learns="head", size=32, **settings):
    torch.manual_seed(seed)
    model = ft.build_model(backbone, ["a", "b"], weights="none", num_frames=2, size=size, **settings)
    ft.set_trainable(model, learns)
    return model.eval()


def opened(root, clips, *, model=None, clip=CLIP, augment=None, views=1, drawn=(0, 1), precision="fp32", packed=None):
    model = model or model_of()
    manifest = ft.Manifest.from_folder(clips)
    dataset = ClipDataset(
        manifest,
        "train",
        clip=clip,
        views=1,
        augment=augment or ft.Augment(),
        facts=None if packed else scan_files(manifest),
        packed=packed,
        drawn_views=4,
    )
    frozen = frozen_part(model, clip.num_frames, precision=precision)
    return model, frozen, open_cached_clips(root, cache_key(model, frozen), frozen, dataset, drawn)


def filled(root, clips, **settings):
    model, frozen, kept = opened(root, clips, **settings)
    with kept:
        return fill_cache(model, frozen, kept, ft.Data(workers=0))


def test_a_second_fill_finds_all_of_it(tmp_path, clips):
    assert filled(tmp_path, clips) == 6
    assert filled(tmp_path, clips) == 0


def test_further_draws_are_added_to_those_that_are_there(tmp_path, clips):
    filled(tmp_path, clips, drawn=(0,))
    model, frozen, kept = opened(tmp_path, clips, drawn=(0, 1, 2))
    with kept:
        assert kept.lacking() == 2 * 6
        before = kept.places_NV[:, 0].copy()
        assert fill_cache(model, frozen, kept, ft.Data(workers=0)) == 6
        assert kept.lacking() == 0 and (kept.places_NV[:, 0] == before).all()


def test_other_weights_miss_and_other_heads_do_not(tmp_path, clips):
    filled(tmp_path, clips)
    head = model_of()
    torch.nn.init.normal_(head.heads.state_dict()[next(iter(head.heads.state_dict()))])
    assert filled(tmp_path, clips, model=head) == 0
    assert filled(tmp_path, clips, model=model_of(seed=1)) == 6
    for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d):
        changed = model_of()
        layer = next(module for module in changed.backbone.net.modules() if isinstance(module, kind))
        buffer = layer.weight if kind is torch.nn.Conv2d else layer.running_mean
        buffer.data[(0,) * buffer.ndim] += 1e-3
        assert filled(tmp_path, clips, model=changed) == 6, kind


def test_of_a_cut_what_learns_behind_it_does_not_matter(tmp_path, clips):
    assert filled(tmp_path, clips, model=model_of(learns="layer4")) == 6
    changed = model_of(learns="layer4")
    changed.backbone.net.layer4[0].conv1.weight.data += 1.0
    assert filled(tmp_path, clips, model=changed) == 0
    changed.backbone.net.layer3[0].conv1.weight.data += 1.0
    assert filled(tmp_path, clips, model=changed) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"clip": CLIP.model_copy(update={"sampling": "uniform"})},
        {"clip": CLIP.model_copy(update={"fit": "squash"})},
        {"clip": CLIP.model_copy(update={"num_frames": 3})},
        {"clip": CLIP.model_copy(update={"sampling": "dense", "frame_stride": 2})},
        {"clip": CLIP.model_copy(update={"short_clips": "loop"})},
        {"augment": ft.Augment(flip=False)},
        {"augment": ft.Augment(preset="strong")},
        {"augment": ft.Augment(color_jitter=0.3)},
        {"augment": ft.Augment(speed=(0.9, 1.1))},
        {"augment": ft.Augment(frame_dropout=0.2)},
        {"augment": ft.Augment(rotate=5)},
        {"augment": ft.Augment(blur=0.2)},
        {"augment": ft.Augment(random_erasing=0.2)},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_other_clips_miss(tmp_path, clips, change):
    filled(tmp_path, clips)
    assert filled(tmp_path, clips, **change) == 6


def test_what_is_mixed_or_how_many_draws_there_are_does_not_matter(tmp_path, clips):
    filled(tmp_path, clips)
    assert filled(tmp_path, clips, augment=ft.Augment(mixup=0.4, cached_views=8)) == 0


def test_another_size_architecture_fusion_or_cut_misses(tmp_path, clips):
    filled(tmp_path, clips)
    assert filled(tmp_path, clips, model=model_of(size=64), clip=CLIP.model_copy(update={"size": 64})) == 6
    assert filled(tmp_path, clips, model=model_of(learns="layer4")) == 6
    assert filled(tmp_path, clips, model=model_of(learns="layer3")) == 6
    assert filled(tmp_path, clips, model=model_of("mobilenetv3_small_050")) == 6
    basis = cache_key(model := model_of(), frozen_part(model, 2, precision="fp32"))
    model.settings = model.settings.model_copy(update={"fusion": "tsm"})
    assert cache_key(model, frozen_part(model, 2, precision="fp32")) != basis


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm", "av", "opencv-python-headless", "numpy"])
def test_another_version_of_a_library_misses(tmp_path, clips, package, monkeypatch):
    filled(tmp_path, clips)
    versions = frozen_part_module.package_versions
    monkeypatch.setattr(frozen_part_module, "package_versions", lambda names: {**versions(names), package: "another"})
    assert filled(tmp_path, clips) == 6
    monkeypatch.undo()
    assert filled(tmp_path, clips) == 0


def test_a_compiled_network_misses(tmp_path, clips):
    filled(tmp_path, clips)
    compiled = model_of()
    basis = cache_key(compiled, frozen_part(compiled, 2, precision="fp32"))
    compiled.backbone.net._compiled_call_impl = compiled.backbone.net.forward
    assert cache_key(compiled, frozen_part(compiled, 2, precision="fp32")) != basis


def test_another_kind_of_processor_misses(tmp_path, clips, monkeypatch):
    filled(tmp_path, clips)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    assert filled(tmp_path, clips) == 6


def test_a_file_that_is_another_misses_alone(tmp_path, clips):
    filled(tmp_path, clips)
    path = clips / "train/a/0.mp4"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert filled(tmp_path, clips) == 1
    make_clip(path, 9, start=99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert filled(tmp_path, clips) == 1
    shutil.copytree(clips, tmp_path / "elsewhere", copy_function=shutil.copy2)
    assert filled(tmp_path, tmp_path / "elsewhere") == 6


def test_further_clips_are_computed_alone(tmp_path, clips):
    filled(tmp_path, clips)
    make_clip(clips / "train/a" / "01.mp4", 8, start=70)
    assert filled(tmp_path, clips) == 1


def test_draws_of_evaluation_are_told_apart_by_how_many_there_are(tmp_path, clips):
    manifest, model = ft.Manifest.from_folder(clips), model_of()
    frozen = frozen_part(model, 2, precision="fp32")
    for views, rows in ((1, 6), (3, 6), (3, 0), (1, 0)):
        dataset = ClipDataset(manifest, "train", clip=CLIP, views=views)
        with open_cached_clips(tmp_path, cache_key(model, frozen), frozen, dataset) as kept:
            assert kept.keys_NV.shape == (6, views)
            assert fill_cache(model, frozen, kept, ft.Data(workers=0)) == rows


def test_frames_of_a_pack_are_others_and_its_videos_need_not_be_there(tmp_path, clips):
    filled(tmp_path, clips)
    pack(ft.Manifest.from_folder(clips), tmp_path / "pack", short_side=48)
    assert filled(tmp_path, clips, packed=tmp_path / "pack") == 6
    assert filled(tmp_path, clips, packed=tmp_path / "pack") == 0


def test_two_processes_each_fill_their_share(tmp_path, clips):
    model, frozen, one = opened(tmp_path, clips)
    _, _, two = opened(tmp_path, clips)
    with one, two:
        assert fill_cache(model, frozen, one, ft.Data(workers=0), share=(0, 2)) == 3
        assert one.lacking() == 6
        assert fill_cache(model, frozen, two, ft.Data(workers=0), share=(1, 2)) == 3
        one.refresh()
        assert one.lacking() == 0


def test_a_fill_that_was_interrupted_goes_on(tmp_path, clips):
    model, frozen, kept = opened(tmp_path, clips)

    def stop(done, rows):
        if done == 4:
            raise KeyboardInterrupt

    with kept, pytest.raises(KeyboardInterrupt):
        fill_cache(model, frozen, kept, ft.Data(workers=0), watch=stop)
    assert filled(tmp_path, clips) == 2


def test_a_file_that_has_gone_bad_is_left_out_and_said(tmp_path, clips):
    model, frozen, kept = opened(tmp_path, clips)
    path = clips / "train/a/0.mp4"
    path.write_bytes(path.read_bytes()[:600])
    with kept:
        fill_cache(model, frozen, kept, ft.Data(workers=0))
        assert list(kept.failed) == [0] and str(path) in kept.failed[0]
        assert not len(kept.missing()) and (kept.places_NV["shard"][0] == MISSING).all()


def test_what_is_kept_is_what_each_draw_gives(tmp_path, clips):
    model, frozen, kept = opened(tmp_path, clips, drawn=(0, 1, 2, 3))
    with kept:
        fill_cache(model, frozen, kept, ft.Data(workers=0))
        for epoch in (1, 2, 4):
            for position in range(6):
                clip = kept.dataset[epoch, position]["clips"]
                place = kept.places_NV[position, [fixed_draw_of_epoch(epoch, 4)]]
                assert torch.equal(kept.store.read(place), cut_activations(model, clip, frozen))


def test_draws_of_a_file_differ_and_follow_from_its_name(tmp_path):
    draws = {fixed_draw_seed(tmp_path / "a" / name, view) for name in ("0.mp4", "1.mp4") for view in range(8)}
    assert len(draws) == 16
    assert fixed_draw_seed(tmp_path / "a/0.mp4", 3) == fixed_draw_seed(tmp_path / "else/a/0.mp4", 3)
    assert [fixed_draw_of_epoch(epoch, 3) for epoch in range(1, 6)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(("storage_dtype", "most"), [("fp32", 0.0), ("fp16", 5e-4), ("bf16", 4e-3)])
def test_rounding_errs_by_no_more_than_half_a_last_digit(storage_dtype, most):
    model = model_of()
    frozen = frozen_part(model, 2, precision="fp32", storage_dtype=storage_dtype)
    assert frozen.storage_dtype == storage_dtype
    clips = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    error = rounding_error(model, clips, frozen)
    assert error <= most and (error > 0) == (storage_dtype != "fp32")


def test_what_is_computed_in_16_bits_is_kept_as_it_is():
    model = model_of(learns="layer4")
    frozen = frozen_part(model, 2, precision="bf16")
    assert frozen.storage_dtype == "bf16" and frozen.cut.dtype == torch.bfloat16
    clips = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    assert rounding_error(model, clips, frozen) == 0.0


def test_numbers_that_do_not_fit_become_the_largest_that_does():
    model = model_of()
    frozen = frozen_part(model, 2, precision="fp32")
    clips = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    for layer in model.backbone.net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data *= 1e4
    exact, kept = (
        cut_activations(model, clips, replace(frozen, storage_dtype="fp32")),
        cut_activations(model, clips, frozen),
    )
    assert exact.max() > 65504 and kept.max() == 65504 and kept.isfinite().all()
    assert rounding_error(model, clips, frozen) > 0.1


def test_what_is_not_a_number_stays_so():
    numbers = torch.tensor([float("nan"), 1.0])
    assert frozen_part_module._to_dtype(numbers, torch.float16).isnan().tolist() == [True, False]


def fit(clips, out, root, **train):
    torch.manual_seed(0)
    manifest = ft.Manifest.from_folder(clips, val=0.0, test=0.0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = {"batch_size": 2, "cache_dir": root, "cache": "features", "precision": "fp32"} | train
    phases = [ft.Phase(unfreeze="head", epochs=3)]
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=ft.Train(**settings), out=out, quiet=True)


def told(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[0])["cache"]


def test_what_does_not_fit_the_budget_is_computed_in_each_epoch(tmp_path, clips):
    run = fit(clips, tmp_path / "run", tmp_path / "kept", cache_budget_gb=1e-9)
    assert told(run)["kept"] is False and "train.cache_budget_gb is 1e-09" in told(run)["words"]
    assert not list((tmp_path / "kept").rglob("*.shard"))


def test_a_disk_that_has_no_room_is_left_alone(tmp_path, clips, monkeypatch):
    monkeypatch.setattr("finetune.feature_cache.cache_folder.RESERVED_DISK_BYTES", 1e18)
    run = fit(clips, tmp_path / "run", tmp_path / "kept")
    assert told(run)["kept"] is False and "has only 0 B to spare" in told(run)["words"]


def test_a_disk_that_fills_up_ends_the_keeping_and_not_the_run(tmp_path, clips, monkeypatch):
    def full(self):
        raise RunError("no space left")

    monkeypatch.setattr("finetune.feature_cache.shard_store.ShardWriter.write", full)
    run = fit(clips, tmp_path / "run", tmp_path / "kept")
    assert told(run) == {
        "entry": "features",
        "kept": False,
        "words": "Not cached: no space left",
    }


@pytest.mark.slow
def test_what_is_kept_is_used_though_a_file_is_bad(tmp_path, clips, monkeypatch):
    read = ClipDataset._clips
    monkeypatch.setattr(ClipDataset, "_clips", lambda self, epoch, row: _bad_row_1(read, self, epoch, row))
    first = fit(clips, tmp_path / "run", tmp_path / "kept", cache="auto")
    kept = fit(clips, tmp_path / "kept run", tmp_path / "kept", cache="features")
    again = fit(clips, tmp_path / "again", tmp_path / "kept", cache="auto")
    assert [told(run)["kept"] for run in (first, kept, again)] == [False, True, True]
    lines = [(run / "metrics.jsonl").read_text() for run in (first, again)]
    assert json.loads(lines[0].splitlines()[-1])["train_loss"] == json.loads(lines[1].splitlines()[-1])["train_loss"]


def _bad_row_1(read, dataset, epoch, row):
    if row == 1:
        raise VideoError(f"{dataset.manifest.path(row)}: is damaged")
    return read(dataset, epoch, row)


def test_draws_that_can_be_read_are_kept_of_a_file_with_a_bad_one(tmp_path, clips, monkeypatch):
    read = ClipDataset._clips

    def one_draw_fails(self, epoch, row):
        if row == 1 and 1 in (self.item_draws or ()):
            raise VideoError(f"{self.manifest.path(row)}: is damaged in the middle")
        return read(self, epoch, row)

    monkeypatch.setattr(ClipDataset, "_clips", one_draw_fails)
    model, frozen, kept = opened(tmp_path, clips, drawn=(0, 1, 2))
    with kept:
        fill_cache(model, frozen, kept, ft.Data(workers=0))
        assert list(kept.failed) == [1]
        assert (kept.places_NV["shard"][1] == MISSING).tolist() == [False, True, False]
        assert kept.lacking() == 1


def test_a_file_that_has_gone_since_is_left_out(tmp_path, clips, monkeypatch):
    stamp = ClipDataset.stamp

    def gone(self, row):
        if row == 2:
            raise FileNotFoundError(2, "No such file or directory")
        return stamp(self, row)

    monkeypatch.setattr(ClipDataset, "stamp", gone)
    model, frozen, kept = opened(tmp_path, clips)
    with kept:
        assert fill_cache(model, frozen, kept, ft.Data(workers=0)) == 5
        assert "No such file" in kept.failed[2]


def test_older_sets_give_way_to_a_run(tmp_path, clips):
    root = tmp_path / "kept"
    filled(root, clips, model=model_of(seed=5))
    before = list_cache_entries(root)[0]
    fit(clips, tmp_path / "run", root, cache_budget_gb=(before.size_bytes + 4000) / 1e9)
    assert before.folder not in [each.folder for each in list_cache_entries(root)]


@pytest.mark.parametrize("cache", ["auto", "features"])
def test_a_cache_folder_that_cannot_be_used_is_said_and_the_run_goes_on(tmp_path, clips, cache):
    (tmp_path / "file").write_text("")
    run = fit(clips, tmp_path / "run", tmp_path / "file", cache=cache)
    assert told(run)["kept"] is False and "set train.cache_dir" in told(run)["words"]


def test_cutmix_and_what_is_kept_do_not_go_together(tmp_path, clips):
    manifest = ft.Manifest.from_folder(clips, val=0.0, test=0.0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    arguments = {"clip": ft.Clip(num_frames=2), "augment": ft.Augment(cutmix=1.0), "quiet": True}
    with pytest.raises(RecipeError, match="augment.cutmix needs new pixels of each clip"):
        ft.fit(model, manifest, [ft.Phase()], train=ft.Train(cache="features"), out=tmp_path / "a", **arguments)
    phases = [ft.Phase(unfreeze="head", epochs=1)]
    run = ft.fit(model, manifest, phases, train=ft.Train(cache_dir=tmp_path / "k"), out=tmp_path / "b", **arguments)
    assert "cache" not in json.loads((run / "metrics.jsonl").read_text())


def test_a_file_that_goes_bad_in_a_run_is_listed(tmp_path, clips, monkeypatch):
    read = ClipDataset._clips
    monkeypatch.setattr(ClipDataset, "_clips", lambda self, epoch, row: _bad_row_1(read, self, epoch, row))
    run = fit(clips, tmp_path / "run", tmp_path / "kept")
    skipped = json.loads((run / "skipped.json").read_text())
    assert [each["path"].endswith("a/1.mp4") for each in skipped] == [True]
    assert told(run)["kept"] is True


def test_a_run_lets_go_of_what_it_used(tmp_path, clips):
    fit(clips, tmp_path / "run", tmp_path / "kept")
    assert all(remove_cache_entry(each.folder) for each in list_cache_entries(tmp_path / "kept"))


def test_keys_do_not_depend_on_the_order_of_rows(tmp_path, clips):
    _, _, kept = opened(tmp_path, clips)
    with kept:
        order = np.array([5, 0, 3])
        some = kept.dataset.with_rows_and_draws(order)
        assert (CachedClips(some, kept.store, kept.views).keys_NV == kept.keys_NV[order]).all()
