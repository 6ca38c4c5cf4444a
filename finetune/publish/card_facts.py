"""What a model card is made of: the saved results and files of a run, of a cross-validation or of an exported model."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.read import read_table
from finetune.errors import FinetuneError, RunError
from finetune.model.backbone.weights_source import WeightsSource
from finetune.recipe.load import check_saved_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_TASK, OutputSpec
from finetune.run.folder import ExportedFolder, RunFolder
from finetune.run.model_json import ModelInfo, read_model_info
from finetune.run.read import read_environment, read_recipe, read_results, read_task_outputs
from finetune.run.results import Results
from finetune.storage.safe_read import check_no_external_links, read_json


@dataclass(frozen=True)
class CardFacts:
    """A model and its results. `rows` are the columns of the run's manifest, empty where the folder has none.

    `results` are those made after training; None for a run that is not evaluated, and for an exported model outside of
    its run. `exported` is the model.json of an exported model.
    """

    name: str
    recipe: Recipe
    outputs: Mapping[str, OutputSpec]
    results: Results | None
    exported: ModelInfo | None
    weights: WeightsSource | None
    rows: Mapping[str, Sequence[str]]

    @property
    def is_multitask(self) -> bool:
        return DEFAULT_TASK not in self.outputs or len(self.outputs) > 1

    @property
    def num_folds(self) -> int:
        """The number of folds of a cross-validation; 0 for other runs."""
        return len((self.results or {}).get("folds", []))


def read_card_facts(folder: Path) -> CardFacts:
    """The facts of a run folder, of a folder of `finetune kfold`, or of an exported model.

    Raises RunError for other folders, and for damaged files.
    """
    files = RunFolder(folder)
    if not folder.is_dir() or not (files.recipe.is_file() and files.classes.is_file()):
        raise RunError(f"{folder}: is no run folder, and no exported model: it has no recipe.yaml and classes.json")
    check_no_external_links(folder)
    run = _run_around(folder)
    model_json = ExportedFolder(folder).info
    exported = read_model_info(model_json) if model_json.is_file() else None
    results = None
    with suppress(RunError):
        results = read_results(run, None)
    environment: Mapping[str, Any] = read_environment(run) or {}
    in_export: Mapping[str, Any] = exported or {}
    recipe = check_saved_recipe(read_recipe(folder) or {}, where=str(files.recipe))
    return CardFacts(
        name=run.resolve().name,
        recipe=recipe,
        outputs=_read_outputs(folder, recipe),
        results=results,
        exported=exported,
        weights=environment.get("weights") or in_export.get("weights"),
        rows=_read_rows(RunFolder(run).manifest),
    )


def _run_around(folder: Path) -> Path:
    """The run RUN of an exported model RUN/exported/NAME; any other folder itself."""
    parent = folder.resolve().parent
    around = RunFolder(parent.parent)
    return around.path if parent == around.exported and around.recipe.is_file() else folder


def _read_outputs(folder: Path, recipe: Recipe) -> dict[str, OutputSpec]:
    if recipe.tasks and RunFolder(folder).tasks.is_file():
        return read_task_outputs(folder)
    classes = tuple(read_json(RunFolder(folder).classes, list[str]))
    return {DEFAULT_TASK: OutputSpec("multilabel" if recipe.data.multilabel else "classify", classes)}


def _read_rows(manifest: Path) -> Mapping[str, Sequence[str]]:
    with suppress(FinetuneError):
        return read_table(manifest) if manifest.is_file() else {}
    return {}
