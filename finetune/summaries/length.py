"""How long a summary is: a share of its recording, seconds, or a number of single frames."""

from dataclasses import dataclass

from finetune.errors import DataError

DEFAULT_SHARE = 0.15  # as summaries of the TVSum and SumMe data sets are evaluated


@dataclass(frozen=True)
class SummaryLength:
    """The length of summaries; exactly one of the three is given. `frames` makes a storyboard of single frames."""

    share: float | None = None
    seconds: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        """Raises DataError for a length that is not possible, or for several."""
        given = [name for name in ("share", "seconds", "frames") if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(f'--{name}' for name in given)} exclude each other" if given else "none is given"
            raise DataError(f"the length of a summary: {what}; give one of --share, --seconds, --frames")
        if self.share is not None and not 0 < self.share <= 1:
            raise DataError(
                f"--share is {self.share:g}; it is the share of the recording to show, above 0 and at most 1"
            )
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise DataError(f"--seconds is {self.seconds:g}; it must be a number of seconds above 0")
        if self.frames is not None and self.frames < 1:
            raise DataError(f"--frames is {self.frames}; a storyboard has at least one frame")

    def budget(self, recording_seconds: float) -> float:
        """The seconds to show of a recording; infinite for a storyboard."""
        if self.share is not None:
            return self.share * recording_seconds
        return float("inf") if self.seconds is None else self.seconds
