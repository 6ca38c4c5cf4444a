import json
import multiprocessing

import pytest
import torch
from grey import TINY, make_clip
from safetensors.torch import load_file

import finetune as ft
from finetune.errors import DataError, FinetuneError, RecipeError, RunError
from finetune.model.freezing.freeze import trainable_stages
from finetune.train.position import Tally, time_batches
from finetune.train.setup import preflight

HEAD_ONCE = (ft.Phase(unfreeze="head", epochs=1, lr=1e-2),)


def fit(manifest, out, *, phases=HEAD_ONCE, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = {"clip": ft.Clip(num_frames=2), "train": ft.Train(batch_size=3), **kwargs}
    return ft.fit(model, manifest, phases, out=out, quiet=True, seed=seed, **settings)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def test_a_run_folder_holds_what_a_run_is(trained_run):
    names = {path.relative_to(trained_run).as_posix() for path in trained_run.rglob("*") if path.is_file()}
    assert names >= {
        *("recipe.yaml", "manifest.csv", "classes.json", "environment.json", "metrics.jsonl", "skipped.json"),
        *(f"checkpoints/{which}/{file}" for which in ("last", "best") for file in ("model.safetensors", "meta.json")),
    }
    assert any(name.startswith("tensorboard/") for name in names)
    assert not any("partial" in name for name in names)
    assert json.loads((trained_run / "classes.json").read_text()) == ["dark ones", "it's bright"]


def test_each_epoch_is_recorded_with_what_learned_and_at_which_rate(trained_run):
    found = records(trained_run)
    assert [record["epoch"] for record in found] == [1, 2, 3, 4]
    assert [record["phase"] for record in found] == [0, 0, 1, 2]
    assert [record["train"] for record in found] == ["head", "head", "layer4", "all"]
    assert found[2]["learning"] == ["layer4", "temporal", "head"]
    assert found[2]["lr"]["layer3"] == 0 < found[2]["lr"]["layer4"]
    rates = found[3]["lr"]
    assert rates["stem"] == pytest.approx(rates["head"] * 0.5**5)
    assert all(0 <= record["val_top1"] <= 1 and record["val_loss"] > 0 for record in found)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "boundary"])
def test_every_phase_computes_in_the_precision_that_is_set(manifest, tmp_path, cache):
    noted = []
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)

    def note(*_):
        # Training and validation; what is only run to measure the network has neither gradients nor inference mode.
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            noted.append((len(trainable_stages(model)), torch.is_autocast_enabled("cpu")))

    model.heads.register_forward_pre_hook(note)
    phases = [*HEAD_ONCE, ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3), ft.Phase(unfreeze="all", epochs=1, lr=1e-3)]
    train = ft.Train(batch_size=3, precision="bf16", cache=cache)
    ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=2), train=train, out=tmp_path / "run", quiet=True)
    assert len({learning for learning, _ in noted}) == 3 and all(in_bf16 for _, in_bf16 in noted)


def test_dark_and_bright_are_learnt(trained_run):
    assert max(record["val_top1"] for record in records(trained_run)) == 1.0


def test_a_recipe_of_the_run_reads_back(trained_run):
    recipe = ft.load_recipe(str(trained_run / "recipe.yaml"))
    assert recipe.clip.size == 32
    assert recipe.model.backbone == TINY
    assert len(recipe.phases) == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(manifest, tmp_path):
    phases = (ft.Phase(unfreeze="head", epochs=1, lr=1e-2), ft.Phase(unfreeze="all", epochs=1, lr=1e-3))
    one, two, other = (
        load_file(fit(manifest, tmp_path / name, phases=phases, seed=seed) / "checkpoints/last/model.safetensors")
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_head_phase_leaves_the_backbone_as_it_was(manifest, tmp_path):
    torch.manual_seed(0)
    start = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32).state_dict()
    end = load_file(fit(manifest, tmp_path / "run") / "checkpoints/last/model.safetensors")
    changed = {name for name in end if not torch.equal(start[name], end[name])}
    assert changed == {name for name in end if name.startswith("heads.")}


def test_without_a_val_split_the_last_epoch_is_the_best(tmp_path):
    for name, start in (("a", 16), ("b", 200)):
        make_clip(tmp_path / "data/train" / name / "0.mp4", start=start, step=1)
    phases = (ft.Phase(unfreeze="head", epochs=3, lr=1e-2),)
    run = fit(ft.Manifest.from_folder(tmp_path / "data"), tmp_path / "run", phases=phases)
    assert json.loads((run / "checkpoints/best/meta.json").read_text())["epoch"] == 3
    assert records(run)[0]["val_top1"] is None


def test_bad_files_are_all_named_before_anything_is_written(tmp_path):
    for name in ("a", "b"):
        make_clip(tmp_path / "data/train" / name / "0.mp4")
        (tmp_path / "data/train" / name / "bad.mp4").write_text("no video")
    manifest = ft.Manifest.from_folder(tmp_path / "data")
    with pytest.raises(DataError, match=r"(?s)a/bad.mp4: is no.*b/bad.mp4: is no.*2 of 4 files.*data.on_error=skip"):
        fit(manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = fit(manifest, tmp_path / "run", data=ft.Data(workers=0, on_error="skip"))
    skipped = json.loads((run / "skipped.json").read_text())
    assert [item["path"].rpartition("data/")[2] for item in skipped] == ["train/a/bad.mp4", "train/b/bad.mp4"]


def test_skipping_all_files_of_a_class_is_refused(tmp_path):
    make_clip(tmp_path / "data/train/a/0.mp4")
    (tmp_path / "data/train/b").mkdir()
    (tmp_path / "data/train/b/bad.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="no readable training video of b"):
        fit(ft.Manifest.from_folder(tmp_path / "data"), tmp_path / "run", data=ft.Data(workers=0, on_error="skip"))


def test_stages_that_are_not_there_are_all_said(manifest, tmp_path):
    phases = [ft.Phase(unfreeze="layer9"), ft.Phase(unfreeze=["stem", "neck"])]
    with pytest.raises(
        RecipeError, match=r"(?s)phases.0.unfreeze: unknown stage 'layer9'.*phases.1.unfreeze: .*'neck'"
    ):
        fit(manifest, tmp_path / "run", phases=phases)


def test_a_folder_that_holds_something_is_not_overwritten(manifest, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        fit(manifest, tmp_path)


def test_a_full_disk_is_said_before_training(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(RunError, match="needs about .* MB, but the disk has 1 MB free"):
        fit(manifest, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_clips(manifest, tmp_path):
    phases = (ft.Phase(unfreeze="all", epochs=3, lr=1e30),)
    with pytest.raises(FinetuneError, match=r"(?s)the loss is (nan|inf), or its gradient is not finite; start.*\.mp4"):
        fit(manifest, tmp_path / "run", phases=phases, train=ft.Train(batch_size=2, optimizer="sgd", warmup=0))


@pytest.mark.slow
def test_a_run_that_fails_ends_its_loading_processes(manifest, tmp_path):
    before = set(multiprocessing.active_children())
    phases = (ft.Phase(unfreeze="all", epochs=3, lr=1e30),)
    with pytest.raises(FinetuneError, match="the loss is") as raised:
        fit(
            manifest,
            tmp_path / "run",
            phases=phases,
            train=ft.Train(batch_size=2, optimizer="sgd", warmup=0),
            data=ft.Data(workers=2),
        )
    assert raised.tb is not None  # what it failed in is still held
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.slow
def test_a_phase_can_be_so_many_steps(manifest, tmp_path):
    rows = len(manifest.rows("train"))
    batches = -(-rows // 3)
    phases = (ft.Phase(unfreeze="head", steps=batches + 1, lr=1e-2), ft.Phase(unfreeze="all", steps=1))
    found = records(fit(manifest, tmp_path / "run", phases=phases))
    clips = [round(each["clips_per_second"] * (each["seconds"]["data"] + each["seconds"]["compute"])) for each in found]
    assert [record["phase"] for record in found] == [0, 0, 1]
    assert clips == [rows, 3, 3]


def test_no_more_batches_are_read_than_are_trained_on():
    read, tally = [], Tally()

    def loader():
        for number in range(5):
            read.append(number)
            yield {"row": number}

    assert [batch["row"] for batch in time_batches(loader(), tally, 2)] == [0, 1] == read
    assert all(tally.seconds[part] > 0 for part in ("data", "compute"))


@pytest.mark.slow
def test_the_weights_before_the_backbone_first_learns_are_kept(manifest, tmp_path):
    phases = (ft.Phase(unfreeze="head", epochs=1, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=1), ft.Phase(epochs=1))
    run = fit(manifest, tmp_path / "run", phases=phases)
    start, last = (load_file(run / f"checkpoints/{which}/model.safetensors") for which in ("start", "last"))
    torch.manual_seed(0)
    new = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32).state_dict()
    assert {name for name in new if not torch.equal(new[name], start[name])} == {n for n in new if "heads." in n}
    assert not torch.equal(start["backbone.net.layer4.0.conv2.weight"], last["backbone.net.layer4.0.conv2.weight"])


@pytest.mark.slow
def test_a_run_by_the_name_of_a_schedule_writes_its_phases_out(manifest, tmp_path):
    run = fit(manifest, tmp_path / "run", phases=ft.Schedule(schedule="lp_ft", epochs=2))
    written = ft.load_recipe(str(run / "recipe.yaml"))
    assert [phase.unfreeze for phase in written.phases] == ["head", "all"]
    assert [record["train"] for record in records(run)] == ["head", "all"]


TWO_PHASES = (ft.Phase(unfreeze="layer4", epochs=1), ft.Phase(unfreeze="layer4", epochs=1))


def weights(run):
    return load_file(run / "checkpoints/last/model.safetensors")


def differ(one, two):
    return any(not torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def plain(manifest, tmp_path_factory):
    """The weights after two phases without any further settings."""
    return weights(fit(manifest, tmp_path_factory.mktemp("plain") / "run", phases=TWO_PHASES))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"keep_optimizer_state": False},
        {"l2_sp": 10.0},
        {"optimizer": "sgd"},
        {"schedule": "linear", "warmup": 0},
        {"weight_decay": 5.0},
        {"stage_lr": {"layer4": 0.0001}},
        {"backbone_lr_scale": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_of_a_phase_changes_what_is_learnt(manifest, plain, tmp_path, change):
    phases = (TWO_PHASES[0], ft.Phase(unfreeze="layer4", epochs=1, **change))
    assert differ(plain, weights(fit(manifest, tmp_path / "run", phases=phases)))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"ema": 0.9}, {"schedule_over": "run"}, {"optimizer": "lion"}], ids=str)
def test_each_setting_of_training_changes_what_is_kept(manifest, plain, tmp_path, change):
    train = ft.Train(batch_size=3, **change)
    assert differ(plain, weights(fit(manifest, tmp_path / "run", phases=TWO_PHASES, train=train)))


@pytest.mark.slow
def test_a_strong_anchor_holds_the_backbone_and_not_the_head(manifest, tmp_path):
    def distances(anchor):
        phases = (ft.Phase(unfreeze="all", epochs=6, lr=1e-2, l2_sp=anchor, optimizer="sgd"),)
        train = ft.Train(batch_size=3, head_start="random")
        run = fit(manifest, tmp_path / f"{anchor:g}", phases=phases, train=train)
        start, end = (load_file(run / f"checkpoints/{which}/model.safetensors") for which in ("start", "last"))
        floats = [name for name in start if start[name].is_floating_point() and "running" not in name]
        return {
            part: sum(float((start[name] - end[name]).square().sum()) for name in floats if name.startswith(part))
            for part in ("backbone", "heads")
        }

    free, held = distances(0.0), distances(20.0)
    assert held["backbone"] < free["backbone"] / 2
    assert held["heads"] > held["backbone"]


@pytest.mark.slow
def test_recalibrating_changes_the_statistics_that_learnt_and_nothing_else(manifest, tmp_path):
    phases = (ft.Phase(unfreeze="layer4", epochs=2, batch_norm="train"),)
    plain, again = (
        fit(manifest, tmp_path / str(on), phases=phases, train=ft.Train(batch_size=3, precise_bn=on))
        for on in (False, True)
    )
    one, two = (load_file(run / "checkpoints/best/model.safetensors") for run in (plain, again))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed
    assert all(".layer4." in name and ("running" in name or "num_batches" in name) for name in changed)
    meta = json.loads((again / "checkpoints/best/meta.json").read_text())
    assert meta["recalibrated"] > 0


def test_all_that_is_wrong_with_phases_is_said_at_once(manifest, tmp_path):
    phases = [ft.Phase(unfreeze="match(gamma)", optimizer="adamw3"), ft.Phase(stage_lr={"neck": 1.0})]
    with pytest.raises(RecipeError) as raised:
        fit(manifest, tmp_path / "run", phases=phases)
    for wanted in (
        r"phases.0.unfreeze: match(gamma) names no parameter",
        "phases.0.optimizer: there is no",
        "phases.1.stage_lr: unknown stage 'neck'",
    ):
        assert wanted in str(raised.value)
