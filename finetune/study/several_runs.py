"""Several runs as one study: its folder, which of its runs are finished, resumed or new, and what they scored."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.evaluation.evaluate import evaluate
from finetune.metrics.headline import headline_metric
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import imported_parts
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import primary_task
from finetune.run.checkpoint import load
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.read import open_run, read_results_file
from finetune.run.results import Results, TaskResults
from finetune.run.write import begin_run, new_run_folder
from finetune.runtime.processes import process_count
from finetune.storage.atomic import exclusive_lock, write_json
from finetune.storage.safe_read import read_json
from finetune.train.from_recipe import train_from_recipe
from finetune.train.log.console import Display
from finetune.train.loop import EpochCallback
from finetune.train.resume import resume


@dataclass(frozen=True, eq=False)
class StudyRun:
    """A run of a study, whether trained or not: `name` is its folder, relative to the study's.

    It starts from the best weights of the run in `start`, or from a new model.
    """

    name: str
    recipe: Recipe
    manifest: Manifest
    start: Path | None = None


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that is trained and evaluated; `results` are those in the folder `evaluation`."""

    folder: Path
    evaluation: EvaluationFolder
    results: Results

    @property
    def primary_metrics(self) -> TaskResults:
        """The metrics of the primary task: the first with classes, else the first."""
        tasks = self.results["tasks"]
        return tasks[primary_task(tasks)]

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """Name and value of the primary task's headline metric (top-1, mAP, …), and its interval.

        Raises RunError where it cannot be measured.
        """
        name, value, interval = headline_metric(self.primary_metrics)
        if value is None:
            raise RunError(f"{self.folder}: the rows of its evaluation have nothing to find, so {name} is unknown")
        return name, value, interval


@contextmanager
def study_folder(out: Path, recipe: Recipe, manifest: Manifest, settings: Mapping[str, Any]) -> Iterator[None]:
    """Create the folder of a study, or reopen one that was started with the same recipe, rows and `settings`.

    No other program can train in it meanwhile. Ctrl-C prints how to resume. Raises RunError.
    """
    if process_count() > 1:
        raise RunError(
            "the runs of a study are trained one after the other in one process; start it without a launcher"
        )
    if RunFolder(out).study.is_file():
        _refuse_other_study(out, recipe, manifest, json.loads(json.dumps(settings)))
    else:
        _create(out, recipe, manifest, settings)
    with exclusive_lock(
        RunFolder(out).lock, f"{out}: another program is training into it; wait until it ends, or stop it"
    ):
        try:
            yield
        except KeyboardInterrupt:
            print(
                f"Stopped; finished runs are kept. Resume with the same command and --out {shlex.quote(str(out))}",
                file=sys.stderr,
            )
            raise


def _create(out: Path, recipe: Recipe, manifest: Manifest, settings: Mapping[str, Any]) -> None:
    new_run_folder("", out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        begin_run(out, recipe, manifest)
        write_json(RunFolder(out).study, settings)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None


def _refuse_other_study(out: Path, recipe: Recipe, manifest: Manifest, settings: dict[str, Any]) -> None:
    if load_recipe(str(RunFolder(out).recipe)).model_dump(mode="json") != recipe.model_dump(mode="json"):
        raise RunError(f"{out}: was started with another recipe; choose another --out")
    before = read_json(RunFolder(out).study)
    if changed := [
        f"{key} {before.get(key)}, not {value}" for key, value in settings.items() if before.get(key) != value
    ]:
        raise RunError(f"{out}: was started with {', '.join(changed)}; choose another --out")
    refuse_changed_rows(out, manifest, RunFolder(out).manifest)


def refuse_changed_rows(out: Path, manifest: Manifest, before: Path) -> None:
    """Raise RunError where the file `before` exists and has other rows than the manifest."""
    with TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        manifest.to_csv(rows)
        if before.is_file() and before.read_bytes() != rows.read_bytes():
            raise RunError(f"{out}: was started with other clips, groups or splits; choose another --out")


def finish_runs(runs: Sequence[StudyRun], *, out: Path, split: str, what: str = "run") -> Iterator[FinishedRun]:
    """Finish each run in turn; see `finish_run`. `what` the runs are is shown with their number."""
    for number, run in enumerate(runs, 1):
        yield finish_run(run, out=out, split=split, position=f"{what} {number} of {len(runs)}")


def finish_run(
    run: StudyRun, *, out: Path, split: str, position: str, after_epoch: EpochCallback | None = None
) -> FinishedRun:
    """Train a run in its folder of `out` and evaluate it on `split`, unless it is finished; an interrupted one resumes.

    `position` tells where in the study it is, for the progress line on stderr. What `after_epoch` raises stops the run.
    """
    folder = out / run.name
    evaluation = RunFolder(folder).evaluation(split)
    is_finished = evaluation.exists()
    is_resumed = RunFolder(folder).checkpoint("last").exists()
    state = "already finished" if is_finished else "resuming" if is_resumed else "training"
    print(f"{position}: {run.name}, {state}", file=sys.stderr, flush=True)
    if is_finished:
        return read_finished_run(folder, split)
    if is_resumed:
        resume(open_run(folder, parts=imported_parts(run.recipe)), after_epoch=after_epoch)
    else:
        start = None if run.start is None else open_run(run.start, parts=imported_parts(run.recipe))
        model = None if start is None else load(start)
        new_run_folder("", folder)
        train_from_recipe(run.recipe, run.manifest, out=folder, model=model, after_epoch=after_epoch)
    with Display() as display:
        show = partial(display.show_progress, f"{run.name}, evaluating on {split}")
        opened = open_run(folder, parts=imported_parts(run.recipe))
        return FinishedRun(folder, evaluation, evaluate(opened, split=split, progress=show))


def read_finished_run(folder: Path, split: str) -> FinishedRun:
    """Raises RunError where the run is not evaluated on the split, or its results are damaged."""
    evaluation = RunFolder(folder).evaluation(split)
    return FinishedRun(folder, evaluation, read_results_file(evaluation.results))


def evaluation_split(manifest: Manifest) -> str:
    """The split that runs are evaluated on: test, without test rows val, else train."""
    return next((split for split in ("test", "val") if len(manifest.rows(split))), "train")
