"""Runs of labelled frames have one view of each."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from framed import SETTINGS

from finetune.errors import RunError
from finetune.inference.exported import resolve_views
from finetune.recipe.load import check_recipe


@pytest.fixture
def run():
    recipe = check_recipe({"tasks": {"objects": {"kind": "detect"}}, "clip": SETTINGS["clip"]}, where="it")
    return SimpleNamespace(folder=Path("runs/mine"), recipe=recipe, exported=None)


def test_several_views_around_a_frame_are_refused(run):
    assert resolve_views(run, None) == resolve_views(run, 1) == 1
    with pytest.raises(RunError, match="all views around a frame are the same, so there is one, not 3; omit --views"):
        resolve_views(run, 3)
