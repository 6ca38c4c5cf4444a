"""Temporal pooling: what each kind knows of the order and the number of frames, and what it gives."""

import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from grey import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import finetune as ft
from finetune.errors import ModelError
from finetune.model.temporal_pooling import POOLINGS, TopKPooling, VladPooling, build_pooling, interpolate_positions
from finetune.recipe.schema import Model

BLIND = ("mean", "max", "topk", "vlad")
ORDERED = ("diff", "slope", "concat", "changes", "conv1d", "gru", "lstm", "attention", "transformer")
ANY_NUMBER = [kind for kind in POOLINGS if kind not in {"concat", "changes"}]
WIDTH = 12


def build(kind, num_frames=4):
    torch.manual_seed(0)
    pooling, width = build_pooling(kind, WIDTH, num_frames=num_frames)
    return pooling.eval(), width


def features(frames=4, batch=3, seed=0):
    return torch.randn(batch, frames, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_the_kinds_are_those_of_a_recipe():
    assert set(POOLINGS) == set(get_args(get_args(Model.model_fields["temporal"].annotation)[0])) == {*BLIND, *ORDERED}


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_pooling_gives_the_width_it_says(kind):
    pooling, width = build(kind)
    assert pooling(features()).shape == (3, width)


@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", BLIND)
def test_blind_kinds_cannot_tell_in_which_order_frames_came(kind, order, seed):
    pooling, _ = build(kind)
    clip = features(5, seed=seed)
    torch.testing.assert_close(pooling(clip[:, order]), pooling(clip), rtol=1e-4, atol=1e-5)


@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", ORDERED)
def test_ordered_kinds_tell_any_two_orders_apart(kind, order, seed):
    pooling, _ = build(kind)
    clip = features(seed=seed)
    apart = (pooling(clip[:, order]) - pooling(clip)).abs().max()
    assert (apart > 1e-3) == (order != [0, 1, 2, 3])


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 31])
@pytest.mark.parametrize("kind", ANY_NUMBER)
def test_kinds_but_concat_take_another_number_of_frames_than_they_were_built_for(kind, frames):
    pooling, width = build(kind)
    vector = pooling(features(frames))
    assert vector.shape == (3, width)
    assert vector.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in POOLINGS if kind != "changes"])
def test_every_other_kind_can_be_built_for_one_frame(kind):
    pooling, width = build(kind, num_frames=1)
    vector = pooling(features(1))
    assert vector.shape == (3, width)
    assert vector.isfinite().all()


def test_concat_refuses_another_number_of_frames():
    pooling, _ = build("concat")
    with pytest.raises(ModelError, match="'concat' was built for 4 frames and got 5"):
        pooling(features(5))


@pytest.mark.parametrize("kind", BLIND)
def test_blind_kinds_do_not_care_how_often_all_frames_are_shown(kind):
    pooling, _ = build(kind)
    clip = features(8)
    torch.testing.assert_close(pooling(clip.repeat_interleave(3, dim=1)), pooling(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_clip_is_pooled_without_regard_to_its_neighbours(kind):
    pooling, _ = build(kind)
    clips = features(batch=5)
    torch.testing.assert_close(pooling(clips[2:3]), pooling(clips)[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", POOLINGS)
def test_gradients_reach_every_parameter_and_every_frame(kind):
    pooling, width = build(kind)
    clip = features().requires_grad_()
    (pooling.train()(clip) * torch.randn(3, width)).sum().backward()
    for name, parameter in pooling.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 1e-6, name
    assert (clip.grad.abs().amax((0, 2)) > 1e-6).all()


@pytest.mark.parametrize("kind", POOLINGS)
def test_bfloat16_gives_nearly_the_same_and_trains(kind):
    pooling, _ = build(kind)
    clip = features()
    with torch.autocast("cpu", torch.bfloat16):
        vector = pooling(clip.bfloat16())
        loss = vector.float().square().mean()
    if list(pooling.parameters()):
        loss.backward()
    torch.testing.assert_close(vector.float(), pooling(clip), rtol=0.05, atol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_pooling_that_is_frozen_stays_as_it_is_while_layers_around_it_learn(kind):
    torch.manual_seed(0)
    model = ft.build_model(TINY, ["a", "b"], weights="none", temporal=kind, num_frames=2, size=32)
    learning = ft.set_trainable(model, ["layer4", "head"])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(ft.param_groups(model, lr=0.1, weight_decay=0.1))
    clips = torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8)
    for _ in range(2):
        torch.nn.functional.cross_entropy(model.train()(clips)["label"], torch.tensor([0, 1])).backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert [name for name, stage in model.stages.items() if moved & set(stage.parameters)] == learning


def test_topk_is_the_mean_of_a_quarter_of_the_frames():
    clip = torch.tensor([3.0, 9, 1, 7, 5, 8, 2, 4]).view(1, 8, 1)
    assert TopKPooling()(clip).item() == (9 + 8) / 2
    assert TopKPooling()(clip[:, :7]).item() == 9
    assert TopKPooling()(clip[:, :1]).item() == 3


def test_diff_of_a_ramp_is_its_middle_its_slope_and_its_slope():
    pooling, _ = build_pooling("diff", 1, num_frames=4)
    assert pooling(torch.tensor([0.0, 2, 4, 6]).view(1, 4, 1)).tolist() == [[3, 2, 2]]
    assert pooling(torch.tensor([6.0, 4, 2, 0]).view(1, 4, 1)).tolist() == [[3, -2, 2]]


def test_vlad_is_what_its_paper_says():
    pooling, width = build("vlad")
    clip = features(5, batch=1)
    with torch.no_grad():
        frames = pooling.project(pooling.norm(clip[0]))
        sums = torch.zeros(8, 256)
        for frame in frames:
            unit = frame / frame.norm()
            scores = torch.stack([weight @ unit for weight in pooling.assign.weight]) + pooling.assign.bias
            for cluster, share in enumerate(scores.exp() / scores.exp().sum()):
                sums[cluster] += share * (unit - pooling.centres[cluster])
        rows = torch.stack([row / row.norm() for row in sums])
        wanted = rows.flatten() / rows.norm()
        found = pooling(clip)[0]
    torch.testing.assert_close(found, wanted * math.sqrt(width))


def test_vlad_starts_with_shares_by_distance():
    pooling, frames = VladPooling(WIDTH), torch.nn.functional.normalize(torch.randn(6, 256), dim=1)
    distances = torch.cdist(frames, pooling.centres) ** 2
    torch.testing.assert_close(pooling.assign(frames).softmax(1), (-10 * distances).softmax(1), rtol=1e-3, atol=1e-5)


def test_positions_of_another_number_of_frames_lie_between_the_learnt_ones():
    learnt = torch.tensor([[0.0, 5], [2, 5], [8, 3]])
    assert torch.equal(interpolate_positions(learnt, 3), learnt)
    assert interpolate_positions(learnt, 5).tolist() == [[0, 5], [1, 5], [2, 5], [5, 4], [8, 3]]
    assert interpolate_positions(learnt, 1).tolist() == [[0, 5]]


def test_an_lstm_starts_with_its_forget_gates_open():
    pooling, _ = build("lstm")
    for direction in ("", "_reverse"):
        bias = getattr(pooling.net, f"bias_ih_l0{direction}").view(4, 256)
        assert (bias[1] == 1).all()
        assert (bias[[0, 2, 3]].abs() <= 1 / 16).all()


def test_the_page_says_what_each_kind_gives_and_costs():
    page = (Path(__file__).parents[2] / "docs" / "temporal.md").read_text(encoding="utf-8")
    rows = {
        row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \|(.*?)\|(.*?)\|(.*?)\|(.*?)\|", page, flags=re.MULTILINE)
    }
    for kind in POOLINGS:
        pooling, width = build_pooling(kind, 2048, num_frames=8)
        gives, parameters, any_number, order = (cell.strip() for cell in rows[kind])
        assert gives.rpartition("= ")[2].replace(",", "") == str(width), kind
        assert parameters.replace(",", "") == str(sum(each.numel() for each in pooling.parameters())), kind
        assert any_number == ("yes" if kind in ANY_NUMBER else "no"), kind
        assert order == ("yes" if kind in ORDERED else "no"), kind


@given(
    frames=st.integers(2, 31),
    start=st.floats(-5, 5),
    step=st.floats(-3, 3),
)
@settings(max_examples=40, deadline=None)
def test_slope_is_the_mean_and_the_change_over_half_the_clip(frames, start, step):
    ramp = start + step * torch.arange(float(frames))
    pooled = build("slope")[0](ramp.view(1, frames, 1).expand(2, frames, WIDTH))
    mean, slope = pooled[0, :WIDTH], pooled[0, WIDTH:]
    torch.testing.assert_close(mean, ramp.mean().expand(WIDTH), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slope, torch.full((WIDTH,), step * (frames - 1) / 2), rtol=1e-4, atol=1e-4)


def test_slope_is_that_of_the_line_that_fits_best():
    clip = features(7)
    times = torch.linspace(-1, 1, 7)
    design = torch.stack([torch.ones(7), times], 1)
    fitted = torch.linalg.lstsq(design, clip[0]).solution
    torch.testing.assert_close(build("slope")[0](clip)[0], fitted.flatten(), rtol=1e-4, atol=1e-5)


def test_of_one_frame_there_is_no_slope():
    clip = features(1)
    assert torch.equal(build("slope")[0](clip), torch.cat([clip[:, 0], torch.zeros(3, WIDTH)], 1))


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_changes_leave_out_what_all_frames_share(seed, scale):
    pooling, _ = build("changes")
    normed = pooling.norm(features(seed=seed)).detach()
    scene = scale * features(frames=1, seed=seed + 1)
    with_norm, pooling.norm = pooling.norm, torch.nn.Identity()
    torch.testing.assert_close(pooling(normed + scene), pooling(normed), rtol=1e-4, atol=1e-4)
    pooling.norm = with_norm
    still = features(frames=1, seed=seed).expand(-1, 4, -1)
    assert pooling(still).abs().max() < 1e-6


def test_changes_need_two_frames():
    with pytest.raises(ModelError, match="needs at least two frames"):
        build("changes", num_frames=1)
