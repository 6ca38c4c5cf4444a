"""Export a run: write its network in another format, compare that with the run, and keep it only if they agree."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

from finetune.errors import RunError, shorten_list
from finetune.export import read_clip
from finetune.export.describe import describe_model
from finetune.export.graph import ExportGraph
from finetune.export.parity import (
    BATCH_SIZES,
    TOLERANCE,
    ClipsToCompare,
    SplitComparison,
    compare_batches,
    compare_split,
    describe_differences,
)
from finetune.export.quantize import quantize_model
from finetune.export.readme import write_readme
from finetune.export.settings import ExportSettings, check_before_work, target_folder
from finetune.export.write_model import WRITERS, export_program
from finetune.inference.exported_session import Session, open_session
from finetune.model.classifier import VideoClassifier
from finetune.recipe.load import recipe_yaml
from finetune.recipe.public_recipe import public_recipe
from finetune.run.checkpoint import load_model
from finetune.run.fitted import Fitted, read_fitted
from finetune.run.folder import ExportedFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.model_json import ModelInfo, Parity
from finetune.run.read import Run
from finetune.runtime.device import AUTOCAST_DTYPES
from finetune.storage.atomic import atomic_folder, write_json

Show = Callable[[str, int, int | None], None]
EXPORTING, QUANTIZING, COMPARING = "exporting the network", "quantizing, clips read", "comparing with the run"
LOW_PRECISION_SHARE = 0.01  # of predictions that may differ by default at fp16 and bf16


def export_run(run: Run, settings: ExportSettings, *, progress: Show) -> tuple[Path, ModelInfo]:
    """Export the best checkpoint of a run; the folder, and what its model.json says.

    Raises RunError or ModelError, and leaves what was in the folder before, where the network cannot be exported or the
    exported file differs from the run.
    """
    check_before_work(run, settings)
    target = target_folder(run, settings)
    split = _split_to_compare(run) if settings.check == "split" else None
    manifest = saved_manifest(run, data_root=settings.data_root) if split else None
    model, fitted = load_model(run), read_fitted(run)
    graph = build_graph(run, model, fitted)
    progress(EXPORTING, 0, None)
    with _explain_write_errors(target), atomic_folder(target) as partial:
        write_graph(graph, partial, settings)
        info = describe_model(run, graph, to=settings.to, precision=settings.precision, fitted=fitted)
        progress(EXPORTING, 1, 1)
        clips = None
        if manifest is not None and split is not None:
            clips = ClipsToCompare(manifest, split, functools.partial(progress, COMPARING))
        comparison = None
        if settings.int8:
            info["int8"], comparison = quantize_model(
                run, graph, partial, clips, runtime=settings.to, progress=lambda done: progress(QUANTIZING, done, None)
            )
        session = open_session(partial, settings.to, graph.output_names, precision=settings.precision)
        parity = check_batches(graph, session, "int8" if settings.int8 else settings.precision)
        if clips is not None:
            comparison = comparison or compare_split(run, graph, session, clips)
            check_split(parity, comparison, graph, fitted, settings)
        else:
            parity["note"] = _why_no_split(run, settings)
        info["parity"] = parity
        write_folder(run, partial, info)
    return target, info


def build_graph(run: Run, model: VideoClassifier, fitted: dict[str, Fitted]) -> ExportGraph:
    temperatures = {task: of_task.temperature for task, of_task in fitted.items()}
    return ExportGraph(model, views=run.recipe.evaluate.views, temperatures=temperatures).eval()


def write_graph(graph: ExportGraph, folder: Path, settings: ExportSettings) -> None:
    """The file of the model."""
    if settings.precision != "fp32" and settings.to != "openvino":
        graph = deepcopy(graph)
        graph.model.to(AUTOCAST_DTYPES[settings.precision])
    WRITERS[settings.to](export_program(graph), graph, folder, settings.precision)


def check_batches(graph: ExportGraph, session: Session, precision: str) -> Parity:
    """Raise RunError where an output on random frames differs from the run's by more than the precision allows."""
    largest, tolerance = compare_batches(graph, session), TOLERANCE.get(precision)
    far = [f"{name} by {value:.2g}" for name, value in largest.items() if tolerance is not None and value > tolerance]
    if far:
        raise RunError(
            f"the exported model differs from the run on random frames: {shorten_list(far)}; at most {tolerance:g} is "
            "allowed at fp32. Export to another format"
        )
    return {
        "batch_sizes": list(BATCH_SIZES),
        "tolerance": tolerance,
        "largest_difference": largest,
        "split": None,
    }


def check_split(
    parity: Parity,
    comparison: SplitComparison,
    graph: ExportGraph,
    fitted: dict[str, Fitted],
    settings: ExportSettings,
) -> None:
    """Add the comparison to `parity`. Raises RunError where more predictions differ than allowed."""
    clips = len(comparison.rows)
    allowed = settings.max_different
    if allowed is None:
        allowed = 0 if settings.precision == "fp32" else int(clips * LOW_PRECISION_SHARE)
        allowed = clips if settings.int8 else allowed  # judged by what it costs
    parity["split"] = of_split = describe_differences(comparison, graph.model.outputs, fitted, allowed=allowed)
    for task, different in of_split["different"].items():
        if len(different) > allowed:
            listed = shorten_list([f"{row['clip']}: {row['run']}, exported {row['exported']}" for row in different])
            raise RunError(
                f"{len(different)} of {clips} predictions of {task} differ from the run's on {comparison.split}, and "
                f"{allowed} may: {listed}. Raise --max-different to accept them"
            )


def _split_to_compare(run: Run) -> str | None:
    """`test`, or `val` where no row is in test; None where neither has rows."""
    manifest = saved_manifest(run, needs_files=False)
    return next((split for split in ("test", "val") if len(manifest.rows(split))), None)


def _why_no_split(run: Run, settings: ExportSettings) -> str:
    if settings.check == "batches":
        return "compared on random frames only, as asked"
    return "compared on random frames only: the run has neither test nor val clips"


def write_folder(run: Run, folder: Path, info: ModelInfo) -> None:
    """The files beside the model."""
    source, exported = RunFolder(run.folder), ExportedFolder(folder)
    (folder / source.recipe.name).write_text(recipe_yaml(public_recipe(run.recipe)), encoding="utf-8")
    for file in (source.classes, source.tasks):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    shutil.copyfile(read_clip.__file__, exported.reader)
    exported.readme.write_text(write_readme(info), encoding="utf-8")
    write_json(exported.info, info)


@contextmanager
def _explain_write_errors(target: Path) -> Iterator[None]:
    """Raise RunError for a folder that cannot be written, or a full disk; a failed export leaves no new folder."""
    is_new = not target.parent.exists()
    try:
        yield
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror or error}; nothing was left there") from error
    finally:
        with suppress(OSError):
            if is_new:
                target.parent.rmdir()  # fails where the export was kept
