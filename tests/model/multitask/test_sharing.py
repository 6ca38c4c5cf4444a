"""What several tasks share: each reads where it says, gates weigh its gradient there, and all else stays as it was."""

import copy
from functools import cache

import pytest
import torch
from contract import clips_of, moved, slowly, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from multitask_models import gradients_of, losses_of, tasked
from torch.nn import functional as F

import finetune as ft
from finetune.errors import ModelError
from finetune.model.frozen_prefix import FEATURES, find_cut, forward_before_cut
from finetune.recipe.tasks import Task

TASKS = {
    "action": "classify",
    "box": Task(kind="box", feature_stage="layer2"),
    "motion": "motion",
    "size": Task(kind="regress", temporal="attention"),
    "deep": Task(kind="classify", feature_stage="layer2", temporal="max", head="mlp"),
}
SHARED = ("backbone.", "temporal.")
SHARINGS = ["hard", "towers", "cross_stitch"]


def apart(model):
    """The model, the two towers of it moved apart."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".towers.1." in name:
                each += 0.1 * each.abs().mean() * torch.randn(each.shape, generator=generator)
    return model


def backward_of(model, clips, names=None, *, gates=None):
    """Gradients of the sum of some tasks' losses, all of them counting the same but for gates."""
    model.sharing.gates = None if gates is None else torch.ones(len(gates))
    losses = losses_of(model(clips))
    if gates is not None:
        model.sharing.gates.copy_(torch.tensor(gates))  # as late as it is known
    model.zero_grad()
    sum(losses[name] for name in names or losses).backward()
    return gradients_of(model)


def differ(one, other, *, rtol=1e-3):
    """Names of gradients that are not close, against the size of the parameter's own."""
    assert one.keys() >= other.keys()
    zero = torch.zeros(())
    pairs = {name: (value, other.get(name, zero * value)) for name, value in one.items()}
    return [name for name, (a, b) in pairs.items() if (a - b).abs().max() > rtol * a.abs().max() + 1e-6]


def towers_moved(gradients):
    return {tower for tower in (0, 1) for name, each in gradients.items() if f".towers.{tower}." in name and each.any()}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_each_task_gives_as_many_numbers_as_it_has(sharing):
    model = tasked(TASKS, sharing=sharing).eval()
    said = model(clips_of(model))
    assert {name: tuple(each.shape) for name, each in said.items()} == {
        "action": (2, 3),
        "box": (2, 4),
        "motion": (2, 2),
        "size": (2, 1),
        "deep": (2, 3),
    }
    assert list(said) == list(TASKS)


def test_tasks_leave_the_backbone_where_they_say_and_else_at_its_end():
    model = tasked(TASKS)
    assert {name: tap.stage for name, tap in model.sharing.tap_of.items()} == {
        "box": "layer2",
        "motion": "layer4",
        "deep": "layer2",
    }
    found = backward_of(model.eval(), clips_of(model), ["box", "deep"])
    moving = {name for name, each in found.items() if each.any()}
    reached = [stage for stage, parts in model.stages.items() if moving & set(parts.parameters)]
    assert reached == ["stem", "layer1", "layer2", "temporal", "head"]


def test_what_is_shared_is_listed_from_the_earliest_on():
    model = tasked(TASKS).eval()
    model(clips_of(model))
    places = model.sharing.taps.shared
    assert [[tuple(each.shape) for each in place] for place in places] == [
        [(8, 48, 8, 8)],
        [(8, 96, 2, 2)],
        [(2, 4, 96)],
        [(2, 96)],
    ]
    assert all(each.requires_grad for place in places for each in place)
    model(clips_of(model))
    assert len(model.sharing.taps.shared) == 4  # of the last pass alone


def test_tasks_that_all_read_for_themselves_share_no_pooling():
    model = tasked({"box": "box", "motion": "motion"}, temporal="gru")
    assert not list(model.temporal.parameters())
    assert list(tasked({"box": "box", "action": "classify"}, temporal="gru").temporal.parameters())


@cache
def learnt_alone(sharing):
    """A model, clips, the gradients of all losses together, and those of each alone."""
    model = apart(tasked(TASKS, temporal="conv1d", sharing=sharing)).eval()
    clips = clips_of(model)
    return model, clips, backward_of(model, clips), [backward_of(model, clips, [name]) for name in TASKS]


@given(st.lists(st.floats(0, 3), min_size=5, max_size=5))
@settings(max_examples=3, deadline=None)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_gates_weigh_each_tasks_gradient_in_what_is_shared_and_not_in_its_own(sharing, gates):
    model, clips, plain, alone = learnt_alone(sharing)
    wanted = {
        name: sum(gate * each.get(name, torch.zeros(())) for gate, each in zip(gates, alone, strict=True))
        if name.startswith(SHARED)
        else value
        for name, value in plain.items()
    }
    gated = backward_of(model, clips, gates=gates)
    assert differ(gated, wanted) == []
    own = [name for name in plain if not name.startswith(SHARED)]
    assert own and all(torch.equal(gated[name], plain[name]) for name in own)


def test_gates_change_nothing_that_is_said():
    model = tasked(TASKS).eval()
    clips = clips_of(model)
    plain = model(clips)
    model.sharing.gates = torch.tensor([0.0, 2, -1, 0.5, 3])
    assert all(torch.equal(plain[name], each) for name, each in model(clips).items())


def test_a_task_in_one_of_two_towers_moves_nothing_of_the_other():
    tasks = {
        "action": "classify",
        "box": Task(kind="box", feature_stage="layer2"),
        "size": Task(kind="regress", temporal="max"),
    }
    model = apart(tasked(tasks, sharing="towers")).eval()
    for name, tower in (("action", 0), ("box", 1), ("size", 1)):
        assert towers_moved(backward_of(model, clips_of(model), [name])) == {tower}, name


def test_a_task_reads_the_tower_that_it_names():
    tasks = {"one": Task(kind="box", tower=1), "other": Task(kind="classify", tower=0), "third": "classify"}
    model = apart(tasked(tasks, sharing="towers")).eval()
    for name, tower in (("one", 1), ("other", 0), ("third", 1)):
        assert towers_moved(backward_of(model, clips_of(model), [name])) == {tower}, name


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_copy_made_after_a_pass_says_the_same_and_is_apart(sharing):
    model = apart(tasked(TASKS, sharing=sharing)).eval()
    clips, others = clips_of(model), clips_of(model, seed=5)
    said = model(clips)
    taken = dict(model.sharing.taps.taken)
    copied = copy.deepcopy(model)
    assert not copied.sharing.taps.taken
    assert all(torch.equal(said[name], each) for name, each in copied(clips).items())
    copied(others)
    assert all(model.sharing.taps.taken[stage] is value for stage, value in taken.items())
    with torch.no_grad():
        for each in copied.parameters():
            each.zero_()
    assert all(torch.equal(said[name], each) for name, each in model(clips).items())


def test_a_saved_state_is_loaded_again_whatever_has_run():
    model, other = tasked(TASKS).eval(), apart(tasked(TASKS)).eval()
    clips = clips_of(model)
    with torch.no_grad():
        for each in other.parameters():
            each += 0.1
    said = other(clips)
    model.load_state_dict(other.state_dict())
    assert all(torch.equal(said[name], each) for name, each in model(clips).items())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_stages_cover_every_parameter_and_buffer_once(backbone, sharing):
    tasks = {"action": "classify", "box": "box", "motion": Task(kind="motion", temporal="gru", head="mlp")}
    model = tasked(tasks, backbone=backbone, temporal="transformer", sharing=sharing)
    parts = [part for stage in model.stages.values() for part in (*stage.parameters, *stage.buffers)]
    assert sorted(parts) == sorted(snapshot(model))
    assert {name for name in model.stages["temporal"].parameters if name.startswith("sharing.readers.motion.")}
    assert {name.split(".")[1] for name in model.stages["head"].parameters} == set(tasks)
    groups = ft.param_groups(model, lr=1.0)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("what", ["head", "layer3", ["layer1"], "last(2)"])
def test_what_is_frozen_stays_bit_identical(what, sharing):
    model = apart(tasked(TASKS, temporal="conv1d", sharing=sharing))
    learning = ft.set_trainable(model, what, batch_norm="train")
    begun = snapshot(model)
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.01, weight_decay=0.1), lr=0.01, momentum=0.9)
    model.train()
    for step in range(2):
        sum(losses_of(model(clips_of(model, seed=step))).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert moved(model, begun) == learning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage", "what", "sharing"),
    [
        *(("test_resnet", "layer1", what, sharing) for what in ("head", "last(1)", "last(3)") for sharing in SHARINGS),
        ("mobilenetv3_small_050", "blocks.2", "last(1)", "hard"),
        ("mobilenetv3_small_050", "blocks.2", "last(3)", "cross_stitch"),
        ("vit_tiny_patch16_224", "blocks.1", "last(3)", "hard"),
        ("vit_tiny_patch16_224", "blocks.1", "last(1)", "towers"),
        *slowly(("torchvision/r3d_18", "layer1", "last(1)", sharing) for sharing in ("hard", "towers")),
    ],
)
def test_a_model_of_tasks_that_is_run_in_two_parts_is_the_model(name, stage, what, sharing):
    tasks = {"action": "classify", "box": Task(kind="box", feature_stage=stage), "motion": "motion", "deep": "box"}
    model = apart(tasked(tasks, backbone=name, size=32 if "3d" in name else 64, sharing=sharing))
    ft.set_trainable(model, what)
    cut = find_cut(model.train(), 4)
    assert cut is not None and (cut.entry == FEATURES) == (what == "head")
    assert stage in cut.taps and bool(cut.entering)
    model.eval()
    clips = clips_of(model)
    said, whole = model(clips), backward_of(model, clips)
    kept = forward_before_cut(model, clips, cut)
    assert tuple(kept.shape[1:]) == cut.item and not kept.requires_grad
    model(clips_of(model, seed=9))  # another pass leaves nothing behind that is read
    parted = model(kept, cut)
    for task, each in said.items():
        torch.testing.assert_close(parted[task], each, rtol=1e-4, atol=1e-5)
    model.zero_grad()
    sum(losses_of(parted).values()).backward()
    found = gradients_of(model)
    assert found.keys() == whole.keys() and differ(whole, found) == []


@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_is_kept_of_some_clips_is_each_ones_own(sharing):
    model = apart(tasked(TASKS, sharing=sharing))
    ft.set_trainable(model, "last(1)")
    cut = find_cut(model.train(), 4)
    model.eval()
    clips = clips_of(model, batch=3)
    kept = forward_before_cut(model, clips, cut)
    torch.testing.assert_close(kept[2:], forward_before_cut(model, clips[2:], cut), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        said, turned = model(clips), model(kept.flip(0), cut)
    for task, each in said.items():
        torch.testing.assert_close(turned[task].flip(0), each, rtol=1e-4, atol=1e-5)


def test_tasks_that_read_no_earlier_stage_keep_the_features_as_they_are():
    model = tasked({"action": "classify", "size": "regress"})
    ft.set_trainable(model, "head")
    cut = find_cut(model.train(), 4)
    assert (cut.entry, cut.item, cut.taps, cut.entering) == (FEATURES, (4, 96), {}, ())


def test_over_views_numbers_are_averaged_and_classes_agree():
    model = tasked({"action": "classify", "box": "box"}).eval()
    clips = torch.stack([clips_of(model), clips_of(model, seed=1)], 1)
    with torch.no_grad():
        each = [model(clips[:, view]) for view in (0, 1)]
        said = model(clips)
    torch.testing.assert_close(said["box"], (each[0]["box"] + each[1]["box"]) / 2)
    probs = torch.stack([F.softmax(one["action"], 1) for one in each]).mean(0)
    torch.testing.assert_close(F.softmax(said["action"], 1), probs)


@pytest.mark.parametrize("name", ["type", "values", "train", "float", "init_bias_to_zero", "training"])
def test_a_task_with_the_name_of_a_part_of_pytorch_is_refused(name):
    with pytest.raises(ModelError, match=f"a task cannot be named {name}: PyTorch uses this name"):
        tasked({name: "classify", "box": "box"})
