"""The file names of a run folder; all other modules take them from here."""

from dataclasses import dataclass
from pathlib import Path

from finetune.storage.atomic import current_version

SPLITS = ("test", "val", "train")
TIMELINE_PAGE = "timeline.html"  # in an evaluation, or wherever `finetune timeline` writes it


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run folder; the files need not exist."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, with all its keys."""
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """The rows, with their splits and groups."""
        return self.path / "manifest.csv"

    @property
    def unknown(self) -> Path:
        """The rows of classes that were left out of training (`evaluate.unknown`)."""
        return self.path / "unknown.csv"

    @property
    def classes(self) -> Path:
        """The names of the classes, in the order of the outputs."""
        return self.path / "classes.json"

    @property
    def tasks(self) -> Path:
        """The outputs of the heads; only runs with a section `tasks` have this file."""
        return self.path / "tasks.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware, git revision and command."""
        return self.path / "environment.json"

    @property
    def skipped(self) -> Path:
        """The files that training could not read."""
        return self.path / "skipped.json"

    @property
    def event_settings(self) -> Path:
        """How probabilities of windows become events: fitted on the recordings of val."""
        return self.path / "event_settings.json"

    @property
    def study(self) -> Path:
        """The settings of a study, such as a cross-validation: its runs are in folders beside this file."""
        return self.path / "study.json"

    @property
    def metrics(self) -> Path:
        """One line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def exported(self) -> Path:
        """The folder of exported models."""
        return self.path / "exported"

    @property
    def features(self) -> Path:
        """Features of clips, which the labelling commands keep."""
        return self.path / "features"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def tracker(self) -> Path:
        """The id of the run in an online tracker."""
        return self.path / "tracker.json"

    @property
    def lock(self) -> Path:
        """Locked by the program that trains into the folder."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> "CheckpointFolder":
        """The checkpoint `last`, `best`, `start` or `epoch-<n>`, where it can be read now."""
        return CheckpointFolder(current_version(self.checkpoints / name))

    def evaluation(self, split: str = "test") -> "EvaluationFolder":
        """What `finetune evaluate` writes for a split."""
        main = self.path / "evaluation"
        return EvaluationFolder(main if split == "test" else main / split)

    def external_evaluation(self, name: str) -> "EvaluationFolder":
        """What `finetune evaluate` writes for another labelled set."""
        return EvaluationFolder(self.path / "evaluation" / name)


@dataclass(frozen=True)
class CheckpointFolder:
    """The paths of a checkpoint."""

    path: Path

    def exists(self) -> bool:
        return self.path.is_dir()

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def meta(self) -> Path:
        """The record of the epoch after which the weights were saved."""
        return self.path / "meta.json"

    @property
    def state(self) -> Path:
        """What training needs to resume; only `last` has it."""
        return self.path / "state.pt"


@dataclass(frozen=True)
class EvaluationFolder:
    """The paths of one evaluation: of a split of the run's own data, or of another labelled set."""

    path: Path

    def exists(self) -> bool:
        """Whether an evaluation was written completely: results.json comes last."""
        return self.results.is_file()

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    def predictions(self, task: str = "") -> Path:
        """The prediction for each row; `task` is empty for the primary task, if it has classes."""
        return self.path / (f"predictions-{task}.csv" if task else "predictions.csv")

    def detections(self, task: str) -> Path:
        """The objects that are detected in the frames of a task, one line each."""
        return self.path / f"detections-{task}.csv"

    def outputs(self, task: str = "") -> Path:
        """Probabilities or numbers (N, K), float32, in the order of `predictions`.

        Of detection all detections (N, D, 8), of segmentation counts of pixels, see metrics/segmentation.py.
        """
        return self.path / (f"said-{task}.npy" if task else "probabilities.npy")

    @property
    def frozen(self) -> Path:
        """Probabilities (N, K) of the model before its backbone was trained, in the order of `predictions()`."""
        return self.path / "frozen.npy"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def pictures_index(self) -> Path:
        """The contact sheet of each clip that the report shows."""
        return self.pictures / "index.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def timeline_page(self) -> Path:
        """The page about the timelines of the evaluated recordings."""
        return self.path / TIMELINE_PAGE

    @property
    def figures(self) -> Path:
        return self.path / "figures"


@dataclass(frozen=True)
class ExportedFolder:
    """The paths of an exported model; recipe.yaml, classes.json and tasks.json are as in its run."""

    path: Path

    @property
    def info(self) -> Path:
        """How to feed the model and read its outputs; only exported folders have this file."""
        return self.path / "model.json"

    @property
    def readme(self) -> Path:
        return self.path / "README.md"

    @property
    def reader(self) -> Path:
        """The code that reads clips with NumPy and PyAV alone."""
        return self.path / "read_clip.py"


RESERVED_EVALUATIONS = (*SPLITS, "pictures", "figures")  # names in RUN/evaluation that another set cannot have
