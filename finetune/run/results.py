"""The types of a run's JSON files, which pydantic checks whenever a file is written or read.

They are dictionaries, so that files keep the order of their keys and reports can index them. Other keys are allowed,
and all but a few may be missing, as in files of other versions. A change after which older files can no longer be read
needs a higher version here, and a step in `run/read.py` that upgrades them.
"""

from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic takes no other before Python 3.12
)

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema
from typing_extensions import TypedDict

from finetune.model.backbone.weights_source import WeightsSource
from finetune.recipe.tasks import DETECTION_KINDS, TaskKind

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Temperature = Annotated[float, Field(gt=0, le=1e6)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None
ALLOW_EXTRA = ConfigDict(extra="allow")
RESULTS_FORMAT = 1  # `schema` in results.json
RUN_FORMAT = 1  # `format` in environment.json: of all other files of a run folder


class SkippedFile(TypedDict):
    """A file that could not be read; training also notes its `split`."""

    path: str
    split: NotRequired[str]
    reason: str


ClassRow = TypedDict(
    "ClassRow",
    {
        "class": str,
        "precision": Share | None,
        "recall": Share | None,
        "recall_ci": Interval,
        "f1": Share | None,
        "support": Count,
        "ap": Share | None,
        "ap50": Share | None,
        "iou": Share | None,
        "auroc": Share | None,
        "threshold": Number | None,
    },
    total=False,
)
ClassRow.__pydantic_config__ = ALLOW_EXTRA  # type: ignore[attr-defined]


class _Bin(TypedDict, total=False):
    low: Share
    high: Share
    count: Count
    sure: Share | None
    right: Share | None


class _Calibration(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    bins: list[_Bin]
    ece: Number | None
    ece_by_chance: Number | None
    brier: Number | None
    brier_ci: Interval
    log_loss: Number | None
    gap: Number | None
    gap_ci: Interval
    temperature: Number | None
    rows: Count


class _CoveragePoint(TypedDict, total=False):
    coverage: Share
    accuracy: Share | None
    accuracy_ci: Interval
    threshold: Number | None


class _CoverageCurve(TypedDict, total=False):
    coverage: list[Share]
    accuracy: list[Share | None]
    at: list[_CoveragePoint]


class _Curves(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    grid: list[Share]
    precision: list[Share | None]
    recall: list[Share | None]
    classes: list[dict[str, Any]]


class _ClassPrecision(TypedDict):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    precision: list[Share]


class _PrecisionRecall(TypedDict, total=False):
    """Precision of detections at each recall, at IoU 0.5 and 0.75; the mean over classes, and of each class."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    recall: list[Share]
    precision: list[Share]
    precision_75: list[Share]
    classes: list[_ClassPrecision]


class _Histogram(TypedDict):
    edges: list[Number]
    counts: list[Count]


class _OutputResults(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    name: str
    points: list[Annotated[list[Number], Field(min_length=2, max_length=2)]]


class _OpenSetScore(TypedDict):
    auroc: Share
    auroc_ci: Interval
    accepted: Share
    accepted_ci: Interval


class _Rejected(TypedDict):
    share: Share
    score: str
    threshold: Number
    known: Share
    known_ci: Interval
    unknown: Share
    unknown_ci: Interval


class _OpenSet(TypedDict):
    """How well clips of unknown classes are told, see evaluation/open_set.py."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    num_known: Count
    num_unknown: Count
    num_skipped: Count
    classes: dict[str, Count]
    scores: dict[str, _OpenSetScore]
    rejected: _Rejected | None


class _RetrievalHit(TypedDict):
    path: str
    label: str
    right: bool
    cosine: Number


class _RetrievalExample(TypedDict):
    """A query that the report shows: typical of its class, or one of the hardest."""

    kind: Literal["typical", "hardest"]
    path: str
    label: str
    hits: list[_RetrievalHit]


class RetrievalClass(TypedDict, total=False):
    """The metrics of the queries of one class, as in `Retrieval`."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    queries: Count
    map: Share | None
    map_chance: Share | None
    median_rank: Number | None


class Retrieval(TypedDict, total=False):
    """How well clips find others of their class, see metrics/retrieval.py; other keys are metrics."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    task: str
    left_out: Literal["group", "file"]  # clips of the query's own are not in its gallery
    num_queries: Count
    num_without_match: Count
    without_match: dict[str, Count]
    sampled_from: Count | None
    gallery_size: Number | None
    median_rank: Number | None
    per_class: list[RetrievalClass]
    examples: list[_RetrievalExample]


class _TaskFields(TypedDict, total=False):
    """The structured parts of a task's results; any other key is a metric, or `<metric>_ci` its 95 % interval."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    kind: str
    num_rows: Count
    classes: list[str]
    per_class: list[ClassRow]
    confusion: list[list[Count]]
    calibration: _Calibration | None
    calibrated: _Calibration | None
    abstain: _CoverageCurve
    open_set: _OpenSet
    curves: _Curves
    precision_recall: _PrecisionRecall
    score_threshold: Share
    temperature: Number | None
    histogram: _Histogram | None
    per_output: list[_OutputResults]


def _check_consistent(task: _TaskFields) -> _TaskFields:
    classes = task.get("classes")
    if "kind" not in task:
        raise ValueError("a task has no kind")
    if classes is not None:
        confusion = task.get("confusion")
        size = len(classes) + (task["kind"] in DETECTION_KINDS)  # and a row of invented, a column of missed objects
        if confusion is not None and [len(row) for row in confusion] != [size] * size:
            raise ValueError(f"the confusion matrix of {len(classes)} classes has another size")
        rows = task.get("per_class")
        if rows is not None and [row.get("class") for row in rows] != classes:
            raise ValueError("per_class has other classes than the task")
    for key, value in task.items():
        if key.endswith("_ci") and not (value is None or _is_interval(value)):
            raise ValueError(f"{key} is not an interval [low, high]")
    histogram = task.get("histogram")
    if histogram is not None and len(histogram["edges"]) != len(histogram["counts"]) + 1:
        raise ValueError("the histogram needs one more edge than counts")
    return task


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


_CheckedTask = Annotated[_TaskFields, AfterValidator(_check_consistent)]
# The metrics of one task. Which there are depends on its kind (metrics/tasks.py), so its keys are not fixed.
TaskResults = Annotated[dict[str, Any], GetPydanticSchema(lambda _, handler: handler(_CheckedTask))]


class SeedResult(TypedDict):
    seed: int
    value: Number
    href: str


class _ProtocolFields(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    views: Annotated[int, Field(ge=1, le=10_000)]


# How a result was measured, for the report's table: its keys are not fixed.
Protocol = Annotated[dict[str, Any], GetPydanticSchema(lambda _, handler: handler(_ProtocolFields))]


class Results(TypedDict, total=False):
    """results.json: the metrics of a run on the rows of a split, or of another labelled set."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    schema: int  # RESULTS_FORMAT
    run: str
    split: Annotated[str, Field(pattern="^(train|val|test)$")]
    num_rows: Count
    num_groups: Count | None
    skipped: list[SkippedFile]
    training_skipped: list[SkippedFile]
    tasks: dict[str, TaskResults]
    class_counts: dict[str, dict[str, Count]]
    warnings: list[dict[str, str]]  # `what` is the problem, `do` says what to do about it
    protocol: Protocol
    seconds: Seconds
    source: str  # of another labelled set: its file or folder
    retrieval: Retrieval
    timeline: TaskResults  # of events in recordings, see metrics/localization.py
    seeds: list[SeedResult]
    folds: list[dict[str, Any]]


class _TaskRecord(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    train_loss: float | None
    val_loss: float | None
    temperature: Temperature | None
    thresholds: list[Share] | None
    score_threshold: Share | None  # of detections


class KnownScores(TypedDict):
    """Scores of the clips of val, in rising order, by which `predict --reject` finds its threshold."""

    score: Literal["max_probability", "max_logit", "energy"]  # of metrics/open_set.py
    values: Annotated[list[Number], Field(min_length=1)]


class CheckpointMeta(TypedDict, total=False):
    """meta.json of a checkpoint; that of the best is the record of its epoch."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    epoch: Count | None
    phase: Count
    val_loss: float | None
    temperature: Temperature | None
    thresholds: list[Share] | None
    score_threshold: Share | None  # of detections
    known_scores: KnownScores  # only with one task of classes; runs of older versions lack it
    tasks: dict[str, _TaskRecord]


class SavedOutput(TypedDict):
    """The output of one head of a multi-task model, in tasks.json."""

    kind: TaskKind
    names: list[str]
    center: list[Number]
    scale: list[Number]
    slots: NotRequired[int]  # of detection, tracking and segmentation, see OutputSpec


class Environment(TypedDict, total=False):
    """environment.json."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    format: int  # RUN_FORMAT; missing in runs before it
    hardware: dict[str, Any]
    started: str
    decided: dict[str, Any]  # automatic settings, and what the head was started from
    resumed: list[dict[str, Any]]
    weights: WeightsSource  # what the backbone started from; missing in older runs


class _EpochSeconds(TypedDict, total=False):
    data: Seconds
    compute: Seconds
    evaluate: Seconds


class _Epoch(TypedDict):
    epoch: Annotated[int, Field(ge=0, le=10**9)]


class EpochRecord(_Epoch, total=False):
    """A line of metrics.jsonl."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    phase: Annotated[int, Field(ge=0, le=10**6)]
    train: str
    learning: list[str]
    lr: dict[str, Number]
    train_loss: float | None
    train_top1: Share | None
    val_loss: float | None
    val_top1: Share | None
    val_map: Share | None
    val_score: Number | None
    clips_per_second: Number
    peak_gb: Number
    skipped: Count
    seconds: _EpochSeconds
    tasks: dict[str, _TaskRecord]
    weights: dict[str, Number | None]
    cosines: dict[str, Number | None]
    cache: dict[str, Any]
    temperature: Number | None
    thresholds: list[Number] | None
