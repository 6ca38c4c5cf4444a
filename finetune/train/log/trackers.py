"""Log a run to the experiment trackers of its recipe, through Accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from accelerate import Accelerator

from finetune.errors import RecipeError
from finetune.recipe.schema import Recipe
from finetune.run.folder import RunFolder
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_json


def check_tracker(name: str) -> None:
    """Raise RecipeError for a tracker whose package is not installed."""
    if find_spec(name) is None:
        raise RecipeError(f"the package {name} is not installed: pip install {name}, or leave it out")


@contextmanager
def run_trackers(accelerator: Accelerator, folder: Path, recipe: Recipe) -> Iterator[None]:
    """A context in which a run logs to its trackers, under the folder's name; W&B continues a resumed run."""
    if recipe.train.trackers and accelerator.is_main_process:
        name = folder.resolve().name
        settings = {
            "wandb": {"name": name, "id": _tracker_run_id(folder), "resume": "allow", "dir": str(folder)},
            "mlflow": {"run_name": name},
        }
        sections = recipe.model_dump(mode="json")
        config = {section: yaml.safe_dump(value, default_flow_style=True) for section, value in sections.items()}
        accelerator.init_trackers("finetune", config=config, init_kwargs=settings)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _tracker_run_id(folder: Path) -> str:
    """The id of a run, stored in its folder, so that a resumed run has the same id even if the folder was renamed."""
    path = RunFolder(folder).tracker
    if not path.exists():
        write_json(path, {"id": uuid4().hex[:12]})
    return read_json(path, dict[str, str])["id"]


def log_to_trackers(accelerator: Accelerator, record: dict[str, Any]) -> None:
    """Log the numbers of a line of metrics.jsonl."""
    if accelerator.trackers:
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        rates = {f"lr/{stage}": rate for stage, rate in record["lr"].items()}
        seconds = {f"seconds/{part}": value for part, value in record["seconds"].items()}
        accelerator.log(numbers | rates | seconds, step=record["epoch"])
