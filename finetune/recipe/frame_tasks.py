"""What detection, tracking and segmentation need of the other sections of a recipe: clips around a labelled frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.recipe.tasks import DENSE_KINDS

if TYPE_CHECKING:
    from finetune.recipe.schema import Recipe

FUSIONS = ("late", "tsm")  # that leave a feature map for each frame of a clip


def check_frame_tasks(recipe: Recipe) -> None:
    """Raise ValueError with all settings that do not fit tasks of labelled frames, or clips around a frame."""
    problems = _clip_problems(recipe)
    dense = {name: task for name, task in recipe.tasks.items() if task.kind in DENSE_KINDS}
    if dense:
        problems += _task_problems(recipe)
    problems += [
        f"tasks.{name} learns motion, so it needs clip.num_frames of at least 2"
        for name, task in dense.items()
        if task.kind == "track" and recipe.clip.num_frames < 2
    ]
    problems += [
        f"tasks.{name} needs clip.size, the side of its masks in pixels"
        for name, task in dense.items()
        if task.kind == "segment" and recipe.clip.size is None
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _clip_problems(recipe: Recipe) -> list[str]:
    if recipe.clip.sampling != "around":
        return []
    problems = []
    if recipe.evaluate.views > 1:
        problems.append(
            f"evaluate.views is {recipe.evaluate.views}, but all views around a frame are the same; set it to 1"
        )
    if recipe.augment.interval_windows:
        problems.append(
            "augment.interval_windows moves the middle of a clip, which clip.sampling 'around' keeps; set it to false"
        )
    return problems


def _task_problems(recipe: Recipe) -> list[str]:
    needed = {
        "clip.sampling": (recipe.clip.sampling, ("around",)),
        "multitask.sharing": (recipe.multitask.sharing, ("hard",)),
        "model.fusion": (recipe.model.fusion, FUSIONS),
    }
    return [
        f"{key} is {value!r}, but detection, tracking and segmentation need {' or '.join(map(repr, allowed))}"
        for key, (value, allowed) in needed.items()
        if value not in allowed
    ]
