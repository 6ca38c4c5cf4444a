"""Write the text files of a run folder, atomically, and only values that the reader of the same file accepts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.recipe.load import save_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import OutputSpec
from finetune.run.environment import environment
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.results import RUN_FORMAT, Environment, EpochRecord, Results, SavedOutput, SkippedFile
from finetune.storage.atomic import atomic_file, write_json
from finetune.storage.safe_read import parse_json, read_json


def new_run_folder(name: str, out: str | Path | None = None) -> Path:
    """The folder of a new run: `out`, or `runs/<name>-<time>`.

    `out` must be empty, missing, or left by a run that ended before its first checkpoint; else RunError.
    """
    if out is not None:
        out = Path(out)
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _has_no_checkpoint_yet(out))):
            raise RunError(f"{out}: is there already and not empty; a run needs a folder of its own")
        return out
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, count = Path("runs") / f"{name}-{stamp}", 1
    while folder.exists():
        folder, count = folder.with_name(f"{name}-{stamp}-{count}"), count + 1
    return folder


def _has_no_checkpoint_yet(folder: Path) -> bool:
    run = RunFolder(folder)
    files = (run.recipe, run.manifest, run.classes, run.tasks, run.environment, run.skipped, run.lock, run.tracker)
    written_early = {path.name for path in (*files, run.tensorboard, run.checkpoints)} | {"wandb"}
    names = {path.name.removesuffix(".partial") for path in folder.iterdir()}
    return names <= written_early and not any(run.checkpoint(name).exists() for name in ("last", "best"))


def begin_run(
    folder: Path,
    recipe: Recipe,
    manifest: Manifest,
    *,
    decided: Mapping[str, Any] | None = None,
    outputs: Mapping[str, OutputSpec] | None = None,
) -> None:
    """Write what is known before training: resolved recipe, rows with their splits, classes, environment.

    `outputs` are those of the heads of a run with several tasks. `decided` are settings that were chosen for this
    machine; they are noted in the environment. The environment of a resumed run is added to the earlier ones.
    """
    run = RunFolder(folder)
    with atomic_file(run.recipe) as partial:
        save_recipe(recipe, partial)
    with atomic_file(run.manifest) as partial:
        manifest.to_csv(partial)
    write_json(run.classes, list(manifest.classes))
    if outputs:
        described = {name: asdict(output) for name, output in outputs.items()}
        _write_checked(run.tasks, described, dict[str, SavedOutput])
    here = {"format": RUN_FORMAT, **environment()} | ({"decided": decided} if decided else {})
    if run.environment.exists():
        begun = read_json(run.environment, Environment)
        here = begun | {"resumed": [*begun.get("resumed", []), here]}
    _write_checked(run.environment, here, Environment)


def write_epochs(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """metrics.jsonl: one line per epoch. May raise OSError; the file is then as it was."""
    path = RunFolder(run).metrics
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    parse_json(lines[-1], f"{path}, line {len(lines)}", EpochRecord)
    with atomic_file(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_skipped(run: Path, files: Sequence[Mapping[str, str]]) -> None:
    """skipped.json: the files that training could not read."""
    _write_checked(RunFolder(run).skipped, list(files), list[SkippedFile])


def write_results(evaluation: Path, results: Results) -> None:
    """results.json of an evaluation."""
    _write_checked(EvaluationFolder(evaluation).results, results, Results)


def _write_checked(path: Path, value: Any, kind: Any) -> None:
    """Write JSON that `read_json(path, kind)` takes."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    parse_json(text, path, kind)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
