"""Runs of labelled frames have one view of each, and no page."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from framed import SETTINGS

from finetune.errors import RunError
from finetune.inference.exported import resolve_views
from finetune.recipe.load import check_recipe
from finetune.recipe.tasks import OutputSpec
from finetune.serve.server import ServeOptions, serve


@pytest.fixture
def run():
    recipe = check_recipe({"tasks": {"objects": {"kind": "detect"}}, "clip": SETTINGS["clip"]}, where="it")
    outputs = {"objects": OutputSpec("detect", ("car",), slots=2)}
    return SimpleNamespace(folder=Path("runs/mine"), recipe=recipe, outputs=outputs, exported=None)


def test_several_views_around_a_frame_are_refused(run):
    assert resolve_views(run, None) == resolve_views(run, 1) == 1
    with pytest.raises(RunError, match="all views around a frame are the same, so there is one, not 3; omit --views"):
        resolve_views(run, 3)


def test_a_page_is_refused_before_it_listens(run):
    with pytest.raises(
        RunError, match=r"runs/mine: predicts objects or pixels of frames \(objects\).*finetune predict"
    ):
        serve(run, ServeOptions())
