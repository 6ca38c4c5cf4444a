"""Checks before the first batch: everything that is known to fail is listed in one error."""

import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.intervals import WHOLE, row_noun
from finetune.data.manifest import Manifest
from finetune.errors import DataError, FinetuneError, RecipeError, RunError, shorten_list
from finetune.metrics.own_metric import metric_name
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.param_groups import check_stages
from finetune.model.freezing.selectors import select_parameters
from finetune.model.lora import check_lora
from finetune.recipe.own_parts import own_parts, part_name, require_object
from finetune.recipe.schema import Phase, Recipe, Schedule
from finetune.recipe.tasks import DENSE_KINDS, SPATIAL_KINDS
from finetune.run.folder import RunFolder
from finetune.runtime.processes import is_main_process
from finetune.text import with_unit
from finetune.train.loaders import phase_augment
from finetune.train.log.console import Display
from finetune.train.log.trackers import check_tracker
from finetune.train.loss.multitask import check_weighting
from finetune.train.optim.optimizer import check_optimizer
from finetune.train.setup.contrastive import problems_with_contrastive
from finetune.video.file_facts import FileFacts
from finetune.video.geometry import unsupported_augment_reason
from finetune.video.masks import mask_problems
from finetune.video.pack.read import Pack, manifest_facts

_ONE_TASK_PARTS = ("train.loss", "evaluate.metric")


def run_preflight_checks(model: VideoClassifier, manifest: Manifest, recipe: Recipe, *, folder: Path) -> None:
    """Raise one error with everything that is known to fail before a video is read."""
    problems = []
    if model.multitask_spec is not None:
        problems += problems_with_tasks(model, manifest, recipe)
    elif manifest.tasks:
        problems.append(f"the data have the tasks {', '.join(manifest.tasks)}, but the model has only classes")
    elif tuple(manifest.classes) != model.classes:
        problems.append(f"the model has the classes {model.classes}, but the data have {manifest.classes}")
    needs_frames = recipe.model.temporal in {"concat", "changes"} or model.backbone.fixed_frames is not None
    if recipe.clip.num_frames != model.num_frames and needs_frames:
        problems.append(f"clip.num_frames is {recipe.clip.num_frames}, but the model was built for {model.num_frames}")
    problems += _problems_with_timeline(manifest, recipe)
    problems += _problems_with_retrieval(model, recipe)
    problems += _problems_with_unknown(manifest, recipe)
    problems += [f"train.trackers: {problem}" for problem in _collect_errors(check_tracker, recipe.train.trackers)]
    problems += _problems_with_early_stopping(model, manifest, recipe)
    problems += problems_with_own_parts(model, recipe)
    problems += problems_with_contrastive(manifest, recipe)
    if recipe.augment.cutmix and (recipe.train.cache in {"features", "boundary"} or recipe.augment.cached_views):
        problems.append(
            "augment.cutmix needs new pixels of each clip, so features cannot be cached: use augment.mixup, or remove "
            "augment.cached_views and train.cache"
        )
    assert not isinstance(recipe.phases, Schedule)
    for index, phase in enumerate(recipe.phases):
        problems += [
            f"phases.{index}.{problem}" for problem in _problems_of(phase.with_train_defaults(recipe.train), model)
        ]
    if problems:
        raise RecipeError("\n".join(problems))
    if not is_main_process():
        return
    if RunFolder(folder).recipe.exists():
        return  # a resumed run has the disk space that it needs
    weights_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    # start, best and last, the optimizer's two averages, and a second copy of each while they are replaced
    copies = 3 + 2 + 3 + (4 if recipe.train.ema else 0) + recipe.train.keep_checkpoints
    refuse_full_disk(folder, needed_bytes=copies * weights_bytes + 50_000_000)


def _problems_with_early_stopping(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[str]:
    stopping, problems = recipe.train.early_stopping, []
    if stopping is not None and not len(manifest.rows("val")):
        problems.append("train.early_stopping needs the split val, which has no rows; set data.val, or remove it")
    if stopping is not None and stopping.metric == "val_map" and not recipe.data.multilabel:
        problems.append("train.early_stopping.metric is val_map, which needs data.multilabel; use val_top1")
    if stopping is not None and stopping.metric == "val_score" and model.multitask_spec is None:
        problems.append("train.early_stopping.metric is val_score, which needs several tasks; use val_top1")
    return problems


def _problems_with_timeline(manifest: Manifest, recipe: Recipe) -> list[str]:
    """Training ends with the timeline of the split that is evaluated then: test, or else val."""
    split = next((name for name in ("test", "val") if len(manifest.rows(name))), "train")
    intervals = (manifest.interval(row) for row in manifest.rows(split).tolist())
    if not recipe.evaluate.timeline or any(interval != WHOLE for interval in intervals):
        return []
    problem = (
        f"evaluate.timeline needs recordings whose rows have a start and an end, but the split {split} has none; add "
        "these columns, or set it to false"
    )
    return [problem]


def _problems_with_retrieval(model: VideoClassifier, recipe: Recipe) -> list[str]:
    if not recipe.evaluate.retrieval or model.outputs[model.primary].is_categorical:
        return []
    return ["evaluate.retrieval needs a task with classes, by which clips found are right or wrong; set it to false"]


def _problems_with_unknown(manifest: Manifest, recipe: Recipe) -> list[str]:
    left_out = () if manifest.unknown is None else manifest.unknown.classes
    if sorted(recipe.evaluate.unknown) == sorted(left_out):
        return []
    problem = (
        f"evaluate.unknown is {list(recipe.evaluate.unknown)}, but the classes left out of the data are "
        f"{list(left_out)}; leave them out with leave_out_classes(manifest, […]) before the model is built"
    )
    return [problem]


def problems_with_own_parts(model: VideoClassifier, recipe: Recipe) -> list[str]:
    """Messages about a user's own loss, metric, sampler and transform that training cannot use."""
    train, parts = recipe.train, own_parts(recipe)
    problems = _collect_errors(lambda key: require_object(parts[key], key), [*parts])
    if model.multitask_spec is not None:
        problems += [f"{key} is your own, which takes one task of classes" for key in _ONE_TASK_PARTS if key in parts]
    loss = parts.get("train.loss")
    if loss is not None and (train.label_smoothing or any(True for _ in getattr(loss, "parameters", tuple)())):
        problems.append(
            f"train.loss: {part_name(loss)} is your own: smooth labels in it, not by train.label_smoothing, and give "
            "it no parameters, which no optimizer would train"
        )
    if recipe.evaluate.metric is not None:
        problems += _collect_errors(metric_name, [recipe.evaluate.metric])
    transform = recipe.augment.transform
    if transform is not None and recipe.data.workers != 0:
        problems += _collect_errors(_check_picklable, [transform])
    return problems


def _check_picklable(transform: object) -> None:
    try:
        pickle.dumps(transform)
    except Exception as error:  # pickle raises errors of many types
        raise RecipeError(
            f"augment.transform: {part_name(transform)} cannot be sent to loading processes ({error}); define it in a "
            "module, or set data.workers to 0"
        ) from None


def problems_with_tasks(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[str]:
    """Messages about tasks in which the recipe, the model and the manifest do not fit together."""
    problems = []
    model_tasks = {name: (output.kind, output.names) for name, output in model.outputs.items()}
    data_tasks = {name: (labels.kind, labels.names) for name, labels in manifest.tasks.items()}
    if model_tasks != data_tasks:
        problems.append(f"the model has the tasks {model_tasks}, but the data have {data_tasks}")
    numbers = [name for name, output in model.outputs.items() if not output.is_categorical]
    if numbers and (recipe.augment.mixup or recipe.augment.cutmix):
        problems.append(
            f"augment.mixup and cutmix blend two clips, but the labels of {', '.join(numbers)} cannot be blended"
        )
    spatial = [name for name, output in model.outputs.items() if output.kind in (*SPATIAL_KINDS, *DENSE_KINDS)]
    assert not isinstance(recipe.phases, Schedule)
    augments = [phase_augment(recipe, phase) for phase in recipe.phases] if spatial else []
    problems += dict.fromkeys(filter(None, map(unsupported_augment_reason, augments)))
    packed = recipe.data.packed
    if spatial and packed is not None and Pack(packed).settings.frames is not None:
        problems.append(
            f"data.packed: {packed} has only some frames of each video, but {', '.join(spatial)} need all frames; "
            "pack without --frames"
        )
    errors = _collect_errors(check_weighting, [recipe.multitask.weighting])
    problems += [f"multitask.weighting: {error}" for error in errors]
    rows = manifest.rows("train")
    for name, labels in manifest.tasks.items():
        if not labels.known[rows].any():
            problems.append(f"tasks.{name}: no row in the split train has its label")
    return problems


def _problems_of(phase: Phase, model: VideoClassifier) -> list[str]:
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("unfreeze", lambda: select_parameters(model.stages, phase.unfreeze)),
        ("unfreeze", lambda: check_lora(phase.unfreeze)),
        ("stage_lr", lambda: check_stages(model, phase.stage_lr)),
        ("optimizer", lambda: check_optimizer(str(phase.optimizer))),
    )
    return [
        f"{key}: {problem}"
        for key, check in checks
        for problem in _collect_errors(lambda run_check: run_check(), [check])
    ]


def _collect_errors(check: Callable[[Any], object], items: Sequence[Any]) -> list[str]:
    """The messages of the items that a check refuses."""
    problems = []
    for item in items:
        try:
            check(item)
        except FinetuneError as error:
            problems.append(str(error))
    return problems


def refuse_full_disk(folder: Path, *, needed_bytes: int) -> None:
    """Raise RunError when the disk of a folder, or of the parent where it will be made, has less room than needed."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise RunError(
            f"{folder}: needs about {with_unit(needed_bytes, 'B')}, but the disk has {with_unit(free, 'B')} free; "
            "make room, or choose another disk with --out"
        )


def load_file_facts(manifest: Manifest, recipe: Recipe, display: Display) -> FileFacts:
    """The facts of all files, each opened once; unreadable files raise DataError, or are skipped (`on_error: skip`)."""
    assert recipe.clip.size is not None
    facts = manifest_facts(manifest, recipe.data.packed, side=recipe.clip.size)
    noun = row_noun(manifest.intervals, manifest.boxes)
    problems = [*mask_problems(manifest, facts), *_track_problems(manifest, facts)]
    if recipe.data.on_error == "fail":
        problems += _unreadable_files(manifest, facts)
        if manifest.unknown is not None:
            facts_of_unknown = manifest_facts(manifest.unknown, recipe.data.packed, side=recipe.clip.size)
            problems += _unreadable_files(manifest.unknown, facts_of_unknown)
    if problems:
        raise DataError("\n".join(problems))
    readable = manifest.without(facts.bad)
    problems = _lost_with_bad_files(manifest, readable)
    if problems:
        raise DataError("\n".join(f"{manifest.source}: {problem}" for problem in problems))
    if facts.bad:
        display.print_line(f"Skipping {len(facts.bad)} {noun}s that cannot be read; the report lists them")
    return facts


def _track_problems(manifest: Manifest, facts: FileFacts) -> list[str]:
    """Messages about rows of several frames that have objects with identities, whose motion is measured per row."""
    problems = []
    for name, labels in manifest.tasks.items():
        is_long_N = labels.known & (facts.num_frames > 1) & (labels.kind == "track" and manifest.intervals is not None)
        if is_long_N.any():
            rows = [
                f"{manifest.clip_name(row)} ({facts.num_frames[row]} frames)"
                for row in np.flatnonzero(is_long_N).tolist()
            ]
            problems.append(
                f"{manifest.source}: tasks.{name} needs rows of one frame, with start and end halfway to the frames "
                f"before and after it; these rows are longer: {shorten_list(rows)}"
            )
    return problems


def _unreadable_files(manifest: Manifest, facts: FileFacts) -> list[str]:
    """A message for each file that cannot be read, and how many rows have such files; none if all can."""
    if not facts.bad:
        return []
    noun = row_noun(manifest.intervals, manifest.boxes)
    listed = dict.fromkeys(facts.bad[row] for row in sorted(facts.bad))
    number = f"{len(facts.bad)} of {len(manifest)} {noun}s cannot be read"
    return [*listed, f"{number}; fix or remove them, or skip them with data.on_error=skip"]


def _lost_with_bad_files(manifest: Manifest, readable: Manifest) -> list[str]:
    """Messages about classes that occur in training rows, but in no readable one."""
    problems = []
    for task, labels in manifest.labels_by_task.items():
        left = readable.labels_by_task[task].counts(readable.rows("train"))
        before = labels.counts(manifest.rows("train"))
        lost = [name for name, *counts in zip(labels.names, before, left, strict=False) if counts[0] and not counts[1]]
        if lost:
            where = f"tasks.{task}: " if manifest.tasks else ""
            problems.append(f"{where}no readable training video of {', '.join(lost)}")
    return problems
