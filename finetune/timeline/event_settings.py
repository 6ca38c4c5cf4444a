"""How a run turns probabilities into events: settings stored in the run, and which class is background."""

from collections.abc import Sequence
from dataclasses import asdict

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from finetune.errors import FinetuneError, RunError
from finetune.run.folder import RunFolder
from finetune.run.read import Run
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_json
from finetune.timeline.events import EventSettings
from finetune.timeline.fit_events import FittedSettings


class _Stored(TypedDict):
    settings: dict[str, float]
    how: str


def background_class(run: Run, classes: Sequence[str]) -> int | None:
    """The index of the class that gives no events, `data.background` of the run's recipe; None without one."""
    name = run.recipe.data.background
    return list(classes).index(name) if name is not None and name in classes else None


def store_event_settings(run: Run, fitted: FittedSettings) -> None:
    """Store settings in the run, for its next timelines."""
    write_json(RunFolder(run.folder).event_settings, {"settings": asdict(fitted.settings), "how": fitted.how})


def stored_event_settings(run: Run) -> FittedSettings | None:
    """The settings that were fitted on the run's val recordings; None where none were.

    Raises RunError where their file is damaged.
    """
    path = RunFolder(run.folder).event_settings
    if not path.is_file():
        return None
    stored: _Stored = read_json(path, _Stored)
    try:
        return FittedSettings(EventSettings(**stored["settings"]), stored["how"])
    except (TypeError, FinetuneError) as error:
        raise RunError(f"{path}: cannot be read: {error}; delete it, and evaluate the run with --timeline") from None
