"""Read the text files of a run folder, one at a time, without torch."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.arguments import check_arguments
from finetune.errors import RecipeError, RunError
from finetune.recipe.load import list_overrides, load_recipe, read_yaml
from finetune.recipe.own_parts import imported_parts, part_name, replace_parts
from finetune.recipe.renamed_keys import rename_recipe_keys
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import (
    CATEGORICAL_KINDS,
    DEFAULT_COLUMNS,
    DEFAULT_TASK,
    DENSE_KINDS,
    DETECTION_KINDS,
    OutputSpec,
)
from finetune.run.folder import SPLITS, CheckpointFolder, EvaluationFolder, ExportedFolder, RunFolder
from finetune.run.model_json import ModelInfo, check_outputs, read_model_info
from finetune.run.predictions_csv import read_prediction_rows
from finetune.run.results import (
    RESULTS_FORMAT,
    RUN_FORMAT,
    CheckpointMeta,
    Environment,
    EpochRecord,
    Results,
    SavedOutput,
    SkippedFile,
)
from finetune.storage.safe_read import check_no_external_links, parse_json, read_json, read_text_file, validate_type

_NO_SUCH_FOLDER = "there is no such folder; name a run folder, as `finetune train` printed it"
_PREDICTIONS = ("path", "label", "predicted", "probability")


@check_arguments
@dataclass(frozen=True)
class Run:
    """A run with a checkpoint, from `open_run`: its folder, its recipe, the classes and outputs of its model.

    `outputs` has the output of each head by task; a run without a section `tasks` has one task, DEFAULT_TASK. A folder
    that `finetune export` wrote has no checkpoint; `exported` is then its model.json.
    """

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    outputs: Mapping[str, OutputSpec]
    exported: ModelInfo | None = None

    def __repr__(self) -> str:
        tasks = "" if DEFAULT_TASK in self.outputs else f", tasks {', '.join(self.outputs)}"
        return f"Run({str(self.folder)!r}: {part_name(self.recipe.model.backbone)}, {len(self.classes)} classes{tasks})"


@check_arguments
def open_run(
    run: str | Path | Run,
    overrides: str | Sequence[str] = (),
    *,
    parts: Mapping[str, Any] | None = None,
    allow_code: bool = False,
) -> Run:
    """Read a run, its recipe with overrides; `evaluate`, `predict`, `load` and `resume` take it in place of the folder.

    `parts` are the run's own parts by recipe key, {"model.temporal": MyPooling}: a run folder only names them, and what
    it names is never imported. With `allow_code`, what `overrides` name is imported. A run that is already open keeps
    its parts.

    A folder from `finetune export` is opened like a run, for `predict` and `evaluate` only. `hf://owner/name`, with
    `@revision` for a branch, tag or commit, is a model of the Hugging Face hub, which is downloaded once.

    Raises RunError for a folder without a checkpoint, for links that lead out of it, and for a newer format.
    """
    overrides = list_overrides(overrides)
    if isinstance(run, Run):
        if not overrides and not parts:
            return run
        parts = imported_parts(run.recipe) | dict(parts or {})
        overrides = [override for override in overrides if override.partition("=")[0] not in parts]
    folder = RunFolder(run.folder if isinstance(run, Run) else _local_folder(run))
    if not folder.path.is_dir():
        raise RunError(f"{run}: {_NO_SUCH_FOLDER}")
    exported_info = ExportedFolder(folder.path).info
    is_exported = exported_info.is_file()
    needed = (folder.recipe, folder.classes, *(() if is_exported else (folder.checkpoints,)))
    if missing := [path.name for path in needed if not path.exists()]:
        raise RunError(f"{run}: is not a run folder with a checkpoint: it has no {', no '.join(missing)}")
    check_no_external_links(folder.path)
    read_environment(folder.path)
    classes = tuple(read_json(folder.classes, list[str]))
    recipe = load_recipe(str(folder.recipe), overrides, allow_code=allow_code)
    recipe = replace_parts(recipe, parts or {}, where=str(folder.recipe))
    one_task = {DEFAULT_TASK: OutputSpec("multilabel" if recipe.data.multilabel else "classify", classes)}
    outputs = read_task_outputs(folder.path) if recipe.tasks else one_task
    exported = read_model_info(exported_info) if is_exported else None
    if exported is not None:
        check_outputs(exported, outputs, where=exported_info)
    return Run(folder.path, recipe, classes, outputs, exported)


def require_checkpoint(run: Run, what: str) -> None:
    """Raise RunError for an exported model; `what` is the work that needs the weights of a run."""
    if run.exported is not None:
        raise RunError(
            f"{run.folder}: is an exported model, and {what} needs the weights of the run; name the run folder "
            f"that it was exported from ({run.exported.get('run', 'unknown')}). predict and evaluate take both"
        )


def require_objects(run: Run) -> None:
    """Raise RunError for a run that detects no objects, also for one whose tasks have pixels only."""
    if not any(output.kind in DETECTION_KINDS for output in run.outputs.values()):
        raise RunError(
            f"{run.folder}: has no task of kind detect or track, so it finds no objects; name a run with one"
        )


def require_clip_task(run: Run, what: str) -> str:
    """The task by which clips are embedded: the first with classes, or else with numbers.

    Raises RunError for an exported model, and for a run whose tasks are all of single frames; `what` needs the task.
    """
    require_checkpoint(run, what)
    tasks = [name for name, output in run.outputs.items() if output.kind not in DENSE_KINDS]
    if not tasks:
        listed = ", ".join(f"{name} ({output.kind})" for name, output in run.outputs.items())
        raise RunError(
            f"{run.folder}: its tasks are of single frames ({listed}), and {what} needs one of clips; name a run that "
            "classifies clips, or a frozen backbone with model.backbone=NAME"
        )
    return next((name for name in tasks if run.outputs[name].is_categorical), tasks[0])


def _local_folder(run: str | Path) -> Path:
    """The folder of a run; a published model, `hf://owner/name[@revision]`, is downloaded."""
    if not str(run).startswith("hf:"):
        return Path(run)
    from finetune.run.hub import local_folder  # slow to import

    return local_folder(run)


def read_environment(run: Path) -> Environment | None:
    """environment.json; None where it is missing. Raises RunError for a run of a newer format."""
    path = RunFolder(run).environment
    if not path.is_file():
        return None
    environment: Environment = read_json(path, Environment)
    _refuse_newer(path, environment.get("format", 1), RUN_FORMAT)
    return environment


def _refuse_newer(path: Path, version: int, newest: int) -> None:
    if version > newest:
        raise RunError(f"{path}: has format version {version}; this finetune reads up to {newest}: update finetune")


def read_task_outputs(run: Path) -> dict[str, OutputSpec]:
    """The outputs of the heads of a run with several tasks. Raises RunError where tasks.json is missing or wrong."""
    path = RunFolder(run).tasks
    if not path.is_file():
        raise RunError(f"{run}: has several tasks but no {path.name}, which training writes; train again")
    saved: dict[str, SavedOutput] = read_json(path, dict[str, SavedOutput])
    outputs = {
        name: OutputSpec(
            output["kind"],
            tuple(output["names"]),
            tuple(output["center"]),
            tuple(output["scale"]),
            output.get("slots", 0),
        )
        for name, output in saved.items()
    }
    for name, output in outputs.items():
        has_numbers = output.kind not in (*CATEGORICAL_KINDS, *DENSE_KINDS)
        numbers = len(DEFAULT_COLUMNS.get(output.kind, output.names)) if has_numbers else 0
        if not (output.names and len(output.center) == len(output.scale) == numbers) or (
            numbers and len(output.names) != numbers
        ):
            raise RunError(f"{path}: names, center and scale of the task {name!r} do not fit together; train again")
    return outputs


def read_checkpoint_meta(checkpoint: CheckpointFolder) -> CheckpointMeta:
    """The contents of a checkpoint's meta.json."""
    meta: CheckpointMeta = read_json(checkpoint.meta, CheckpointMeta)
    return meta


def read_skipped(run: Path) -> list[SkippedFile]:
    """The files that training could not read."""
    path = RunFolder(run).skipped
    return read_json(path, list[SkippedFile]) if path.exists() else []


def find_evaluation(run: Path, split: str | None) -> EvaluationFolder:
    """The evaluation of a run on a split; None: the one made after training.

    A run without test rows is evaluated on val after training, into the folder that is otherwise for test.
    """
    folder = RunFolder(run)
    main = folder.evaluation()
    if split is None:
        others = [folder.evaluation(name) for name in SPLITS]
        return next((evaluation for evaluation in (main, *others) if evaluation.exists()), main)
    evaluation = folder.evaluation(split)
    if not evaluation.exists() and main.exists():
        with suppress(RunError):
            if read_json(main.results, dict[str, Any]).get("split") == split:
                return main
    return evaluation


def read_results(run: Path, split: str | None) -> Results:
    """Results of a run on a split; None: those made after training.

    Raises RunError where there are none; it names the command that makes them.
    """
    path = find_evaluation(run, split).results
    if not path.is_file():
        raise RunError(f"{run}: {missing_results_message(run, split or 'test')}")
    return read_results_file(path)


def read_results_file(path: Path) -> Results:
    """One results.json. Raises RunError where it is missing, of a newer format, or damaged."""
    if not path.is_file():
        raise RunError(f"{path}: does not exist; evaluate the run first")
    results = read_json(path)
    version = results.get("schema") if isinstance(results, dict) else None
    if not isinstance(version, int) or version < 1:
        raise RunError(f"{path}: has no format version (`schema`); it is damaged: evaluate the run again")
    _refuse_newer(path, version, RESULTS_FORMAT)
    if results.get("split") not in SPLITS:
        raise RunError(f"{path}: there is no split {results.get('split')!r}; it is damaged: evaluate the run again")
    if not results.get("tasks"):
        raise RunError(f"{path}: has no task; it is damaged: evaluate the run again")
    valid: Results = validate_type(results, Results, path)
    return valid


def missing_results_message(run: Path, split: str) -> str:
    """Why a run has no results on a split, and what to do."""
    folder = RunFolder(run)
    if not run.is_dir():
        return _NO_SUCH_FOLDER
    if folder.study.is_file() and not folder.metrics.is_file():
        return f"holds several runs but no results on {split}; name one of the runs, or finish the study first"
    where = folder.evaluation(split).results.relative_to(run).as_posix()
    return f"has no {where}; make it with `{evaluate_command(run, split)}`"


def evaluate_command(run: Path, split: str) -> str:
    return f"finetune evaluate {shlex.quote(str(run))}" + f" --split {split}" * (split != "test")


def read_predictions(run: Path, split: str | None) -> list[dict[str, Any]]:
    """One dictionary for each clip: path, label, predicted, probability, and group, which may be None."""
    evaluation = find_evaluation(run, split)
    predictions = read_prediction_rows(evaluation.path)
    if predictions is None:
        command = evaluate_command(run, split or "test")
        raise RunError(f"{evaluation.predictions()}: does not exist; make it with `{command}`")
    rows = [{key: getattr(row, key) for key in _PREDICTIONS} | {"group": row.group or None} for row in predictions]
    return rows if any(row["group"] for row in rows) else _with_groups(rows, RunFolder(run).manifest)


def _with_groups(rows: list[dict[str, Any]], manifest: Path) -> list[dict[str, Any]]:
    """The rows with their groups from the manifest; None where a row has none."""
    listed = csv.DictReader(io.StringIO(read_text_file(manifest) or ""))
    groups = {row.get("path"): row.get("group") for row in listed}
    return [row | {"group": groups.get(row["path"]) or None} for row in rows]


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """One record per epoch, in order; where an epoch was written twice, as after a resume, its last record."""
    path = RunFolder(run).metrics
    lines = (read_text_file(path) or "").split("\n")[:-1]  # a last line without a newline is incomplete
    records = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not all(isinstance(record, dict) and isinstance(record.get("epoch"), int) for record in records):
        raise RunError(f"{path}: has a line without an epoch number; it is damaged: train again")
    for record in records:
        validate_type(record, EpochRecord, f"{path}, epoch {record['epoch']}")
    last = {record["epoch"]: record for record in records}
    return [last[epoch] for epoch in sorted(last)]


def with_task_metrics(task: str, epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, with missing top-level metrics filled in from those of one task."""
    records = []
    for epoch in epochs:
        own = (epoch.get("tasks") or {}).get(task) or {}
        records.append(epoch | {key: value for key, value in own.items() if epoch.get(key) is None})
    return records


def read_recipe(run: Path) -> dict[str, Any] | None:
    """A run's recipe as plain values, with the keys of this version; None where the run has none.

    No files that it names are opened, and unknown keys are kept, as another version may have written it.
    """
    path = RunFolder(run).recipe
    text = read_text_file(path)
    if text is None:
        return None
    try:
        recipe = read_yaml(text, where=path)
    except RecipeError as error:
        raise RunError(str(error)) from None
    if not isinstance(recipe, dict):
        raise RunError(f"{path}: a recipe is a mapping of sections")
    try:
        return rename_recipe_keys({str(key): value for key, value in recipe.items()})[0]
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def training_seconds(epochs: list[dict[str, Any]]) -> float:
    """Seconds of training: all epochs, and the caching of frozen features before each phase."""
    caching = {epoch.get("phase"): epoch.get("cache", {}).get("seconds", 0.0) for epoch in reversed(epochs)}
    return sum(sum(epoch.get("seconds", {}).values()) for epoch in epochs) + sum(caching.values())
