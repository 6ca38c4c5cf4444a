"""Write the text files of a run folder, atomically, after checking that they can be read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.model.backbone.weights_source import WeightsSource
from finetune.recipe.load import save_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import OutputSpec
from finetune.run.environment import environment
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.results import (
    RUN_FORMAT,
    CheckpointMeta,
    Environment,
    EpochRecord,
    KnownScores,
    Results,
    SavedOutput,
    SkippedFile,
)
from finetune.storage.atomic import atomic_file, write_json
from finetune.storage.safe_read import parse_json, read_json


def new_run_folder(name: str, out: str | Path | None = None) -> Path:
    """The folder of a new run: `out`, or `runs/<name>-<time>`.

    `out` must be missing, empty, or from a run that ended before its first checkpoint; otherwise raises RunError.
    """
    if out is not None:
        out = Path(out)
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _has_no_checkpoint_yet(out))):
            raise RunError(f"{out}: exists and is not empty; choose a new folder for the run")
        return out
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, count = Path("runs") / f"{name}-{stamp}", 1
    while folder.exists():
        folder, count = folder.with_name(f"{name}-{stamp}-{count}"), count + 1
    return folder


def _has_no_checkpoint_yet(folder: Path) -> bool:
    run = RunFolder(folder)
    files = (
        run.recipe,
        run.manifest,
        run.unknown,
        run.classes,
        run.tasks,
        run.environment,
        run.skipped,
        run.lock,
        run.tracker,
    )
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
    weights: WeightsSource | None = None,
) -> None:
    """Write the files that are known before training: recipe.yaml, manifest.csv, classes.json, environment.json.

    `outputs` are the outputs of the heads of a multi-task run. `decided` are the automatic settings, which go into
    environment.json, as does the source of the `weights`. A resumed run adds its environment to the earlier ones.
    """
    run = RunFolder(folder)
    with atomic_file(run.recipe) as partial:
        save_recipe(recipe, partial)
    with atomic_file(run.manifest) as partial:
        manifest.to_csv(partial)
    if manifest.unknown is not None:
        with atomic_file(run.unknown) as partial:
            manifest.unknown.to_csv(partial)
    write_json(run.classes, list(manifest.classes))
    if outputs:
        described = {name: asdict(output) for name, output in outputs.items()}
        _write_checked(run.tasks, described, dict[str, SavedOutput])
    here = {"format": RUN_FORMAT, **environment()} | ({"decided": decided} if decided else {})
    here |= {"weights": weights} if weights else {}
    if run.environment.exists():
        first = read_json(run.environment, Environment)
        here = first | {"resumed": [*first.get("resumed", []), here]}
    _write_checked(run.environment, here, Environment)


def add_to_environment(folder: Path, decided: Mapping[str, Any]) -> None:
    """Add what was decided during training to the automatic settings in environment.json."""
    path = RunFolder(folder).environment
    here = read_json(path, Environment)
    _write_checked(path, here | {"decided": {**here.get("decided", {}), **decided}}, Environment)


def write_epochs(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.jsonl, one line per epoch. May raise OSError; the file is then unchanged."""
    path = RunFolder(run).metrics
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    parse_json(lines[-1], f"{path}, line {len(lines)}", EpochRecord)
    with atomic_file(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_skipped(run: Path, files: Sequence[Mapping[str, str]]) -> None:
    """Write skipped.json, the files that training could not read."""
    _write_checked(RunFolder(run).skipped, list(files), list[SkippedFile])


def add_known_scores(run: Path, scores: KnownScores) -> None:
    """Add the scores of val clips to the best checkpoint, where an older version did not write them."""
    checkpoint = RunFolder(run).checkpoint("best")
    meta: CheckpointMeta = read_json(checkpoint.meta, CheckpointMeta)
    if "known_scores" not in meta:
        _write_checked(checkpoint.meta, {**meta, "known_scores": scores}, CheckpointMeta)


def write_results(evaluation: Path, results: Results) -> None:
    """Write results.json of an evaluation."""
    _write_checked(EvaluationFolder(evaluation).results, results, Results)


def _write_checked(path: Path, value: Any, kind: Any) -> None:
    """Write JSON after checking that `read_json(path, kind)` accepts it."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    parse_json(text, path, kind)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
