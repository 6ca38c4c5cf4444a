"""One pass over a recording gives what each window gives by itself, and computes each frame once where it can."""

import numpy as np
import pytest
import torch
from dense_models import dense_model
from grey import TINY
from multitask_models import tasked

from finetune.inference.forward import predict_batch
from finetune.model.classifier import build_from_settings
from finetune.model.temporal_pooling import POOLINGS
from finetune.recipe.schema import Clip, Model
from finetune.recipe.tasks import Task
from finetune.timeline.one_pass import features_cut, predict_windows
from finetune.timeline.windows import plan_windows

FRAMES, SIZE, T = 30, 32, 4
PICTURES = torch.randint(0, 256, (FRAMES, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def model_with(**settings):
    torch.manual_seed(0)
    chosen = Model(**{"backbone": TINY, "weights": "none", "temporal": "mean", **settings})
    return build_from_settings(chosen, ("a", "b", "c"), num_frames=T, size=SIZE).eval()


def windows_of(views=1, step=0.08):
    return plan_windows(np.arange(FRAMES) / 25, Clip(num_frames=T), views=views, window_seconds=0.48, step_seconds=step)


def batches_of(frames, size=7):
    for start in range(0, len(frames), size):
        numbers = frames[start : start + size].tolist()
        yield numbers, PICTURES[numbers]


def largest_difference(model, sampled_WVT):
    parts = list(predict_windows(model, batches_of(np.unique(sampled_WVT)), sampled_WVT, precision="fp32"))
    differences = []
    for task in parts[0]:
        together = torch.cat([part[task] for part in parts])
        alone = torch.cat(
            [
                predict_batch(model, PICTURES[torch.from_numpy(window).long()][None], precision="fp32")[task]
                for window in sampled_WVT
            ]
        )
        assert together.shape == alone.shape
        differences.append(float((together - alone).abs().max()))
    return max(differences)


@pytest.mark.parametrize("temporal", POOLINGS)
def test_windows_share_features_and_give_what_each_gives_by_itself(temporal):
    model = model_with(temporal=temporal)
    assert features_cut(model) is not None
    assert largest_difference(model, windows_of().sampled_WVT) <= 1e-5


@pytest.mark.parametrize("fusion", ["early", "slow", "tsm", "grey_stack", "two_stream"])
def test_a_network_that_mixes_frames_computes_whole_windows(fusion):
    model = model_with(fusion=fusion)
    assert features_cut(model) is None
    assert largest_difference(model, windows_of().sampled_WVT) <= 1e-5


def test_several_views_of_a_window_are_combined():
    model = model_with(temporal="concat")
    assert largest_difference(model, windows_of(views=3).sampled_WVT) <= 1e-5


def test_two_towers_and_tasks_of_levels_and_numbers():
    towers = tasked({"first": "classify", "second": "multilabel", "third": "ordinal"}, size=SIZE, sharing="towers")
    assert features_cut(towers.eval()) is not None
    assert largest_difference(towers, windows_of().sampled_WVT) <= 1e-5


def test_frames_share_the_maps_of_earlier_stages_too():
    tapped = tasked({"first": Task(kind="classify"), "where": Task(kind="box", spatial_pooling="keypoints")}, size=SIZE)
    assert features_cut(tapped.eval()).taps
    assert largest_difference(tapped, windows_of(views=2).sampled_WVT) <= 1e-5


def test_objects_of_frames_whose_clips_overlap_are_those_of_each_clip_by_itself():
    model = dense_model(["track", "classify"], size=SIZE, num_frames=T).eval()
    assert features_cut(model).taps
    raw = []
    model.heads["track"].register_forward_hook(lambda module, inputs, outputs: raw.append(outputs))
    sampled = windows_of().sampled_WVT
    largest_difference(model, sampled)
    together, alone = torch.cat(raw)[-2 * len(sampled) :].chunk(2)  # before them, black clips, to try
    assert torch.allclose(together, alone, atol=1e-4)


def test_each_frame_is_computed_once():
    model, sampled = model_with(), windows_of().sampled_WVT
    seen = []
    assert model.fits_one_thread  # which takes a pass
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    list(predict_windows(model, batches_of(np.unique(sampled)), sampled, precision="fp32"))
    assert sum(frames for frames in seen if frames > 1) == len(np.unique(sampled)), "besides black clips, to try"


def test_windows_are_given_as_soon_as_their_frames_are_there():
    sampled = windows_of().sampled_WVT
    read = []

    def counted():
        for numbers, pictures in batches_of(np.unique(sampled), size=2):
            read.extend(numbers)
            yield numbers, pictures

    next(predict_windows(model_with(), counted(), sampled, precision="fp32"))
    assert max(read) <= sampled[0].max() + 2
