"""Runs of labelled frames have one view of each, and no page."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from framed import SETTINGS

from finetune.errors import RunError
from finetune.inference.exported import resolve_views
from finetune.inference.predict_split import detections_to_source
from finetune.recipe.load import check_recipe
from finetune.recipe.tasks import OutputSpec
from finetune.serve.server import ServeOptions, serve
from finetune.video.geometry import Placement


@pytest.fixture
def run():
    recipe = check_recipe({"tasks": {"objects": {"kind": "detect"}}, "clip": SETTINGS["clip"]}, where="it")
    outputs = {"objects": OutputSpec("detect", ("car",), slots=2)}
    return SimpleNamespace(folder=Path("runs/mine"), recipe=recipe, outputs=outputs, exported=None)


def test_several_views_around_a_frame_are_refused(run):
    assert resolve_views(run, None) == resolve_views(run, 1) == 1
    with pytest.raises(RunError, match="all views around a frame are the same, so there is one, not 3; omit --views"):
        resolve_views(run, 3)


@pytest.mark.parametrize("step", [0.0, 2.0])
def test_motion_that_is_not_predicted_is_unknown_for_clips_of_any_length(step):
    at = Placement(np.array([[1 / 100, 0, 0], [0, 1 / 50, 0]]), step, 0, 0)
    of_model = np.array([[0.5, 0.5, 0.2, 0.4, 0.9, 0, np.nan, np.nan], [0] * 8])
    in_video = detections_to_source(of_model, at)
    assert np.allclose(in_video[0, :6], [40, 15, 20, 20, 0.9, 0]) and np.isnan(in_video[0, 6:]).all()
    assert not in_video[1].any()


def test_a_page_is_refused_before_it_listens(run):
    with pytest.raises(
        RunError, match=r"runs/mine: predicts objects or pixels of frames \(objects\).*finetune predict"
    ):
        serve(run, ServeOptions())
