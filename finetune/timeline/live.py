"""Watch a live source: every step the window of its newest frames is predicted, and events are told as they happen."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from finetune.prediction.inputs import InputVideo
from finetune.prediction.overlay import OverlayPainter
from finetune.prediction.predict import Prediction, Predictor, build_prediction
from finetune.prediction.render import build_overlay
from finetune.run.checkpoint import load_model
from finetune.run.fitted import read_fitted
from finetune.run.read import Run
from finetune.runtime.device import resolve_device
from finetune.timeline.capture import Capture, LiveWindow
from finetune.timeline.event_settings import background_class
from finetune.timeline.events import EventSettings
from finetune.timeline.online_events import EventChange, OnlineEvents
from finetune.timeline.record import LiveOverlay, Recorder
from finetune.timeline.screen import Screen
from finetune.video.decode.live_source import LiveFrame, LiveSource
from finetune.video.decode.read import RgbConverter

WAIT_SECONDS = 0.04  # between two looks at what has happened to the source, and two frames on the screen
TOP_K = 5  # classes in a line


@dataclass(frozen=True)
class WatchSettings:
    """Lengths in seconds; `give_up_seconds` is how long a lost source is opened again, None: for ever."""

    window_seconds: float
    step_seconds: float
    events: EventSettings = field(default_factory=EventSettings)
    give_up_seconds: float | None = None
    record: Path | None = None
    show: bool = False


class WindowLine(NamedTuple):
    """The prediction for the window that ended at `seconds`, counted from the first frame, and at `clock`.

    `age_seconds` is how old its newest frame was when the prediction was done; `dropped` is how many frames were in no
    window, since the beginning.
    """

    seconds: float
    clock: datetime
    prediction: Prediction
    age_seconds: float
    dropped: int


class EventLine(NamedTuple):
    """An event of a task that has started or ended; times are seconds from the first frame. `score` is as in Event."""

    task: str
    has_ended: bool
    label: str
    start: float
    end: float
    score: float


class Notice(NamedTuple):
    """What has happened to the source, in words."""

    text: str


Line = WindowLine | EventLine | Notice


class Watcher:
    """Predicts a live source with a run, inside a `with` block, which opens the source."""

    def __init__(self, run: Run, source: LiveSource, settings: WatchSettings) -> None:
        self.run, self.source, self.settings = run, source, settings
        model = load_model(run).to(resolve_device(run.recipe.train.device))
        self.predictor = Predictor(model, run.recipe, run.recipe.evaluate.views)
        self.fitted = {task: replace(fitted, temperature=None) for task, fitted in read_fitted(run).items()}
        self.recorder = None if settings.record is None else Recorder(settings.record)
        self.capture = Capture(
            source,
            self.predictor.clip,
            window_seconds=settings.window_seconds,
            give_up_seconds=settings.give_up_seconds,
            recorder=self.recorder,
        )
        self.overlay: LiveOverlay | None = None
        self.screen: Screen | None = None
        self.to_rgb = RgbConverter(source.name)
        self.shown: LiveFrame | None = None
        self.events: dict[str, OnlineEvents] = {}
        self.end = 0.0  # of the last window, on the clock of `time.monotonic`
        self.connection = self.windows = 0
        self.opened = ExitStack()

    def __enter__(self) -> "Watcher":
        with ExitStack() as opened:
            if self.settings.show:
                self.screen = opened.enter_context(Screen(self.source.name))
            if self.recorder is not None:
                opened.enter_context(self.recorder)
            opened.enter_context(self.capture)
            self.opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def lines(self) -> Iterator[Line]:
        """Lines as they come, until the source ends or its window on the screen is closed.

        Raises VideoError where the source cannot be opened, or was given up.
        """
        next_window, step, has_ended = 0.0, self.settings.step_seconds, False
        while not has_ended and self._show():
            has_ended = self.capture.has_ended  # before the last window is taken
            yield from map(Notice, self.capture.take_notices())
            if self.recorder is not None and self.recorder.error is not None:
                raise self.recorder.error
            if self.capture.connection != self.connection:
                yield from self.finish()
                self.connection = self.capture.connection
            now = time.monotonic()
            if (now >= next_window or has_ended) and (window := self.capture.take_window()) is not None:
                yield from self._predict(window)
                begun = next_window or now
                next_window = begun + step * (1 + (time.monotonic() - begun) // step)
            elif not has_ended:
                self.capture.wait(min(WAIT_SECONDS, next_window - now) if next_window > now else WAIT_SECONDS)

    def finish(self) -> list[EventLine]:
        """End the events that go on; to be called at the end of `lines`, and where it is interrupted."""
        ended = [(task, change) for task, online in self.events.items() for change in online.finish(self.end)]
        self.events = {}
        return [self._event_line(task, change) for task, change in ended]

    def _predict(self, window: LiveWindow) -> Iterator[Line]:
        video = InputVideo(Path(self.source.name), window.info, window.source)
        values_by_task, middle = self.predictor(video, window.info), len(window.frames) // 2
        prediction = build_prediction(
            self.run, video.path, values_by_task, fitted=self.fitted, top_k=TOP_K, middle=middle
        )
        self._draw_from_now_on(prediction, window, middle)
        newest = float(window.times_N[-1])
        self.end = newest + window.frame_seconds
        age = max(0.0, time.monotonic() - newest)
        clock = datetime.now().astimezone() - timedelta(seconds=age)
        self.windows += 1
        yield WindowLine(newest - self.capture.origin, clock, prediction, age, window.dropped)
        center = (float(window.times_N[0]) + self.end) / 2
        for task, values_K in values_by_task.items():
            if self.run.outputs[task].is_categorical:
                online = self.events.setdefault(task, self._online_events(task, start=float(window.times_N[0])))
                for change in online.add(center, values_K):
                    yield self._event_line(task, change)

    def _online_events(self, task: str, *, start: float) -> OnlineEvents:
        output = self.run.outputs[task]
        return OnlineEvents(
            self.settings.events,
            start=start,
            multilabel=output.kind == "multilabel",
            background=background_class(self.run, output.names),
        )

    def _event_line(self, task: str, change: EventChange) -> EventLine:
        event, origin = change.event, self.capture.origin
        label = self.run.outputs[task].names[event.label]
        return EventLine(task, change.has_ended, label, event.start - origin, event.end - origin, event.score)

    def _draw_from_now_on(self, prediction: Prediction, window: LiveWindow, middle: int) -> None:
        if self.recorder is None and self.screen is None:
            return
        rate = 1 / window.frame_seconds
        self.overlay = LiveOverlay(OverlayPainter(build_overlay(prediction), rate=rate), window.times_N[middle], rate)
        if self.recorder is not None:
            self.recorder.overlay = self.overlay

    def _show(self) -> bool:
        """Show the newest frame; False where the window on the screen was closed."""
        newest = self.capture.newest
        if self.screen is None or newest is None or newest is self.shown:
            return True
        self.shown = newest
        frame_HWC = self.to_rgb(newest.picture, None)
        if self.overlay is not None:
            frame_HWC = self.overlay.draw(frame_HWC, newest.seconds + newest.shift)
        return self.screen.show(frame_HWC)
