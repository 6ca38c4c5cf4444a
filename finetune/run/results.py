"""What results.json and metrics.jsonl hold, as types that are checked when these files are read.

Keys that are not named here are allowed, and all but a few may be missing, as files of other versions have them.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Temperature = Annotated[float, Field(gt=0, le=1e6)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None
ALLOW_EXTRA = ConfigDict(extra="allow")


class _SkippedFile(TypedDict):
    path: str
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


class _Histogram(TypedDict):
    edges: list[Number]
    counts: list[Count]


class _OutputResults(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    name: str
    points: list[Annotated[list[Number], Field(min_length=2, max_length=2)]]


class _TaskResults(TypedDict, total=False):
    """A task of any kind: those figures of it that are there."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    kind: str
    num_rows: Count
    classes: list[str]
    per_class: list[ClassRow]
    confusion: list[list[Count]]
    calibration: _Calibration | None
    calibrated: _Calibration | None
    abstain: _CoverageCurve
    curves: _Curves
    temperature: Number | None
    histogram: _Histogram | None
    per_output: list[_OutputResults]


def _check_consistent(task: _TaskResults) -> _TaskResults:
    classes = task.get("classes")
    if "kind" not in task:
        raise ValueError("a task has no kind")
    if classes is not None:
        confusion = task.get("confusion")
        if confusion is not None and [len(row) for row in confusion] != [len(classes)] * len(classes):
            raise ValueError(f"the confusion of {len(classes)} classes is no square of them")
        rows = task.get("per_class")
        if rows is not None and [row.get("class") for row in rows] != classes:
            raise ValueError("per_class has not the classes that the task has")
    for key, value in task.items():
        if key.endswith("_ci") and not (value is None or _is_interval(value)):
            raise ValueError(f"{key} is no interval")
    histogram = task.get("histogram")
    if histogram is not None and len(histogram["edges"]) != len(histogram["counts"]) + 1:
        raise ValueError("the histogram has not one edge more than it has counts")
    return task


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


class _Seed(TypedDict):
    seed: int
    value: Number
    href: str


class _Protocol(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    views: Annotated[int, Field(ge=1, le=10_000)]


class Results(TypedDict, total=False):
    """results.json."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    run: str
    split: Literal["train", "val", "test"]
    num_rows: Count
    num_groups: Count | None
    skipped: list[_SkippedFile]
    training_skipped: list[dict[str, str]]
    tasks: dict[str, Annotated[_TaskResults, AfterValidator(_check_consistent)]]
    class_counts: dict[str, dict[str, Count]]
    warnings: list[dict[str, str]]
    protocol: _Protocol
    seconds: Seconds
    seeds: list[_Seed]
    folds: list[dict[str, Any]]


class _TaskRecord(TypedDict, total=False):
    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    train_loss: float | None
    val_loss: float | None
    temperature: Temperature | None
    thresholds: list[Share] | None


class CheckpointMeta(TypedDict, total=False):
    """meta.json beside the weights of a checkpoint: of the best, the record of its epoch."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    epoch: Count | None
    phase: Count
    val_loss: float | None
    temperature: Temperature | None
    thresholds: list[Share] | None
    tasks: dict[str, _TaskRecord]


class SavedOutput(TypedDict):
    """What a head of several tasks gives, in tasks.json."""

    kind: Literal["classify", "multilabel", "ordinal", "regress", "box", "motion"]
    names: list[str]
    center: list[Number]
    scale: list[Number]


class Environment(TypedDict, total=False):
    """environment.json."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    hardware: dict[str, Any]
    started: str
    resumed: list[dict[str, Any]]


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
