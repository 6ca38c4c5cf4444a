"""Detection, tracking and segmentation: what a recipe with them may not set is named at once."""

import pytest
from framed import CLASSES, SETTINGS

from finetune.errors import RecipeError
from finetune.recipe.load import check_recipe

DETECT = {"objects": {"kind": "detect"}}
CLIP = SETTINGS["clip"]


def refusal(tasks, **sections):
    with pytest.raises(RecipeError) as error:
        check_recipe({"tasks": tasks, "clip": CLIP} | sections, where="it")
    return str(error.value).removeprefix("it: ")


def test_recipes_of_labelled_frames_are_accepted():
    tasks = {**DETECT, "tracks": {"kind": "track"}, "pixels": {"kind": "segment", "classes": CLASSES}}
    recipe = check_recipe({"tasks": tasks, "clip": CLIP, "model": {"fusion": "tsm"}}, where="it")
    assert [task.kind for task in recipe.tasks.values()] == ["detect", "track", "segment"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"clip": {"sampling": "uniform"}},
            "clip.sampling is 'uniform', but detection, tracking and segmentation need",
        ),
        ({"multitask": {"sharing": "towers"}}, "multitask.sharing is 'towers', but .* need 'hard'"),
        ({"model": {"fusion": "two_stream"}}, "model.fusion is 'two_stream', but .* need 'late' or 'tsm'"),
        ({"evaluate": {"views": 3}}, "evaluate.views is 3, but all views around a frame are the same"),
        ({"augment": {"interval_windows": True}}, "augment.interval_windows moves the middle of a clip"),
    ],
)
def test_settings_that_leave_no_map_of_the_labelled_frame_are_refused(sections, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe({"tasks": DETECT, "clip": CLIP} | sections, where="it")


def test_all_of_them_are_named_at_once():
    text = refusal(DETECT, clip={"num_frames": 4}, model={"fusion": "early"}, multitask={"sharing": "cross_stitch"})
    assert all(f"{key} is" in text for key in ("clip.sampling", "model.fusion", "multitask.sharing"))


def test_motion_needs_two_frames_and_masks_a_size():
    tasks = {"a": {"kind": "track"}, "b": {"kind": "segment", "classes": CLASSES}}
    text = refusal(tasks, clip={"num_frames": 1, "sampling": "around"})
    assert "tasks.a learns motion, so it needs clip.num_frames of at least 2" in text
    assert "tasks.b needs clip.size, the side of its masks in pixels" in text


@pytest.mark.parametrize("classes", [["floor"], ["floor", "floor"], [str(value) for value in range(256)]])
def test_the_classes_of_a_mask_are_two_to_255_different_names(classes):
    text = refusal({"it": {"kind": "segment", "classes": classes}})
    assert "classes must be 2 to 255 different names, one for each value of the mask" in text


def test_views_around_a_frame_are_refused_without_such_tasks_too():
    with pytest.raises(RecipeError, match="all views around a frame are the same; set it to 1"):
        check_recipe({"clip": CLIP, "evaluate": {"views": 2}}, where="it")
